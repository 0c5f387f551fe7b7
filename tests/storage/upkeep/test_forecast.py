"""The record of samples, and what is read from it."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.context import Context
from services.storage import actions as storage
from services.storage.types import Caches, DiskUsage
from services.storage.upkeep import actions, samples
from services.storage.upkeep.forecast import forecast
from services.storage.upkeep.samples import DAY, HOUR
from services.storage.upkeep.types import Forecast, Sample
from services.workspace import Workspace

GB = 10**9
NOW = 1_795_000_000.0


def usage(used: float, *, total: int = 100 * GB, budget: int = 90 * GB, min_free: int = 5 * GB) -> DiskUsage:
    problems = ("over",) if used > budget or total - used < min_free else ()
    return DiskUsage("/", total, round(used), round(total - used), budget, min_free, 3 * GB, problems)


def series(
    days: float, per_day: float, *, start: float = 20 * GB, noise: float = 0, step: float = DAY / 4
) -> list[Sample]:
    rng = random.Random(7)
    count = int(days * DAY / step)
    found = []
    for i in range(count + 1):
        at = NOW - (count - i) * step
        used = round(start + per_day * (i * step / DAY) + rng.gauss(0, noise))
        found.append(Sample(at, 100 * GB, used, 100 * GB - used))
    return found


def of(recorded: list[Sample], **more: int) -> Forecast:
    return forecast(recorded, usage(recorded[-1].used_bytes, **more), days=14, now=NOW)


def test_steady_growth_gives_the_day_it_is_full_and_the_day_the_budget_breaks() -> None:
    found = of(series(10, GB))  # 30 GB of 100 GB, 1 GB a day
    assert found.state == "growing" and found.slope_bytes_per_day == pytest.approx(GB)
    assert found.full_at == pytest.approx(NOW + 70 * DAY, abs=60)
    assert found.budget_at == pytest.approx(NOW + 60 * DAY, abs=60)
    assert time.strftime("%Y-%m-%d", time.localtime(found.full_at)) in found.sentence
    assert of(series(10, GB), min_free=20 * GB).budget_at == pytest.approx(NOW + 50 * DAY, abs=60)


def test_noise_and_odd_days_widen_the_range_and_do_not_bend_the_slope() -> None:
    recorded = series(12, GB, noise=0.3 * GB)
    for i in (5, 17, 30):  # a huge download, deleted again within hours
        recorded[i] = msgspec.structs.replace(recorded[i], used_bytes=90 * GB)
    found = of(recorded)
    assert found.slope_low is not None and found.slope_high is not None
    assert found.slope_low < GB < found.slope_high and found.slope_bytes_per_day == pytest.approx(GB, rel=0.1)
    assert found.full_earliest_at and found.full_at and found.full_latest_at
    assert found.full_earliest_at < found.full_at < found.full_latest_at
    assert "between" in found.sentence


@pytest.mark.parametrize(
    ("recorded", "state", "words"),
    [
        (series(10, -GB, start=50 * GB), "shrinking", "shrinking by 1.0 GB a day"),
        (series(10, 0, noise=0.5 * GB), "steady", "no trend stands out"),
        (series(10, 0), "steady", "no trend stands out"),
        (series(10, 100_000), "steady", "no trend stands out"),
        (series(1, GB), "few", "not enough samples"),
        (series(10, GB)[-3:], "few", "not enough samples"),
    ],
)
def test_where_there_is_no_date_none_is_given(recorded: list[Sample], state: str, words: str) -> None:
    found = of(recorded)
    assert found.state == state and words in found.sentence
    assert found.full_at is None and found.full_earliest_at is None and found.budget_at is None


def test_slow_growth_has_no_day_beyond_ten_years() -> None:
    found = of(series(14, 5_000_000))
    assert found.state == "growing" and found.full_at is None and "not full within ten years" in found.sentence


def test_a_broken_budget_is_broken_now() -> None:
    assert of(series(10, GB), budget=25 * GB).budget_at == NOW
    assert of(series(1, GB), budget=5 * GB).budget_at == NOW


def test_samples_of_a_disk_of_another_size_are_left_out() -> None:
    small = [msgspec.structs.replace(s, total_bytes=50 * GB) for s in series(10, 3 * GB)]
    assert of([*small, *series(1, GB)[-1:]]).state == "few"


def test_nothing_recorded() -> None:
    found = forecast([], usage(10 * GB), days=14, now=NOW)
    assert found.state == "few" and len(found.samples) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 20), st.integers(0, 100 * GB)), max_size=60),
    st.integers(0, 100 * GB),
)
def test_any_record_gives_a_sound_forecast(points: list[tuple[float, int]], used: int) -> None:
    recorded = [Sample(NOW - back * DAY, 100 * GB, u, 100 * GB - u) for back, u in sorted(points, reverse=True)]
    found = forecast(recorded, usage(used), days=14, now=NOW)
    assert found.sentence.endswith(".")
    for date in (found.full_at, found.full_earliest_at, found.full_latest_at, found.budget_at):
        assert date is None or date >= NOW
    if found.slope_bytes_per_day is not None:
        assert found.slope_low is not None and found.slope_high is not None
        assert found.slope_low <= found.slope_bytes_per_day <= found.slope_high
    if found.full_at and found.full_earliest_at:
        assert found.full_earliest_at <= found.full_at <= (found.full_latest_at or found.full_at)


def lines(workspace: Workspace) -> list[str]:
    return (samples.folder(workspace) / "samples.jsonl").read_text().splitlines()


def test_at_most_one_sample_an_hour(workspace: Workspace) -> None:
    assert samples.record_usage(workspace, usage(GB), now=NOW)
    assert not samples.record_usage(workspace, usage(2 * GB), now=NOW + HOUR - 1)
    assert samples.record_usage(workspace, usage(2 * GB), now=NOW + HOUR)
    assert samples.record_usage(workspace, usage(2 * GB, total=200 * GB), now=NOW + HOUR + 1)  # the disk was enlarged
    assert samples.record_usage(workspace, usage(GB), now=NOW - 30 * DAY)  # the clock was wrong, and was set
    found, problems = samples.read(workspace, now=NOW + 2 * HOUR)
    assert [s.at for s in found] == [NOW - 30 * DAY, NOW, NOW + HOUR, NOW + HOUR + 1] and problems == ()


def test_old_samples_are_thinned_to_one_a_day(workspace: Workspace) -> None:
    folder = samples.folder(workspace)
    folder.mkdir()
    start = NOW - 60 * DAY
    recorded = [Sample(start + i * HOUR, 100 * GB, i, 1) for i in range(60 * 24)]
    recorded.insert(0, Sample(NOW - 4 * 365 * DAY, 100 * GB, 1, 1))
    (folder / "samples.jsonl").write_bytes(b"".join(msgspec.json.encode(s) + b"\n" for s in recorded) + b"{torn")
    samples.record_usage(workspace, usage(GB), now=NOW)
    found, problems = samples.read(workspace, now=NOW)
    assert problems == ()
    recent = [s for s in found if s.at >= NOW - samples.KEEP_HOURLY]
    old = [s for s in found if s.at < NOW - samples.KEEP_HOURLY]
    assert len(recent) == 15 * 24 + 1 and 44 <= len(old) <= 47
    assert found[0].at > NOW - samples.KEEP and found[-1].at == NOW
    assert all(b.at - a.at == DAY for a, b in itertools.pairwise(old[:-1]))


def test_damaged_lines_are_left_out_and_said(workspace: Workspace) -> None:
    for i in range(3):
        samples.record_usage(workspace, usage(GB + i), now=NOW + i * HOUR)
    file = samples.folder(workspace) / "samples.jsonl"
    whole = file.read_bytes()
    file.write_bytes(
        whole[:-20] + b"\n\xff\xfe\n" + b'{"at": "x"}\n' + b'{"at":1e9,"total_bytes":1,"used_bytes":5,"free_bytes":0}\n'
    )
    found, problems = samples.read(workspace, now=NOW + 3 * HOUR)
    assert [s.used_bytes for s in found] == [GB, GB + 1]
    assert len(problems) == 1 and problems[0].startswith("4 lines of ")
    file.write_bytes(whole[:-20])  # torn by a crash: the next one starts on a line of its own
    samples.record_usage(workspace, usage(9 * GB), now=NOW + 9 * HOUR)
    found, problems = samples.read(workspace, now=NOW + 9 * HOUR)
    assert [s.used_bytes for s in found] == [GB, GB + 1, 9 * GB] and problems[0].startswith("1 line of ")
    file.write_bytes(msgspec.json.encode(Sample(NOW + 90 * DAY, 1, 1, 0)) + b"\n")
    found, problems = samples.read(workspace, now=NOW)
    assert found == [] and "date in the future" in problems[0]


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=300))
def test_no_content_of_the_record_breaks_reading(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    root = tmp_path_factory.mktemp("any")
    (root / ".hybrid" / "storage").mkdir(parents=True)
    (root / ".hybrid" / "storage" / "samples.jsonl").write_bytes(content)
    (root / ".hybrid" / "storage" / "latest").write_bytes(content)
    from services.settings import Settings

    made = Workspace(root, Settings())
    samples.read(made, now=NOW)
    samples.read_latest(made)
    assert samples.record_usage(made, usage(GB), now=NOW) in (True, False)
    assert samples.read(made, now=NOW)[0]


def _hammer(root: str) -> None:
    from services.settings import Settings

    workspace = Workspace(Path(root), Settings())
    for _ in range(40):
        samples.record_usage(workspace, usage(GB), now=NOW)


def test_processes_that_record_at_once_keep_one_sample_an_hour(workspace: Workspace) -> None:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_hammer, args=(str(workspace.root),)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    assert [json.loads(line)["at"] for line in lines(workspace)] == [NOW]


async def test_looking_at_the_disk_records_it_unless_nothing_may_be_written(workspace: Workspace) -> None:
    file = samples.folder(workspace) / "samples.jsonl"
    for ctx in (Context(workspace, read_only=True), Context(workspace, dry_run=True)):
        await storage.usage(ctx, storage.UsageParams())
        await storage.caches(ctx, storage.CachesParams())
        assert not file.parent.exists()
    await storage.usage(Context(workspace), storage.UsageParams(path="/proc"))  # another disk
    assert not file.exists()
    await storage.usage(Context(workspace), storage.UsageParams())
    await storage.usage(Context(workspace), storage.UsageParams())
    assert len(lines(workspace)) == 1


async def test_a_folder_that_is_no_workspace_is_left_as_it_is(tmp_path: Path) -> None:
    from services.settings import Settings

    ctx = Context(Workspace(tmp_path, Settings()))
    await storage.usage(ctx, storage.UsageParams())
    await actions.forecast(ctx, actions.ForecastParams())
    await actions.check_repository(ctx, actions.RepoParams())
    assert os.listdir(tmp_path) == []  # noqa: PTH208


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
async def test_a_record_that_can_not_be_written_fails_nothing(workspace: Workspace) -> None:
    workspace.state.chmod(0o500)
    try:
        await storage.usage(Context(workspace), storage.UsageParams())
    finally:
        workspace.state.chmod(0o700)


async def test_a_record_in_the_way_fails_nothing(workspace: Workspace) -> None:
    samples.folder(workspace).write_text("a file where the folder should be")
    await storage.usage(Context(workspace), storage.UsageParams())
    found = await actions.forecast(Context(workspace), actions.ForecastParams())
    assert found.state == "few"


def test_only_a_complete_sum_of_the_caches_is_kept(workspace: Workspace) -> None:
    samples.record_caches(workspace, Caches((), 5, 3 * GB, False), now=NOW)
    assert samples.read_latest(workspace) == {}
    samples.record_caches(workspace, Caches((), 7, 3 * GB, True), now=NOW)
    samples.record_usage(workspace, usage(GB), now=NOW)
    assert samples.read(workspace, now=NOW)[0][0].caches_bytes == 7


async def test_the_action_reads_what_was_recorded(workspace: Workspace) -> None:
    now = time.time()
    real = await storage.usage(Context(workspace, read_only=True), storage.UsageParams())
    folder = samples.folder(workspace)
    folder.mkdir()
    for i in range(40):
        used = max(0, real.used_bytes - (40 - i) * 50_000_000)
        samples.append(folder / "samples.jsonl", Sample(now - (40 - i) * DAY / 4, real.total_bytes, used, 1))
    found = await actions.forecast(Context(workspace), actions.ForecastParams())
    assert found.state == "growing" and found.slope_bytes_per_day == pytest.approx(200_000_000, rel=0.3)
    short = await actions.forecast(Context(workspace), actions.ForecastParams(days=1))
    assert short.state == "few"
