"""Runs in a notebook: its document, its cells run as they are by a plain Python with an imitated google.colab, the
agent on the box that follows through the store, and what happens when either side dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from services.context import Context
from services.drive.open import open_store
from services.errors import BadInput
from services.runs import actions as run_actions
from services.runs import events, local, spec, view
from services.runs.emit import Emitter
from services.runs.feed import Feed, Passed
from services.runs.notebook import actions, cells, layout, link
from services.runs.notebook.target import TARGET
from services.runs.remote import read_remote
from services.runs.train import StartParams
from services.runs.types import RunSpec, RunView, TrainConfig
from services.workspace import Workspace, open_workspace
from tests.runs.conftest import CHECKOUT, TRAINER, ended, processes_of, until
from tests.runtime.support import write_dataset
from tests.runtime.tiny_model import write_llama

COLAB = '''
"""google.colab as far as the notebook needs it: the mount is a link, flushing is noted."""
import os, pathlib, sys, types
drive = types.ModuleType("google.colab.drive")
def mount(place): pathlib.Path(os.environ["MOUNTED"]).write_text(place)
def flush_and_unmount(): pathlib.Path(os.environ["MOUNTED"]).write_text("flushed")
drive.mount, drive.flush_and_unmount = mount, flush_and_unmount
'''


@pytest.fixture
def work(workspace: Workspace) -> Workspace:
    """A workspace that looks into its store often."""
    (workspace.root / "hybrid.toml").write_text(
        "[notebook]\npoll_seconds = 0.2\ndelay_seconds = 0.2\nlost_minutes = 0.05\n"
    )
    return open_workspace(workspace.root)


@pytest.fixture
def start(work: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Start a run in a notebook whose trainer is the small one, with the given options."""
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    data = write_dataset(tmp_path / "intents")

    def begin(*options: str, **more: Any) -> Path:
        run_id = spec.make_run_id()
        run = RunSpec(
            1, run_id, "train", "notebook", TARGET.command(work.runs / run_id), str(CHECKOUT), TrainConfig(),
            "hub/tiny", "tiny", str(data), "0" * 64, 0, time.time(),
            remote=("python", "-P", str(TRAINER), "{run}", *options), grace_s=60.0, **more,
        )  # fmt: skip
        return local.submit(work, run)

    return begin


