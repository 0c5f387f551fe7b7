"""Kills small real training runs at random points, again and again, and checks what is left of them each time.

    python -m tests.runs.soak [--kills 100] [--seed 0] [--minutes N] [--plot FILE.svg]

Each run trains a tiny model with the real trainer under the real supervisor, started by a process that stands for the
panel. ``kill -9`` hits one of trainer, supervisor and panel, or the box (all of them at once), at a random moment, also
while the panel starts or resumes the run. After each kill: the run is in the state that was to be expected, nothing of
it lives that shouldn't, and every checkpoint it acknowledged is there, whole, as far as its rules keep it. Each run is
resumed until it succeeds; then its losses, its validations and its adapter must equal those of a run that nothing
disturbed: the difference must be 0. Exit code 1 when anything was not so.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import psutil

from services import workspace as workspaces
from services.errors import HybridError, Refused
from services.runs import events, local, report_chart, view
from services.runs import spec as specs
from services.runs.types import FINISHED, Event, RunSpec, RunView
from services.workspace import Workspace
from tests.runtime import support
from tests.runtime.tiny_model import write_llama

CHECKOUT = Path(__file__).resolve().parents[2]
VICTIMS = ("trainer", "supervisor", "panel", "box")
KEEP = 2
SETTINGS: dict[str, Any] = {"epochs": 4, "eval_steps": 3, "val_rows": 4, "compile": "off", "keep_checkpoints": KEEP}
TIMEOUT_S = 180.0


@dataclass
class Tally:
    """What was seen. ``wrong`` names each thing that was not as it should be."""

    kills: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    moments: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    attempts: int = 0
    acknowledged: int = 0
    compared: int = 0
    difference: float = 0.0
    wrong: list[str] = field(default_factory=list)
    last: Path | None = None


@dataclass(frozen=True)
class Curve:
    """What a whole run told and made."""

    train: dict[int, float]
    validation: dict[int, float]
    adapter: str
    seconds: float


def panel(run_dir: Path, spec_file: Path) -> int:
    """The panel's part: start the run or take it up again, then follow it to its end."""
    workspace = workspaces.open_workspace(run_dir.parents[2])
    try:
        if not run_dir.exists():
            local.submit(workspace, msgspec.json.decode(spec_file.read_bytes(), type=RunSpec))
        elif view.read(run_dir).phase in FINISHED:
            local.resume(run_dir)
    except Refused:
        pass  # it goes on already
    while view.read(run_dir).phase not in FINISHED:
        time.sleep(0.05)
    return 0


def start_panel(run_dir: Path, spec_file: Path) -> subprocess.Popen[bytes]:
    """The panel as a process of its own."""
    words = [sys.executable, "-m", "tests.runs.soak", "--panel", str(run_dir), str(spec_file)]
    return subprocess.Popen(words, cwd=CHECKOUT, env=os.environ | {"PYTHONPATH": str(CHECKOUT)}, start_new_session=True)


def processes(run_dir: Path) -> dict[str, list[psutil.Process]]:
    """The living processes of a run, by what they are."""
    found: dict[str, list[psutil.Process]] = {"trainer": [], "supervisor": []}
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if str(run_dir) not in words or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        if "services.runtime.train" in words:
            found["trainer"].append(process)
        elif any(word.endswith("supervisor.py") for word in words):
            found["supervisor"].append(process)
    return found


def kill(victim: str, run_dir: Path, watcher: subprocess.Popen[bytes]) -> bool:
    """``kill -9``; False when there was nothing to kill."""
    living = processes(run_dir)
    doomed = living.get(victim, living["trainer"] + living["supervisor"] if victim == "box" else [])
    hit = False
    if victim in ("panel", "box") and watcher.poll() is None:
        watcher.kill()
        hit = True
    for process in doomed:
        try:
            process.send_signal(signal.SIGKILL)
            hit = True
        except psutil.NoSuchProcess:
            continue
    if victim in ("panel", "box"):
        watcher.wait()
    return hit


def settle(run_dir: Path) -> None:
    """Until what a kill takes along is gone."""
    until = time.monotonic() + 20
    while view.is_alive(run_dir, view.newest_attempt(run_dir)) and time.monotonic() < until:
        time.sleep(0.02)


