"""Actions on Colab's machines: whose they are, and giving one back."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated

import msgspec
from msgspec import Meta

from services.context import Context, Plan
from services.errors import BadInput, HybridError
from services.runs import spec, view
from services.runs.colab.cli import Cli, Session, Usage, find
from services.runs.remote import read_remote, write_remote
from services.runs.types import RunView
from services.workspace import Workspace

_OURS = re.compile(r"hybrid-(?P<run>\d{8}-\d{4}-[a-z0-9]{4})-\d+")


class NoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to say."""


class ReleaseParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which machine."""

    session: Annotated[str, Meta(min_length=1, description="Its name or its endpoint, as train.sessions lists it.")]


class Machine(msgspec.Struct, frozen=True):
    """A machine of the account. ``run`` is the run it was got for, "" when it is none of this program's.

    ``orphan``: it bills and nothing follows it: its run has ended, is not followed here, or is not known in this
    workspace. ``note`` says which, and for a machine of a browser or another program that it is one.
    """

    name: str
    endpoint: str
    hardware: str
    run: str
    phase: str
    orphan: bool
    note: str


class Machines(msgspec.Struct, frozen=True):
    """The account's machines, orphans first; ``rate`` (units an hour) and ``balance`` are those of the account."""

    machines: tuple[Machine, ...]
    balance: float
    rate: float


class Released(msgspec.Struct, frozen=True):
    """What was given back."""

    name: str
    endpoint: str


async def sessions(ctx: Context, _params: NoParams) -> Machines:
    """Colab's machines of this account, and which run each belongs to. Raises BadInput (no command line), CliError."""
    cli = Cli(find(ctx.workspace.settings.colab))
    listed, usage = await asyncio.gather(cli.sessions(), cli.usage())
    return await asyncio.to_thread(_machines, ctx.workspace, listed, usage)


def _machines(workspace: Workspace, listed: tuple[Session, ...], usage: Usage) -> Machines:
    runs = {seen.id: seen for seen in view.read_all(workspace)}
    found = [_machine(session, runs) for session in listed]
    return Machines(tuple(sorted(found, key=lambda machine: not machine.orphan)), usage.balance, usage.rate)


def _machine(session: Session, runs: dict[str, RunView]) -> Machine:
    ours = _OURS.fullmatch(session.name)
    run = ours["run"] if ours else ""
    seen = runs.get(run)
    orphan, note = False, "a browser's, or another program's"
    if ours and seen is None:
        orphan, note = True, "of a run that this workspace doesn't know"
    elif seen is not None:
        orphan = seen.unattached or seen.link == "none"
        note = "nothing follows it; train.resume reattaches" if seen.unattached else f"its run is {seen.phase}"
    return Machine(
        session.name, session.endpoint, session.hardware, run, seen.phase if seen else "", orphan, note
    )  # fmt: skip


async def release(ctx: Context, params: ReleaseParams) -> Released | Plan:
    """Give a machine back, whatever runs on it. Raises BadInput when there is none, NeedsYes, CliError."""
    ctx.will_write("train.release")
    cli = Cli(find(ctx.workspace.settings.colab))
    listed = await cli.sessions()
    mine = next((s for s in listed if params.session in (s.name, s.endpoint) and params.session != "?"), None)
    if mine is None:
        names = ", ".join(s.endpoint if s.name == "?" else s.name for s in listed)
        raise BadInput(f"The account has no machine '{params.session}'.", hint=f"It has {names or 'none'}.")
    plan = Plan("train.release", f"give back {mine.hardware} {mine.endpoint} ({mine.name}); what runs on it is lost")
    if ctx.dry_run:
        return plan
    ctx.approve(plan)
    if mine.name == "?":
        await cli.release(mine.endpoint, ctx.workspace.ensure_state() / "colab-release.json")
    else:
        await cli.stop(mine.name)
    await asyncio.to_thread(_note, ctx.workspace, mine.name)
    return Released(mine.name, mine.endpoint)


def _note(workspace: Workspace, name: str) -> None:
    """The run whose machine it was has none now."""
    ours = _OURS.fullmatch(name)
    if ours is None:
        return
    try:
        run_dir = spec.find_run(workspace, ours["run"])
    except HybridError:
        return
    remote = read_remote(run_dir)
    if remote is not None and remote.name == name:
        write_remote(run_dir, msgspec.structs.replace(remote, live=False))
