"""The store's place for datasets: where a version lies, its manifest, and which one a person means.

    datasets/<name>/<first 12 letters of the SHA-256>/   train.jsonl val.jsonl test.jsonl dataset.json manifest.json
    datasets/<name>/latest.json                          which one was pushed last

The hash is the one in ``dataset.json``, over the three split files, which runs and registered versions record. The
manifest is written last: without it a version is unfinished, and the next push of the same content goes on from there.
"""

from __future__ import annotations

import contextlib
import re

import msgspec

from services.data import store
from services.drive.store import Store
from services.errors import BadInput, nearest

PLACE = "datasets"
MANIFEST = "manifest.json"
LATEST = "latest.json"
LETTERS = 12
_FEWEST_LETTERS = 4
_VERSION = re.compile(r"[0-9a-f]{12}")


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a version; ``size`` in bytes, ``sha256`` in hex."""

    path: str
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """``manifest.json``. ``sha256`` is the content's whole hash; ``pushed_at`` is Unix time."""

    name: str
    sha256: str
    task: str
    prompt: str
    counts: dict[str, int]
    files: tuple[StoredFile, ...]
    pushed_at: float

    @property
    def version(self) -> str:
        """The version's name."""
        return self.sha256[:LETTERS]


async def read_manifest(source: Store, place: str) -> Manifest | None:
    """The manifest of a version, None while there is none. Raises BadInput when it is damaged."""
    path = f"{place}/{MANIFEST}"
    data = await source.read(path)
    if data is None:
        return None
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BadInput(f"{source.local(path)} is damaged ({error}).", hint="Push the dataset again.") from None
    return found


async def latest(source: Store, name: str) -> str:
    """The version pushed last, "" when that isn't known."""
    data = await source.read(f"{PLACE}/{name}/{LATEST}")
    with contextlib.suppress(msgspec.MsgspecError):
        return str(msgspec.json.decode(data or b"{}", type=dict[str, str]).get("version", ""))
    return ""


async def manifests(source: Store, name: str) -> list[tuple[Manifest | None, str]]:
    """Each version's manifest, or None and what is wrong."""
    found: list[tuple[Manifest | None, str]] = []
    for entry in await source.list(f"{PLACE}/{store.check_name(name)}"):
        if not entry.folder or not _VERSION.fullmatch(entry.name):
            continue
        place = f"{PLACE}/{name}/{entry.name}"
        try:
            manifest = await read_manifest(source, place)
        except BadInput as error:
            found.append((None, str(error)))
            continue
        if manifest is None:
            found.append((None, f"{source.local(place)} is unfinished: it has no {MANIFEST}; push it again."))
        elif manifest.version != entry.name or manifest.name != name:
            found.append((None, f"{source.local(place)} was moved or renamed by hand: its manifest is another's."))
        else:
            found.append((manifest, ""))
    return found


async def find(source: Store, name: str, version: str) -> Manifest:
    """The version meant by the beginning of its hash, or the latest. Raises BadInput naming those there are."""
    known = [manifest for manifest, _ in await manifests(source, name) if manifest is not None]
    if not known:
        names = [entry.name for entry in await source.list(PLACE) if entry.folder]
        raise BadInput(
            f"The store has no dataset '{name}'{nearest(name, names) or '.'}",
            hint=f"Datasets there: {', '.join(names)}." if names else "Put one there: data.push name=NAME.",
        )
    given = version.lower()
    wanted = given[:LETTERS] or await latest(source, name)
    listed = ", ".join(manifest.version for manifest in known)
    if given and len(given) < _FEWEST_LETTERS:
        raise BadInput(f"'{version}' is too short for a version's hash.", hint=f"Versions of {name}: {listed}.")
    found = [m for m in known if m.version.startswith(wanted) and m.sha256.startswith(given)]
    if not version and (not wanted or not found):
        found = [max(known, key=lambda manifest: manifest.pushed_at)]
    if len(found) != 1:
        what = "no version" if not found else "more than one version"
        raise BadInput(f"{name} has {what} '{version}' in the store.", hint=f"Versions of {name}: {listed}.")
    return found[0]
