"""The package actions that write: packages.swap and packages.restore."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from services import atomic, formats
from services.context import Context, Plan, Progress
from services.errors import HybridError, Refused
from services.storage import paths
from services.storage.packages import cuda, installer, places, records, sizes, swap
from services.storage.packages.holding import Holding, Journal
from services.storage.packages.places import Place
from services.storage.packages.records import Record
from services.storage.packages.swap import Swap
from services.storage.packages.types import Swapped, SwapPlan, SwapRestored

T = TypeVar("T")


class SwapParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``packages.swap``."""

    env: Annotated[str, Meta(min_length=1, description="The environment's folder, the one with pyvenv.cfg.")]
    force: Annotated[bool, Meta(description="Also on a box that has an NVIDIA GPU.")] = False


class RestoreParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of ``packages.restore``."""

    env: Annotated[str, Meta(min_length=1, description="The environment in which a swap was interrupted.")]


async def swap_builds(ctx: Context, params: SwapParams) -> Swapped | SwapPlan:
    """Replace an environment's packages for NVIDIA GPUs by their CPU builds, prove it, and free the space.

    The CPU builds are installed into a stage first; then files are only moved. When an import fails, or the caller is
    cancelled, everything is moved back. Raises BadInput for no environment, Refused where it must not be done or a
    swap was interrupted before, HybridError when the builds can't be had or don't import.
    """
    place = places.chosen(params.env, ctx.workspace.root, os.environ)
    chosen = await asyncio.to_thread(lambda: swap.make(sizes.measure(place, threading.Event())))
    if chosen.plan.unfinished:
        raise Refused(
            f"A swap in {chosen.plan.environment} was interrupted.",
            hint=f"Undo it first: hybrid-tui --run packages.restore env={chosen.plan.environment}",
        )
    await asyncio.to_thread(swap.refuse_unfit, chosen, force=params.force)
    if ctx.dry_run:
        return chosen.plan
    if not chosen.gone:
        return _nothing(chosen)
    ctx.will_write("packages.swap")
    ctx.approve(_plan(chosen.plan))
    return await _Execution(ctx, chosen).run()


async def restore(ctx: Context, params: RestoreParams) -> SwapRestored | Plan:
    """Undo a swap that was interrupted (or tidy up after one that was only not finished deleting).

    Raises BadInput for no environment, Refused when none was interrupted or one is at work.
    """
    place = places.chosen(params.env, ctx.workspace.root, os.environ)
    shown = paths.shown(place.path)
    held = Holding(place.path)
    journal = held.read()
    if journal is None:
        raise Refused(f"No interrupted swap was found in {shown}.", hint="A finished one is undone by its freeze.txt.")
    plan = _restore_plan(shown, journal)
    if ctx.dry_run:
        return plan
    ctx.will_write("packages.restore")

    def work() -> SwapRestored:
        with held.locked():
            current = held.read()
            if current is None:
                raise Refused(f"The swap in {shown} has meanwhile ended.")
            if current.state == "committed":
                files, size = held.drop()
                return SwapRestored(shown, "finished", files, size, plan.summary)
            files, size = held.undo(current)
            return SwapRestored(shown, "restored", files, size, plan.summary)

    return await _settled(work)


class _Execution:
    """One swap from its staging to its end."""

    def __init__(self, ctx: Context, chosen: Swap) -> None:
        self.ctx = ctx
        self.swap = chosen
        self.place: Place = chosen.measured.place
        self.holding = Holding(self.place.path)
        stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{Path(self.place.path).name}"
        self.folder = ctx.workspace.state / "packages" / stamp
        self.log = self.folder / "log.txt"
        self.started = time.monotonic()

    async def run(self) -> Swapped:
        await asyncio.to_thread(self._save)
        free = shutil.disk_usage(self.place.path).free
        lock = self.holding.locked()
        await asyncio.to_thread(lock.__enter__)
        try:
            journal = await _settled(self._begin)
            try:
                before = await self._import_all("before", self.swap.plan.checks)
                staged = await self._stage()
                journal = await _settled(lambda: self._exchange(journal, staged))
                after = await self._prove(before)
                journal = await _settled(
                    lambda: self.holding.write(msgspec.structs.replace(journal, state="committed"))
                )
            except BaseException:
                self._say("undo", "moving everything back")
                await _settled(self._undo)
                raise
            self._say("tidy", "deleting what was moved aside")
            await _settled(self.holding.drop)
        finally:
            lock.__exit__(None, None, None)
        return await asyncio.to_thread(self._result, after, shutil.disk_usage(self.place.path).free - free)

    def _save(self) -> None:
        self.ctx.workspace.ensure_state()
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic.write_text(self.folder / "freeze.txt", swap.freeze(self.swap.measured.records))

    def _begin(self) -> Journal:
        plan = self.swap.plan
        shutil.rmtree(self.holding.stage, ignore_errors=True)
        begun = self.holding.write(
            Journal("staging", time.time(), plan.uninstall, plan.install, str(self.folder / "freeze.txt"))
        )
        self.holding.prepare()
        return begun

    async def _stage(self) -> list[str]:
        """Have the CPU builds put into the stage; nothing of the environment is touched."""
        tool, wanted = self.swap.tool, self.swap.plan.install
        if tool is None:
            return []
        code, lines = 1, [""]
        for command in installer.stage_commands(tool, self.holding.stage, wanted):
            self._say("install", f"{tool.name}: {', '.join(wanted)}")
            code, lines = await installer.run(
                command, self.log, lambda line: self._say("install", line), self.holding.lock_fd
            )
            if code == 0:
                break
        if code != 0:
            raise HybridError(
                f"{' and '.join(wanted)} could not be had by {tool.name}: {installer.reason(lines)}",
                hint=f"Nothing was changed in {self.swap.plan.environment}. Log: {self.log}",
            )
        return await asyncio.to_thread(self._staged)

    def _staged(self) -> list[str]:
        """The staged files, after a look at what came. Raises HybridError when that is not what was asked for."""
        stage = places.at(str(self.holding.stage), os.environ)
        came: list[Record] = [r for folder in (stage.folders if stage else ()) for r in records.read_all(folder)]
        untouched = f"Nothing was changed in {self.swap.plan.environment}."
        if not came or any(cuda.is_cuda(record) for record in came):
            names = ", ".join(record.pinned for record in came) or "nothing"
            raise HybridError(f"Not the CPU builds came but {names}.", hint=untouched)
        if missing := swap.unmet(self.swap, came):
            raise HybridError(
                f"The CPU builds need {', '.join(missing)}, which {self.swap.plan.environment} does not have.",
                hint=f"Install that first. {untouched}",
            )
        return self.holding.staged()

    def _exchange(self, journal: Journal, staged: list[str]) -> Journal:
        moving = self.holding.write(self.holding.plan_moves(journal, self.swap.files(), staged))
        self.holding.exchange(moving)
        return moving

    async def _import_all(self, stage: str, modules: tuple[str, ...], build: str = "any") -> dict[str, str]:
        """Those of ``modules`` that import, with their versions."""
        good: dict[str, str] = {}
        for done, module in enumerate(modules):
            self.ctx.report(Progress(f"import {stage}", done, len(modules), "modules", module))
            works, said = await installer.imports(self.place, module, build)
            if works:
                good[module] = said
            elif stage == "after":
                raise HybridError(
                    f"{module} no longer imports after the swap ({said}); everything was moved back.",
                    hint=f"Log: {self.log}",
                )
        return good

    async def _prove(self, before: dict[str, str]) -> dict[str, str]:
        own = {r.partition("==")[0].replace("-", "_") for r in self.swap.plan.install}
        modules = tuple(m for m in self.swap.plan.checks if m in before or m in own)
        return await self._import_all("after", modules, "cpu")

    def _undo(self) -> None:
        journal = self.holding.read()
        if journal is not None:
            self.holding.undo(journal)

    def _result(self, after: dict[str, str], disk_freed: int) -> Swapped:
        plan, before = self.swap.plan, self.swap.measured.total
        now = sizes.measure(self.place, threading.Event()).total
        return Swapped(
            plan.environment, plan.uninstall, plan.install, plan.held, before, now, before - now, disk_freed,
            tuple(f"{module} {version}".strip() for module, version in after.items()),
            str(self.folder / "freeze.txt"), str(self.log) if self.log.exists() else "",
            time.monotonic() - self.started,
            _sentences(plan, before - now),
        )  # fmt: skip

    def _say(self, stage: str, line: str) -> None:
        self.ctx.report(Progress(stage, note=line[:200]))


async def _settled(work: Callable[[], T]) -> T:
    """Run ``work`` in a thread to its end, also when the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _plan(plan: SwapPlan) -> Plan:
    steps = [f"move aside: {', '.join(plan.uninstall)}"]
    steps += [f"install {requirement} with {plan.tool}" for requirement in plan.install]
    steps += [f"import {module}, or move everything back" for module in plan.checks]
    steps += [f"breaks: {words}" for words in plan.breaks]
    steps += [f"stays: {held.name}: {held.reason}" for held in plan.held]
    count = len(plan.uninstall)
    summary = (
        f"{count} package{'s' * (count != 1)} for NVIDIA GPUs go from {plan.environment} "
        f"({formats.size(plan.freed_bytes)}), {', '.join(plan.install) or 'nothing'} comes."
    )
    return Plan("packages.swap", summary, tuple(steps), plan.freed_bytes)


def _sentences(plan: SwapPlan, less: int) -> tuple[str, ...]:
    said = [f"{formats.size(less)} less in {plan.environment}. To go back: pip install -r freeze.txt."]
    linked = plan.bytes - plan.freed_bytes
    if linked > plan.bytes * 0.1:
        said.append(f"{formats.size(linked)} of what went is still linked from uv's cache: uv cache clean frees it.")
    return tuple(said)


def _restore_plan(shown: str, journal: Journal) -> Plan:
    if journal.state == "staging":
        summary = f"The swap in {shown} was interrupted before anything was moved; its stage is deleted."
    elif journal.state == "committed":
        summary = f"The swap in {shown} was proved; only what was moved aside is still to be deleted."
    else:
        summary = f"{len(journal.uninstall)} packages are moved back into {shown}, as they were before the swap."
    return Plan("packages.restore", summary, tuple(journal.uninstall))


def _nothing(chosen: Swap) -> Swapped:
    total, held = chosen.measured.total, chosen.plan.held
    words = "Nothing in it is made for NVIDIA GPUs." if not held else "All that is made for NVIDIA GPUs is needed."
    return Swapped(chosen.plan.environment, (), (), held, total, total, 0, 0, (), "", "", 0.0, (words,))
