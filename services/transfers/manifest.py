"""manifest.json of a version's folder, as far as transfers use it: what the bytes of each file should be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from services.drive.store import Copied, Store, Stored
from services.errors import BadInput, HybridError
from services.registry import manifest

MANIFEST = manifest.NAME


def parse(data: bytes) -> dict[str, Copied]:
    """A manifest's entries by path; empty when the file is no manifest of ours."""
    try:
        return {entry.path: entry for entry in manifest.read(data).files}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}


async def stored_manifest(store: Store, folder: str, there: Mapping[str, Stored]) -> dict[str, str]:
    """The sha256 of each file by the manifest that lies in the store's folder; empty when there is none."""
    if MANIFEST not in there:
        return {}
    data = await store.read("/".join(p for p in (folder, MANIFEST) if p))
    return {path: entry.sha256 for path, entry in parse(data or b"").items()}


def local_manifest(folder: Path) -> dict[str, Copied]:
    """The entries of the local manifest.json, empty when there is none. Raises BadInput when it can't be read."""
    try:
        return parse((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadInput(f"{folder / MANIFEST} can't be read: {(error.strerror or str(error)).lower()}.") from error


def check_copied(entries: Mapping[str, Copied], copied: Iterable[Copied], folder: str) -> None:
    """Raises HybridError when a file that travelled is not what the manifest says: the manifest must not follow it."""
    for file in copied:
        entry = entries.get(file.path)
        if entry and (entry.size, entry.sha256) != (file.size, file.sha256):
            raise HybridError(
                f"{file.path} in {folder} is not what manifest.json says of it; the manifest was not sent.",
                hint="Bring the file back from where it is whole; if it was changed on purpose, remove manifest.json.",
            )
