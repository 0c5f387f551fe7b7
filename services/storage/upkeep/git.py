"""git, asked without a side effect: no lock, no network, no pager, output read as it comes, stopped on request."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator

from services.errors import HybridError
from services.storage import paths

_BLOCK = 1 << 16
_POLL_S = 0.1


class GitError(HybridError):
    """git can't be asked, or its answer is an error; the sentence says which."""


def environment() -> dict[str, str]:
    """Its own variables are dropped (a hook sets them), so that the folder alone says which repository is meant."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return env | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}


def command(folder: str, *words: str) -> list[str]:
    """The command line of one question. Raises GitError when git is not installed."""
    program = shutil.which("git")
    if program is None:
        raise GitError("git is not installed.", hint="Install it to have the repository checked.")
    # A partial clone fetches what it lacks when asked about it; no protocol, no fetch.
    return [program, "-C", folder, "-c", "protocol.allow=never", "-c", "core.quotePath=false", "--no-pager", *words]


def ask(folder: str, *words: str) -> str:
    """A short answer. Raises GitError with git's own reason."""
    done = subprocess.run(command(folder, *words), capture_output=True, env=environment(), check=False)
    if done.returncode:
        raise GitError(reason(done.stderr, folder))
    return os.fsdecode(done.stdout).rstrip("\n")


def records(
    folder: str, words: list[str], stop: threading.Event, *, end: bytes = b"\n", given: bytes = b""
) -> Iterator[bytes]:
    """The records of a long answer, each without its ``end``; ``given`` is git's input.

    Ends early once ``stop`` is set. Raises GitError when git ends with an error, after what it said before.
    """
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as source:
        source.write(given)
        source.seek(0)
        process = subprocess.Popen(
            command(folder, *words), stdin=source, stdout=subprocess.PIPE, stderr=said, env=environment(), bufsize=0
        )
        read_whole = False
        try:
            yield from _split(process, stop, end)
            read_whole = not stop.is_set()
        finally:
            if not read_whole:
                process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()
        if process.returncode and not stop.is_set():
            said.seek(0)
            raise GitError(reason(said.read(), folder))


def _split(process: subprocess.Popen[bytes], stop: threading.Event, end: bytes) -> Iterator[bytes]:
    assert process.stdout is not None
    fd = process.stdout.fileno()
    rest = b""
    while not stop.is_set():
        if not select.select([fd], [], [], _POLL_S)[0]:
            continue
        block = os.read(fd, _BLOCK)
        if not block:
            break
        *whole, rest = (rest + block).split(end)
        yield from whole
    if rest and not stop.is_set():
        yield rest


def reason(said: bytes, folder: str) -> str:
    """git's complaint as a sentence."""
    text = os.fsdecode(said)
    where = paths.shown(folder)
    if "not a git repository" in text:
        return f"{where} is not in a git repository."
    if "dubious ownership" in text:
        return f"git refuses the repository at {where}: it belongs to another user (see git's safe.directory)."
    lines = [line for line in text.splitlines() if line.startswith(("fatal:", "error:"))] or text.splitlines()
    complaint = lines[0].partition(": ")[2] or lines[0] if lines else "it gave no reason"
    return f"git can't read the repository at {where}: {paths.shown(complaint).rstrip('.')}."
