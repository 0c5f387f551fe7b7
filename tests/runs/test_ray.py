"""Runs on a real Ray cluster: a head and two workers on this machine, with token authentication.

Skipped where there is no Ray. HYBRID_RAY names the ``ray`` command of another environment, whose Python must also see
what the trainer needs (torch, msgspec, …).
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from services.context import Context
from services.errors import BadInput, HybridError
from services.runs import actions, events, local, spec, view
from services.runs.ray import api
from services.runs.ray.target import TARGET
from services.runs.remote import read_remote
from services.runs.train import StartParams
from services.runs.types import FINISHED, RunSpec, TrainConfig
from services.workspace import Workspace, open_workspace
from tests.runs.conftest import CHECKOUT, ended, processes_of, until
from tests.runtime.support import write_dataset
from tests.runtime.tiny_model import write_llama

RAY = os.environ.get("HYBRID_RAY") or shutil.which("ray") or shutil.which("ray", path=str(Path(sys.executable).parent))


class Cluster(NamedTuple):
    """A running cluster: its dashboard and its token."""

    url: str
    token: str
    folder: Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head without CPUs and two workers with one each, so that a run on two nodes really uses both."""
    if RAY is None:
        pytest.skip("Ray is not installed (the extra `cluster`), and HYBRID_RAY names none")
    folder = Path("/tmp") / f"hr-{secrets.token_hex(3)}"  # Ray's sockets need a short path
    folder.mkdir()
    port, dashboard, token = free_port(), free_port(), secrets.token_hex(16)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    environment["PATH"] = f"{Path(RAY).parent}:{environment['PATH']}"  # jobs are run by the cluster's python
    words = [RAY, "start", "--block", "--disable-usage-stats"]
    stands = "This command will now block"
    head = ["--head", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=0", "--num-gpus=0",
            f"--temp-dir={folder / 's'}", "--node-ip-address=127.0.0.1"]  # fmt: skip
    worker = [f"--address=127.0.0.1:{port}", "--num-cpus=1", "--num-gpus=0", "--node-ip-address=127.0.0.1"]
    started = []
    try:
        for options in (head, worker, worker):
            with (folder / "log").open("ab") as log:
                started.append(
                    subprocess.Popen([*words, *options], env=environment, stdout=log, stderr=log, cwd=folder)
                )
            until(lambda: (folder / "log").read_text().count(stands) == len(started), 120)
        until(lambda: answers(f"http://127.0.0.1:{dashboard}/api/jobs/", token), 120)
        yield Cluster(f"http://127.0.0.1:{dashboard}", token, folder)
    finally:
        family = [p for one in started for p in [psutil.Process(one.pid), *psutil.Process(one.pid).children(True)]]
        for process in family:
            process.terminate()
        for process in psutil.wait_procs(family[::-1], timeout=5)[1]:
            process.kill()
        for one in started:
            one.wait(10)
        for process in processes_of(folder):
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def answers(url: str, token: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})):
            return True
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture
def work(workspace: Workspace, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace that knows the cluster."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.token)
    return configure(workspace, cluster)


def configure(workspace: Workspace, cluster: Cluster, **more: Any) -> Workspace:
    values = {"address": cluster.url, "gpus": 0, "poll_seconds": 0.5, "folder": str(cluster.folder / "runs"), **more}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    (workspace.root / "hybrid.toml").write_text("\n".join(["[ray]", *lines]) + "\n")
    return open_workspace(workspace.root)


@pytest.fixture
def start(work: Workspace, tmp_path: Path) -> Callable[..., Path]:
    """Start the small trainer on the cluster, with the given options."""
    data = write_dataset(tmp_path / "intents")
    shutil.copy(Path(__file__).with_name("trainer.py"), data / "trainer.py")

    def begin(*options: str, **more: Any) -> Path:
        run_id = spec.make_run_id()
        script = "import runpy; runpy.run_path('data/trainer.py', run_name='__main__')"
        run = RunSpec(
            1, run_id, "train", "ray", TARGET.command(work.runs / run_id), str(CHECKOUT), TrainConfig(),
            "hub/tiny", "tiny", str(data), "0" * 64, 0, time.time(),
            remote=("python", "-c", script, "{run}", *options), grace_s=300.0, **more,
        )  # fmt: skip
        return local.submit(work, run)

    return begin


def steps(run_dir: Path) -> list[int]:
    told = events.Follower(run_dir).all()
    return [e.data["step"] for e in told if e.ev == "metric" and e.data.get("split") == "train"]


def agent_of(run_dir: Path) -> psutil.Process:
    [found] = [p for p in processes_of(run_dir) if "services.runs.ray.agent" in p.cmdline()]
    return found


def wait_for(run_dir: Path, condition: Callable[[], object]) -> None:
    until(lambda: condition() or view.read(run_dir).phase == "failed", 120)
    assert condition(), view.read(run_dir)


def over(run_dir: Path) -> Any:
    until(lambda: view.read(run_dir).phase in FINISHED, 180)
    return ended(run_dir)


def test_a_run_from_the_job_to_the_result(start: Callable[..., Path]) -> None:
    run_dir = start("steps=30", "pause=0.02")
    done = over(run_dir)
    assert done.phase == "succeeded", (done, (run_dir / "log.txt").read_text())
    assert steps(run_dir) == list(range(1, 31))
    assert done.results["accuracy"] == 0.75 and done.cost.seconds > 0 and not done.problems
    assert json.loads((run_dir / "output" / "metadata.json").read_text())["made"] == 30
    assert done.last_checkpoint == "checkpoints/step-000030"
    assert (run_dir / "checkpoints" / "step-000030" / "state.json").is_file()
    remote = read_remote(run_dir)
    assert remote is not None and not remote.live and "Bearer" not in (run_dir / "remote.json").read_text()


def test_killed_here_checkpointed_cancelled_and_resumed_as_a_new_job(start: Callable[..., Path]) -> None:
    run_dir = start("steps=2000", "pause=0.02", "checkpoint=100000")
    wait_for(run_dir, lambda: view.read(run_dir).step > 5)
    agent_of(run_dir).send_signal(signal.SIGKILL)
    until(lambda: view.read(run_dir).unattached)
    assert view.read(run_dir).phase == "running" and view.read(run_dir).link == "none"
    local.resume(run_dir)
    wait_for(run_dir, lambda: view.read(run_dir).phase == "running")
    local.request_checkpoint(run_dir)
    wait_for(run_dir, lambda: view.read(run_dir).last_checkpoint is not None)
    local.cancel(run_dir)
    done = over(run_dir)
    assert done.phase == "cancelled", (done, (run_dir / "log.txt").read_text())
    high = max(int(path.name[5:]) for path in (run_dir / "checkpoints").glob("step-*"))
    before = steps(run_dir)
    assert before == list(range(1, len(before) + 1)) and high == len(before)
    local.resume(run_dir)
    wait_for(run_dir, lambda: len(steps(run_dir)) > len(before))
    assert steps(run_dir)[len(before)] == high + 1
    remote = read_remote(run_dir)
    assert remote is not None and remote.name.endswith("-n2")
    local.cancel(run_dir)
    assert over(run_dir).phase == "cancelled"


def test_the_trainers_failure_is_told_in_its_words(start: Callable[..., Path]) -> None:
    run_dir = start("steps=20", "crash=error@7")
    done = over(run_dir)
    assert (done.phase, done.reason) == ("failed", "The loss is not a number at step 7.")


@pytest.mark.models
async def test_real_training_on_two_nodes(work: Workspace, cluster: Cluster, tmp_path: Path) -> None:
    model = write_llama(tmp_path / "tiny")
    data = write_dataset(tmp_path / "intents", train=64)
    wide = configure(work, cluster, nodes=2)
    params = StartParams(
        data=str(data), model=str(model), target="ray", r=4, dtype="fp32", batch_rows=8, max_steps=8, device="cpu"
    )
    seen = await actions.start(Context(wide), params)
    done = over(Path(seen.path))
    assert done.phase == "succeeded", (done, (Path(seen.path) / "log.txt").read_text())
    assert done.results["rows"] == 12 and done.step == 8
    assert (Path(seen.path) / "output" / "adapter_model.safetensors").is_file()


async def test_a_wrong_token_and_no_cluster_are_said_before_anything_starts(
    work: Workspace, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await TARGET.check(Context(work), StartParams(target="ray"))
    assert told[0].startswith("The cluster runs Ray ")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with pytest.raises(HybridError, match="refuses the token"):
        await TARGET.check(Context(work), StartParams(target="ray"))
    with pytest.raises(BadInput, match="budget_cost"):
        await TARGET.check(Context(work), StartParams(target="ray", budget_cost=1))
    nowhere = configure(work, cluster._replace(url=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(api.Unreachable, match="does not answer"):
        await TARGET.check(Context(nowhere), StartParams(target="ray"))
