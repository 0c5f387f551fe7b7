"""The payloads that repositories of a Hugging Face hub cache share, since huggingface_hub 2.

``blobs/<two digits>/<hash>`` of the cache itself, with ``<hash>.refs`` naming the blobs that are links to it. As
huggingface_hub does, a payload without a readable manifest is never taken for unused.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

from services.storage.kinds.hub_layout import PAYLOAD, count_folder, entries_of
from services.storage.kinds.measure import Tally

STORE_MARK = ".huggingface-shared-blobs"


@dataclass(slots=True)
class Store:
    """The payloads that repositories share: path → status, and those whose manifest can be relied on."""

    payloads: dict[str, os.stat_result] = field(default_factory=dict)
    manifests: dict[str, os.stat_result] = field(default_factory=dict)
    rest: Tally = field(default_factory=Tally)


def scan_store(hub: str) -> Store | None:
    """The shared store of the cache ``hub``; None unless it carries its mark, as huggingface_hub demands too."""
    folder = f"{hub}/blobs"
    try:
        with open(f"{folder}/{STORE_MARK}", encoding="utf-8") as file:  # noqa: PTH123
            if file.read(100) != "1\n":
                return None
    except (OSError, UnicodeDecodeError):
        return None
    store = Store()
    todo = [folder]
    while todo:
        here = todo.pop()
        count_folder(here, store.rest)
        for entry in entries_of(here, store.rest):
            if entry.is_dir(follow_symlinks=False):
                todo.append(entry.path)
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            name = entry.name.removesuffix(".refs")
            if not (stat.S_ISREG(status.st_mode) and PAYLOAD.fullmatch(name) and here == f"{folder}/{name[:2]}"):
                store.rest.add(status)
            elif entry.name.endswith(".refs"):
                store.manifests[entry.path.removesuffix(".refs")] = status
            else:
                store.payloads[entry.path] = status
    return store


def listed_links(hub: str, payload: str) -> set[str] | None:
    """The blobs that the manifest of ``payload`` names and that still lead to it; None if it can't be read."""
    try:
        with open(f"{payload}.refs", encoding="utf-8") as file:  # noqa: PTH123
            lines = file.read().splitlines()
        found = set()
        for line in lines:
            blob = f"{hub}/{line}"
            if len(line.split("/")) == 3 and ".." not in line.split("/") and os.path.islink(blob):  # noqa: PTH114
                target = os.path.join(os.path.dirname(blob), os.readlink(blob))  # noqa: PTH115, PTH118, PTH120
                if os.path.normpath(target) == payload:
                    found.add(blob)
    except (OSError, UnicodeDecodeError):
        return None
    return found
