"""The store's root folder on Drive, and the ids that it reserves for what lies at fixed places.

The root's public properties name the id of each folder of the layout, of the files that are written over and over, and
of the registry's first record. They are written together with the root, so every client makes the same folder under
the same id, where Drive refuses a second one: no listing is asked whether it is there already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services import settings
from services.drive.api.types import DriveFile
from services.drive.store import INCOMING
from services.errors import BadInput, HybridError, StoreUnreachable

if TYPE_CHECKING:
    from services.drive.api.client import DriveClient

MARK = "hybridTui"  # property: "root", or "folder" for a folder made by us
_AT = "hybridTui:"  # + path → id of the folder or file there
_FIRST = "hybridTui#"  # + folder → id of the first slot of the log there

FOLDERS = (
    "models",
    "models/base-models",
    "models/finetuned",
    INCOMING,
    "models/deployed",
    "datasets",
    "notebooks",
    "results",
    "results/training_logs",
    "results/benchmarks",
    "results/inference_results",
    "docs",
    "docs/registry",
    "docs/registry/log",
    "docs/registry/places",
)
FILES = ("docs/model_registry.json", "docs/registry/HEAD", "models/deployed/current")
LOGS = ("docs/registry/log", "docs/registry/places")

_INIT = "Run hybrid-tui --run drive.init: it finds the folder or makes it."


class Ambiguous(HybridError):
    """Several things on Drive have the name that was asked for; which one is meant can't be known."""


@dataclass(frozen=True)
class Layout:
    """What the root reserves: ``places`` path → id, ``first`` folder of a log → id of its first slot."""

    places: Mapping[str, str]
    first: Mapping[str, str]

    @property
    def whole(self) -> bool:
        """Whether nothing that this version knows of is missing."""
        return {*FOLDERS, *FILES} <= self.places.keys() and set(LOGS) <= self.first.keys()


def layout(properties: Mapping[str, str]) -> Layout:
    """The layout that a root's properties name."""
    return Layout(
        {key.removeprefix(_AT): id for key, id in properties.items() if key.startswith(_AT)},
        {key.removeprefix(_FIRST): id for key, id in properties.items() if key.startswith(_FIRST)},
    )


def lacking(properties: Mapping[str, str]) -> list[str]:
    """The keys that a root's properties lack, the mark left out; each needs an id."""
    wanted = [*(_AT + path for path in (*FOLDERS, *FILES)), *(_FIRST + folder for folder in LOGS)]
    return [key for key in wanted if key not in properties]


def place(key: str) -> str:
    """The path that a key of the properties is about, "" for the first slot of a log."""
    return key.removeprefix(_AT) if key.startswith(_AT) else ""


def top(drive: settings.Drive) -> str:
    """The folder above the root: My Drive, or the shared drive."""
    return drive.shared_drive or "root"


async def find_root(client: DriveClient, drive: settings.Drive, name: str) -> DriveFile | None:
    """The root by ``[drive] root_id``, else by name and mark; None when the account sees none.

    Raises StoreUnreachable when the id leads nowhere, Ambiguous when two folders bear name and mark.
    """
    if drive.root_id:
        return checked(await client.get(drive.root_id), drive.root_id)
    found = await client.children(top(drive), name=name, properties={MARK: "root"})
    if len(found) > 1:
        raise several(name, found)
    return found[0] if found else None


def checked(root: DriveFile | None, id: str) -> DriveFile:
    """``root`` if it can be the store's root. Raises StoreUnreachable or BadInput."""
    if root is None:
        raise StoreUnreachable(
            f"The store's folder on Google Drive ({id}) is gone, or this account may not see it.",
            hint=f"Check [drive] root_id and who is signed in. {_INIT}",
        )
    if root.trashed:
        raise StoreUnreachable(
            f"The store's folder {root.name!r} ({root.id}) lies in Google Drive's trash.",
            hint="Bring it back in the browser; the registry is in it.",
        )
    if not root.folder:
        raise BadInput(f"[drive] root_id = {id!r} is not a folder but {root.name!r}.", hint=_INIT)
    return root


def missing(name: str) -> StoreUnreachable:
    """There is no root yet: nothing is created unasked, for a listing may just not show it."""
    return StoreUnreachable(f"This account's Google Drive shows no folder {name!r} of hybrid-tui.", hint=_INIT)


def several(name: str, found: list[DriveFile]) -> Ambiguous:
    """Two roots: a person must say which."""
    ids = ", ".join(sorted(f.id for f in found))
    return Ambiguous(
        f"Google Drive holds {len(found)} folders {name!r} of hybrid-tui: {ids}.",
        hint="Set [drive] root_id in hybrid.toml to the right one.",
    )