def check_state(victim: str, run_dir: Path, before: RunView | None, tally: Tally) -> None:
    """The run is as it should be after ``victim`` was killed, which was so ``before``."""
    if not run_dir.exists():  # the panel died before the run stood: nothing half-made is taken for one
        tally.phases["not begun"] += 1
        if specs.folders(workspaces.open_workspace(run_dir.parents[2])).count(run_dir):
            tally.wrong.append(f"{run_dir.name}: listed without a folder")
        return
    if victim != "panel":
        settle(run_dir)
    seen = view.read(run_dir)
    tally.phases[seen.phase] += 1
    if before is not None and before.phase in FINISHED and seen.attempt == before.attempt:
        if seen.phase != before.phase:
            tally.wrong.append(f"{run_dir.name}: was {before.phase}, and is {seen.phase} after the {victim} was killed")
        return
    # One that has just succeeded is as right as one that was hit.
    allowed = {
        "trainer": {"failed", "succeeded"},
        "supervisor": {"lost", "succeeded", "failed"},
        "box": {"lost", "succeeded", "failed"},
        "panel": {"queued", "preparing", "running", "succeeded", "lost"},  # lost: while it started the supervisor
    }[victim]
    if seen.phase not in allowed:
        tally.wrong.append(f"{run_dir.name}: {seen.phase} after the {victim} was killed")
    if seen.phase == "failed" and "was killed" not in seen.reason:
        tally.wrong.append(f"{run_dir.name}: failed for another reason: {seen.reason}")
    if seen.phase in ("failed", "lost") and not (seen.reason and (seen.hint or "resume" in seen.reason)):
        tally.wrong.append(f"{run_dir.name}: {seen.phase} without cause or next step")
    left = processes(run_dir)
    if victim != "panel" and (left["trainer"] or left["supervisor"]):
        tally.wrong.append(f"{run_dir.name}: something still runs after the {victim} was killed")


def history(run_dir: Path) -> list[Event]:
    """Every event of the run; torn lines are left out, as a reader does."""
    return list(events.Follower(run_dir).all())


def check_checkpoints(run_dir: Path, tally: Tally) -> None:
    """Every acknowledged checkpoint that the rules keep is there, whole, and is the one that was acknowledged."""
    from services.runtime import checkpoint

    folder = run_dir / "checkpoints"
    told = {e.data["step"]: e.data for e in history(run_dir) if e.ev == "ckpt"} if run_dir.exists() else {}
    tally.acknowledged += len(told)
    there = {int(path.name[5:]) for path in checkpoint.steps(folder)}
    kept = set(sorted(set(told) | there)[-KEEP:])
    for step in sorted(kept & set(told)):
        place = checkpoint.path(folder, step)
        try:
            found = checkpoint.read(place)
        except HybridError as error:
            tally.wrong.append(f"{run_dir.name}: acknowledged checkpoint {step} is lost: {error}")
            continue
        if hashlib.sha256((place / checkpoint.STATE).read_bytes()).hexdigest() != told[step]["sha256"]:
            tally.wrong.append(f"{run_dir.name}: checkpoint {step} is not the one that was acknowledged")
        best = found.state.watch.best_step if found.state.watch else 0
        if step == max(kept) and best and best in told and not checkpoint.path(folder, best).is_dir():
            tally.wrong.append(f"{run_dir.name}: the best checkpoint, {best}, is lost")


def curve(run_dir: Path, seconds: float = 0.0) -> Curve:
    """What the run told and made."""
    told = [e.data for e in history(run_dir) if e.ev == "metric"]
    losses = {
        split: {d["step"]: d["loss"] for d in told if d.get("split", "train") == split} for split in ("train", "val")
    }
    adapter = hashlib.sha256((run_dir / "output" / "adapter_model.safetensors").read_bytes()).hexdigest()
    return Curve(losses["train"], losses["val"], adapter, seconds)


