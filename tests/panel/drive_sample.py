"""Fixed answers of the store and of the queue for pictures: the same on every machine and at every time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hybrid_tui.actions import ACTIONS, Action
from services.context import Context
from services.drive.actions import StatusParams
from services.drive.auth.actions import DriveStatus
from services.drive.auth.actions import StatusParams as AccountParams
from services.drive.store import StoreStatus
from services.errors import StoreUnreachable
from services.storage.actions import UsageParams
from services.storage.types import DiskUsage
from services.transfers.actions import PlanParams
from services.transfers.queue_actions import ListParams, TransfersParams
from services.transfers.types import FileProgress, Level, LevelEntry, Planned, TransferPlan, Transfers, TransferView

NOW = 1_795_000_000.0
GB, MB = 10**9, 10**6


async def usage(ctx: Context, params: UsageParams) -> DiskUsage:
    return DiskUsage("/", 32 * GB, 9_100_000_000, 22_900_000_000, 15 * GB, 5 * GB, 3 * GB)


async def store(ctx: Context, params: StatusParams) -> StoreStatus:
    return StoreStatus(
        "folder", "plain folder, not Google Drive", "/work/.hybrid/drive/Banking LLM", False, True, True, True,
        22_900_000_000, 32 * GB, (),
    )  # fmt: skip


async def store_failing(ctx: Context, params: StatusParams) -> StoreStatus:
    raise StoreUnreachable("The store can't be reached: /mnt/team does not exist.", hint="Mount the disk.")


async def account(ctx: Context, params: AccountParams) -> DriveStatus:
    return DriveStatus(
        account="user", email="ann@example.org", name="Ann", scope="drive.file", allows="what this client made",
        kept="the keyring", used_bytes=11_200_000_000, free_bytes=3_800_000_000, limit_bytes=15 * GB,
        drive_bytes=9 * GB, trash_bytes=400 * MB, root="Banking LLM", root_id="1AbC", shared_drive="",
    )  # fmt: skip


def entry(name: str, size: int | None = None, skipped: str = "", days: float = 1) -> LevelEntry:
    return LevelEntry(name, "folder" if size is None else "file", size, NOW - days * 86400, skipped)


async def level(ctx: Context, params: ListParams) -> Level:
    entries = (
        entry("base-models"), entry("deployed", days=12), entry("finetuned", days=0.1),
        entry("model[bold].safetensors", 269_060_552), entry("notes\x1b]8;;.md", 1_204, days=40),
        entry("plan", 0, "A Google document: it has no bytes of its own; export it in the browser"),
        entry("twin.bin", 0, "2 different things have this name"),
    )  # fmt: skip
    return Level("", "Google Drive/Banking LLM", "Google Drive", True, entries)


async def level_empty(ctx: Context, params: ListParams) -> Level:
    return Level("", "/work/.hybrid/drive/Banking LLM", "plain folder, not Google Drive", False, ())


async def level_waiting(ctx: Context, params: ListParams) -> Level:
    await asyncio.Event().wait()
    raise AssertionError


async def level_failing(ctx: Context, params: ListParams) -> Level:
    raise StoreUnreachable("The store can't be reached: /mnt/team does not exist.", hint="Mount the disk.")


def view(id: str, state: str, **more: Any) -> TransferView:
    fields: dict[str, Any] = {
        "id": f"20261118-1200-{id}", "state": state, "direction": "push", "label": "models/finetuned/banking",
        "local": "/work/out/banking", "store": "models/finetuned/banking", "priority": 0, "created_at": NOW - 900,
        "started_at": NOW - 600, "total_files": 12, "total_bytes": 2_140_000_000, "attempt": 1,
    }  # fmt: skip
    return TransferView(**(fields | more))


async def queue(ctx: Context, params: TransfersParams) -> Transfers:
    running = view(
        "k3v9", "running", done_files=7, done_bytes=1_310_000_000, moved_bytes=1_352_000_000, rate=48_300_000.0,
        eta_s=17.0, attempt=2, retries=3, trouble="sending model-00002.safetensors: the connection broke",
        files=(
            FileProgress("model-00002-of-00003.safetensors", 402_000_000, 790_000_000),
            FileProgress("tokenizer[v1].json", 1_200_000, 2_100_000),
        ),
    )  # fmt: skip
    waiting = view(
        "m4t2", "queued", direction="pull", label="banking@deployed", attempt=0, total_files=0, total_bytes=0
    )
    rests = view("p7d5", "paused", label="datasets/banking77", done_files=3, done_bytes=300 * MB, total_bytes=900 * MB)
    broken = view(
        "x2n8", "failed", direction="pull", label="models/base-models/big", done_bytes=100 * MB, ended_at=NOW - 60,
        reason="/work needs 21.0 GB and its disk has 9.2 GB free.", hint="storage.plan shows what can be cleaned.",
    )  # fmt: skip
    over = view("c9c9", "done", label="notebooks", done_files=4, total_files=4, done_bytes=MB, total_bytes=MB)
    return Transfers((running, waiting, rests, broken, over), True)


async def queue_dead(ctx: Context, params: TransfersParams) -> Transfers:
    killed = view(
        "k3v9", "interrupted", done_files=7, done_bytes=1_310_000_000, moved_bytes=1_352_000_000,
        reason="The worker ended without a word: it was killed, or the box went down.",
        hint="drive.resume transfer=k3v9 goes on where it was.",
    )  # fmt: skip
    return Transfers((killed,), False)


async def queue_empty(ctx: Context, params: TransfersParams) -> Transfers:
    return Transfers((), False)


async def plan(ctx: Context, params: PlanParams) -> TransferPlan:
    files = (
        Planned("adapter_model.safetensors", 9_800_000, "changed", "sha256"),
        Planned("manifest.json", 1_100, "changed", "sha256"),
        Planned("metadata.json", 800, "new"),
        Planned("old.bin", 40, "extra"),
    )
    return TransferPlan(
        "push", "/work/out", "Google Drive/Banking LLM/models/x", 1, 2, 9, 1, 0, 9_801_900, 60 * MB, files,
        ("1 file is only in the store and stays.",),
    )  # fmt: skip


ANSWERS: dict[str, Callable[..., Any]] = {
    "storage.usage": usage,
    "store.status": store,
    "drive.status": account,
    "drive.list": level,
    "drive.transfers": queue,
    "drive.plan": plan,
}


def install(setitem: Callable[[Any, str, Any], None], **others: Callable[..., Any]) -> None:
    """Put the answers into the action table; ``others`` by the action's name with "_" for the dot."""
    for name, usual in ANSWERS.items():
        function = others.get(name.replace(".", "_"), usual)
        setitem(ACTIONS, name, Action(name, f"{function.__module__}:{function.__name__}", "A fixed answer."))
