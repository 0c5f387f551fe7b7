"""What a sweep looks like now: a pure fold of its log, whether it is driven, and what its runs cost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import msgspec

from services.errors import HybridError
from services.runs import view as runs
from services.runs.types import Cost
from services.sweeps import log
from services.sweeps.types import (
    ENDED,
    OVER,
    Entry,
    Report,
    SweepLine,
    SweepPhase,
    SweepView,
    Trial,
    TrialState,
)
from services.workspace import Workspace


class Fold:
    """The state that a log adds up to. ``end`` is how the sweep ended, "" while it has not; ``stopped`` are the trials
    that were not over when it once did: their runs were cancelled by the sweep itself."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.trials: dict[int, Trial] = {}
        self.end = ""
        self.reason = ""
        self.stopped: set[int] = set()
        for entry in entries:
            self.take(entry)

    def take(self, entry: Entry) -> None:
        """Take one entry; each once, in order."""
        if entry.what in ("begun", "end"):
            self.end, self.reason = entry.state, entry.reason
            if entry.what == "end":
                self.stopped |= {trial.number for trial in self.trials.values() if trial.state not in OVER}
        elif entry.what == "asked":
            self.trials[entry.trial] = Trial(entry.trial, "running", entry.params, entry.run, None)
        else:
            self.trials[entry.trial] = _changed(self.trials[entry.trial], entry)

    def best(self, lower_is_better: bool) -> int | None:
        """The number of the best complete trial; of equals the first."""
        done = [(t.value if lower_is_better else -t.value, t.number) for t in self.trials.values() if _counts(t)]  # type: ignore[operator]
        return min(done)[1] if done else None


def _counts(trial: Trial) -> bool:
    return trial.state == "complete" and trial.value is not None


def _changed(trial: Trial, entry: Entry) -> Trial:
    if entry.what == "report":
        reports = (*trial.reports, Report(entry.step, entry.value))
        return msgspec.structs.replace(trial, reports=reports, step=entry.step, value=entry.value)
    if entry.what == "prune":
        return msgspec.structs.replace(trial, state="pruning")
    state = cast(TrialState, entry.state)
    return msgspec.structs.replace(trial, state=state, value=entry.value, reason=entry.reason)


def read(folder: Path) -> SweepView:
    """The sweep in ``folder`` now. Raises HybridError when its spec is missing or damaged."""
    spec = log.read_spec(folder)
    driven = log.is_driven(folder)  # before the log: the dead write no more
    entries, problems = log.read(folder)
    state = Fold(entries)
    phase = cast(SweepPhase, state.end or ("running" if driven else "stopped"))
    trials = tuple(state.trials.values())
    if phase in ENDED:
        trials = tuple(t if t.state in OVER else msgspec.structs.replace(t, state="cancelled") for t in trials)
    reason, hint = state.reason, ""
    if phase == "stopped":
        reason = "Nobody drives the sweep: it was killed, or the box went down. Trials that run go on."
        hint = "sweep.resume goes on exactly where it was."
    elif phase in ("cancelled", "failed", "over-budget"):
        hint = "sweep.resume goes on; trials that were stopped continue from their checkpoints."
    return SweepView(
        id=spec.id,
        phase=phase,
        model=spec.model,
        data=Path(spec.data).name,
        target=spec.target,
        metric=spec.metric,
        pruner=spec.pruner,
        wanted=spec.trials,
        parallel=spec.parallel,
        created_at=spec.created_at,
        axes=spec.axes,
        trials=trials,
        best=state.best(spec.lower_is_better),
        reason=reason,
        hint=hint,
        path=str(folder),
        cost=cost(folder, trials),
        problems=problems,
    )


def cost(folder: Path, trials: Iterable[Trial]) -> Cost:
    """What the trials' runs have used so far, all together."""
    found: list[Cost] = []
    for trial in trials:
        run_dir = run_folder(folder, trial.run)
        if run_dir.is_dir():
            try:
                found.append(runs.read(run_dir).cost)
            except HybridError:
                continue  # its own line in train.list says what is wrong with it
    units = [one.units for one in found if one.units is not None]
    money = [one.money for one in found if one.money is not None]
    return Cost(
        seconds=sum(one.seconds for one in found),
        units=sum(units) if units else None,
        money=sum(money) if money else None,
        currency=next((one.currency for one in found if one.currency), ""),
    )


def run_folder(folder: Path, run: str) -> Path:
    """The folder of a trial's run, of the sweep in ``folder``."""
    return folder.parent.parent / "runs" / run


def read_all(workspace: Workspace) -> tuple[SweepLine, ...]:
    """All sweeps, newest first. One whose spec can't be read is listed as failed with that as its reason."""
    return tuple(sorted((_line(path) for path in log.folders(workspace)), key=lambda s: s.created_at, reverse=True))


def _line(folder: Path) -> SweepLine:
    try:
        seen = read(folder)
    except HybridError as error:
        made = folder.stat().st_mtime
        return SweepLine(folder.name, "failed", "", "val_loss", 0, 0, 0, None, {}, made, str(error))
    best = seen.best_trial
    return SweepLine(
        id=seen.id,
        phase=seen.phase,
        data=seen.data,
        metric=seen.metric,
        done=sum(t.state in OVER for t in seen.trials),
        wanted=seen.wanted,
        pruned=sum(t.state == "pruned" for t in seen.trials),
        value=best.value if best else None,
        best=dict(best.params) if best else {},
        created_at=seen.created_at,
        reason=seen.reason,
    )
