"""Hands the events of a run elsewhere on to the supervisor here: each once and in order, however they came."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from services.runs.emit import Emitter
from services.runs.events import Follower

_RELAYED = ("phase", "metric", "log", "hb")


class Passed(NamedTuple):
    """How far the events of one start elsewhere have come here: the last one's number, and the last phase."""

    have: int = 0
    phase: str = "preparing"


NOTHING_YET = Passed()


def passed_on(run_dir: Path) -> dict[int, Passed]:
    """For each start elsewhere that is in the run's events here, how far it has come."""
    found: dict[int, Passed] = {}
    for event in Follower(run_dir).all():
        start, _, seq = str(event.data.get("origin", "")).partition(":")
        if start.isdigit() and seq.isdigit():
            have, phase = found.get(int(start), NOTHING_YET)
            phase = str(event.data.get("phase")) if event.ev == "phase" else phase
            found[int(start)] = Passed(max(have, int(seq)), phase)
    return found


class Feed:
    """Events of the start ``number`` elsewhere, from ``passed.have`` + 1 on.

    ``end`` is the end event's data once it came, ``phase`` the last phase. Events that come too early wait;
    ``missing`` says how many are. With ``link``, phases are told with it. Costs become this agent's own with
    ``costs``, else they are not handed on; neither are checkpoints, which are left to whoever fetches them, so that
    one is told of only when it is here.
    """

    def __init__(
        self, emit: Emitter, number: int, passed: Passed = NOTHING_YET, *, link: str = "", costs: bool = False
    ) -> None:
        self.number, self.link = number, link
        self.have, self.phase = passed
        self.end: dict[str, Any] | None = None
        self._emit, self._costs = emit, costs
        self._early: dict[int, dict[str, Any]] = {}

    @property
    def missing(self) -> int:
        """How many events are known to exist before those that wait."""
        return min(self._early) - self.have - 1 if self._early else 0

    def take(self, events: Iterable[dict[str, Any]]) -> int:
        """Take events in any order and with repetitions; how many were new and in order, and were handed on."""
        for event in events:
            seq = event.get("seq")
            if isinstance(seq, int) and seq > self.have and event.get("attempt") == self.number:
                self._early[seq] = event
        taken = 0
        while self.have + 1 in self._early:
            self.have += 1
            taken += 1
            self._hand_on(self._early.pop(self.have))
        return taken

    def give_up(self) -> int:
        """Go on without the missing events, because they will not come; how many they were."""
        lost = self.missing
        self.have += lost
        self.take(())
        return lost

    def _hand_on(self, event: dict[str, Any]) -> None:
        ev, data = str(event.get("ev")), dict(event.get("data") or {})
        data.pop("origin", None)
        if ev == "end":
            self.end = data
        elif ev == "cost" and self._costs:
            self._emit.cost(float(data.get("seconds") or 0.0), of=f"start {self.number}")
        elif ev in _RELAYED:
            if ev == "phase":
                self.phase = str(data.get("phase", ""))
                data |= {"link": self.link} if self.link else {}
            self._emit.relay(ev, data, f"{self.number}:{event['seq']}")
