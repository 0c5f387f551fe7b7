"""What runs have cost: seconds, Colab units and money, by run, target and month. Nothing is converted.

A ``cost`` event carries totals so far, of the machine or attempt that ``of`` names; so an event that was lost loses
nothing, and what the next attempt's agent tells of the same machine counts once. Amounts are decimal, summed exactly.
What was told without an amount is priced by ``[costs] rates`` or the dated table, and marked so. Months are those of
UTC, the same for the whole team.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import threading
import time
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from services.advisor import rates
from services.context import Context, Plan
from services.errors import HybridError
from services.runs import budgets, events, spec, view
from services.runs.types import FINISHED, Event, RunSpec
from services.turns import short_turns
from services.workspace import Workspace

_GAP_S = 60.0  # a longer silence between two events was no work (heartbeats come every 10 s), or the clock jumped
_DELETED = "costs.jsonl"  # in .hybrid/: what runs had cost whose folders are gone

Amounts = dict[str, Decimal]


class Share(msgspec.Struct, frozen=True):
    """What a run took in one month ("2026-11"). ``source`` is "account", "settings" or, of free runs, ""."""

    run: str
    target: str
    month: str
    seconds: float
    amounts: Amounts
    source: str = ""
    note: str = ""


class RunCost(msgspec.Struct, frozen=True):
    """One run in the month. ``source``: the account told the amounts, or they were reckoned from settings' rates."""

    id: str
    target: str
    phase: str
    seconds: float
    cost: str
    amounts: Amounts
    source: str
    note: str = ""


class TargetCost(msgspec.Struct, frozen=True):
    """All runs of a target in the month."""

    target: str
    runs: int
    seconds: float
    cost: str
    amounts: Amounts


class Ceiling(msgspec.Struct, frozen=True):
    """A month's ceiling and where the month stands: "ok", "warn" (from 80 %) or "stop"."""

    currency: str
    spent: Decimal
    ceiling: Decimal
    verdict: budgets.Verdict

    @property
    def words(self) -> str:
        """The ceiling for a person: "3 units", "20.00 USD"."""
        return f"{limit(self.ceiling, self.currency)} {self.currency}"


class Costs(msgspec.Struct, frozen=True):
    """A month's costs. ``cost`` is the total in words, "free" if nothing was paid; ``problems`` what is unreadable."""

    month: str
    cost: str
    seconds: float
    amounts: Amounts
    ceilings: tuple[Ceiling, ...]
    targets: tuple[TargetCost, ...]
    runs: tuple[RunCost, ...]
    problems: tuple[str, ...] = ()


class Checked(msgspec.Struct, frozen=True):
    """Whether a run may go on, and the sentence to tell when it is not simply "ok"."""

    run: str
    verdict: budgets.Verdict
    reason: str = ""


class Checks(msgspec.Struct, frozen=True):
    """The live runs that were looked at; those with the verdict "stop" have been asked to."""

    checked: tuple[Checked, ...]


class ShowParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which month."""

    month: Annotated[
        str, Meta(pattern=r"^(\d{4}-(0[1-9]|1[0-2]))?$", description="As 2026-11, by UTC; empty: this one.")
    ] = ""


class CheckParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to choose."""


class _Numbers:
    """A set of numbers that mostly come one after the other: of a long history it keeps next to nothing."""

    def __init__(self) -> None:
        self._below = 1  # all from 1 to before this one are in it
        self._others: set[int] = set()

    def add(self, number: int) -> bool:
        """Add ``number`` (1 or more); whether it was not in it."""
        if number < self._below or number in self._others:
            return False
        if number != self._below:
            self._others.add(number)
            return True
        self._below += 1
        while self._below in self._others:
            self._others.discard(self._below)
            self._below += 1
        return True


