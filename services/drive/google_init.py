"""``drive.init``: the store's folder on Google Drive, found, taken over or made; nothing else ever makes one."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta

from services import settings_edit
from services.context import Context, Plan, Progress
from services.drive import google_root, google_session
from services.drive.api.client import DriveClient
from services.drive.api.types import DriveFile
from services.drive.google_root import FOLDERS, MARK, Ambiguous
from services.drive.google_tree import Tree
from services.errors import StoreUnreachable
from services.workspace import MARK as SETTINGS

SETTLE = 1.0  # seconds after which a listing shows what another box made at the same moment
_LOOKS = 8


class InitParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which folder; left out, it is looked for by [store] root and made when there is none."""

    root_id: Annotated[str, Meta(description="Id of a folder on Google Drive that shall be the store.")] = ""


class Initialised(msgspec.Struct, frozen=True):
    """The store's folder. ``how`` is "found" (it was ready), "completed" (something was missing), "adopted" or
    "created"; ``folders`` counts those of the layout that were made now; ``settings`` says what hybrid.toml got."""

    root_id: str
    name: str
    how: str
    folders: int
    settings: str
    warnings: tuple[str, ...] = ()


class _Found(msgspec.Struct, frozen=True):
    root: DriveFile | None
    adopt: bool = False


async def init(ctx: Context, params: InitParams) -> Initialised | Plan:
    """Find, adopt or create the store's folder on Google Drive, make its layout, and note its id in hybrid.toml.

    Called again it finds everything and changes nothing. Raises NeedsYes before it adopts a folder that hybrid-tui did
    not make, Ambiguous when several could be meant, StoreUnreachable, SignInNeeded.
    """
    ctx.will_write("drive.init")
    workspace = ctx.workspace
    name = workspace.settings.store.root
    tree = (await google_session.session(workspace)).tree
    await tree.cache.reached()
    found = await _look(tree, params.root_id or tree.drive.root_id, name)
    plan = _plan(found, name)
    if ctx.dry_run:
        return plan
    if found.adopt:
        ctx.approve(plan)
    root, how = found.root, "found"
    if root is None:
        ctx.report(Progress("making the folder", note=name))
        root, how = await _create(tree, name)
    warnings: tuple[str, ...] = ()
    if google_root.lacking(root.properties) or root.properties.get(MARK) != "root":
        warnings = await _foreign_log(tree, root)
        root, how = await _complete(tree, root), "adopted" if found.adopt else "completed"
    tree.adopt(root)
    made = await _layout(ctx, tree)
    tree.cache.save()
    where = workspace.root / SETTINGS
    changed = settings_edit.put(where, "drive", "root_id", root.id)
    noted = f"{SETTINGS} has root_id = {root.id}" + ("." if changed else " already.")
    if workspace.settings.store.kind != "drive":
        warnings = (*warnings, f'The workspace still uses another store: set [store] kind = "drive" in {SETTINGS}.')
    return Initialised(root.id, root.name, how, made, noted, warnings)


async def _look(tree: Tree, id: str, name: str) -> _Found:
    """The folder that is meant; ``root`` None when there is none."""
    if id:
        given = await tree.client.get(id)
        if given is None and id == tree.drive.root_id:
            raise StoreUnreachable(
                f"[drive] root_id = {id!r} leads nowhere on Google Drive, or this account may not see it.",
                hint=f"Sign in as who may, or take the line out of {SETTINGS} and run drive.init again.",
            )
        given = google_root.checked(given, id)
        return _Found(given, adopt=given.properties.get(MARK) != "root")
    root = await _only(tree, name)
    if root is not None:
        return _Found(root)
    named = [f for f in await tree.client.children(google_root.top(tree.drive), name=name) if f.folder]
    marked = [f for f in named if f.properties.get(MARK) == "root"]  # made since the look before
    if marked:
        await asyncio.sleep(SETTLE)
        return _Found(marked[0]) if len(marked) == 1 else await _look(tree, id, name)
    if len(named) > 1:
        ids = ", ".join(sorted(f.id for f in named))
        raise Ambiguous(
            f"Google Drive holds {len(named)} folders {name!r}, none of them made by hybrid-tui: {ids}.",
            hint="Say which one: hybrid-tui --run drive.init root_id=ID.",
        )
    return _Found(named[0], adopt=True) if named else _Found(None)


async def _only(tree: Tree, name: str) -> DriveFile | None:
    """The marked root. Several may be there for moments, while others make it: all but one go away by themselves."""
    for _ in range(_LOOKS):
        try:
            return await google_root.find_root(tree.client, tree.drive, name)
        except Ambiguous:
            await asyncio.sleep(SETTLE)
    return await google_root.find_root(tree.client, tree.drive, name)


