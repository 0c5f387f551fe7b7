"""The children of a swap: pip or uv, which put the CPU builds into a stage, and the imports that prove the result."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from services.errors import HybridError, Refused
from services.storage.packages.places import Place
from services.storage.packages.records import Record

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of CPU builds; see https://pytorch.org/get-started/locally/."""

IMPORT_SECONDS = 180.0

_IMPORT = """\
import importlib, sys
module = importlib.import_module(sys.argv[1])
if sys.argv[1] == "torch" and sys.argv[2] == "cpu":
    import torch.version
    assert torch.version.cuda is None, f"torch is still built for CUDA {torch.version.cuda}"
print(getattr(module, "__version__", ""))
"""


class Tool(msgspec.Struct, frozen=True):
    """What installs into an environment: the start of its command line."""

    name: Literal["pip", "uv"]
    command: tuple[str, ...]


def choose(place: Place, records: list[Record], torch_installer: str) -> Tool:
    """uv where uv made the environment or installed torch, else the environment's pip, else ours from outside.

    Raises Refused when neither is to be had.
    """
    uv, python = _uv(place), place.interpreter
    pip = any(record.key == "pip" for record in records)
    if uv and (place.kind in ("uv", "uv-tool") or torch_installer == "uv" or not pip):
        return Tool("uv", (uv, "pip", "install", "--python", python))
    if pip:
        return Tool("pip", (python, "-m", "pip", "install"))
    if Path(sysconfig.get_path("purelib"), "pip").is_dir():
        return Tool("pip", (sys.executable, "-m", "pip", "--python", python, "install"))
    raise Refused(f"{place.path} has no pip, and no uv was found.", hint="Install one of them: pip install uv")


def _uv(place: Place) -> str:
    beside = (f"{place.path}/bin/uv", f"{Path(sys.executable).parent}/uv")
    return next((path for path in beside if os.access(path, os.X_OK)), "") or shutil.which("uv") or ""


def stage_commands(tool: Tool, stage: Path, requirements: tuple[str, ...]) -> list[list[str]]:
    """Commands that put ``requirements`` alone into ``stage``, to be tried in this order.

    pip passes over an index that is out of reach; uv stops there, so it is asked once more without.
    """
    index = ["--extra-index-url", CPU_INDEX]
    if tool.name == "uv":
        common = [*tool.command, "--no-deps", "--prefix", str(stage)]
        alone = [*common, *requirements]
        return [alone] if os.environ.get("UV_OFFLINE") else [[*common, *index, *requirements], alone]
    options = ["--no-deps", "--ignore-installed", "--no-compile", "--no-cache-dir", "--no-warn-script-location"]
    options += ["--disable-pip-version-check", "--progress-bar", "off", "--retries", "1", "--timeout", "30"]
    return [[*tool.command, *options, "--prefix", str(stage), *index, *requirements]]


async def run(command: list[str], log: Path, said: Callable[[str], None], lock_fd: int) -> tuple[int, list[str]]:
    """Run a child with its output into ``log`` and, line by line, to ``said``; gives its exit code and last lines.

    It inherits ``lock_fd``, so that the environment stays locked should this program be killed before it. When the
    caller is cancelled, the child and its children are ended first.
    """
    environment = {**os.environ, "PIP_USER": "0", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    environment.setdefault("UV_HTTP_RETRIES", "1")  # an index out of reach costs seconds, as with pip
    environment.setdefault("UV_HTTP_TIMEOUT", "30")
    for name in ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PYTHONPATH", "PYTHONHOME"):
        environment.pop(name, None)
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, env=environment, pass_fds=(lock_fd,), start_new_session=True,
            limit=1 << 20,
        )  # fmt: skip
    except OSError as error:
        raise HybridError(f"{command[0]} can't be started: {error.strerror}.") from error
    lines: list[str] = []
    try:
        assert process.stdout is not None
        with log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(command)}\n")
            async for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                file.write(line + "\n")
                lines = [*lines[-199:], line]
                said(line)
        return await process.wait(), lines
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def reason(lines: list[str]) -> str:
    """The installer's own reason in one line."""
    errors = [line for line in lines if line.lower().lstrip("× ").startswith("error")]
    told = [line for line in lines if line.strip()]
    return (errors or told[-1:] or ["it gave no reason"])[0].strip().removeprefix("ERROR: ").removeprefix("error: ")


async def imports(place: Place, module: str, build: str = "any") -> tuple[bool, str]:
    """Import ``module`` in the environment's own Python: whether that works, and its version or the last line said.

    ``build`` "cpu" also asks that torch is not built for CUDA.
    """
    process = await asyncio.create_subprocess_exec(
        place.interpreter, "-I", "-B", "-c", _IMPORT, module, build,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(IMPORT_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        return False, f"its import took more than {IMPORT_SECONDS:.0f} s"
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    text = (output if process.returncode == 0 else errors).decode(errors="replace").strip()
    return process.returncode == 0, text.splitlines()[-1] if text else ""
