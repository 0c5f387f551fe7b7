"""This machine as a training or inference job would find it. Nothing is estimated."""

from __future__ import annotations

import asyncio
import os
import shutil
from importlib import metadata
from pathlib import Path

import msgspec

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
GPU_SECONDS = 5.0


class Gpu(msgspec.Struct, frozen=True):
    """One NVIDIA GPU as its driver names it."""

    name: str
    memory_bytes: int


class Machine(msgspec.Struct, frozen=True):
    """``cores`` this process may use; ``memory_bytes`` it may use (a container's limit where there is one).

    ``model_stack`` is package → installed version ("" = not installed). ``gpu_note`` says how GPUs were looked for.
    """

    cores: int
    memory_bytes: int
    available_bytes: int
    gpus: tuple[Gpu, ...]
    gpu_note: str
    model_stack: dict[str, str]


async def look() -> Machine:
    """Read the machine's facts. Never raises for a missing or failing GPU driver: ``gpu_note`` says so."""
    import psutil

    memory = psutil.virtual_memory()
    limit = await asyncio.to_thread(memory_limit, CGROUP_LIMIT)
    gpus, note = await _gpus()
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=min(memory.total, limit or memory.total),
        available_bytes=min(memory.available, limit or memory.available),
        gpus=gpus,
        gpu_note=note,
        model_stack=await asyncio.to_thread(
            lambda: {name: _version(name) for name in ("torch", "transformers", "peft")}
        ),
    )


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bf16 in hardware, by what Linux tells of it; False where that can't be read."""
    try:
        words = set(cpuinfo.read_text(encoding="utf-8").split())
    except OSError:
        return False
    return bool(words & {"amx_bf16", "avx512_bf16", "bf16", "svebf16"})


def memory_limit(path: Path) -> int | None:
    """The container's memory limit in bytes, None where there is none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return None


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


async def _gpus() -> tuple[tuple[Gpu, ...], str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return (), "no NVIDIA driver (nvidia-smi) here"
    process = await asyncio.create_subprocess_exec(
        tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(GPU_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return (), f"nvidia-smi gave no answer in {GPU_SECONDS:.0f} s"
    if process.returncode != 0:
        return (), "nvidia-smi is here but finds no GPU"
    return parse_gpus(output.decode(errors="replace")), "by nvidia-smi"


def parse_gpus(output: str) -> tuple[Gpu, ...]:
    """GPUs from lines "name, memory in MiB" of nvidia-smi; a line of another form is left out."""
    found: list[Gpu] = []
    for line in output.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdigit():
            found.append(Gpu(name.strip(), int(mebibytes) * 1024**2))
    return tuple(found)
