"""A run's report: what it says, and a picture that any SVG reader takes."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ET
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from services.advisor.devices import OnDevice
from services.context import Context, Plan
from services.runs import estimate, report
from services.runs.report_chart import Chart, Curve, draw, nice
from services.runs.types import TrainConfig

from .test_costs import NOW, event, made

POINTS = st.lists(
    st.tuples(st.integers(0, 10**6).map(float), st.one_of(st.none(), st.floats(-1e12, 1e12), st.just(math.nan))),
    max_size=40,
).map(tuple)


@settings(deadline=None, max_examples=150)
@given(curves=st.lists(st.tuples(st.text("ab<&\"'", max_size=4), POINTS), max_size=6), log=st.booleans())
def test_whatever_the_figures_the_picture_is_whole(
    curves: list[tuple[str, list[tuple[float, float | None]]]], log: bool
) -> None:
    drawn = draw([Chart("<t>", "x", "y & z", tuple(Curve(name, tuple(points)) for name, points in curves), log)])
    root = ET.fromstring(drawn)
    assert "nan" not in drawn and "inf" not in drawn
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert tags <= {"svg", "g", "path", "text", "circle"}  # no HTML, no script, no style sheet


def test_gaps_stay_gaps_and_long_curves_keep_their_extremes() -> None:
    points = tuple((float(i), math.nan if 40 <= i < 50 else 1.0) for i in range(100))
    drawn = draw([Chart("t", "x", "y", (Curve("a", points),))])
    assert drawn.count("stroke-linejoin") == 2
    spike = tuple((float(i), 1000.0 if i == 77_777 else 1.0) for i in range(100_000))
    long = draw([Chart("t", "x", "y", (Curve("a", spike),))])
    assert len(long) < 60_000 and ">1,000<" in long


@given(low=st.floats(-1e9, 1e9), span=st.floats(1e-6, 1e9))
def test_marks_are_round_few_and_inside(low: float, span: float) -> None:
    marks = nice(low, low + span, 5)
    assert len(marks) <= 12
    assert all(low - span * 1e-6 - abs(low) * 1e-9 <= m <= low + span + span * 1e-6 + abs(low) * 1e-9 for m in marks)


def filled(ctx: Context) -> Path:
    """A finished run with an estimate, curves, costs and a warning."""
    history = [
        event(n, NOW - 900 + n, ev="metric", split="val", step=n * 50, loss=2.0 / n, accuracy=0.2 * n)
        for n in range(1, 4)
    ]
    history += [
        event(n, NOW - 500 + n, ev="metric", step=n - 3, loss=3.0 / n, lr=1e-3 / n, tokens_s=500 + n % 7, grad_norm=2.0)
        for n in range(4, 203)
    ]
    history += [
        event(210, NOW, ev="log", level="warning", text="Memory ran out; computing less at once."),
        event(211, NOW, ev="metric", split="test", step=199, accuracy=0.858, macro_f1=0.85, rows=3080, seconds=40.0),
        event(212, NOW, units=1.25, seconds=900, of="vm", source="account"),
        event(213, NOW, ev="end", phase="succeeded", code=0, reason="", hint=""),
    ]
    run_dir = made(ctx.workspace, "20261125-0000-aaaa", history)
    (run_dir / "output").mkdir()
    figures = {"device": "cpu", "peak_rss_bytes": 2_000_000_000, "train_tokens": 41_000, "train_tokens_s": 512.0,
               "train_seconds": 80.0, "eval_seconds": 40.0}  # fmt: skip
    (run_dir / "output" / "benchmark.json").write_text(json.dumps(figures))
    device = OnDevice("this box's CPU", "colab", "yes", 1, 1, 1, 480.0, 100.0, 200.0, "free", "a reference")
    planned = estimate.Estimate(
        (), "tiny", "lora", "intents", "colab", 10, 1, 5, 20_000, "counted", 199, 40_000,
        {"total_bytes": 1_600_000_000}, 1, (device,),
    )  # fmt: skip
    estimate.keep(run_dir, planned)
    return run_dir


async def test_a_report_says_it_all_here_and_in_the_store(ctx: Context) -> None:
    run_dir = filled(ctx)
    plan = await report.report(Context(ctx.workspace, dry_run=True), report.ReportParams(run="aaaa"))
    assert isinstance(plan, Plan) and not (run_dir / "report.md").exists()
    found = await report.report(ctx, report.ReportParams(run="aaaa"))
    assert isinstance(found, report.Report)
    page = (run_dir / "report.md").read_text()
    stored = ctx.workspace.store_path / "results" / "training_logs" / run_dir.name
    assert (stored / "report.md").read_text() == page and (stored / "curves.svg").is_file()
    assert "results/training_logs/20261125-0000-aaaa/report.md" in found.stored
    for words in ("**succeeded** after 199 steps", "| accuracy | 85.8 % | – |", "![Curves of run",
                  "| peak memory | 1.6 GB | 2.0 GB | 1.25 |", "1.25 units (as the account told), 15 min 00 s",
                  "- warning: Memory ran out", "hybrid-tui --run train.start data=intents model=tiny"):  # fmt: skip
        assert words in page, words
    assert "<" not in page
    titles = [e.text for e in ET.parse(run_dir / "curves.svg").iter() if e.tag.endswith("text")]
    assert {"Loss", "Validation", "Learning rate", "Speed", "training", "validation"} <= set(titles)
    assert await report.report(ctx, report.ReportParams(run="aaaa")) == found  # again: replaced


async def test_a_run_with_nothing_but_its_spec_has_a_report_too(ctx: Context) -> None:
    run_dir = made(ctx.workspace, "20261125-0000-bbbb", [])
    found = await report.report(ctx, report.ReportParams(run="bbbb", store=False))
    assert isinstance(found, report.Report) and found.stored == ""
    page = (run_dir / "report.md").read_text()
    assert "No evaluation was told." in page and "without an estimate" in page and "**lost**" in page
    assert "No figures were told." in (run_dir / "curves.svg").read_text()


def test_settings_that_were_chosen_make_the_command() -> None:
    assert report._changed(TrainConfig(r=16, dtype="bf16")) == {"r": 16, "dtype": "bf16"}
    assert report._settings(TrainConfig()) == ["All at their defaults."]
