"""The estimate's probe: the real trainer with a tiny model, which must give a speed, remembered for the run itself."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

pytest.importorskip("torch")

from services.context import Context, Plan
from services.runs import actions, estimate, estimate_probe, report, train
from services.runs.estimate import Estimate, EstimateParams
from services.runs.report import Report, ReportParams
from services.runs.train import StartParams
from services.runs.types import RunView
from tests.runtime import support, tiny_model

pytestmark = pytest.mark.models
CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def wanted(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """A dataset and a tiny model in the workspace, as parameters of train.start."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    ctx.workspace.ensure_state()
    tiny = ctx.workspace.models / "tiny"
    tiny.mkdir(parents=True)
    tiny_model.write_llama(tiny)
    support.write_dataset(ctx.workspace.datasets / "small", train=480)
    return {"data": "small", "model": "tiny", "epochs": 3.0, "eval_rows": 6, "batch_rows": 4}


async def test_the_probe_measures_a_speed_and_the_runs_report_compares_it_with_what_happened(
    ctx: Context, wanted: dict[str, object]
) -> None:
    found = await estimate.estimate(ctx, msgspec.convert(wanted | {"probe_seconds": 20.0}, EstimateParams))
    assert isinstance(found, Estimate) and found.probe is not None
    assert found.probe.problem == "" and found.probe.tokens_s > 0 and found.probe.steps >= 6
    assert found.probe.peak_bytes > 10**8 and 0 < found.probe.starting_s < 90
    here = found.devices[0]
    assert here.tokens_s == pytest.approx(found.probe.tokens_s, rel=0.01) and here.seconds is not None
    assert here.seconds > 0.99 * found.train_tokens / found.probe.tokens_s
    assert f"measured here: {found.probe.steps} steps" in here.basis
    assert not any("probe" in warning for warning in found.warnings)

    run = await actions.start(ctx, msgspec.convert(wanted | {"wait": True}, StartParams))
    assert isinstance(run, RunView) and run.phase == "succeeded"
    kept = estimate.kept(Path(run.path))
    assert kept is not None and kept.probe == found.probe  # the run starts with what was measured
    made = await report.report(ctx, ReportParams(run.id, store=False))
    assert isinstance(made, Report)
    page = await asyncio.to_thread(Path(made.path).read_text, "utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| tokens/s"))
    likely, actual, ratio = (word.strip() for word in row.split("|")[2:5])
    assert likely != "–" and actual != "–" and float(ratio) > 0
    assert "The estimated speed was measured here" in page


async def test_a_probe_that_fails_says_why(ctx: Context, wanted: dict[str, object]) -> None:
    path = ctx.workspace.models / "tiny" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    found = await estimate.estimate(ctx, msgspec.convert(wanted | {"probe_seconds": 5.0}, EstimateParams))
    assert found.probe is not None and found.probe.tokens_s == 0 and found.probe.problem
    assert f"The probe measured no speed: {found.probe.problem}" in found.warnings
    assert not (ctx.workspace.state / "probes.json").exists()


async def test_what_was_measured_is_known_for_a_day_and_for_the_same_settings(
    ctx: Context, wanted: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = msgspec.convert(wanted | {"probe_seconds": 0.0}, EstimateParams)
    run = await train.make_spec(ctx, msgspec.convert(wanted, StartParams))
    assert not isinstance(run, Plan)
    told = estimate_probe.Probe(1234.0, 9, 10**9, 3.0)
    estimate_probe.remember(ctx.workspace, run, told)
    assert (await estimate.estimate(ctx, params)).probe == told
    assert (await estimate.estimate(ctx, msgspec.structs.replace(params, epochs=9.0, lr=0.1))).probe == told
    assert (await estimate.estimate(ctx, msgspec.structs.replace(params, max_length=64))).probe is None
    kept = ctx.workspace.state / "probes.json"
    old = {key: one | {"at": one["at"] - 90_000} for key, one in json.loads(kept.read_text()).items()}
    kept.write_text(json.dumps(old))
    assert (await estimate.estimate(ctx, params)).probe is None
    kept.write_text("torn")
    assert (await estimate.estimate(ctx, params)).probe is None
