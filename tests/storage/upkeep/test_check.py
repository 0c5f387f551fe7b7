"""All budgets at once, as scripts and CI ask for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from services.context import Context
from services.errors import CheckFailed
from services.settings import Disk, Settings, Upkeep
from services.storage.types import Cache, Caches
from services.storage.upkeep import actions, check, samples
from services.storage.upkeep.actions import CheckParams
from services.storage.upkeep.types import CheckResult, Forecast, RepoCheck, Sample
from services.workspace import Workspace

CHECKOUT = Path(__file__).parents[3]
GB = 10**9
ROOMY = Disk(budget_gb=1e6, min_free_gb=0, caches_gb=1e6)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of this machine is measured."""
    for variable in [v for v in os.environ if v.upper().startswith(("XDG_", "PIP_", "UV_", "HF_", "NPM_", "TORCH"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))  # else in the box's /tmp


def with_disk(workspace: Workspace, budget: Disk, **upkeep: float) -> Context:
    return Context(Workspace(workspace.root, Settings(disk=budget, upkeep=Upkeep(**upkeep))))  # type: ignore[arg-type]


async def failed(ctx: Context, params: CheckParams) -> CheckResult:
    with pytest.raises(CheckFailed) as caught:
        await actions.check(ctx, params)
    assert caught.value.exit_code == 3 and str(caught.value).endswith(".")
    assert isinstance(caught.value.result, CheckResult)
    return caught.value.result


async def test_all_well(workspace: Workspace) -> None:
    subprocess.run(["git", "init", "-q", str(workspace.root)], check=True)  # noqa: ASYNC221
    found = await actions.check(with_disk(workspace, ROOMY), CheckParams())
    assert found.ok and (found.broken, found.unknown) == (0, 0)
    assert [f.check for f in found.findings] == ["used", "free", "caches", "repo-size", "repo-files"]
    assert all(f.level == "ok" and f.sentence.endswith(".") and f.next == "" for f in found.findings)


async def test_each_budget_can_break(workspace: Workspace, tmp_path: Path) -> None:
    cache = tmp_path / ".cache" / "pip"
    cache.mkdir(parents=True)
    (cache / "wheel").write_bytes(b"x" * 3_000_000)
    subprocess.run(["git", "init", "-q", str(workspace.root)], check=True)  # noqa: ASYNC221
    (workspace.root / "model.pt").write_bytes(b"x")
    subprocess.run(["git", "add", "model.pt"], cwd=workspace.root, check=True)  # noqa: ASYNC221
    tight = Disk(budget_gb=0.001, min_free_gb=1e6, caches_gb=0.001, repo_mb=0.001)
    result = await failed(with_disk(workspace, tight), CheckParams())
    assert [f.level for f in result.findings] == ["broken"] * 5 and result.broken == 5 and not result.ok
    assert all("hybrid-tui --run" in f.next and f.sentence.endswith(".") for f in result.findings)
    assert result.findings[2].bytes is not None and result.findings[2].limit_bytes == 1_000_000
    assert "model.pt" in result.findings[4].sentence


async def test_only_the_checks_that_are_asked_for(workspace: Workspace) -> None:
    tight = Disk(budget_gb=0.001, min_free_gb=0, caches_gb=1e6)
    found = await actions.check(with_disk(workspace, tight), CheckParams(checks=("free", "caches", "free")))
    assert [f.check for f in found.findings] == ["free", "caches"]
    await failed(with_disk(workspace, tight), CheckParams(checks=("used",)))


async def test_what_can_not_be_checked_fails_only_when_strict(workspace: Workspace) -> None:
    ctx = with_disk(workspace, ROOMY)
    found = await actions.check(ctx, CheckParams())
    assert found.ok and found.unknown == 2
    result = await failed(ctx, CheckParams(strict=True))
    assert not result.ok and result.broken == 0 and "not in a git repository" in result.findings[3].sentence


async def test_forecast_and_upkeep_on_request(workspace: Workspace) -> None:
    ctx = with_disk(workspace, ROOMY)
    found = await actions.check(ctx, CheckParams(checks=("forecast", "upkeep")))
    assert [f.level for f in found.findings] == ["unknown", "ok"]
    old = time.time() - 400 * 86400
    os.utime(workspace.state / ".gitignore", (old, old))
    usage = await actions._usage(ctx)
    file = samples.folder(workspace) / "samples.jsonl"
    file.unlink()
    for i in range(20):  # a twentieth more a day: a fifth is gone in four days
        used = round(usage.used_bytes * (1 - (20 - i) / 80))
        samples.append(file, Sample(time.time() - (20 - i) * 21600, usage.total_bytes, used, 1))
    near = with_disk(workspace, Disk(budget_gb=usage.used_bytes * 1.2 / GB, min_free_gb=0))
    result = await failed(near, CheckParams(checks=("forecast", "upkeep")))
    assert [f.level for f in result.findings] == ["broken", "broken"]
    assert "Its budget breaks about" in result.findings[0].sentence and "overdue" in result.findings[1].sentence


async def test_a_read_only_check_leaves_nothing(workspace: Workspace) -> None:
    before = sorted(workspace.state.rglob("*"))
    settings = Settings(disk=ROOMY)
    await actions.check(Context(Workspace(workspace.root, settings), read_only=True), CheckParams())
    assert sorted(workspace.state.rglob("*")) == before


def test_caches_that_were_measured_in_part_are_unknown_unless_they_are_over_already() -> None:
    part = Cache("pip", "pip", "/p", True, 2 * GB, 1, None, "", "1 folder in it may not be read.")
    assert check.caches(Caches((part,), 2 * GB, 3 * GB, True)).level == "unknown"
    assert check.caches(Caches((part,), 4 * GB, 3 * GB, True)).level == "broken"
    assert check.caches(Caches((), 2 * GB, 3 * GB, False)).level == "unknown"
    assert check.caches(Caches((), 3 * GB, 3 * GB, True)).level == "ok"


def test_a_repository_that_could_be_read_in_part_only() -> None:
    damaged = RepoCheck("unknown", "x.", git_dir="/g", history="broken", problems=("git can't read it.",))
    assert check.repo_files(damaged).level == "unknown" and check.repo_size(damaged).level == "unknown"
    shallow = RepoCheck("ok", "x.", git_dir="/g", git_bytes=1, budget_bytes=2, history="shallow")
    assert "shallow" in check.repo_files(shallow).sentence and check.repo_size(shallow).level == "ok"


def test_a_forecast_far_off_is_ok() -> None:
    far = Forecast("growing", "It grows.", 1e6, 0, 2e6, full_at=1000 * 86400.0)
    assert check.forecast(far, 14, 0.0).level == "ok"
    assert check.forecast(far, 2000, 0.0).level == "broken"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["storage.check", "checks=free"], 0),
        (["storage.check", "checks=free,used"], 3),
        (["storage.check", "checks=x"], 2),
    ],
)
def test_exit_codes(workspace: Workspace, tmp_path: Path, words: list[str], code: int) -> None:
    env = os.environ | {"HYBRID_DISK_BUDGET_GB": "0.001", "HYBRID_DISK_MIN_FREE_GB": "0", "PYTHONPATH": str(CHECKOUT)}
    command = [sys.executable, "-m", "hybrid_tui", "--workspace", str(workspace.root), "--json", "--run", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    document = msgspec.json.decode(done.stdout)
    assert document["ok"] is (code == 0) if code != 2 else document["error"]["exit_code"] == 2
    assert "Traceback" not in done.stderr
