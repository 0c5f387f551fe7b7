"""Money: nothing is lost or counted twice, whatever order, repetition, month, clock or rounding it meets."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services import settings as all_settings
from services.advisor import rates
from services.context import Context, Plan
from services.runs import budgets, costs, local, spec, view
from services.runs.types import Event, RunSpec, TrainConfig
from services.workspace import Workspace

from .conftest import ended, until

NOW = 1_795_600_000.0  # 2026-11-25
START = NOW - 90 * 86400
CENTS = st.integers(0, 10**7).map(lambda cents: Decimal(cents) / 100)


def run(target: str = "colab", run_id: str = "20260827-0000-aaaa", **more: object) -> RunSpec:
    return RunSpec(
        1, run_id, "train", target, ("x",), "/", TrainConfig(), "/m", "tiny", "/data/intents", "0", 0, START, **more
    )  # type: ignore[arg-type]


def event(seq: int, t: float, attempt: int = 1, ev: str = "cost", **data: object) -> Event:
    return Event(1, "r", attempt, seq, t, ev, data)  # type: ignore[arg-type]


def ledger(history: list[Event], target: str = "colab", own: dict[str, str] | None = None) -> tuple[costs.Share, ...]:
    book = costs.Ledger(run(target), rates.with_settings(own or {})[0])
    for one in history:
        book.apply(one, NOW)
    return book.shares()


def total(shares: tuple[costs.Share, ...], currency: str) -> Decimal:
    return costs.added(share.amounts for share in shares).get(currency, Decimal(0))


@settings(deadline=None, max_examples=200)
@given(
    totals=st.lists(CENTS, min_size=1, max_size=12),
    times=st.lists(st.floats(-1e10, 1e11, allow_nan=False), min_size=12, max_size=12),
    data=st.data(),
)
def test_no_cent_is_lost_over_months_jumping_clocks_and_repetitions(
    totals: list[Decimal], times: list[float], data: st.DataObject
) -> None:
    history = [
        event(n, times[n - 1], money=float(amount), currency="usd", of="vm-1", source="account")
        for n, amount in enumerate(totals, 1)
    ]
    again = history + data.draw(st.lists(st.sampled_from(history), max_size=6))
    shares = ledger(again)
    assert total(shares, "USD") == totals[-1]
    assert all("2026-08" <= share.month <= "2026-11" for share in shares)  # between its making and now
    assert len({share.month for share in shares}) == len(shares)


@settings(deadline=None, max_examples=100)
@given(machines=st.lists(st.lists(CENTS, min_size=1, max_size=5), min_size=1, max_size=4))
def test_each_machine_counts_once_in_whatever_attempt_it_is_told_of(machines: list[list[Decimal]]) -> None:
    history, seq = [], 0
    for number, told in enumerate(machines):
        for amount in told:
            seq += 1
            attempt = 1 + seq // 3  # its agent died meanwhile; the next attempt's goes on with the same machine
            history.append(event(seq, NOW, attempt, units=str(amount), seconds=1.0, of=f"vm-{number}"))
    assert total(ledger(history), "units") == sum(told[-1] for told in machines)


@settings(deadline=None, max_examples=100)
@given(amounts=st.lists(st.tuples(CENTS, st.sampled_from(["units", "USD", "EUR"])), max_size=40))
def test_sums_are_exact_and_currencies_stay_apart(amounts: list[tuple[Decimal, str]]) -> None:
    summed = costs.added({currency: amount} for amount, currency in amounts)
    for currency in ("units", "USD", "EUR"):
        assert summed.get(currency, Decimal(0)) == sum(a for a, c in amounts if c == currency)


def test_tenths_add_up() -> None:
    history = [event(n, NOW, money=0.1, currency="EUR", of=f"vm-{n}") for n in range(1, 11)]
    assert total(ledger(history), "EUR") == Decimal(1)
    assert costs.words({"EUR": Decimal("1.0"), "units": Decimal("0.001")}) == "under 0.01 units + 1.00 EUR"
    assert costs.words({}) == costs.words({"USD": Decimal(0)}) == "free"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "much", -3, True, [1]])
def test_a_total_that_is_no_number_is_passed_over(bad: object) -> None:
    assert total(ledger([event(1, NOW, units=1.5), event(2, NOW, units=bad)]), "units") == Decimal("1.5")


def test_months_are_those_of_utc_wherever_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    last_second = 1_793_491_199.0  # 2026-10-31 23:59:59 UTC
    for zone in ("UTC", "Pacific/Kiritimati", "America/Los_Angeles"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert (costs.month_of(last_second), costs.month_of(last_second + 1)) == ("2026-10", "2026-11")
    monkeypatch.undo()
    time.tzset()
    shares = ledger([event(1, last_second, units=1), event(2, last_second + 1, units=3)])
    assert [(s.month, s.amounts["units"]) for s in shares] == [("2026-10", 1), ("2026-11", 2)]


def test_time_without_a_cost_event_is_that_between_events_and_a_clock_jump_is_none() -> None:
    beats = [event(n, START + 10 * n, ev="hb") for n in range(1, 4)]
    jumped = [event(4, START + 5e6, ev="hb"), event(5, START + 5e6 - 4e6, ev="hb"), event(6, START + 1e6 + 10, ev="hb")]
    assert sum(s.seconds for s in ledger(beats, "local")) == 20.0
    assert sum(s.seconds for s in ledger(beats + jumped, "local")) == 20.0 + 60.0 + 10.0
    assert costs.added(s.amounts for s in ledger(beats, "local")) == {}


def test_what_the_account_does_not_tell_is_priced_and_marked() -> None:
    (told,) = ledger([event(1, NOW, seconds=3600, units=2.5, of="vm", accelerator="T4", source="account")])
    assert (told.amounts, told.source, told.seconds) == ({"units": Decimal("2.5")}, "account", 3600)
    (priced,) = ledger([event(1, NOW, seconds=7200, of="vm", accelerator="T4")])
    assert priced.amounts == {"units": Decimal("2.14")} and priced.source == "settings" and "2026-09-27" in priced.note
    (own,) = ledger([event(1, NOW, seconds=1800)], "local", {"local": "0.18 USD/h, 2026-11-01, the bill"})
    assert own.amounts == {"USD": Decimal("0.09")} and "2026-11-01: the bill" in own.note
    (unknown,) = ledger([event(1, NOW, seconds=7200, of="vm", accelerator="H100")])
    assert unknown.amounts == {} and unknown.seconds == 7200


def test_the_agents_own_time_is_not_added_to_the_machines() -> None:
    history = [event(1, NOW, seconds=500, units=1, of="vm"), event(2, NOW + 9, seconds=600, of="attempt 1")]
    assert [(s.seconds, s.amounts) for s in ledger(history)] == [(500.0, {"units": Decimal(1)})]


def test_rates_that_cant_be_read_are_named() -> None:
    table, problems = rates.with_settings({"colab/L4": "a lot", "ray": "1 eur per hour", "colab/T4": "9 units/h"})
    assert len(problems) == 1 and 'colab/L4 = "a lot"' in problems[0]
    assert table.price("ray", "A100") == rates.Price("ray", "", Decimal(1), "EUR", "your settings", "undated")
    assert table.price("colab", "T4").amount == 9  # type: ignore[union-attr]
    assert table.price("colab", "H100") is None
    assert all(entry.source and entry.dated for entry in (*table.speeds, *rates.built_in().prices))


@settings(deadline=None)
@given(spent=CENTS, ceiling=CENTS)
def test_the_verdict_warns_at_four_fifths_and_stops_at_the_whole(spent: Decimal, ceiling: Decimal) -> None:
    found = budgets.verdict(spent, ceiling)
    if ceiling == 0:
        assert found == "ok"
    else:
        assert found == ("stop" if spent >= ceiling else "warn" if spent * 5 >= ceiling * 4 else "ok")
    assert budgets.verdict(float(spent), float(ceiling)) == found
    assert budgets.verdict(None, ceiling) == budgets.verdict(spent, float("nan")) == "ok"


def made(workspace: Workspace, run_id: str, history: list[Event], **more: object) -> Path:
    run_dir = workspace.runs / run_id
    (run_dir / "attempts" / "1").mkdir(parents=True)
    (run_dir / "attempts" / "1" / "lock").touch()
    (run_dir / "control").mkdir()
    spec.write(run_dir, run(run_id=run_id, **more))  # type: ignore[arg-type]
    (run_dir / "events-000001.jsonl").write_bytes(b"".join(msgspec.json.encode(e) + b"\n" for e in history))
    return run_dir


def with_month(workspace: Workspace, **ceilings: float) -> Workspace:
    own = msgspec.structs.replace(workspace.settings, costs=all_settings.Costs(month=ceilings))
    return Workspace(workspace.root, own)


def test_a_month_by_target_and_run_with_what_was_deleted(workspace: Workspace) -> None:
    costly = [event(1, NOW - 40 * 86400, units=2, seconds=60, of="vm"), event(2, NOW, units=5, seconds=90, of="vm")]
    one = made(workspace, "20261120-0000-aaaa", costly)
    made(workspace, "20261121-0000-bbbb", [event(1, NOW, seconds=10)], target="local")
    before = costs.month(workspace, now=NOW)
    assert (before.month, before.cost, before.amounts, before.seconds) == ("2026-11", "3.00 units", {"units": 3}, 40.0)
    assert [(t.target, t.runs, t.cost) for t in before.targets] == [("colab", 1, "3.00 units"), ("local", 1, "free")]
    assert costs.month(workspace, "2026-10", now=NOW).amounts == {"units": 2}
    assert costs.of_run(workspace, one).cost == "5.00 units"
    costs.remember(workspace, one)
    costs.remember(workspace, one)  # deleting failed the first time
    assert costs.month(workspace, now=NOW).amounts == {"units": 3}
    local.delete(one)
    after = costs.month(workspace, now=NOW)
    assert after.amounts == {"units": 3} and {r.id: r.phase for r in after.runs}["20261120-0000-aaaa"] == "deleted"
    with (workspace.state / "costs.jsonl").open("a") as file:
        file.write("torn")
    assert costs.month(workspace, now=NOW).problems == (f"{workspace.state}/costs.jsonl:5: not a share of costs",)


def test_ceilings_of_a_run_and_of_the_month(workspace: Workspace) -> None:
    one = made(workspace, "20261120-0000-aaaa", [event(1, NOW, units=4, of="vm")], max_cost=5.0)
    free = made(workspace, "20261121-0000-bbbb", [event(1, NOW, seconds=9)], target="local")
    assert costs.check(workspace, one, NOW) == costs.Checked(one.name, "warn", "The run has cost 4.00 units of its 5.")
    tight = with_month(workspace, units=4)
    found = costs.check(tight, one, NOW)
    assert (found.verdict, found.reason) == ("stop", "This month's runs have cost 4.00 units of the 4 allowed.")
    assert costs.check(tight, free, NOW).verdict == "ok"
    (ceiling,) = costs.month(tight, now=NOW).ceilings
    assert (ceiling.currency, ceiling.spent, ceiling.verdict) == ("units", 4, "stop")


def test_ceilings_read_as_a_person_wrote_them(workspace: Workspace) -> None:
    """Units without idle zeros, money in cents, however TOML gave them."""
    one = made(
        workspace, "20261120-0000-aaaa",
        [event(1, NOW, units=9, of="vm"), event(2, NOW, money=30, currency="usd", of="cluster")],
    )  # fmt: skip
    for units, money, words in ((3.0, 20.0, ["3 units", "20.00 USD"]), (2.5, 4.5, ["2.5 units", "4.50 USD"])):
        over = with_month(workspace, units=units, usd=money)
        ceilings = costs.month(over, now=NOW).ceilings
        assert [ceiling.words for ceiling in ceilings] == words
    assert costs.limit(1000, "units") == "1,000" and costs.limit(Decimal("10"), "EUR") == "10.00"
    found = costs.check(with_month(workspace, usd=20.0), one, NOW)
    assert found.reason == "This month's runs have cost 30.00 USD of the 20.00 allowed."


async def test_a_live_run_over_its_ceiling_checkpoints_and_ends_over_budget(ctx: Context, submit: object) -> None:
    run_dir: Path = submit("steps=100000", "checkpoint=100000")  # type: ignore[operator]
    until(lambda: view.read(run_dir).step > 2)
    (run_dir / "events-000009.jsonl").write_bytes(  # what an agent would tell
        msgspec.json.encode(event(10**6, time.time(), units=7, of="vm")) + b"\n"
    )
    over = Context(with_month(ctx.workspace, units=5))
    plan = await costs.enforce(Context(over.workspace, dry_run=True), costs.CheckParams())
    assert isinstance(plan, Plan) and "ask 1 of 1" in plan.summary and view.read(run_dir).phase == "running"
    found = await costs.enforce(over, costs.CheckParams())
    assert isinstance(found, costs.Checks) and [one.verdict for one in found.checked] == ["stop"]
    until(lambda: not view.is_alive(run_dir, 1))
    end = msgspec.json.decode((run_dir / "attempts" / "1" / "end.json").read_bytes().strip(), type=Event).data
    assert end["phase"] == "over-budget"
    assert end["reason"].startswith("This month's runs have cost 7.00 units of the 5 allowed. The run was stopped;")
    assert list((run_dir / "checkpoints").glob("step-*"))


def test_a_persons_cancel_stays_a_cancel(submit: object) -> None:
    run_dir: Path = submit("steps=100000")  # type: ignore[operator]
    until(lambda: view.read(run_dir).step > 2)
    local.cancel(run_dir)
    budgets.request_stop(run_dir, "Too dear.")
    assert ended(run_dir).phase == "cancelled"
    assert [path.name for path in (run_dir / "control").iterdir()] == ["cancel"]
