"""This tool's own: runs that failed or were cancelled, checkpoints nobody resumes, what it can make or fetch again.

The layout is documented in docs/runs.md and docs/models.md. A run that lives holds the lock of its last attempt; it and
the model it trains are held back. Versions of the registry are never items,
copies of them that were fetched from Google Drive are.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from services.storage.kinds import places
from services.storage.kinds.locks import is_locked, reading_from
from services.storage.kinds.rule import Box, Kind, Look, names

_YOUNG = 3600.0


def _runs(box: Box) -> list[Path]:
    return [box.workspace.runs]


def list_runs(look: Look) -> None:
    """Failed and cancelled runs whole; of all that have ended, the checkpoints that a resume would not start from."""
    for place in look.places:
        for name in names(place):
            run = f"{place}/{name}"
            if os.path.isfile(f"{run}/spec.json"):  # noqa: PTH113
                _list_run(look, name, run)


def _list_run(look: Look, name: str, run: str) -> None:
    attempt = newest_attempt(run)
    used_by = (f"run {name}",) if is_locked(f"{run}/attempts/{attempt}/lock") else ()
    phase = "running" if used_by else _phase(run, attempt)
    if phase in ("failed", "cancelled", "over-budget", "lost"):
        look.add(
            name, run, suggested=False, used_by=used_by, note=f"It {_WORDS[phase]}.",
            restore="It can't be brought back; the same command trains again.",
        )  # fmt: skip
    steps = [f"{run}/checkpoints/{step}" for step in names(f"{run}/checkpoints")]
    done = phase == "succeeded" and bool(names(f"{run}/output"))
    old = steps if done else steps[:-1]
    if old and not used_by:
        look.add(
            f"{name} checkpoints", *old, risk="low" if done else "high", counted=phase == "succeeded",
            note="Its finished adapter lies in output/." if done else "The last one stays, for a resume.",
            restore="Only training again makes them.",
        )  # fmt: skip


_WORDS = {"failed": "failed", "cancelled": "was cancelled", "over-budget": "went over its budget", "lost": "was lost"}


def newest_attempt(run: str) -> int:
    """The number of the run's last attempt, 0 if there is none."""
    return max((int(name) for name in names(f"{run}/attempts") if name.isdigit()), default=0)


def _phase(run: str, attempt: int) -> str:
    """How the last attempt ended: "lost" when it ended and does not say, "queued" when there was none."""
    if not attempt:
        return "queued"
    end = _json(f"{run}/attempts/{attempt}/end.json").get("data")
    phase = end.get("phase") if isinstance(end, dict) else None
    return phase if isinstance(phase, str) else "lost"


def _json(path: str) -> dict[str, Any]:
    try:
        value = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _models(box: Box) -> list[Path]:
    own = places.variable(box, "HYBRID_CACHE")
    return [box.workspace.models, (own or places.caches(box) / "hybrid-tui") / "models"]


def list_models(look: Look) -> None:
    """Each converted or fetched base model, and what an interrupted fetch left."""
    needed = _models_in_use(look.box)
    for place in look.places:
        for name in names(place):
            path = f"{place}/{name}"
            if name.startswith(".fetch-") or ".tmp-" in name:
                tally = look.measure(path)
                young = tally.newest > look.box.now - _YOUNG
                look.add(name, path, tally=tally, risk="none", used_by=("a fetch of the last hour",) if young else ())
            elif not name.startswith("."):
                users = tuple(who for used, who in needed if used == path or used.startswith(path + "/"))
                label = name if place.endswith(".hybrid/models") else f"cache/{name}"
                look.add(label, path, suggested=False, used_by=users)


def _models_in_use(box: Box) -> list[tuple[str, str]]:
    """Paths of the models that living runs train, and the runs."""
    found = []
    for name in names(str(box.workspace.runs)):
        run = f"{box.workspace.runs}/{name}"
        if is_locked(f"{run}/attempts/{newest_attempt(run)}/lock"):
            model = _json(f"{run}/spec.json").get("model")
            if isinstance(model, str) and model:
                found.append((os.path.realpath(model), f"run {name}"))
    return found


def _fetched(box: Box) -> list[Path]:
    return [box.workspace.state / "drive-cache"]


def list_fetched(look: Look) -> None:
    """Each folder that was fetched from the store on Google Drive: it has a file NAME.lock beside it."""
    needed = _models_in_use(look.box)
    for place in look.places:
        for path in _folders_with_locks(place):
            users = list(reading_from(look.box, path))
            users += [who for used, who in needed if used == path or used.startswith(path + "/")]
            if is_locked(f"{path}.lock"):
                users.append("a fetch from Google Drive")
            look.add(os.path.relpath(path, place), path, used_by=tuple(users))


def _folders_with_locks(at: str) -> list[str]:
    """The topmost ones: of a folder and one within it that were both fetched, the first."""
    found: list[str] = []
    for name in names(at):
        path = f"{at}/{name}"
        if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
            found += [path] if os.path.isfile(f"{path}.lock") else _folders_with_locks(path)  # noqa: PTH113
    return found


KINDS: tuple[Kind, ...] = (
    Kind(
        "runs", "Runs that failed, and old checkpoints", _runs, list_runs, "Only training again makes them.",
        risk="high", budgeted=False,
    ),
    Kind(
        "models", "Base models: fetched, converted", _models, list_models,
        "model.get fetches and converts them again.", budgeted=False,
    ),
    Kind(
        "drive-cache", "Drive downloads: versions kept here", _fetched, list_fetched,
        "Whatever needs the version fetches it from Google Drive again.",
    ),
)  # fmt: skip
