"""What the store on Drive says of itself."""

from __future__ import annotations

from services.drive import google_root
from services.drive.api.types import DriveFile
from services.drive.google_files import Files
from services.drive.google_tree import Tree
from services.drive.store import INCOMING, StoreStatus
from services.errors import StoreUnreachable

_LABEL = "Google Drive"
_PROMISES = (
    "of two writers of a record exactly one wins: the id is taken or it is not (HTTP 409)",
    "what was sent is compared with Drive's own checksum before it counts",
    "records and files are asked by id; a listing alone never decides that something is absent",
    "what is removed goes to Drive's trash and can be brought back for 30 days",
)
_LACKS = "The folder lacks marks that hybrid-tui needs. Run hybrid-tui --run drive.init: it adds them."


async def status(tree: Tree, path: str) -> StoreStatus:
    """Whose Drive it is, its room, the root and what was begun below it. Raises StoreUnreachable without an answer."""
    about = await tree.client.about()
    root, problem = await _root(tree)
    count, size = await _unfinished(tree) if root is not None else (0, 0)
    return StoreStatus(
        kind="drive",
        label=f"{_LABEL} of {about.email}",
        path=f"{path} ({root.id})" if root is not None else path,
        google_drive=True,
        reachable=True,
        created=root is not None,
        writable=root is not None,
        free_bytes=None if about.limit is None else max(0, about.limit - about.used),
        total_bytes=about.limit,
        promises=_PROMISES,
        unfinished=count,
        unfinished_bytes=size,
        problem=problem,
    )


def unreachable(error: StoreUnreachable, path: str) -> StoreStatus:
    """The store as it is without a sign-in or a line: there, and out of reach."""
    return StoreStatus(
        kind="drive", label=_LABEL, path=path, google_drive=True, reachable=False, created=False, writable=False,
        free_bytes=None, total_bytes=None, promises=(), problem=_words(error),
    )  # fmt: skip


async def _root(tree: Tree) -> tuple[DriveFile | None, str]:
    try:
        root = await tree.root()
    except StoreUnreachable as error:
        return None, _words(error)
    return root, "" if google_root.layout(root.properties).whole else _LACKS


async def _unfinished(tree: Tree) -> tuple[int, int]:
    incoming = await tree.find(INCOMING)
    begun = [f for f in await tree.client.children(incoming.id) if f.folder] if incoming is not None else []
    return len(begun), sum(s.size for s in await Files(tree).below(INCOMING)) if begun else 0


def _words(error: StoreUnreachable) -> str:
    return f"{error} {error.hint}".strip()
