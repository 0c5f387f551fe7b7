"""The file system a folder lies on, against the budgets of ``hybrid.toml``."""

from __future__ import annotations

import os

import msgspec

from services import formats
from services.errors import BadInput
from services.settings import Disk
from services.storage import paths
from services.storage.types import DiskUsage

GB = 1_000_000_000


def usage(path: str, budget: Disk) -> DiskUsage:
    """The file system that holds ``path``. Free is what an ordinary user may still write, used what is taken.

    Raises BadInput when ``path`` does not exist.
    """
    try:
        status = os.statvfs(path)
    except OSError as error:
        raise BadInput(f"There is no disk to be seen at {paths.shown(path)}: {error.strerror}.") from None
    return against(
        DiskUsage(
            path=paths.shown(path),
            total_bytes=status.f_blocks * status.f_frsize,
            used_bytes=(status.f_blocks - status.f_bfree) * status.f_frsize,
            free_bytes=status.f_bavail * status.f_frsize,
            budget_bytes=round(budget.budget_gb * GB),
            min_free_bytes=round(budget.min_free_gb * GB),
            caches_budget_bytes=round(budget.caches_gb * GB),
        )
    )


def against(disk: DiskUsage) -> DiskUsage:
    """``disk`` with ``problems`` saying which budgets it breaks."""
    problems = tuple(filter(None, (used_problem(disk), free_problem(disk))))
    return msgspec.structs.replace(disk, problems=problems)


def used_problem(disk: DiskUsage) -> str:
    """One sentence when more of the disk is used than its budget, else ""."""
    if (over := disk.used_bytes - disk.budget_bytes) <= 0:
        return ""
    return (
        f"{formats.size(disk.used_bytes)} of the disk are used, {formats.size(over)} more than the budget of "
        f"{formats.size(disk.budget_bytes)}."
    )


def free_problem(disk: DiskUsage) -> str:
    """One sentence when less of the disk is free than must be, else ""."""
    if (short := disk.min_free_bytes - disk.free_bytes) <= 0:
        return ""
    return (
        f"{formats.size(disk.free_bytes)} are free, {formats.size(short)} less than the "
        f"{formats.size(disk.min_free_bytes)} that must stay free."
    )


def caches_problem(total_bytes: int, budget_bytes: int) -> str:
    """One sentence when all caches together are over their budget, else ""."""
    if total_bytes <= budget_bytes:
        return ""
    over = formats.size(total_bytes - budget_bytes)
    return (
        f"The caches take {formats.size(total_bytes)}, {over} more than their budget of {formats.size(budget_bytes)}."
    )
