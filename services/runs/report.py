"""A run's report: one Markdown page and one SVG of its curves, in its folder and in the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from services import atomic, formats
from services.context import Context, Plan
from services.data import store as datasets
from services.drive.open import open_store
from services.errors import HybridError
from services.runs import costs, estimate, events, spec, view
from services.runs.report_chart import Chart, Curve, Point, draw
from services.runs.types import RunSpec, RunView, TrainConfig

STORE = "results/training_logs"
PAGE, PICTURE = "report.md", "curves.svg"


class ReportParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which run, and where the report goes."""

    run: Annotated[str, Meta(description="The run's id or its last four letters; empty: the newest.")] = ""
    store: Annotated[bool, Meta(description="Also into the store, for the team.")] = True


class Report(msgspec.Struct, frozen=True):
    """Where the report lies: ``path`` here, ``stored`` in the store ("" when it was not put there)."""

    run: str
    path: str
    picture: str
    stored: str
    sentences: tuple[str, ...] = ()


async def report(ctx: Context, params: ReportParams) -> Report | Plan:
    """Write a run's report; made again it replaces the older one. A run that goes on is reported as it is now.

    Raises BadInput (no such run), HybridError (damaged spec, disk full), StoreUnreachable.
    """
    ctx.will_write("train.report")
    run_dir = await asyncio.to_thread(spec.find_run, ctx.workspace, params.run)
    folder = f"{STORE}/{run_dir.name}"
    store = open_store(ctx.workspace)
    if ctx.dry_run:
        steps = (str(run_dir / PAGE), str(run_dir / PICTURE), *([store.local(folder)] if params.store else []))
        return Plan("train.report", f"write the report of run {run_dir.name}", steps)
    page, picture, sentences = await asyncio.to_thread(make, ctx, run_dir)
    try:
        await asyncio.to_thread(atomic.write_text, run_dir / PAGE, page)
        await asyncio.to_thread(atomic.write_text, run_dir / PICTURE, picture)
    except OSError as error:
        raise HybridError(f"{run_dir / PAGE} can't be written: {error.strerror}.") from error
    stored = ""
    if params.store:
        await store.make_folders([folder])
        await store.write(f"{folder}/{PICTURE}", picture.encode())
        await store.write(f"{folder}/{PAGE}", page.encode())
        stored = store.local(f"{folder}/{PAGE}")
    return Report(run_dir.name, str(run_dir / PAGE), str(run_dir / PICTURE), stored, sentences)


def make(ctx: Context, run_dir: Path) -> tuple[str, str, tuple[str, ...]]:
    """The page, the picture, and the estimate's comparison in sentences."""
    run, seen = spec.read(run_dir), view.read(run_dir)
    curves = _curves(run_dir)
    benchmark = _json(run_dir / "output" / "benchmark.json")
    compared = compare(estimate.kept(run_dir), seen, benchmark)
    sections = [
        _head(run, seen),
        _section("Result", _result(run, seen)),
        _section("Curves", [f"![Curves of run {run.id}]({PICTURE})"]),
        _section("Estimate and actual", compared or ["The run was started without an estimate."]),
        _section("Cost", _cost(ctx, run_dir)),
        _section("What it was made of", _made_of(run, benchmark)),
        _section("Settings", _settings(run.config)),
        _section("Problems", _problems(run_dir, seen) or ["None were told."]),
        _section("To make it again", _again(run)),
    ]
    plain = tuple(line for line in compared if not line.startswith("|"))
    return "\n".join(sections), draw(_charts(curves)), plain


def _section(title: str, lines: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *lines, ""])


def _head(run: RunSpec, seen: RunView) -> str:
    end = f" {seen.reason}" if seen.reason else ""
    time_s = (seen.ended_at or seen.last_event_at or 0) - (seen.started_at or 0) if seen.started_at else None
    lines = [
        f"# Run {run.id}", "",
        f"{run.model_label}, {run.config.method} on {Path(run.data).name}, target {run.target}: **{seen.phase}** after "
        f"{formats.count(seen.step)} steps, attempt {seen.attempt}"
        + (f", {formats.duration(time_s)}." if time_s is not None else ".") + end, "",
    ]  # fmt: skip
    return "\n".join(lines)


def _result(run: RunSpec, seen: RunView) -> list[str]:
    """Figures on held-out rows, with what counting words achieves beside them."""
    if not seen.results:
        return ["No evaluation was told."]
    baseline = _baseline(run)
    lines = ["| figure | this run | baseline: counting words |", "| --- | ---: | ---: |"]
    for name, value in seen.results.items():
        if name == "seconds":
            continue
        share = name in ("accuracy", "macro_f1", "exact_match")
        text = formats.percent(value) if share else formats.number(value)
        other = formats.percent(baseline[name]) if name in baseline else formats.MISSING
        lines.append(f"| {name.replace('_', ' ')} | {text} | {other} |")
    return lines


def _baseline(run: RunSpec) -> dict[str, float]:
    from services.data.baseline import BaselineParams, _measure

    folder = Path(run.data)
    try:
        if datasets.load_info(folder).sha256 != run.data_sha256:
            return {}  # the dataset was made anew since
        found = _measure(BaselineParams(name=folder.name), folder)
    except HybridError:
        return {}
    return {"accuracy": found.accuracy, "macro_f1": found.macro_f1}


