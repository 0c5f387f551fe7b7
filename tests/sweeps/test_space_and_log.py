"""What is looked for, as typed; the log that can be torn anywhere; the study that is rebuilt from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.errors import BadInput, HybridError
from services.runs.types import TrainConfig
from services.sweeps import log, space
from services.sweeps.study import Study
from services.sweeps.types import Axis, Entry, SweepSpec
from services.sweeps.view import Fold


def test_ranges_and_choices_are_read() -> None:
    lr, r, dropout, method, length = space.parse(
        "lr=log:1e-4..3e-3 r=4|8|16 dropout=0..0.2 method=lora|dora max_length=log:64..512"
    )
    assert lr == Axis("lr", "log", 1e-4, 3e-3)
    assert r == Axis("r", "choice", choices=(4, 8, 16))
    assert dropout == Axis("dropout", "linear", 0.0, 0.2)
    assert method.choices == ("lora", "dora") and length.kind == "int-log"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no setting"),
        ("lr", "not name=values"),
        ("lrr=1..2", "did you mean 'lr'"),
        ("lr=1e-3..1e-4", "lower end comes first"),
        ("lr=log:0..1e-3", "begin above 0"),
        ("lr=a..b", "not a number"),
        ("lr=1e-3..nan", "not a number"),
        ("lr=0.5..3", "lr=3"),
        ("r=4.5..8", "whole numbers"),
        ("r=4", "one value only"),
        ("r=4|4", "given twice"),
        ("r=4|8 r=16|32", "given twice"),
        ("method=lora|dorra", "method=dorra"),
        ("eval_steps=1|2", "not be comparable"),
    ],
)
def test_what_can_not_be_looked_for_is_named(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        space.parse(text)


@given(st.floats(0, 1), st.sampled_from(["lr=log:1e-5..1e-2", "dropout=0..0.5", "r=4..64", "r=4|8|16"]))
def test_a_place_on_an_axis_is_between_its_ends(share: float, text: str) -> None:
    (axis,) = space.parse(text)
    value = axis.choices[0] if axis.choices else axis.low + share * (axis.high - axis.low)
    assert 0 <= space.position(axis, value) <= 1
    if not axis.choices:
        assert space.position(axis, axis.low) == 0 and space.position(axis, axis.high) == 1


def a_spec(**changes: object) -> SweepSpec:
    spec = SweepSpec(
        1, "s", "/d", "0", "m", "local", TrainConfig(eval_steps=1), space.parse("lr=log:1e-5..1e-1 r=4|8|16"),
        12, 1, "val_loss", "median", 7, 0.0,
    )  # fmt: skip
    return msgspec.structs.replace(spec, **changes)


def history(spec: SweepSpec, values: list[list[float | None]]) -> list[Entry]:
    """The log of a sweep whose trials report these values, one after the other: what a driver would write."""
    study, entries = Study(spec), []

    def add(what: str, trial: int, **more: object) -> bool:
        entry = msgspec.convert({"seq": len(entries) + 1, "t": 0.0, "what": what, "trial": trial, **more}, Entry)
        entries.append(entry)
        return study.take(entry) if what != "asked" else False

    for reported in values:
        number, params = study.ask()
        add("asked", number, run=f"run-{number}", params=params)
        weak = False
        for step, value in enumerate(reported, 1):
            if add("report", number, step=step, value=value):
                weak = True
                add("prune", number, step=step)
                break
        last = next((v for v in reversed(reported) if v is not None), None)
        state = "pruned" if weak else "complete" if last is not None else "failed"
        add("told", number, state=state, value=last)
    return entries


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(st.floats(0, 100) | st.none(), min_size=1, max_size=5), min_size=1, max_size=8),
    st.sampled_from(["median", "asha", "none"]),
    st.data(),
)
def test_a_study_rebuilt_at_any_point_goes_on_as_the_one_before(
    values: list[list[float | None]], pruner: str, data: st.DataObject
) -> None:
    spec = a_spec(pruner=pruner)
    entries = history(spec, values)
    at = data.draw(st.integers(0, len(entries)))
    rebuilt = Study(spec, entries[:at])
    rest = entries[at:]
    for index, entry in enumerate(rest):
        if entry.what == "asked":
            assert rebuilt.ask() == (entry.trial, entry.params)
        else:
            weak = rebuilt.take(entry)
            following = rest[index + 1].what if index + 1 < len(rest) else ""
            assert weak == (following == "prune") or entry.what != "report"


def test_the_sampler_learns_from_what_trials_showed() -> None:
    spec = a_spec(trials=24, pruner="none")
    good, bad = history(spec, [[1.0]] * 10), history(spec, [[10.0 - i] for i in range(10)])
    assert Study(spec, good).ask() != Study(spec, bad).ask()


def test_a_log_cut_anywhere_gives_the_whole_entries_before_it(make: Callable[..., Path]) -> None:
    folder = make()
    writer = log.Writer(folder)
    writer.add("begun")
    writer.add("asked", 0, run="a", params={"lr": 0.001, "r": 8})
    writer.add("report", 0, step=1, value=0.5)
    writer.close()
    whole = (folder / log.LOG).read_bytes()
    for size in range(len(whole) + 1):
        (folder / log.LOG).write_bytes(whole[:size])
        entries, problems = log.read(folder)
        assert len(entries) == whole[:size].count(b"\n") and not problems
        Fold(entries)
    (folder / log.LOG).write_bytes(whole[:-5])
    writer = log.Writer(folder)  # cuts the torn end off, and goes on
    writer.add("report", 0, step=1, value=0.25)
    writer.close()
    assert [e.value for e in log.read(folder)[0]] == [None, None, 0.25]


def test_a_damaged_log_is_named_and_not_driven_on(make: Callable[..., Path]) -> None:
    folder = make()
    (folder / log.LOG).write_bytes(b'{"seq":1,"t":0.0,"what":"begun"}\ngarbage\n{"seq":3,"t":0.0,"what":"begun"}\n')
    entries, problems = log.read(folder)
    assert len(entries) == 1 and "log.jsonl:2" in problems[0]
    with pytest.raises(HybridError, match=r"log\.jsonl:2"):
        log.Writer(folder)
