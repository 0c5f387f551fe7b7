"""Fixed answers of the storage services for pictures: the same on every machine and at every time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from hybrid_tui.actions import ACTIONS, Action
from services.context import Context, NeedsYes, Plan, Progress
from services.errors import BadInput, CheckFailed
from services.storage.actions import UsageParams
from services.storage.packages.types import (
    CudaAudit,
    CudaFinding,
    Distribution,
    Environment,
    Environments,
    Need,
    PackageList,
    Why,
)
from services.storage.reclaim import (
    Batch,
    Cleaned,
    CleanHistory,
    CleanPlan,
    Event,
    Held,
    Item,
    KindItems,
    PlanLine,
    Purged,
    Reclaimable,
    Restored,
    Risk,
    TrashList,
)
from services.storage.types import DiskUsage, Explored, FileType, FileTypes, Largest, Row
from services.storage.upkeep.types import CheckResult, Finding, Forecast, Task, TaskList

NOW = 1_795_000_000.0
DAY = 86_400.0
MB, GB = 10**6, 10**9


class NoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """None."""


class ItemsParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kinds: tuple[str, ...] = ()


class PlanParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    items: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    risk: Risk = "low"


class CleanParams(PlanParams, frozen=True, forbid_unknown_fields=True):
    plan: str = ""
    now: bool = False


class BatchParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    batch: str = ""


class ExploreParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str
    kind: str = "files"
    limit: Annotated[int, Meta(ge=0)] = 0
    top: int = 0
    refresh: bool = False


class EnvironmentParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    env: str = ""
    name: str = ""


def item(
    kind: str, name: str, size: int, days: float, risk: Risk = "low", *, freed: int | None = None,
    used_by: tuple[str, ...] = (), note: str = "", restore: str = "It is downloaded or built again.",
) -> Item:  # fmt: skip
    return Item(
        f"{kind}:{name}", kind, name, (f"/home/me/.cache/{kind}/{name}",), size, size if freed is None else freed,
        size // 90_000, NOW - days * DAY, restore, risk, used_by, risk != "high" and not used_by, note,
    )  # fmt: skip


HUB = "from_pretrained fetches it again; private ones need a sign-in."
PIP = "pip downloads or builds it again."
KINDS: dict[str, tuple[str, str, tuple[Item, ...]]] = {
    "huggingface": ("Hugging Face hub: models and datasets", HUB, (
        item("huggingface", "meta-llama/Llama-3.2-3B-Instruct", 6_430 * MB, 34, restore=HUB),
        item("huggingface", "HuggingFaceTB/SmolLM2-135M", 541 * MB, 1, restore=HUB, used_by=("python (4711)",)),
        item("huggingface", "datasets/PolyAI/banking77", 12 * MB, 12, restore=HUB),
    )),
    "uv": ("uv: downloaded and built wheels", "uv downloads or builds them again.", (
        item("uv", "everything", 3_120 * MB, 0.2, freed=1_480 * MB, restore="uv downloads or builds them again.",
             note="1.6 GB of it is linked into environments and stays."),
    )),
    "pip": ("pip: downloaded and built wheels", PIP, (
        item("pip", "http responses", 1_010 * MB, 3, restore=PIP), item("pip", "wheels", 96 * MB, 80, restore=PIP),
    )),
    "checkpoints": ("This tool's runs: checkpoints", "Nothing brings it back but training again.", (
        item("checkpoints", "banking-20261103-091204", 820 * MB, 21, "high",
             restore="Nothing brings it back but training again."),
    )),
    "pycache": ("Python's compiled files", "Python compiles them again.", (
        item("pycache", "workspace", 38 * MB, 0.01, "none", restore="Python compiles them again."),
    )),
}  # fmt: skip


def kind_items(kind: str, *, measured: bool = True) -> KindItems:
    title, restore, items = KINDS[kind]
    return KindItems(
        kind, title, (f"/home/me/.cache/{kind}",), True,
        sum(i.bytes for i in items) if measured else None, sum(i.freed_bytes for i in items) if measured else None,
        sum(i.files for i in items) if measured else None, max(i.last_used or 0 for i in items) if measured else None,
        restore, items[0].risk, items if measured else (), command="uv cache prune" if kind == "uv" else "",
    )  # fmt: skip


def reclaimable(measured: int = 99) -> Reclaimable:
    kinds = [kind_items(kind, measured=i < measured) for i, kind in enumerate(KINDS)]
    kinds += [
        KindItems(k, f"{k}: its cache", (f"/home/me/.{k}",), False, 0, 0, 0, None, "It comes back.", "low")
        for k in ("npm", "conda", "cargo")
    ]
    used = sum(kind.bytes or 0 for kind in kinds)
    return Reclaimable(tuple(kinds), used, 3 * GB, measured >= len(KINDS))


PLAN_LINES = tuple(
    PlanLine(i.id, i.name, i.paths, i.bytes, i.freed_bytes, i.files, i.risk,
             i.restore)
    for kind in KINDS for i in KINDS[kind][2] if i.suggested
)  # fmt: skip
CLEAN_PLAN = CleanPlan(
    "20261118-1", NOW, "All that is safe to clean: 6 things of 4 kinds.", PLAN_LINES,
    (Held("/home/me/.cache/huggingface/hub/models--org--held/blobs/17ab", "python (4711) has it open."),),
    sum(line.freed_bytes for line in PLAN_LINES), sum(line.bytes for line in PLAN_LINES), 118_311,
)  # fmt: skip
BATCHES = (
    Batch("b2", NOW - 120, "All that is safe to clean: 6 things of 4 kinds.", tuple(x.title for x in PLAN_LINES),
          9_146 * MB, 118_311, NOW + 7 * DAY, "whole", "/workspace/.hybrid/trash/b2"),
    Batch("b1", NOW - 3 * DAY, "2 paths chosen in the explorer.", ("old-notebooks", "wandb"), 412 * MB, 3_120,
          NOW + 4 * DAY, "partly", "/workspace/.hybrid/trash/b1"),
)  # fmt: skip
EVENTS = (
    Event(NOW - 120, "trashed", "All that is safe to clean: 6 things of 4 kinds.", 9_146 * MB, 0, 118_311, "b2"),
    Event(NOW - 3 * DAY, "trashed", "2 paths chosen in the explorer.", 512 * MB, 0, 3_200, "b1"),
    Event(NOW - 3 * DAY + 60, "restored", "2 paths chosen in the explorer.", 100 * MB, 0, 80, "b1"),
    Event(NOW - 9 * DAY, "freed", "pip: everything", 1_310 * MB, 1_309 * MB, 9_002),
    Event(NOW - 12 * DAY, "purged", "What was in the trash for 7 days.", 2_210 * MB, 2_204 * MB, 40_120, "b0"),
)
ENVIRONMENTS = (
    Environment("/workspace/.venv", "this", "3.11.9", 5_910 * MB, 74, 4_480 * MB),
    Environment("/home/me/old-project/venv", "uv", "3.12.4", 1_220 * MB, 61, 0),
    Environment("/usr", "python", "3.11.2", 84 * MB, 22, 0),
)


def distribution(name: str, version: str, size: int, needed_by: tuple[str, ...], cuda: bool = False) -> Distribution:
    return Distribution(
        name, version, "/workspace/.venv", size * MB, size * MB, size * 9, "uv", "", cuda, needed_by,
        requested=not needed_by,
    )  # fmt: skip


DISTRIBUTIONS = (
    distribution("torch", "2.13.0", 1_740, ("peft", "accelerate"), True),
    distribution("nvidia-cublas-cu13", "13.0.0.19", 980, ("torch",), True),
    distribution("nvidia-cudnn-cu13", "9.12.0.46", 910, ("torch",), True),
    distribution("triton", "3.7.0", 530, ("torch",), True),
    distribution("transformers", "5.20.1", 118, ()),
    distribution("numpy", "2.4.1", 71, ("transformers", "accelerate", "gguf")),
)
FINDINGS = (
    CudaFinding("/workspace/.venv", "torch", "2.13.0", 1_740 * MB, 1_740 * MB, "swap", "torch==2.13.0+cpu", "13.0",
                ("peft", "accelerate"), "", "The CPU build does the same on this box."),
    CudaFinding("/workspace/.venv", "nvidia-cublas-cu13", "13.0.0.19", 980 * MB, 980 * MB, "remove", "", "13.0",
                ("torch",), "", "Only torch's CUDA build needs it."),
)  # fmt: skip
_ROWS = (("models", "folder", 4_700), (".venv", "folder", 2_100), (".hybrid", "folder", 431), ("data", "folder", 12),
         ("a very long name of a notebook that fits nowhere.ipynb", "file", 1))  # fmt: skip


def explored(path: str, *, complete: bool) -> Explored:
    total = sum(size for _, _, size in _ROWS) * MB + 40_960
    rows = [
        Row(f"{path}/{name}", name, kind, size * MB, size * MB, size * 25, NOW - 3600 * i, size * MB / total)  # type: ignore[arg-type]
        for i, (name, kind, size) in enumerate(_ROWS)
    ]
    rows.append(Row(path, "", "rest", 40_960, 0, 3, None, 0.0))
    return Explored(
        path, tuple(rows), total, total, 181_078, 9_000, complete, unreadable_count=1, unreadable=("/data/secret",)
    )


# The answers, each an action's function


async def usage(ctx: Context, params: UsageParams) -> DiskUsage:
    return DiskUsage("/", 32 * GB, 17_400_000_000, 14_600_000_000, 15 * GB, 5 * GB, 3 * GB, ("Over budget.",))


async def forecast(ctx: Context, params: NoParams) -> Forecast:
    return Forecast("growing", "It is full around 12 January at this pace.")


async def items(ctx: Context, params: ItemsParams) -> Reclaimable:
    return reclaimable()


async def items_so_far(ctx: Context, params: ItemsParams) -> Reclaimable:
    ctx.report(Progress("kinds", partial=reclaimable(2)))
    await asyncio.Event().wait()
    raise AssertionError


async def items_waiting(ctx: Context, params: ItemsParams) -> Reclaimable:
    await asyncio.Event().wait()
    raise AssertionError


async def items_failing(ctx: Context, params: ItemsParams) -> Reclaimable:
    raise BadInput("The home folder /home/me may not be read.", hint="Start the panel as its owner.")


async def items_none(ctx: Context, params: ItemsParams) -> Reclaimable:
    return Reclaimable((), 0, 3 * GB, True)


async def plan(ctx: Context, params: PlanParams) -> CleanPlan:
    return CLEAN_PLAN


async def clean(ctx: Context, params: CleanParams) -> Cleaned:
    return Cleaned("20261118-1", "b2", CLEAN_PLAN.scope, 118_311, CLEAN_PLAN.freed_bytes, 0, 2.1)


async def clean_waiting(ctx: Context, params: CleanParams) -> Cleaned:
    ctx.report(Progress("moving to the trash", 41_200, 118_311, "files"))
    await asyncio.Event().wait()
    raise AssertionError


async def undo(ctx: Context, params: BatchParams) -> Restored:
    return Restored("b2", 118_311, CLEAN_PLAN.moves_bytes)


async def trash(ctx: Context, params: NoParams) -> TrashList:
    return TrashList(BATCHES, sum(batch.bytes for batch in BATCHES))


async def trash_empty(ctx: Context, params: NoParams) -> TrashList:
    return TrashList((), 0)


async def purge(ctx: Context, params: BatchParams) -> Purged:
    if not ctx.yes:
        raise NeedsYes(Plan("storage.purge", "Delete 1 clean-up for good.", ("118,311 files",), 9_146 * MB))
    return Purged((params.batch,), 118_311, 9_146 * MB, 9_140 * MB)


async def history(ctx: Context, params: NoParams) -> CleanHistory:
    return CleanHistory(EVENTS, sum(event.disk_freed_bytes for event in EVENTS))


async def explore(ctx: Context, params: ExploreParams) -> Explored:
    return explored(params.path, complete=True)


async def explore_so_far(ctx: Context, params: ExploreParams) -> Explored:
    ctx.report(Progress("scan", partial=explored(params.path, complete=False)))
    await asyncio.Event().wait()
    raise AssertionError


async def explore_waiting(ctx: Context, params: ExploreParams) -> Explored:
    await asyncio.Event().wait()
    raise AssertionError


async def explore_failing(ctx: Context, params: ExploreParams) -> Explored:
    raise BadInput("The folder /work may not be read.", hint="Ask its owner, or scan another.")


async def largest(ctx: Context, params: ExploreParams) -> Largest:
    names = ("models/base/smollm2/model.safetensors", ".venv/lib/python3.11/site-packages/torch/lib/libtorch_cpu.so")
    rows = [
        Row(f"{params.path}/{name}", name, "file", (900 - 400 * i) * MB, 1, 1, NOW - DAY, 0.1 - i / 20)
        for i, name in enumerate(names)
    ]
    return Largest(params.path, "files", tuple(rows), 7_244 * MB, True, 0.0, MB)


async def types(ctx: Context, params: ExploreParams) -> FileTypes:
    rows = ((".safetensors", 4_600, 12), (".so", 1_700, 412), (".py", 204, 41_020), ("none", 91, 9_011))
    found = [FileType(t, b * MB, b * MB, n, b / 7_244) for t, b, n in rows]
    return FileTypes(params.path, tuple(found), 6_595 * MB, 36 * MB, 50_455, True)


async def environments(ctx: Context, params: NoParams) -> Environments:
    return Environments(ENVIRONMENTS, sum(e.bytes for e in ENVIRONMENTS), 0.8, True)


async def packages(ctx: Context, params: EnvironmentParams) -> PackageList:
    total = sum(d.bytes for d in DISTRIBUTIONS)
    return PackageList(ENVIRONMENTS[:1], DISTRIBUTIONS, total, 0, 0, 0, 0, total, 0.3, True)


async def cuda(ctx: Context, params: EnvironmentParams) -> CudaAudit:
    sentences = ("This box has no NVIDIA GPU (no /dev/nvidia0, no driver), and packages for one take 4.5 GB in 1 "
                 "environment.",)  # fmt: skip
    return CudaAudit("none", ENVIRONMENTS[:1], FINDINGS, 4_480 * MB, sentences, freed_bytes=4_480 * MB)


async def why(ctx: Context, params: EnvironmentParams) -> Why:
    needed = (Need(1, "peft", "0.21.0", "torch>=1.13.0"), Need(2, "hybrid-tui", "0.1.0", "peft>=0.21", "models"))
    sentence = "peft and accelerate need torch."
    return Why(params.name, "2.13.0", params.env, 1_740 * MB, 1_740 * MB, False, sentence, needed)


async def check(ctx: Context, params: NoParams) -> CheckResult:
    found = (
        Finding("used", "broken", "17.4 GB of the disk are used, 2.4 GB more than the budget of 15.0 GB.",
                17_400 * MB, 15 * GB, "storage.scan shows what fills it."),
        Finding("free", "ok", "14.6 GB are free; 5.0 GB must stay free.", 14_600 * MB, 5 * GB),
        Finding("repo-files", "unknown", "The workspace is not in a git repository."),
    )  # fmt: skip
    result = CheckResult(False, found, 1, 1, 0.2)
    raise CheckFailed("One budget is broken.", result)


async def tasks(ctx: Context, params: NoParams) -> TaskList:
    found = (
        Task("caches", "Clean the caches if they are over their budget", "weekly", "overdue", "9 d overdue", "storage",
             "storage.clean", "The caches take 3.3 GB.", NOW - 16 * DAY, NOW - 9 * DAY, 7.0, "ann", "kept the models"),
        Task("versions", "Consolidate versions", "monthly", "later", "due in 12 days", "registry", "registry.list", "",
             None, NOW + 12 * DAY, 30.0),
        Task("failed-runs", "Delete failed runs", "weekly", "idle", "nothing to do", "training", "train.delete", "",
             None, None, 7.0),
    )  # fmt: skip
    return TaskList(found, 1)


ANSWERS: dict[str, Callable[..., Any]] = {
    "storage.usage": usage,
    "storage.forecast": forecast,
    "storage.items": items,
    "storage.plan": plan,
    "storage.clean": clean,
    "storage.undo": undo,
    "storage.trash": trash,
    "storage.purge": purge,
    "storage.history": history,
    "storage.explore": explore,
    "storage.largest": largest,
    "storage.types": types,
    "packages.environments": environments,
    "packages.list": packages,
    "packages.cuda": cuda,
    "packages.why": why,
    "storage.check": check,
    "upkeep.list": tasks,
}


def install(setitem: Callable[[Any, str, Any], None], **others: Callable[..., Any]) -> None:
    """Put the answers into the action table; ``others`` by the last part of the action's name instead of the usual."""
    for name, usual in ANSWERS.items():
        function = others.get(name.partition(".")[2], usual)
        action = Action(name, f"{function.__module__}:{function.__name__}", "A fixed answer.")
        setitem(ACTIONS, name, action)