def _curves(run_dir: Path) -> dict[str, dict[float, float | None]]:
    """Name of a figure → step → value. Steps that a resumed attempt did again have its values."""
    found: dict[str, dict[float, float | None]] = {}
    for event in events.Follower(run_dir).all():
        data = event.data
        step = data.get("step")
        if event.ev == "hb" and isinstance(step, int) and isinstance(data.get("rss_bytes"), int):
            found.setdefault("memory", {})[step] = data["rss_bytes"] / 1e9
        if event.ev != "metric" or data.get("split") == "test" or not isinstance(step, int):
            continue
        before = "val_" if data.get("split") == "val" else ""
        for name, value in data.items():
            if name not in ("step", "split", "total_steps", "eta_s", "tokens") and (
                value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
            ):
                found.setdefault(before + name, {})[step] = value
    return found


def _charts(curves: dict[str, dict[float, float | None]]) -> list[Chart]:
    def curve(name: str, label: str) -> list[Curve]:
        points: tuple[Point, ...] = tuple(sorted(curves.get(name, {}).items()))
        return [Curve(label, points)] if points else []

    def chart(title: str, y: str, *parts: list[Curve], log: bool = False) -> Chart:
        return Chart(title, "step", y, tuple(one for part in parts for one in part), log)

    scores = [curve(f"val_{name}", name.replace("_", " ")) for name in ("accuracy", "macro_f1", "exact_match")]
    return [
        chart("Loss", "nats a token", curve("loss", "training"), curve("val_loss", "validation"), log=True),
        chart("Validation", "share", *scores),
        chart("Learning rate", "rate", curve("lr", "learning rate")),
        chart("Gradient norm", "norm", curve("grad_norm", "before clipping"), log=True),
        chart("Speed", "tokens/s", curve("tokens_s", "real tokens")),
        chart("Memory", "GB", curve("memory", "resident")),
    ]


def compare(planned: estimate.Estimate | None, seen: RunView, benchmark: dict[str, Any]) -> list[str]:
    """The estimate beside what happened, as a table and a sentence; empty without an estimate."""
    if planned is None:
        return []
    device = next((d for d in planned.devices if d.target == planned.target), None)
    peak = benchmark.get("peak_rss_bytes") if benchmark.get("device", "cpu") == "cpu" else None
    pairs: list[tuple[str, float | None, float | None, Any]] = [
        ("steps", planned.steps, (benchmark and seen.step) or None, formats.count),
        ("training tokens", planned.train_tokens, benchmark.get("train_tokens"), formats.count),
        ("peak memory", planned.memory.get("total_bytes"), peak, formats.size),
    ]
    if device is not None and planned.target == "local":
        took = _sum(benchmark.get("train_seconds"), benchmark.get("eval_seconds"))
        pairs += [
            ("tokens/s", device.tokens_s, benchmark.get("train_tokens_s"), formats.number),
            ("training and evaluation", device.seconds, took, formats.duration),
        ]
    lines = ["| | estimate | actual | actual / estimate |", "| --- | ---: | ---: | ---: |"]
    for name, likely, actual, words in pairs:
        ratio = f"{actual / likely:.2f}" if actual and likely else formats.MISSING
        lines.append(f"| {name} | {words(likely)} | {words(actual)} | {ratio} |")
    if device is not None and device.basis:
        lines += ["", f"The estimated speed was {device.basis}."]
    return lines


def _sum(one: Any, other: Any) -> float | None:
    return one + other if isinstance(one, (int, float)) and isinstance(other, (int, float)) else None


def _cost(ctx: Context, run_dir: Path) -> list[str]:
    found = costs.of_run(ctx.workspace, run_dir)
    words = {"account": "as the account told", "settings": "reckoned from dated rates, not from the account"}
    source = f" ({words.get(found.source, found.source)}{': ' + found.note if found.note else ''})"
    return [f"{found.cost}{source if found.source else ''}, {formats.duration(found.seconds)} in all attempts."]


def _made_of(run: RunSpec, benchmark: dict[str, Any]) -> list[str]:
    dirty = ", with uncommitted changes" if run.git_dirty else ""
    rows = [
        ("base model", run.model_label),
        ("dataset", Path(run.data).name),
        ("dataset's sha256", f"`{run.data_sha256}`"),
        ("seed", str(run.seed)),
        ("code of the workspace", f"`{run.git_commit}`{dirty}" if run.git_commit else "not in git"),
        ("target", run.target),
    ]
    names = {"device": "device", "machine": "machine", "cores": "cores", "threads": "threads", "dtype": "precision"}
    rows += [(names[name], str(benchmark[name])) for name in names if benchmark.get(name)]
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]


def _settings(config: TrainConfig) -> list[str]:
    """What was chosen, and all the rest at its default."""
    changed = _changed(config)
    lines = [f"- {name} = {value}" for name, value in changed.items()]
    return [*lines, "", "All else is at its default."] if lines else ["All at their defaults."]


def _changed(config: TrainConfig) -> dict[str, Any]:
    usual = TrainConfig()
    names = [field.name for field in msgspec.structs.fields(TrainConfig)]
    return {name: getattr(config, name) for name in names if getattr(config, name) != getattr(usual, name)}


def _problems(run_dir: Path, seen: RunView) -> list[str]:
    found = [f"- {seen.reason} {seen.hint}".rstrip()] if seen.reason else []
    for event in events.Follower(run_dir).all():
        if event.ev == "log" and event.data.get("level") in ("warning", "error"):
            line = f"- {event.data.get('level')}: {event.data.get('text')}"
            if line not in found:
                found.append(line)
    return [line.replace("\n", " ") for line in [*found, *(f"- {problem}" for problem in seen.problems)]]


def _again(run: RunSpec) -> list[str]:
    words = [f"data={Path(run.data).name}", f"model={run.model_label}", f"target={run.target}"]
    words += [f"{name}={value}" for name, value in _changed(run.config).items()]
    return [
        "```", f"hybrid-tui --run train.start {' '.join(words)}", "```", "",
        f"with a dataset whose sha256 is {run.data_sha256[:12]}… (data.show tells it).",
    ]  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
