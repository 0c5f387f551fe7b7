"""What of the store transfers leave alone: the registry's log, and the folders of registered versions."""

from __future__ import annotations

from services.errors import Refused
from services.registry.registry import open_registry
from services.workspace import Workspace

_LOG = ("docs/registry", "docs/model_registry.json")


async def check_free(workspace: Workspace, path: str, doing: str) -> None:
    """Raises Refused when ``path`` is, holds or lies in something that only the registry may change.

    ``doing`` completes the sentence: "banking@2 lies in x and can't be …".
    """
    for own in _LOG:
        if _meet(path, own):
            raise Refused(f"The registry's log lies in {own} and can't be {doing}.", hint="Choose another folder.")
    registry = open_registry(workspace)
    state, _ = await registry.read()
    versions = [member.added for model in state.models.values() for member in model]
    places = await registry.places(versions)
    for added, place in zip(versions, places, strict=True):
        if _meet(path, place):
            raise Refused(
                f"{added.model}@{added.version} lies in {place} and can't be {doing}: a version never changes.",
                hint="registry.add makes the next version of a folder.",
            )


def _meet(one: str, other: str) -> bool:
    """Whether one path is, holds, or lies in the other."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
