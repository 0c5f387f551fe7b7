"""``storage.watch``: looks at the disk now and then, says what changed, and cleans only by a policy it was given.

It writes a line only when something changed: a Codespace bills terminal output as activity.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta

from services import formats
from services.context import Context, Plan, Progress
from services.errors import BadInput, HybridError
from services.storage import actions as storage
from services.storage.types import Caches, DiskUsage
from services.storage.upkeep import policy as policies
from services.storage.upkeep.policy import Policy
from services.storage.upkeep.types import Watched

GB = 1_000_000_000
KEPT = 100
_SPAN = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|m|h|d)?")
_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


class WatchParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``storage.watch``."""

    every: Annotated[str, Meta(description="How often to look at the disk: 30s, 10m, 2h.")] = "10m"
    caches_every: Annotated[str, Meta(description="How often to measure the caches, which reads them all.")] = "1h"
    policy: Annotated[
        str,
        Meta(description=f'What to clean without asking again, e.g. "{policies.EXAMPLE}", or default; needs --yes.'),
    ] = ""
    looks: Annotated[int, Meta(ge=0, description="Stop after so many looks; 0 goes on until Ctrl+C.")] = 0


@dataclass
class _Watch:
    """One watch: what it last said and what it has done."""

    ctx: Context
    policy: Policy | None
    caches_every: float
    lines: list[str] = field(default_factory=list)
    looks: int = 0
    clean_ups: int = 0
    cleaned_bytes: int = 0
    usage: DiskUsage | None = None
    caches: Caches | None = None
    caches_at: float = float("-inf")
    said: DiskUsage | None = None
    said_broken: tuple[bool, ...] = ()
    trouble: str = ""

    def say(self, line: str) -> None:
        self.lines = [*self.lines[1 - KEPT :], line]
        self.ctx.report(Progress("watch", self.looks, note=f"{formats.moment(time.time())}  {line}"))


async def watch(ctx: Context, params: WatchParams) -> Watched | Plan:
    """Watch the disk until stopped (Ctrl+C, SIGTERM) or for ``looks``; clean by ``policy`` if one is given and agreed.

    Raises BadInput for a policy or an interval it does not understand, NeedsYes for a policy without a yes.
    """
    every, caches_every = span("every", params.every), span("caches_every", params.caches_every)
    policy = policies.parse(params.policy, ctx.workspace.settings.disk.caches_gb)
    if policy:
        ctx.will_write("storage.watch")
        plan = Plan("storage.watch", f"Whenever it looks, it cleans: {policy.words}.")
        if ctx.dry_run:
            return plan
        ctx.approve(plan)
        _cleaner()  # say now, not after an hour, that it can't be loaded
    start = time.monotonic()
    state = _Watch(ctx, policy, caches_every)
    with _terminated() as stop:
        while not stop.is_set():
            await _look(state)
            state.looks += 1
            if params.looks and state.looks >= params.looks:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), every)
    return Watched(time.monotonic() - start, state.looks, tuple(state.lines), state.clean_ups, state.cleaned_bytes)


def span(name: str, text: str) -> float:
    """Seconds of "30s", "10m", "2h", "1d". Raises BadInput."""
    match = _SPAN.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
    if not 0.1 <= seconds <= 366 * 86400:
        raise BadInput(f"{name}={text} is no interval.", hint="Write for example 30s, 10m or 2h.")
    return seconds


async def _look(state: _Watch) -> None:
    """One look: read, say what changed, clean if the policy asks for it. A failure is said once, and it goes on."""
    quiet = replace(state.ctx, report=lambda _: None)
    try:
        state.usage = await storage.usage(quiet, storage.UsageParams())
        if time.monotonic() - state.caches_at >= state.caches_every:
            state.caches = await storage.caches(quiet, storage.CachesParams())
            state.caches_at = time.monotonic()
            if state.policy and state.caches.total_bytes > state.policy.under_gb * GB:
                await _clean(state, quiet)
        state.trouble = ""
    except (HybridError, OSError) as error:
        if str(error) != state.trouble:
            state.trouble = str(error)
            state.say(f"▲ {error}")
        return
    _say_change(state)


def _say_change(state: _Watch) -> None:
    """A line at first, when a budget breaks or holds again, and when the disk's use moved by a GB or a percent."""
    usage, caches = state.usage, state.caches
    if usage is None or caches is None:
        return
    broken = (
        usage.used_bytes > usage.budget_bytes,
        usage.free_bytes < usage.min_free_bytes,
        caches.total_bytes > caches.budget_bytes,
    )
    step = min(GB, usage.total_bytes // 100)
    moved = state.said is None or abs(usage.used_bytes - state.said.used_bytes) >= max(step, 1)
    if not moved and broken == state.said_broken:
        return
    state.said, state.said_broken = usage, broken
    marks = ["▲ " if mark else "" for mark in broken]
    state.say(
        f"{marks[1]}{formats.size(usage.free_bytes)} free · "
        f"{marks[0]}used {formats.size(usage.used_bytes)} of {formats.size(usage.budget_bytes)} · "
        f"{marks[2]}caches {formats.size(caches.total_bytes)} of {formats.size(caches.budget_bytes)}"
    )


async def _clean(state: _Watch, quiet: Context) -> None:
    """Clean by the policy, then measure again. The kinds are named: none would mean whatever is safe."""
    assert state.policy is not None and state.caches is not None
    clean, params = _cleaner()
    kinds = tuple(cache.kind for cache in state.caches.caches if cache.exists)
    options: dict[str, Any] = {"kinds": kinds, "under_gb": state.policy.under_gb, "now": state.policy.now}
    if state.policy.older_than_days is not None:
        options["older_than_days"] = state.policy.older_than_days
    done = await clean(quiet, params(**options))
    if done.files:
        state.clean_ups += 1
        state.cleaned_bytes += done.freed_bytes
        how = "freed" if state.policy.now else "moved to the trash"
        state.say(f"Cleaned by the policy: {formats.size(done.freed_bytes)} in {done.files:,} files {how}.")
        state.usage = await storage.usage(quiet, storage.UsageParams())
        state.caches = await storage.caches(quiet, storage.CachesParams())


def _cleaner() -> tuple[Callable[[Context, Any], Any], Callable[..., Any]]:
    """The clean-up action and its parameters: imported only by a watch that may clean. Raises HybridError."""
    try:
        module = importlib.import_module("services.storage.cleaning.actions")
    except ImportError as error:
        raise HybridError(f"Cleaning can't be loaded: {error}.", hint="Leave the policy out to watch only.") from error
    return cast("tuple[Callable[[Context, Any], Any], Callable[..., Any]]", (module.clean, module.CleanParams))


@contextlib.contextmanager
def _terminated() -> Iterator[asyncio.Event]:
    """An event that SIGTERM sets, where the signal is nobody else's: the watch then ends in order, with its result."""
    stop = asyncio.Event()
    free = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    loop = asyncio.get_running_loop()
    if free:
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    try:
        yield stop
    finally:
        if free:
            loop.remove_signal_handler(signal.SIGTERM)