def _plan(found: _Found, name: str) -> Plan:
    root = found.root
    if root is None:
        return Plan("drive.init", f"The folder {name!r} is made on Google Drive, with {len(FOLDERS)} folders in it.")
    if found.adopt:
        return Plan(
            "drive.init",
            f"The folder {root.name!r} ({root.id}), which hybrid-tui did not make, becomes the store.",
            ("mark it with properties that other programs ignore", "make the folders of the layout that it lacks"),
        )
    return Plan("drive.init", f"The folder {root.name!r} ({root.id}) is the store already; what it lacks is made.")


async def _create(tree: Tree, name: str) -> tuple[DriveFile, str]:
    """Make the root with all that it reserves; of two that were made at once the older one stays, for both."""
    client, top = tree.client, google_root.top(tree.drive)
    keys = google_root.lacking({})
    ids = await client.new_ids(len(keys))
    id = tree.mirror.pending(top, name)
    before = await client.get(id) if id else None
    if not id or (before is not None and before.trashed):
        [id] = await client.new_ids()
        tree.mirror.reserve(top, name, id)
    properties = {MARK: "root", **dict(zip(keys, ids, strict=True))}
    made = await client.create_folder(name, top, id=id, properties=properties)
    oldest = await _oldest(client, top, name, made)
    if oldest.id != made.id and not await client.children(made.id):
        await tree.remove(made)
    tree.mirror.made(top, name)
    return (made, "created") if oldest.id == made.id else (oldest, "found")


async def _oldest(client: DriveClient, top: str, name: str, made: DriveFile) -> DriveFile:
    """Of all roots the one made first. Looks until the listing shows our own, hence what was made before it."""
    found: list[DriveFile] = []
    for look in range(_LOOKS):
        await asyncio.sleep(SETTLE / 2 if look < 2 else SETTLE)
        found = await client.children(top, name=name, properties={MARK: "root"})
        if look and any(f.id == made.id for f in found):
            break
    return min((made, *found), key=lambda f: (f.created, f.id))


async def _complete(tree: Tree, root: DriveFile) -> DriveFile:
    """Give the root the properties that it lacks. When two do so at once the last one's stand, and both use them."""
    lacking = google_root.lacking(root.properties)
    ids = await tree.client.new_ids(len(lacking)) if lacking else []
    properties = {MARK: "root", **dict(zip(lacking, ids, strict=True)), **await _standing(tree, root, lacking)}
    seen: dict[str, str] | None = None
    while True:
        current = google_root.checked(await tree.client.get(root.id), root.id)
        whole = current.properties.get(MARK) == "root" and not google_root.lacking(current.properties)
        if whole and current.properties == seen:
            return current
        seen = current.properties if whole else None
        if not whole:
            await tree.client.change(root.id, properties=properties)
        await asyncio.sleep(SETTLE)  # another one who saw it unmarked may be about to write: look until it stays


async def _standing(tree: Tree, root: DriveFile, lacking: list[str]) -> dict[str, str]:
    """The ids of what lies at the layout's places already: put there by hand, or by another program."""
    found: dict[str, str] = {}
    at: dict[str, DriveFile | None] = {"": root}
    for key in sorted(lacking, key=lambda k: google_root.place(k).count("/")):
        path = google_root.place(key)
        if not path:
            continue
        above, _, part = path.rpartition("/")
        folder = at.get(above) or (await _by_id(tree, root, above) if above else root)
        child = (await tree.listing(folder)).named(part) if folder is not None else None
        if child is not None and child.folder == (path in FOLDERS):
            at[path] = child
            found[key] = child.id
    return found


async def _by_id(tree: Tree, root: DriveFile, path: str) -> DriveFile | None:
    id = google_root.layout(root.properties).places.get(path)
    return await tree.client.get(id) if id else None


async def _foreign_log(tree: Tree, root: DriveFile) -> tuple[str, ...]:
    """A registry that was written without the API can't be gone on with: its records' names are no Drive ids."""
    folder: DriveFile | None = root
    for part in ("docs", "registry", "log"):
        folder = (await tree.listing(folder)).named(part) if folder is not None and folder.folder else None
    if folder is None or "genesis.json" not in (await tree.listing(folder)).files:
        return ()
    return (
        "The folder holds a registry that was written through a mounted Drive; through the API a new one begins. "
        "Keep using the mount, or add the versions again.",
    )


async def _layout(ctx: Context, tree: Tree) -> int:
    """Make the folders that are missing; returns how many."""
    made = 0
    for n, path in enumerate(FOLDERS):
        ctx.report(Progress("folders", n, len(FOLDERS), "folders", path))
        if await tree.find(path) is None:
            made += 1
            await tree.make(path)
    return made