class Ledger:
    """One run's costs: a fold of its events, in which repeated events and those of a wrong clock change nothing."""

    def __init__(self, run: RunSpec, table: rates.Table) -> None:
        self._run, self._table = run, table
        self._seen: dict[int, _Numbers] = {}  # by attempt
        self._last: dict[int, float] = {}  # attempt → time of its newest event
        self._worked: dict[tuple[int, str], float] = {}  # (attempt, month) → seconds between its events
        self._told: dict[tuple[str, str], tuple[tuple[int, int], Decimal]] = {}  # (of, what) → the last total told
        self._by_month: dict[tuple[str, str, str], Decimal] = {}  # (of, what, month) → its part
        self._sessions: dict[int, set[str]] = {}  # attempt → machines it told of
        self._accelerators: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        self._notes: dict[str, str] = {}

    def apply(self, event: Event, now: float) -> None:
        """Take one event. ``now`` bounds its time, as the run's beginning does: clocks jump."""
        seen = self._seen.get(event.attempt)
        if seen is None:
            seen = self._seen[event.attempt] = _Numbers()
        if not seen.add(event.seq):
            return
        month = month_of(min(max(event.t, self._run.created_at), now))
        gap = event.t - self._last.get(event.attempt, event.t)
        self._last[event.attempt] = event.t
        worked = min(gap, _GAP_S) if gap > 0 else 0.0
        self._worked[event.attempt, month] = self._worked.get((event.attempt, month), 0.0) + worked
        if event.ev == "cost":
            self._cost(event, month)

    def _cost(self, event: Event, month: str) -> None:
        data = event.data
        own = f"attempt {event.attempt}"
        session = str(data.get("of") or own)
        if session != own:
            self._sessions.setdefault(event.attempt, set()).add(session)
        if data.get("accelerator"):
            self._accelerators[session] = str(data["accelerator"])
        currency = str(data.get("currency") or "").upper()
        told = {"seconds": data.get("seconds"), rates.UNITS: data.get("units")}
        if currency:
            told[currency] = data.get("money")
        for what, value in told.items():
            total = budgets.exact(value)
            if total is None or total < 0:
                continue
            known, before = self._told.get((session, what), ((0, 0), Decimal(0)))
            if (event.attempt, event.seq) > known:  # also downwards: a reckoned total is put right by the account's
                self._told[session, what] = (event.attempt, event.seq), total
                place = session, what, month
                self._by_month[place] = self._by_month.get(place, Decimal(0)) + total - before
            if what != "seconds":
                self._sources[session] = str(data.get("source") or "account")
                self._notes[session] = str(data.get("dated") or "")

    def shares(self) -> tuple[Share, ...]:
        """What the run took, a share for each month in which it took something."""
        months = sorted({place[2] for place in self._by_month} | {month for _, month in self._worked})
        return tuple(share for month in months if (share := self._share(month)) is not None)

    def _share(self, month: str) -> Share | None:
        seconds = Decimal(0)
        amounts: Amounts = {}
        sources: set[str] = set()
        notes: set[str] = set()
        for session in self._paid():
            took = self._by_month.get((session, "seconds", month), Decimal(0))
            seconds += took
            paid = {what for known, what in self._told if known == session and what != "seconds"}
            for what in paid:
                amount = self._by_month.get((session, what, month), Decimal(0))
                if amount:
                    amounts[what] = amounts.get(what, Decimal(0)) + amount
                    sources.add(self._sources[session])
            if not paid and took:
                self._price(session, took, amounts, sources, notes)
        for (attempt, of), worked in self._worked.items():
            if of == month and worked and not self._has_told(attempt):
                took = Decimal(repr(round(worked, 3)))
                seconds += took
                self._price(f"attempt {attempt}", took, amounts, sources, notes)
        if not seconds and not amounts:
            return None
        return Share(
            self._run.id, self._run.target, month, float(seconds), amounts,
            " and ".join(sorted(sources)), "; ".join(sorted(notes)),
        )  # fmt: skip

    def _paid(self) -> list[str]:
        """Of what the totals count: an attempt's own time is that of its agent where it told of a machine."""
        agents = {f"attempt {attempt}" for attempt in self._sessions}
        return sorted({session for session, _ in self._told} - agents)

    def _has_told(self, attempt: int) -> bool:
        return attempt in self._sessions or (f"attempt {attempt}", "seconds") in self._told

    def _price(self, session: str, seconds: Decimal, amounts: Amounts, sources: set[str], notes: set[str]) -> None:
        price = self._table.price(self._run.target, self._accelerators.get(session, ""))
        if price is None or not price.amount or not seconds:
            return
        amounts[price.currency] = amounts.get(price.currency, Decimal(0)) + price.amount * seconds / 3600
        sources.add("settings")
        notes.add(f"{price.amount} {price.currency} an hour, {price.dated}: {price.source}")


def month_of(at: float) -> str:
    """The month of a Unix time, by UTC: "2026-11"."""
    return time.strftime("%Y-%m", time.gmtime(min(max(at, 0.0), 253_402_300_799.0)))


def added(amounts: Iterable[Mapping[str, Decimal]]) -> Amounts:
    """The sum of amounts, each currency by itself."""
    total: Amounts = {}
    for some in amounts:
        for currency, amount in some.items():
            total[currency] = total.get(currency, Decimal(0)) + amount
    return total


