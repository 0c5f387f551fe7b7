"""Fixed answers of the services for pictures of the panel: the same on every machine and at every time.

They take the place of service functions in the action table, so that all of the panel itself is the real thing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from hybrid_tui import actions
from services.context import Context, Plan, Progress
from services.errors import BadInput, HybridError
from services.registry.types import Listing, Version
from services.runs.types import RunView
from services.storage.types import Cache, Caches, DiskUsage
from services.storage.upkeep.types import Forecast, Glance, RepoCheck, Task, TaskList

NOW = 1_795_000_000.0
GB = 10**9


class NoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None."""


class Runs(msgspec.Struct, frozen=True):
    """Runs, newest first."""

    runs: tuple[RunView, ...]


def run_view(id: str, phase: str, **more: Any) -> RunView:
    """A run half way through, but for what is given."""
    fields: dict[str, Any] = {
        "id": id, "phase": phase, "link": "live", "attempt": 1, "created_at": NOW - 600, "started_at": NOW - 590,
        "ended_at": None, "model": "smollm2-135m-instruct", "data": "banking", "step": 120, "total_steps": 400,
        "eta_s": 190.0, "metrics": {"loss": 0.5321, "tokens_s": 412.0}, "results": {}, "rss_bytes": GB,
        "last_checkpoint": None, "reason": "", "path": "run",
    }  # fmt: skip
    return RunView(**(fields | more))


def version(number: int, aliases: tuple[str, ...], accuracy: float) -> Version:
    """banking@number."""
    deployed = "deployed" in aliases
    return Version(
        model="banking",
        version=number,
        id=f"banking@{number}",
        type="adapter",
        digest="0" * 64,
        size_bytes=9_800_000,
        base_model="smollm2-135m-instruct",
        training_date="2026-11-20",
        metrics={"accuracy": accuracy, "macro_f1": accuracy - 0.007},
        status="deployed" if deployed else "registered",
        aliases=aliases,
        path="banking",
        added_at=NOW - 90_000,
        deployed_at=NOW - 7200 if deployed else None,
    )


def cache(kind: str, title: str, size: int) -> Cache:
    """One cache of ``size`` bytes."""
    return Cache(kind, title, f"~/.cache/{kind}", True, size, 10, NOW - 86400, "")


async def usage_ok(ctx: Context, params: NoParams) -> DiskUsage:
    """Within budget."""
    return DiskUsage("/", 32 * GB, 9_100_000_000, 22_900_000_000, 15 * GB, 5 * GB, 3 * GB)


async def usage_over(ctx: Context, params: NoParams) -> DiskUsage:
    """Over budget and short of space."""
    problems = ("17.4 GB of the disk are used, 2.4 GB more than the budget of 15.0 GB.",)
    return DiskUsage("/", 20 * GB, 17_400_000_000, 2_600_000_000, 15 * GB, 5 * GB, 3 * GB, problems)


async def caches_ok(ctx: Context, params: NoParams) -> Caches:
    """Within budget."""
    found = (cache("pip", "pip", 412_000_000), cache("huggingface", "Hugging Face", 270_000_000))
    return Caches(found, 682_000_000, 3 * GB, True)


def task(id: str, state: str, words: str, **more: Any) -> Task:
    """A weekly task of the storage screen, but for what is given."""
    fields: dict[str, Any] = {
        "id": id, "title": f"Look after {id}", "every": "weekly", "state": state, "words": words, "where": "storage",
        "action": "", "condition": "", "last_done_at": None, "due_at": NOW, "every_days": 7.0,
    }  # fmt: skip
    return Task(**(fields | more))


async def glance_quiet(ctx: Context, params: NoParams) -> Glance:
    """Nothing is due."""
    return Glance(Forecast("few", "There are not enough samples."), TaskList((task("caches", "idle", "nothing"),), 0))


async def glance_due(ctx: Context, params: NoParams) -> Glance:
    """The disk is soon full, a model lies in git, two tasks are due."""
    words = "The disk grows by 1.2 GB a day over 14 days and is full about 2026-11-26."
    forecast = Forecast("growing", words, 1.2e9, 1.0e9, 1.4e9, NOW + 2 * 86400, budget_at=NOW + 86400)
    repo = RepoCheck("broken", "1 model or large file of 50.0 MB is in git (1 only in history).", checked_at=NOW - 7200)
    tasks = (
        task("drive-space", "overdue", "9 days overdue", where="registry", title="Review the space on Drive"),
        task(
            "failed-runs", "due", "due today", where="training", title="Delete failed runs", condition="2 runs failed."
        ),
        task("notebooks", "later", "due in 30 days"),
    )
    return Glance(forecast, TaskList(tasks, 2), repo)


async def listing_empty(ctx: Context, params: NoParams) -> Listing:
    """No model."""
    return Listing((), (), 0, "store")


async def listing_filled(ctx: Context, params: NoParams) -> Listing:
    """Three versions, the second deployed."""
    versions = (version(3, ("latest",), 0.871), version(2, ("deployed",), 0.858), version(1, (), 0.812))
    return Listing((), versions, 5, "store")


async def runs_empty(ctx: Context, params: NoParams) -> Runs:
    """No run."""
    return Runs(())


async def runs_filled(ctx: Context, params: NoParams) -> Runs:
    """One running, one failed."""
    failed = run_view(
        "m4t2", "failed", ended_at=NOW - 3600, reason="The disk is full.", last_checkpoint="checkpoints/step-000080"
    )
    return Runs((run_view("k3v9", "running"), failed))


async def broken(ctx: Context, params: NoParams) -> DiskUsage:
    """Fails as a person can act on."""
    raise HybridError("The store's folder is gone.", hint="Mount it again, or change [store] path.")


async def crashing(ctx: Context, params: NoParams) -> DiskUsage:
    """Fails as nobody foresaw."""
    raise ZeroDivisionError("a share of nothing")


class EchoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters to fill in."""

    text: Annotated[str, Meta(description="What to say.")]
    times: Annotated[int, Meta(ge=1, le=9, description="How often.")] = 1


class Echo(msgspec.Struct, frozen=True):
    """What was said."""

    said: str


async def echo(ctx: Context, params: EchoParams) -> Echo:
    """Reports, then says it."""
    ctx.report(Progress("speaking", 1, 1))
    if params.text == "bad":
        raise BadInput("That can't be said.", hint="Say something else.")
    return Echo(" ".join([params.text] * params.times))


async def delete(ctx: Context, params: NoParams) -> Echo:
    """Asks first."""
    ctx.approve(Plan("test.delete", "12 files would be deleted.", ("notes [v1]: 12 files",), freed_bytes=1_234_567))
    return Echo("deleted")


def put(monkeypatch: pytest.MonkeyPatch, **functions: str) -> None:
    """Let actions (``storage_usage="usage_ok"``) be answered by functions of this module; unknown names are added."""
    for name, function in functions.items():
        dotted = name.replace("_", ".", 1)
        known = actions.ACTIONS.get(dotted, actions.Action(dotted, "", f"Test action {dotted}."))
        monkeypatch.setitem(actions.ACTIONS, dotted, replace(known, target=f"tests.panel.sample:{function}"))
