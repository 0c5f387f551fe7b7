"""The cache kinds: one table of rules, each a small one. ``listing.list_kinds`` applies them to this box."""

from __future__ import annotations

from services.storage.kinds import docker, huggingface, languages, node, own, projects, python, system, torch
from services.storage.kinds.rule import Kind

KINDS: tuple[Kind, ...] = (
    *huggingface.KINDS,
    *torch.KINDS,
    *python.KINDS,
    *node.KINDS,
    *languages.KINDS,
    *system.KINDS,
    *own.KINDS,
    *projects.KINDS,
    *docker.KINDS,
)
"""Every kind that is built in, in the order they are measured."""
