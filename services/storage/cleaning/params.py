"""The parameters of the clean-up's actions."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.storage.reclaim import Risk


class PlanParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be cleaned. With neither items, kinds nor paths: all that is safe."""

    items: Annotated[tuple[str, ...], Meta(description="Ids of items, as storage.caches shows them.")] = ()
    kinds: Annotated[tuple[str, ...], Meta(description="Cache kinds, with all their items.")] = ()
    paths: Annotated[
        tuple[str, ...], Meta(description="Files and folders, in the workspace, the home folder or a cache.")
    ] = ()
    exclude: Annotated[
        tuple[str, ...], Meta(description="What holds such a name (or path, with a /) stays: *.gguf, ~/x/*.")
    ] = ()
    keep: Annotated[tuple[str, ...], Meta(description="Ids of items that stay; * stands for any text.")] = ()
    older_than_days: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="Only items that were not used for so many days.")
    ] = None
    under_gb: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Only what brings the chosen items under this, least recently used first."),
    ] = None
    risk: Annotated[Risk, Meta(description="Leave items of a higher risk; marked paths go all the same.")] = "low"


class CleanParams(PlanParams, frozen=True, forbid_unknown_fields=True):
    """What is to be cleaned, and how."""

    plan: Annotated[str, Meta(description="Do exactly what this plan showed; nothing else may be given with it.")] = ""
    now: Annotated[
        bool, Meta(description="Delete at once instead of moving to the trash: space at once, and no undo.")
    ] = False


class UndoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which clean-up to take back."""

    batch: Annotated[str, Meta(description="Id of a batch in the trash; the latest when left out.")] = ""


class TrashParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``storage.trash`` takes no parameters."""


class PurgeParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to delete for good; the whole trash when nothing is given."""

    batch: Annotated[str, Meta(description="Id of one batch.")] = ""
    older_than_days: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="Batches that have lain there for so long.")
    ] = None


class HistoryParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``storage.history`` takes no parameters."""
