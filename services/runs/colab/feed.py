"""Passes the events of a run elsewhere on to the supervisor here: each once, in order, whatever way they came."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from services.runs.emit import Emitter
from services.runs.events import Follower

_PASSED = ("metric", "log", "hb")


def passed_on(run_dir: Path, number: int) -> tuple[int, str]:
    """Of the machine ``number``: the number of its last event in the run's events here (0: none), its last phase."""
    high, phase = 0, "preparing"
    for event in Follower(run_dir).all():
        machine, _, seq = str(event.data.get("origin", "")).partition(":")
        if machine == str(number) and seq.isdigit():
            high = max(high, int(seq))
            phase = str(event.data.get("phase")) if event.ev == "phase" else phase
    return high, phase


class Feed:
    """Events of the machine ``number``, from number ``have`` + 1 on.

    ``end`` is the end event's data once it came. Events that come too early wait, and ``gap`` says so: the files must
    be fetched. Costs and checkpoints are not passed on: the agent knows the costs better, and tells of a checkpoint
    when it is here.
    """

    def __init__(self, emit: Emitter, number: int, have: int, phase: str = "preparing") -> None:
        self._emit, self._number, self.have = emit, number, have
        self._early: dict[int, dict[str, Any]] = {}
        self.end: dict[str, Any] | None = None
        self.link = ""
        self.phase = phase

    @property
    def gap(self) -> bool:
        """Whether events are known to be missing."""
        return bool(self._early)

    def take(self, events: Iterable[dict[str, Any]]) -> int:
        """Take events in any order, with repetitions; how many were new and are passed on."""
        for event in events:
            if isinstance(event.get("seq"), int) and event["seq"] > self.have:
                self._early[event["seq"]] = event
        taken = 0
        while self.have + 1 in self._early:
            self.have += 1
            taken += 1
            self._pass(self._early.pop(self.have))
        return taken

    def skip_to(self, seq: int) -> int:
        """Give up events before ``seq``, because even the files lack them; how many."""
        lost = max(0, seq - 1 - self.have)
        self.have = max(self.have, seq - 1)
        self.take(())
        return lost

    @property
    def next_early(self) -> int:
        """The number of the first event that waits."""
        return min(self._early, default=0)

    def _pass(self, event: dict[str, Any]) -> None:
        origin = f"{self._number}:{event['seq']}"
        data = {key: value for key, value in event.get("data", {}).items() if key != "origin"}
        if event["ev"] == "end":
            self.end = data
        elif event["ev"] == "phase":
            self.phase = str(data.get("phase", ""))
            self._emit.relay("phase", {**data, **({"link": self.link} if self.link else {})}, origin)
        elif event["ev"] in _PASSED:
            self._emit.relay(event["ev"], data, origin)
