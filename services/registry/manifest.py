"""A version's manifest: path, size and sha256 of each file. Its canonical form's digest is the version's identity."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from services.drive.store import Copied

NAME = "manifest.json"


class Manifest(msgspec.Struct, frozen=True):
    """``manifest.json``; ``files`` are sorted by path and do not include the manifest itself."""

    format: int
    files: tuple[Copied, ...]


def build(files: Iterable[Copied]) -> bytes:
    """The canonical bytes: files sorted by path, no blanks, UTF-8. ``sha256sum manifest.json`` gives the digest."""
    return msgspec.json.encode(Manifest(1, tuple(sorted(files, key=lambda f: f.path))))


def digest(data: bytes) -> str:
    """The sha256 (hex) of a manifest's bytes."""
    return hashlib.sha256(data).hexdigest()


def read(data: bytes) -> Manifest:
    """A manifest from its bytes. Raises msgspec.DecodeError when it is not one."""
    return msgspec.json.decode(data, type=Manifest)