def words(amounts: Mapping[str, Decimal]) -> str:
    """Amounts for a person: "3.21 units + 0.40 USD"; "free" when there is none. What is less than a cent is said so."""
    parts = []
    for currency, amount in sorted(amounts.items(), key=lambda item: (item[0] != rates.UNITS, item[0])):
        if amount > 0:
            parts.append(f"{amount:,.2f} {currency}" if amount >= Decimal("0.005") else f"under 0.01 {currency}")
    return " + ".join(parts) or "free"


def limit(most: Decimal | float, currency: str) -> str:
    """A ceiling's number for a person, as it was chosen: units without idle zeros ("3", "2.5"), money in cents."""
    if currency != rates.UNITS:
        return f"{most:,.2f}"
    number = f"{Decimal(str(most)):,f}"
    return number.rstrip("0").rstrip(".") if "." in number else number


def prices(workspace: Workspace) -> tuple[rates.Table, tuple[str, ...]]:
    """The table of prices with those of the settings first, and a sentence for each of theirs that can't be read."""
    colab = workspace.settings.colab
    dated = f", {colab.rates_dated}" if colab.rates_dated else ""
    own = {f"colab/{name}": f"{rate} units/h{dated}, [colab] settings" for name, rate in colab.units_per_hour.items()}
    return rates.with_settings(own | workspace.settings.costs.rates)


class _Account:
    """A run's ledger, kept up to date at the cost of its new events."""

    def __init__(self, run_dir: Path, table: rates.Table) -> None:
        self.table = table
        self._follower = events.Follower(run_dir)
        self._ledger = Ledger(spec.read(run_dir), table)

    def shares(self, now: float) -> tuple[Share, ...]:
        with short_turns():
            for event in self._follower.all():
                self._ledger.apply(event, now)
        return self._ledger.shares()


_accounts: dict[Path, _Account] = {}
_lock = threading.Lock()


def shares_of(run_dir: Path, table: rates.Table, now: float | None = None) -> tuple[Share, ...]:
    """What the run in ``run_dir`` took so far, by month. Safe from any thread. Raises HybridError (damaged spec)."""
    with _lock:
        account = _accounts.get(run_dir)
        if account is None or account.table != table or not run_dir.exists():
            account = _accounts[run_dir] = _Account(run_dir, table)
        return account.shares(time.time() if now is None else now)


