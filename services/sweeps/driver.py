"""The process that drives one sweep: ``python -m services.sweeps.driver SWEEP_DIR``.

It asks for trials, starts them as runs, hears their validations, stops weak ones, and writes each decision into the log
before it acts on it. It may be killed at any point: the runs go on by themselves, and another driver takes the log up.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from services.context import Context, Plan
from services.errors import HybridError, Refused
from services.runs import local, targets, train
from services.runs import view as runs
from services.runs.spec import make_run_id
from services.runs.types import FINISHED, RunSpec, RunView, TrainConfig
from services.sweeps import log, space, view
from services.sweeps.study import Study
from services.sweeps.types import OVER, SweepSpec, Trial, Value
from services.sweeps.watch import Watcher
from services.workspace import Workspace, open_workspace

_PACKAGES = Path(__file__).resolve().parents[2]  # from here "services" is ours, whatever lies in the user's folder
_LOOK_S = 0.25
_COST_S = 5.0
_STAND_S = 20.0  # a loaded box needs that long to start a process
_MOST_ATTEMPTS = 6  # a run that is lost so often has a cause that another attempt won't change
_MOST_FAILURES = 4  # in a row, after which the fault is not the settings'
_started: list[subprocess.Popen[bytes]] = []  # those of this process, until they are seen to have ended


def start(folder: Path) -> None:
    """Start a driver in the background, in a session of its own; returns once it holds the sweep's lock.

    Raises HybridError when it can't be started.
    """
    try:
        with (folder / "driver.log").open("ab") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "services.sweeps.driver", str(folder)], cwd=_PACKAGES,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise HybridError(f"The sweep's driver can't be started: {error.strerror or error}.") from error
    _started[:] = [child, *(other for other in _started if other.poll() is None)]
    until = time.monotonic() + _STAND_S
    while not log.is_driven(folder) and child.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    if child.poll() not in (None, 0):
        said = (folder / "driver.log").read_text(errors="replace").strip().splitlines()
        raise HybridError(f"The sweep's driver could not start: {said[-1] if said else f'code {child.returncode}'}.")


def main(words: list[str]) -> int:
    """Drive the sweep to its end. The exit code is 0, also when another driver lives."""
    folder = Path(words[0]).absolute()
    lock = log.take_lock(folder)
    if lock is None:
        return 0
    workspace = open_workspace(folder.parents[2])
    writer = log.Writer(folder)
    try:
        asyncio.run(Driver(workspace, folder, writer).run())
    finally:
        writer.close()
        os.close(lock)
    return 0


def start_params(spec: SweepSpec, config: TrainConfig) -> train.StartParams:
    """What ``train.start`` would be asked for a trial with ``config``."""
    settings = {f.name: getattr(config, f.name) for f in msgspec.structs.fields(TrainConfig)}
    return msgspec.convert(
        settings
        | {
            "data": spec.data,
            "model": spec.model,
            "target": spec.target,
            "accelerator": spec.accelerator,
            "budget_seconds": spec.trial_seconds,
            "budget_cost": spec.trial_cost,
        },
        train.StartParams,
    )


class Driver:
    """One driver's life."""

    def __init__(self, workspace: Workspace, folder: Path, writer: log.Writer) -> None:
        self.workspace = workspace
        self.folder = folder
        self.writer = writer
        self.spec = log.read_spec(folder)
        self.study = Study(self.spec, writer.entries)
        self.state = view.Fold(writer.entries)
        self.watchers: dict[int, Watcher] = {}
        self.failures = 0
        self._cost_at = 0.0

    async def run(self) -> None:
        """Until every trial is over, the sweep is cancelled, or its budget used up."""
        self._add("begun")
        try:
            await self._take_up()
            await self._drive()
        except HybridError as error:
            await self._stop_trials()
            self._add("end", state="failed", reason=" ".join([str(error), error.hint]).strip())

    async def _drive(self) -> None:
        while True:
            stop, reason = self._asked_to_stop()
            if stop:
                await self._stop_trials()
                self._add("end", state=stop, reason=reason)
                return
            for trial in self._going():
                await asyncio.to_thread(self._look, trial.number)
            self._give_up()
            await self._fill()
            if not self._going() and self.study.asked >= self.spec.trials:
                self._add("end", state="finished")
                return
            await asyncio.sleep(_LOOK_S)

    # What is written and remembered

    def _add(self, what: str, trial: int = -1, **more: object) -> bool:
        """Write an entry and take it up; for a report, whether the trial is to be stopped there."""
        entry = self.writer.add(what, trial, **more)
        self.state.take(entry)
        if what == "told":
            self.failures = self.failures + 1 if entry.state == "failed" else 0
        return self.study.take(entry) if what != "asked" else False

    def _going(self) -> list[Trial]:
        return [trial for trial in self.state.trials.values() if trial.state not in OVER]

    def _run_dir(self, number: int) -> Path:
        return self.workspace.runs / self.state.trials[number].run

    # Trials of an earlier driver

    async def _take_up(self) -> None:
        """Runs whose making was written but not done are made; those that the sweep itself had stopped go on."""
        for trial in self._going():
            run_dir = self._run_dir(trial.number)
            if not run_dir.exists():
                if trial.reports:
                    self._add("told", trial.number, state="failed", reason="The run's folder was deleted.")
                else:
                    await self._submit(trial.params, trial.run)
            elif trial.number in self.state.stopped and runs.read(run_dir).phase == "cancelled":
                with suppress(Refused):  # somebody else has just done so
                    await asyncio.to_thread(local.resume, run_dir)

    # One trial

    def _look(self, number: int) -> None:
        """Hear what the trial's run has to say, stop it if it is weak, and tell Optuna when it is over."""
        run_dir = self._run_dir(number)
        if not run_dir.exists():
            self._add("told", number, state="failed", reason="The run's folder was deleted.")
            return
        seen = runs.read(run_dir)  # before its events: what ends a run comes after its last figures
        watcher = self.watchers.setdefault(number, Watcher(run_dir, self.spec.metric))
        known = {report.step for report in self.state.trials[number].reports}
        for heard in watcher.news():
            if heard.report.step in known or self.state.trials[number].state == "pruning":
                continue
            weak = self._add("report", number, step=heard.report.step, value=heard.report.value)
            if weak and not heard.last:
                self._add("prune", number, step=heard.report.step)
        self._settle(number, seen, watcher)

    def _settle(self, number: int, seen: RunView, watcher: Watcher) -> None:
        run_dir = self._run_dir(number)
        trial = self.state.trials[number]
        if trial.state == "pruning":
            if seen.phase in FINISHED:
                self._add("told", number, state="pruned", value=trial.value, reason=f"Weak at step {trial.step:,}.")
            elif not (run_dir / "control" / "cancel").exists():
                with suppress(Refused):  # it has just ended
                    local.cancel(run_dir)
        elif seen.unattached or (seen.phase == "lost" and seen.attempt < _MOST_ATTEMPTS):
            with suppress(Refused):  # somebody else has just done so
                local.resume(run_dir)
        elif seen.phase in FINISHED:
            self._tell(trial, seen, watcher)

    def _tell(self, trial: Trial, seen: RunView, watcher: Watcher) -> None:
        if seen.phase == "succeeded":
            value = self._outcome(trial, watcher)
            if value is not None:
                self._add("told", trial.number, state="complete", value=value)
                return
            reason = "It was never validated with a finite figure."
        else:
            reason = seen.reason or f"It ended as {seen.phase}."
        self._add("told", trial.number, state="cancelled" if seen.phase == "cancelled" else "failed", reason=reason)

    def _outcome(self, trial: Trial, watcher: Watcher) -> float | None:
        """The metric of what the run left: with early stopping that of its best validation, else of the last one."""
        figures = {report.step: report.value for report in trial.reports}
        step = watcher.lowest_step if self.spec.config.patience else None
        return figures.get(step) if step is not None else trial.value

    # Stopping

    def _asked_to_stop(self) -> tuple[str, str]:
        if (self.folder / log.CANCEL).exists():
            return "cancelled", ""
        if (self.spec.max_seconds or self.spec.max_cost) and time.monotonic() - self._cost_at > _COST_S:
            self._cost_at = time.monotonic()
            used = view.cost(self.folder, self.state.trials.values())
            seconds = used.seconds + sum(self._uncounted(trial) for trial in self._going())
            if self.spec.max_seconds and seconds > self.spec.max_seconds:
                return "over-budget", f"The sweep's budget of {self.spec.max_seconds:g} s is used up."
            if self.spec.max_cost and (used.units or 0.0) + (used.money or 0.0) > self.spec.max_cost:
                return "over-budget", f"The sweep's budget of {self.spec.max_cost:g} is used up."
        return "", ""

    def _uncounted(self, trial: Trial) -> float:
        """Seconds of a live run that it has not told of yet: it does so once a minute."""
        run_dir = self._run_dir(trial.number)
        if not run_dir.exists():
            return 0.0
        seen = runs.read(run_dir)
        began = seen.started_at
        return min(max(time.time() - began - seen.cost.seconds, 0.0), 60.0) if began and seen.ended_at is None else 0.0

    async def _stop_trials(self) -> None:
        """Every live run writes a checkpoint and stops."""
        going = [path for trial in self._going() if (path := self._run_dir(trial.number)).exists()]
        for run_dir in going:
            with suppress(Refused):
                await asyncio.to_thread(local.cancel, run_dir)
        for run_dir in going:
            await asyncio.to_thread(_wait_for_end, run_dir)

    def _give_up(self) -> None:
        """Raises HybridError when one trial after the other fails: then the fault is not the settings'."""
        if self.failures >= _MOST_FAILURES:
            last = [trial.reason for trial in self.state.trials.values() if trial.state == "failed"][-1]
            raise HybridError(f"{self.failures} trials in a row failed, the last one so: {last}")

    # New trials

    async def _fill(self) -> None:
        while len(self._going()) < self.spec.parallel and self.study.asked < self.spec.trials:
            number, params = self.study.ask()
            run_id = make_run_id()
            self._add("asked", number, run=run_id, params=params)
            await self._submit(params, run_id)

    async def _submit(self, params: dict[str, Value], run_id: str) -> None:
        run = await self._run_spec(params, run_id)
        await asyncio.to_thread(local.submit, self.workspace, run)

    async def _run_spec(self, params: dict[str, Value], run_id: str) -> RunSpec:
        config = space.applied(self.spec.config, params)
        made = await train.make_spec(Context(self.workspace), start_params(self.spec, config))
        assert not isinstance(made, Plan)
        if made.data_sha256 != self.spec.data_sha256:
            raise HybridError(
                f"The dataset {Path(self.spec.data).name} was changed since the sweep began: trials can't be compared.",
                hint="Start a new sweep.",
            )
        command = targets.target(self.spec.target).command(self.workspace.runs / run_id)
        return msgspec.structs.replace(made, id=run_id, command=command)


def _wait_for_end(run_dir: Path) -> None:
    while runs.read(run_dir).phase not in FINISHED:
        time.sleep(_LOOK_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