class Browser:
    """Whoever opens the notebook: runs its code cells one after the other in a process of its own."""

    def __init__(self, work: Workspace, tmp_path: Path) -> None:
        self.store, self.tmp, self.count = work.store_path, tmp_path, 0
        self.processes: list[subprocess.Popen[str]] = []

    def open(self, run: str) -> subprocess.Popen[str]:
        """Run all cells, on a new machine."""
        self.count += 1
        document = json.loads((self.store / "notebooks" / f"{run}.ipynb").read_text(encoding="utf-8"))
        source = "\n\n".join("".join(c["source"]) for c in document["cells"] if c["cell_type"] == "code")
        machine = self.tmp / f"machine-{self.count}"
        colab = machine / "site" / "google" / "colab"
        colab.mkdir(parents=True)
        (colab.parent / "__init__.py").touch()
        (colab / "__init__.py").write_text(COLAB)
        script = machine / "cells.py"
        script.write_text(source, encoding="utf-8")
        environment = os.environ | {
            "HYBRID_STORE": str(self.store), "HYBRID_WORK": str(machine / "content"), "MOUNTED": str(machine / "drive"),
            "PYTHONPATH": str(machine / "site"),
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-u", str(script)], env=environment, cwd=machine, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.processes.append(process)
        return process

    def take_away(self, process: subprocess.Popen[str]) -> None:
        """The machine is gone: every process on it, at once."""
        machine = self.tmp / f"machine-{self.processes.index(process) + 1}"
        for one in [*psutil.Process(process.pid).children(recursive=True), *processes_of(machine)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
        process.communicate()


@pytest.fixture
def browser(work: Workspace, tmp_path: Path) -> Iterator[Browser]:
    made = Browser(work, tmp_path)
    yield made
    for process in made.processes:
        if process.poll() is None:
            made.take_away(process)


def waiting(run_dir: Path) -> RunView:
    """The run once it waits for a person."""
    until(lambda: "waiting for you" in view.read(run_dir).note)
    return view.read(run_dir)


def steps(run_dir: Path) -> list[int]:
    return [e.data["step"] for e in told(run_dir) if e.ev == "metric" and e.data["split"] == "train"]


def told(run_dir: Path) -> list[Any]:
    return list(events.Follower(run_dir).all())


def agent_of(run_dir: Path) -> psutil.Process:
    [found] = [p for p in processes_of(run_dir) if "services.runs.notebook.agent" in p.cmdline()]
    return found


def test_the_document_is_a_notebook() -> None:
    made = json.loads(cells.encode(cells.notebook(run="r", store="/a'b", model="m`x`", data="d")))
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    assert set(made) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert {"name", "display_name"} <= set(made["metadata"]["kernelspec"])
    ids = [cell["id"] for cell in made["cells"]]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", id) for id in ids)
    for cell in made["cells"]:
        wanted = {"cell_type", "id", "metadata", "source"}
        code = cell["cell_type"] == "code"
        assert set(cell) == (wanted | {"execution_count", "outputs"} if code else wanted)
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        if code:
            compile("".join(cell["source"]), cell["id"], "exec")
    assert [c["id"] for c in made["cells"] if c["metadata"].get("tags") == ["parameters"]] == ["parameters"]


def test_the_document_is_valid_by_nbformat() -> None:
    with_nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: only our own check was made")
    made = cells.notebook(run="r", store="/a'b", model="m`x`", data="d")
    with_nbformat.validate(with_nbformat.from_dict(made))


def test_a_run_from_the_first_cell_to_the_result(start: Callable[..., Path], browser: Browser) -> None:
    run_dir = start("steps=30", "pause=0.02")
    seen = waiting(run_dir)
    assert (seen.phase, seen.link) == ("provisioning", "polling")
    assert str(browser.store / "notebooks" / f"{run_dir.name}.ipynb") in seen.note
    process = browser.open(run_dir.name)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "step 1 of 30" in output and "succeeded" in output
    done = ended(run_dir)
    assert done.phase == "succeeded", done
    assert done.results == {"accuracy": 0.75, "macro_f1": 0.7, "rows": 100.0}
    assert steps(run_dir) == list(range(1, 31))
    assert done.last_checkpoint == "checkpoints/step-000030"
    made = json.loads((run_dir / "output" / "metadata.json").read_text())
    assert (made["first"], made["made"]) == (1, 30)
    assert done.cost.seconds > 0 and not done.problems
    remote = read_remote(run_dir)
    assert remote is not None and not remote.live
    place = browser.store / layout.run_folder(run_dir.name)
    assert (place / "output-n1" / "metadata.json").is_file() and (place / "log-n1.txt").exists()


def test_a_machine_taken_away_and_the_notebook_run_again(start: Callable[..., Path], browser: Browser) -> None:
    run_dir = start("steps=60", "pause=0.05")
    waiting(run_dir)
    first = browser.open(run_dir.name)
    until(lambda: view.read(run_dir).last_checkpoint is not None)
    browser.take_away(first)
    again = browser.open(run_dir.name)
    output, _ = again.communicate(timeout=30)
    assert "going on from checkpoint step" in output
    done = ended(run_dir)
    assert done.phase == "succeeded", done
    came = int(re.findall(r"checkpoint step (\d+)", output)[0])
    made = json.loads((run_dir / "output" / "metadata.json").read_text())
    assert (made["first"], made["made"]) == (came + 1, 60 - came) and came >= 5
    assert any("start 2 goes on" in str(e.data.get("text")) for e in told(run_dir))
    origins = [e.data["origin"] for e in told(run_dir) if e.data.get("origin")]
    assert len(origins) == len(set(origins))


def test_a_notebook_that_falls_silent_is_lost_and_resumes(start: Callable[..., Path], browser: Browser) -> None:
    run_dir = start("steps=30", "pause=0.05")
    waiting(run_dir)
    first = browser.open(run_dir.name)
    until(lambda: view.read(run_dir).last_checkpoint is not None)
    browser.take_away(first)
    lost = ended(run_dir)
    assert lost.phase == "lost" and "has written nothing into the store" in lost.reason and "run it again" in lost.hint
    assert local.resume(run_dir) == 2
    browser.open(run_dir.name).communicate(timeout=30)
    assert ended(run_dir).phase == "succeeded"


def test_cancel_and_checkpoint_reach_the_notebook(start: Callable[..., Path], browser: Browser) -> None:
    run_dir = start("steps=100000", "pause=0.02", "checkpoint=100000")
    waiting(run_dir)
    process = browser.open(run_dir.name)
    until(lambda: view.read(run_dir).step > 0)
    local.request_checkpoint(run_dir)
    until(lambda: view.read(run_dir).last_checkpoint is not None)
    local.cancel(run_dir)
    output, _ = process.communicate(timeout=30)
    assert "cancelled from the box" in output
    done = ended(run_dir)
    assert done.phase == "cancelled"
    assert len(list((run_dir / "checkpoints").iterdir())) >= 1
    refused = browser.open(run_dir.name)
    output, _ = refused.communicate(timeout=30)
    assert refused.returncode != 0 and "was cancelled" in output


def test_a_killed_agent_is_reattached_and_hands_each_event_on_once(
    start: Callable[..., Path], browser: Browser
) -> None:
    run_dir = start("steps=80", "pause=0.04")
    waiting(run_dir)
    process = browser.open(run_dir.name)
    for _ in range(2):
        until(lambda: view.read(run_dir).phase == "running")
        until(lambda: view.read(run_dir).step > 5)
        agent_of(run_dir).send_signal(signal.SIGKILL)
        until(lambda: view.read(run_dir).unattached)
        seen = view.read(run_dir)
        assert seen.link == "none" and seen.phase == "running" and "reattaches" in seen.hint
        local.resume(run_dir)
        until(lambda: not view.read(run_dir).unattached)
    process.communicate(timeout=30)
    assert ended(run_dir).phase == "succeeded"
    assert steps(run_dir) == list(range(1, 81))


def test_the_trainers_failure_is_told_in_its_words(start: Callable[..., Path], browser: Browser) -> None:
    run_dir = start("steps=20", "crash=error@7")
    waiting(run_dir)
    process = browser.open(run_dir.name)
    output, _ = process.communicate(timeout=30)
    assert process.returncode != 0 and "not a number" in output
    done = ended(run_dir)
    assert (done.phase, done.reason) == ("failed", "The loss is not a number at step 7.")


def test_a_budget_counts_over_all_starts(start: Callable[..., Path], browser: Browser) -> None:
    run_dir = start("steps=100000", "pause=0.02", max_seconds=1.0)
    waiting(run_dir)
    browser.open(run_dir.name).communicate(timeout=30)
    done = ended(run_dir)
    assert done.phase == "over-budget" and "1 s" in done.reason, done


def test_damaged_inputs_are_not_trained_on(start: Callable[..., Path], browser: Browser) -> None:
    run_dir = start()
    waiting(run_dir)
    damaged = browser.store / layout.run_folder(run_dir.name) / "in" / "data" / "train.jsonl"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    process = browser.open(run_dir.name)
    output, _ = process.communicate(timeout=30)
    assert process.returncode != 0 and "is not what was sent" in output
    local.cancel(run_dir)  # nothing has run there
    assert ended(run_dir).phase == "cancelled"


async def test_the_notebook_is_written_again(start: Callable[..., Path], work: Workspace) -> None:
    run_dir = start()
    waiting(run_dir)
    path = work.store_path / layout.notebook_path(run_dir.name)
    before = path.read_bytes()
    path.unlink()
    made = await actions.notebook(Context(work), actions.NotebookParams(run_dir.name[-4:]))
    assert isinstance(made, actions.Made) and made.open == str(path)
    assert path.read_bytes() == before
    local.cancel(run_dir)
    ended(run_dir)


def test_events_in_any_order_are_handed_on_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    every = [{"attempt": 1, "seq": n, "ev": "log", "data": {"level": "info", "text": str(n)}} for n in range(1, 12)]

    class Heard(Emitter):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def relay(self, ev: str, data: dict[str, Any], origin: str) -> None:
            self.lines.append(origin)

    @hypothesis.settings(max_examples=60, deadline=None)
    @hypothesis.given(st.lists(st.lists(st.sampled_from(every), max_size=6), max_size=8), st.integers(0, 11))
    def check(batches: list[list[dict[str, Any]]], have: int) -> None:
        heard = Heard()
        feed = Feed(heard, 1, Passed(have))
        for batch in [*batches, every]:
            feed.take(batch)
        assert heard.lines == [f"1:{n}" for n in range(have + 1, 12)]
        assert feed.missing == 0

    check()


def test_where_the_notebook_finds_the_store(work: Workspace) -> None:
    assert link.mounted(work, open_store(work)) == str(work.store_path)
    other = msgspec.structs.replace(work.settings.notebook, mounted="/kaggle/input/x")
    changed = Workspace(work.root, msgspec.structs.replace(work.settings, notebook=other))
    assert link.mounted(changed, open_store(changed)) == "/kaggle/input/x"


@pytest.mark.models
async def test_real_training_through_the_notebook(work: Workspace, browser: Browser, tmp_path: Path) -> None:
    model, data = write_llama(tmp_path / "tiny"), write_dataset(tmp_path / "intents")
    patient = (work.root / "hybrid.toml").read_text().replace("0.05", "5")
    (work.root / "hybrid.toml").write_text(patient)
    params = StartParams(
        data=str(data), model=str(model), target="notebook", r=4, dtype="fp32", batch_rows=8, max_steps=6, device="cpu"
    )
    seen = await asyncio.wait_for(run_actions.start(Context(work), params), 60)
    run_dir = Path(seen.path)
    assert isinstance(seen, RunView) and f"{run_dir.name}.ipynb" in seen.note  # where to open it is said at once
    process = browser.open(run_dir.name)
    output, _ = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 0, output
    done = ended(run_dir)
    assert done.phase == "succeeded" and done.step == 6 and done.results["rows"] == 12
    assert (run_dir / "output" / "adapter_model.safetensors").is_file()
    assert len(list((browser.store / "models" / "base-models").iterdir())) == 1


def test_executed_by_jupyter_itself(
    start: Callable[..., Path], browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    import nbformat

    run_dir = start("steps=10", "pause=0.02")
    waiting(run_dir)
    monkeypatch.setenv("HYBRID_WORK", str(browser.tmp / "jupyter"))
    monkeypatch.setenv("HYBRID_STORE", str(browser.store))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))  # the kernel's, too
    document = nbformat.read(browser.store / "notebooks" / f"{run_dir.name}.ipynb", as_version=4)
    nbclient.NotebookClient(document, timeout=60, kernel_name="python3").execute()
    assert "succeeded" in document.cells[-1].outputs[-1]["text"]
    assert ended(run_dir).phase == "succeeded"


async def test_the_store_in_a_bucket(
    work: Workspace, start: Callable[..., Path], browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bucket is a folder of objects here, which the notebook sees as if it were mounted."""
    pytest.importorskip("obstore")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    settings = (work.root / "hybrid.toml").read_text()
    (tmp_path / "bucket").mkdir()
    store = f'[store]\nkind = "bucket"\nurl = "file://{tmp_path / "bucket"}"\nroot = "Banking LLM"\n'
    (work.root / "hybrid.toml").write_text(settings + store)
    warnings = await TARGET.check(Context(open_workspace(work.root)), StartParams(target="notebook"))
    assert any("mounted as a folder" in warning for warning in warnings)
    run_dir = start("steps=10", "pause=0.02")
    waiting(run_dir)
    browser.store = tmp_path / "bucket" / "Banking LLM"
    browser.open(run_dir.name).communicate(timeout=30)
    assert ended(run_dir).phase == "succeeded"
    assert (run_dir / "output" / "metadata.json").is_file()


async def test_a_budget_in_units_is_refused_first(work: Workspace) -> None:
    with pytest.raises(BadInput, match="budget_cost"):
        await TARGET.check(Context(work), StartParams(target="notebook", budget_cost=2))