def remember(workspace: Workspace, run_dir: Path) -> None:
    """Write down what a run cost before its folder is deleted: what was spent stays spent. Raises OSError."""
    table, _ = prices(workspace)
    try:
        shares = shares_of(run_dir, table)
    except HybridError:  # its spec is damaged: nothing is known of it
        return
    with (workspace.state / _DELETED).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for share in shares:
            file.write(msgspec.json.encode(share) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _deleted(workspace: Workspace, present: set[str], problems: list[str]) -> list[Share]:
    path = workspace.state / _DELETED
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        problems.append(f"{path} can't be read: {error.strerror}.")
        return []
    found: dict[tuple[str, str], Share] = {}
    for number, line in enumerate(lines, 1):
        try:
            share = msgspec.json.decode(line, type=Share)
        except (msgspec.DecodeError, UnicodeDecodeError):
            problems.append(f"{path}:{number}: not a share of costs")
            continue
        if share.run not in present:  # deleting it failed after all
            found[share.run, share.month] = share
    return list(found.values())


def shares_of_all(workspace: Workspace, now: float, problems: list[str]) -> list[Share]:
    """What every run of the workspace took, also those that were deleted. What can't be read goes to ``problems``."""
    table, complaints = prices(workspace)
    problems += complaints
    found: list[Share] = []
    folders = spec.folders(workspace)
    for run_dir in folders:
        try:
            found += shares_of(run_dir, table, now)
        except HybridError as error:
            problems.append(str(error))
    return found + _deleted(workspace, {path.name for path in folders}, problems)


def month(workspace: Workspace, which: str = "", now: float | None = None) -> Costs:
    """The costs of a month ("2026-11"; "": this one)."""
    at = time.time() if now is None else now
    which = which or month_of(at)
    problems: list[str] = []
    shares = [share for share in shares_of_all(workspace, at, problems) if share.month == which]
    phases = {seen.id: seen.phase for seen in view.read_all(workspace)} if shares else {}
    total = added(share.amounts for share in shares)
    runs = tuple(
        RunCost(s.run, s.target, phases.get(s.run, "deleted"), s.seconds, words(s.amounts), s.amounts, s.source, s.note)
        for s in sorted(shares, key=lambda s: s.run, reverse=True)
    )
    return Costs(
        which, words(total), sum(s.seconds for s in shares), total, _ceilings(workspace, total),
        tuple(_target(name, shares) for name in sorted({s.target for s in shares})), runs, tuple(problems),
    )  # fmt: skip


def _target(name: str, shares: list[Share]) -> TargetCost:
    own = [share for share in shares if share.target == name]
    total = added(share.amounts for share in own)
    return TargetCost(name, len({s.run for s in own}), sum(s.seconds for s in own), words(total), total)


def _ceilings(workspace: Workspace, total: Amounts) -> tuple[Ceiling, ...]:
    found = []
    for currency, most in workspace.settings.costs.month.items():
        name = currency.lower() if currency.lower() == rates.UNITS else currency.upper()
        spent, ceiling = total.get(name, Decimal(0)), budgets.exact(most) or Decimal(0)
        if ceiling > 0:
            found.append(Ceiling(name, spent, ceiling, budgets.verdict(spent, ceiling)))
    return tuple(found)


def check(workspace: Workspace, run_dir: Path, now: float | None = None) -> Checked:
    """Whether the run may go on by its own ceiling (``max_cost`` of its spec) and the month's. Blocks; use a thread.

    A run that costs nothing is never stopped by the month's ceiling. Raises HybridError when its spec is damaged.
    """
    at = time.time() if now is None else now
    table, _ = prices(workspace)
    amounts = added(share.amounts for share in shares_of(run_dir, table, at))
    most = getattr(spec.read(run_dir), "max_cost", 0.0)
    found = [
        (budgets.verdict(spent, most), f"The run has cost {_exactly(spent, currency)} of its {limit(most, currency)}.")
        for currency, spent in amounts.items()
    ]
    if amounts and workspace.settings.costs.month:
        shares = [s for s in shares_of_all(workspace, at, []) if s.month == month_of(at)]
        for c in _ceilings(workspace, added(s.amounts for s in shares)):
            if c.currency in amounts:
                gone, allowed = _exactly(c.spent, c.currency), limit(c.ceiling, c.currency)
                found.append((c.verdict, f"This month's runs have cost {gone} of the {allowed} allowed."))
    for verdict in ("stop", "warn"):
        for said, reason in found:
            if said == verdict:
                return Checked(run_dir.name, said, reason)
    return Checked(run_dir.name, "ok")


def _exactly(amount: Decimal, currency: str) -> str:
    return f"{amount:.2f} {currency}"


async def show(ctx: Context, params: ShowParams) -> Costs:
    """A month's costs: in all, by target, by run. Amounts that the account did not tell are marked "settings"."""
    return await asyncio.to_thread(month, ctx.workspace, params.month)


async def enforce(ctx: Context, _params: CheckParams) -> Checks | Plan:
    """Look at every live run and ask those over a ceiling to checkpoint and stop; for cron, where no panel is open."""
    ctx.will_write("costs.enforce")
    live = [run for run in await asyncio.to_thread(view.read_all, ctx.workspace) if run.phase not in FINISHED]
    checked = []
    for run in live:
        run_dir = Path(run.path)
        try:
            found = await asyncio.to_thread(check, ctx.workspace, run_dir)
            if found.verdict == "stop" and not ctx.dry_run:
                await asyncio.to_thread(budgets.request_stop, run_dir, found.reason)
        except (HybridError, OSError) as error:
            found = Checked(run.id, "warn", f"It can't be checked: {error}")
        checked.append(found)
    if ctx.dry_run:
        over = [f"{one.run}: {one.reason}" for one in checked if one.verdict == "stop"]
        return Plan("costs.enforce", f"ask {len(over)} of {len(live)} live runs to stop", tuple(over))
    return Checks(tuple(checked))


def of_run(workspace: Workspace, run_dir: Path) -> RunCost:
    """What one run cost in all its months."""
    table, _ = prices(workspace)
    shares = shares_of(run_dir, table)
    if not shares:
        return RunCost(run_dir.name, spec.read(run_dir).target, "", 0.0, "free", {}, "")
    total = added(share.amounts for share in shares)
    notes = "; ".join(sorted({s.note for s in shares if s.note}))
    sources = " and ".join(sorted({s.source for s in shares if s.source}))
    return RunCost(
        run_dir.name, shares[0].target, "", sum(s.seconds for s in shares), words(total), total, sources, notes
    )
