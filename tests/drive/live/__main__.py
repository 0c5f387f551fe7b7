"""``make test-live``, or ``HYBRID_LIVE=1 python -m tests.drive.live --workspace DIR``.

Works in a new folder "hybrid-tui live test …" of the account that the workspace is signed in to, and moves it to
Drive's trash in the end, after a yes. Nothing else on the account is touched.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import os
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from services import workspace as workspaces
from services.context import Context
from services.drive import google_init, google_session
from services.drive.api.client import DriveClient
from services.drive.auth import actions as signing
from services.drive.auth.client import client_path
from services.drive.auth.open import tokens_for
from services.drive.errors import SignInNeeded
from services.errors import HybridError
from services.workspace import Workspace
from tests.drive.live.questions import QUESTIONS, Place
from tests.drive.live.report import Other, Report
from tests.drive.live.work import Work


def box(place: Path, given: Workspace, name: str) -> Workspace:
    """A workspace of our own that signs in as ``given`` does, with a root of its own."""
    drive = msgspec.structs.replace(given.settings.drive, root_id="")
    if drive.account == "user":
        drive = msgspec.structs.replace(drive, client=str(client_path(given)))
    if drive.key:
        drive = msgspec.structs.replace(drive, key=str(given.root / Path(drive.key).expanduser()))
    lines = ["[store]", 'kind = "drive"', f"root = {msgspec.json.encode(name).decode()}"]
    lines += ["[disk]", "budget_gb = 1000000.0", "min_free_gb = 0.0", "[drive]"]
    lines += [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in msgspec.to_builtins(drive).items()]
    place.mkdir()
    (place / "hybrid.toml").write_text("\n".join(lines) + "\n")
    return workspaces.open_workspace(place)


async def typed() -> str:
    """A line from the terminal."""
    return (await asyncio.to_thread(sys.stdin.readline)).rstrip("\n")


async def signed_in(ctx: Context) -> str:
    """Who; signs in first where nobody is."""
    try:
        status = await signing.status(ctx, signing.StatusParams())
    except SignInNeeded:
        await signing.login(ctx, signing.LoginParams())
        status = await signing.status(ctx, signing.StatusParams())
    wanted = ctx.workspace.settings.drive.scope
    if wanted not in status.scope.split() and "drive" not in status.scope.split():
        raise Other(f"{status.email} has given the scope {status.scope}, not {wanted}")
    return f"{status.email}, scope {status.scope}, kept in {status.kept}, free bytes {status.free_bytes}"


async def both_inits(one: Workspace, other: Workspace) -> str:
    """``drive.init`` on two boxes at once."""
    begun = time.monotonic()
    made = await asyncio.gather(
        *(google_init.init(Context(w, yes=True), google_init.InitParams()) for w in (one, other))
    )
    ids = {m.root_id for m in made if isinstance(m, google_init.Initialised)}
    await google_session.close(other)
    if len(ids) != 1:
        raise Other(f"two folders were left: {', '.join(sorted(ids))}")
    return f"one folder ({ids.pop()}), in {time.monotonic() - begun:.1f} s"


async def run(given: Workspace, name: str, told: argparse.Namespace) -> Report:
    """All of it; stops where the rest would make no sense."""
    report = Report()
    say = Context(
        given, yes=True, ask=typed, report=lambda p: print(f"    {p.note}", file=sys.stderr) if p.note else None
    )
    if not await report.ask("signing in", "drive.login, then drive.status", lambda: signed_in(say)):
        return report
    with tempfile.TemporaryDirectory(prefix="hybrid-live-") as folder:
        one, other = (box(Path(folder, n), given, name) for n in ("one", "other"))
        try:
            alike = "one folder is left, and both boxes use it"
            if await report.ask("drive.init on two boxes at once", alike, lambda: both_inits(one, other)):
                await ask_all(report, workspaces.open_workspace(one.root), Path(folder), told)
        finally:
            await clean(report, one, name, told.yes)
            await google_session.close(one)
    return report


async def ask_all(report: Report, workspace: Workspace, folder: Path, told: argparse.Namespace) -> None:
    """The questions, then the program's work."""
    drive = workspace.settings.drive
    async with DriveClient(tokens_for(workspace), drive, workspace.drive_state) as client:
        at = (await client.create_folder("questions", drive.root_id)).id
        place = Place(client, at, drive.scope, drive.shared_drive)
        for question in QUESTIONS:
            what, _, assumed = inspect.cleandoc(question.__doc__ or "").partition("\n\n")
            await report.ask(what, " ".join(assumed.split()), lambda q=question: q(place))  # type: ignore[misc]
    work = await asyncio.to_thread(Work, Context(workspace, yes=True), folder, told.files, told.mb)
    try:
        await report.ask(
            f"drive.push of {told.files} files of 100 kB", "a burst of 400 new files is let through", work.small_files
        )
        await report.ask(
            f"an upload of {told.mb} MiB whose worker is killed", "another process goes on in the session", work.killed
        )
        await report.ask("drive.pull and drive.verify", "equal to the byte, by sha256", work.both_down)
        await report.ask("registry.add and registry.promote, twice", "each is seen by the next", work.registry)
    finally:
        await google_session.close(workspace)


async def clean(report: Report, workspace: Workspace, name: str, yes: bool) -> None:
    """Move what was made to Drive's trash, after a yes."""
    id = workspaces.open_workspace(workspace.root).settings.drive.root_id
    if not id:
        print(f"If a folder {name!r} is on the account, throw it away in the browser.", file=sys.stderr)
        return
    if not yes:
        print(f"Move the folder {name!r} to Drive's trash? [y/N] ", end="", file=sys.stderr, flush=True)
        if (await typed()).strip().lower() not in ("y", "yes"):
            print(f"It stays: {name!r} ({id}).", file=sys.stderr)
            return

    async def trashed() -> str:
        async with DriveClient(tokens_for(workspace), workspace.settings.drive, workspace.drive_state) as client:
            await client.trash(id)
            left = await client.get(id)
        if left is None or not left.trashed:
            raise Other(f"it is {left}")
        return f"{name!r} lies in the trash"

    await report.ask("throwing it all away", "it goes to Drive's trash, and is still found by its id", trashed)


def main() -> int:
    """Exit code 0 when all is as assumed, 1 when something is other, 2 when it was not asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, default=workspaces.find(), help="whose [drive] settings are used")
    parser.add_argument("--mb", type=int, default=200, help="MiB of the large file")
    parser.add_argument("--files", type=int, default=400, help="how many small files are pushed")
    parser.add_argument("--yes", action="store_true", help="move the folder to the trash without asking")
    told = parser.parse_args()
    if os.environ.get("HYBRID_LIVE") != "1":
        print(
            "This works on a real Google account: it makes a folder 'hybrid-tui live test …' there, fills it with some "
            f"{told.mb + told.files // 10} MB, and throws it away again.\n"
            "If that is what you want: HYBRID_LIVE=1 make test-live",
            file=sys.stderr,
        )
        return 2
    name = f"hybrid-tui live test {time.strftime('%Y-%m-%d %H.%M.%S')}"
    try:
        report = asyncio.run(run(workspaces.open_workspace(told.workspace), name, told))
    except HybridError as error:
        print(f"{error} {error.hint}", file=sys.stderr)
        return 1
    print(report.summary())
    return 1 if any(one.verdict == "other" for one in report.seen) else 0


if __name__ == "__main__":
    sys.exit(main())