def compare(whole: Curve, run_dir: Path, tally: Tally) -> None:
    """The killed run against the undisturbed one: every loss told by both, each validation, the adapter's bytes."""
    ours = curve(run_dir)
    pairs = [(ours.train, whole.train), (ours.validation, whole.validation)]
    found = [abs(a[step] - b[step]) for a, b in pairs for step in a.keys() & b.keys()]
    tally.compared += len(found)
    tally.difference = max([tally.difference, *found])
    if ours.validation.keys() != whole.validation.keys():
        tally.wrong.append(f"{run_dir.name}: validated at other steps")
    if any(found):
        tally.wrong.append(f"{run_dir.name}: a loss differs by {max(found):g}")
    if ours.adapter != whole.adapter:
        tally.wrong.append(f"{run_dir.name}: the adapter differs")
    tally.runs += 1
    tally.attempts += view.newest_attempt(run_dir)
    if tally.last is None or view.newest_attempt(run_dir) >= view.newest_attempt(tally.last):
        tally.last = run_dir  # the one with the most attempts: it is drawn


class Bed:
    """A workspace with a tiny model and its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace: Workspace = workspaces.init(folder / "work")
        self.model = write_llama(folder / "model")
        self.data = support.write_dataset(folder / "data")
        self.plan: bytes = b""

    def make(self) -> tuple[Path, Path]:
        """A new run's folder (not made yet) and the file with its spec."""
        draft = support.write_run(self.folder / "drafts" / specs.make_run_id(), self.model, self.data, **SETTINGS)
        run_dir = self.workspace.runs / draft.name
        spec = specs.read(draft)
        command = (sys.executable, "-m", "services.runtime.train", str(run_dir))
        spec = msgspec.structs.replace(spec, command=command, cwd=str(CHECKOUT), created_at=time.time())
        (draft / "spec.json").write_bytes(msgspec.json.encode(spec))
        return run_dir, draft / "spec.json"

    def undisturbed(self) -> Curve:
        """A run that nothing disturbed. Its plan is given to the others: how many threads are fastest is measured."""
        run_dir, spec_file = self.make()
        began = time.monotonic()
        assert start_panel(run_dir, spec_file).wait(TIMEOUT_S) == 0
        settle(run_dir)
        seen = view.read(run_dir)
        assert seen.phase == "succeeded", seen.reason
        self.plan = (run_dir / "plan.json").read_bytes()
        return curve(run_dir, time.monotonic() - began)


def disturb(bed: Bed, whole: Curve, kills: int, dice: random.Random, tally: Tally) -> None:
    """One run, killed at most ``kills`` times (and as long as it goes on), then brought to its end and compared."""
    run_dir, spec_file = bed.make()
    left = min(kills, dice.randint(2, 6))
    while not (run_dir.exists() and view.read(run_dir).phase == "succeeded"):
        going = run_dir.exists() and view.read(run_dir).phase not in FINISHED
        attempt = view.newest_attempt(run_dir) + (not going)  # the one that this panel starts, or finds
        watcher = start_panel(run_dir, spec_file)
        give_plan(run_dir, bed.plan)
        if left:
            hit(whole, run_dir, attempt, watcher, dice, tally)
            left -= 1
        else:
            watcher.wait(TIMEOUT_S)
            settle(run_dir)
    check_checkpoints(run_dir, tally)
    compare(whole, run_dir, tally)


def give_plan(run_dir: Path, plan: bytes) -> None:
    """Before the trainer measures how many threads are fastest here and now, which may change the sums' order."""
    until = time.monotonic() + 10
    while not run_dir.exists() and time.monotonic() < until:
        time.sleep(0.005)
    if run_dir.exists() and not (run_dir / "plan.json").exists():
        (run_dir / "plan.json").write_bytes(plan)


def hit(
    whole: Curve, run_dir: Path, attempt: int, watcher: subprocess.Popen[bytes], dice: random.Random, tally: Tally
) -> None:
    """Wait for a random moment, kill, look."""
    victim = dice.choice(VICTIMS)
    if dice.random() < 0.3:
        time.sleep(dice.uniform(0, 0.7 * whole.seconds))  # anywhere from the start on
    else:
        wait_for_step(run_dir, attempt, dice.randint(0, max(whole.train)))
        time.sleep(dice.uniform(0, 0.02))
    before = view.read(run_dir) if run_dir.exists() else None
    if kill(victim, run_dir, watcher):
        tally.kills[victim] += 1
        tally.moments[before.phase if before else "not begun"] += 1
        check_state(victim, run_dir, before, tally)
    check_checkpoints(run_dir, tally)
    if victim in ("trainer", "supervisor"):
        watcher.wait(TIMEOUT_S)  # it sees the end and leaves


def wait_for_step(run_dir: Path, attempt: int, step: int) -> None:
    """Until the attempt tells of ``step``, or has ended."""
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        if run_dir.exists():
            seen = view.read(run_dir)
            begun = seen.attempt >= attempt
            if begun and (seen.phase in FINISHED or (seen.phase == "running" and seen.step >= step)):
                return
        time.sleep(0.01)


def soak(folder: Path, kills: int, seed: int, seconds: float = 1e9, say: Any = print) -> tuple[Tally, Curve]:
    """Kill ``kills`` times, or until the time is over; what was seen, and the undisturbed run's curve."""
    until = time.monotonic() + seconds
    dice, tally, bed = random.Random(seed), Tally(), Bed(folder)
    whole = bed.undisturbed()
    say(
        f"undisturbed: {max(whole.train)} steps, {len(whole.validation)} validations, {whole.seconds:.1f} s", flush=True
    )
    while (done := sum(tally.kills.values())) < kills and time.monotonic() < until:
        disturb(bed, whole, kills - done, dice, tally)
        say(f"{sum(tally.kills.values())} kills, {tally.runs} runs, {len(tally.wrong)} wrong", flush=True)
    return tally, whole


def summary(tally: Tally) -> str:
    """What was seen, as printed."""

    def counted(found: Counter[str]) -> str:
        return ", ".join(f"{name} {number}" for name, number in found.most_common())

    lines = [
        f"kills                      {sum(tally.kills.values())}: {counted(tally.kills)}",
        f"when                       {counted(tally.moments)}",
        f"found afterwards as        {counted(tally.phases)}",
        f"runs brought to their end  {tally.runs}, in {tally.attempts} attempts",
        f"acknowledged checkpoints   {tally.acknowledged} looked for after kills",
        f"losses compared            {tally.compared}, largest difference {tally.difference:g}",
        f"not as it should be        {len(tally.wrong)}",
    ]
    return "\n".join(lines + [f"  {what}" for what in tally.wrong])


def draw(whole: Curve, run_dir: Path) -> str:
    """The undisturbed run's validation losses against the killed and resumed one's, and their difference, as SVG."""
    ours = curve(run_dir)

    def points(losses: dict[int, float]) -> tuple[tuple[float, float], ...]:
        return tuple((float(step), losses[step]) for step in sorted(losses))

    both = (
        report_chart.Curve("uninterrupted", points(whole.validation)),
        report_chart.Curve(f"killed, {view.newest_attempt(run_dir)} attempts", points(ours.validation)),
    )
    shared = sorted(whole.validation.keys() & ours.validation.keys())
    gap = tuple((float(step), abs(whole.validation[step] - ours.validation[step])) for step in shared)
    charts = (
        report_chart.Chart("Validation loss", "step", "loss", both),
        report_chart.Chart("Difference", "step", "absolute", (report_chart.Curve("difference", gap),)),
    )
    return report_chart.draw(charts)


def main() -> int:
    """Entry point; see the module's text."""
    parser = argparse.ArgumentParser(prog="tests.runs.soak", description="Kill real runs at random points.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--plot", type=Path, help="draw the run with the most attempts against the undisturbed one, as SVG"
    )
    parser.add_argument("--minutes", type=float, default=1e6, help="begin no further run after so long")
    parser.add_argument("--panel", nargs=2, type=Path, metavar=("RUN_DIR", "SPEC"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.panel:
        return panel(*options.panel)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        began = time.monotonic()
        tally, whole = soak(Path(folder), options.kills, options.seed, options.minutes * 60)
        if options.plot and tally.last is not None:
            options.plot.write_text(draw(whole, tally.last), encoding="utf-8")
        print(f"\n{summary(tally)}\ntook                       {(time.monotonic() - began) / 60:.1f} min")
    return 1 if tally.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
