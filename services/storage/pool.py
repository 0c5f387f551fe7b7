"""The scan's side of its helper process: starts it, lends it what is to be read last, and checks what it answers.

Whatever becomes of the helper, nothing is lost: what was lent is kept until the answer is there, and given back when
the process dies or answers nonsense.
"""

from __future__ import annotations

import contextlib
import fcntl
import marshal
import os
import select
import subprocess
import sys
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

from services.storage.branches import Branch
from services.storage.helper import PIPE
from services.storage.tree import LINKS, OWN, WIDTH, Tree
from services.storage.walk import LONG

SECONDS = 0.01
"""How long the helper reads before it answers with what it has got: both processes end within that of each other."""

MAX_LENT = 8
MIN_LENT = 2
ENOUGH = 64
"""Branches lent at a time: at most, at least (so that the helper need never wait), and folders that are enough."""

MAX_FOLDERS = 200
"""Folders lent in one branch."""

WAIT = 0.02
"""Seconds to wait for an answer before looking whether the scan is cancelled."""

STALLED = 5.0
"""Seconds of waiting without a word after which the helper is given up: it tells sums so far while it reads."""

_START = "import sys; sys.path.append(sys.argv[1]); from services.storage.helper import main; "
_START += "main(int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]))"

_NONSENSE = (ValueError, TypeError, EOFError, IndexError, OverflowError, AttributeError)

Sums = tuple[int, int, int, float, int, bool]
"""Blocks, apparent bytes, files, newest use, end of its links in the part, whether it is gone."""


class Batch(NamedTuple):
    """What the helper has read of a lent branch; ``last`` are the sums that were told before. Only a ``whole`` one has
    the rest: ``hidden`` are owners of folders that can't be seen, ``mounts`` those of other file systems."""

    whole: bool
    sums: list[Sums]
    last: list[Sums]
    position: int = 0
    values: list[Any] = []  # noqa: RUF012  (never changed)
    rows: int = 0
    links: tuple[Any, ...] = ()
    unreadable: list[int] = []  # noqa: RUF012
    hidden: list[int] = []  # noqa: RUF012
    mounts: list[tuple[int, str]] = []  # noqa: RUF012
    large: list[tuple[int, str, int, int, float, int]] = []  # noqa: RUF012
    todo: list[tuple[int, str, int | None, str]] = []  # noqa: RUF012


class Pool:
    """One helper process for the folder open as ``fd``; ``close`` ends it. ``wait`` for it to be ready."""

    def __init__(self, fd: int, began: float, settled: float, wait: bool = False) -> None:
        self.lent: dict[int, Branch] = {}
        self._sums: dict[int, list[Sums]] = {}
        self._returned: list[tuple[Branch, list[Sums]]] = []
        self._number = 0
        self._in, self._out = bytearray(), bytearray()
        self._ready = False
        self._waiting = 0.0  # since when nothing came although it was waited for
        self._process = self._start(fd, began, settled)
        while wait and self._process is not None and not self._ready:
            self.receive(wait=True)

    def _start(self, fd: int, began: float, settled: float) -> subprocess.Popen[bytes] | None:
        root = str(Path(__file__).resolve().parents[2])
        command = [sys.executable, "-I", "-S", "-c", _START, root, str(fd), repr(began), repr(settled)]
        try:
            process = subprocess.Popen(  # in a session of its own: Ctrl+C is for the scan, which ends it
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
                pass_fds=(fd,), start_new_session=True,
            )  # fmt: skip
        except (OSError, ValueError):
            return None  # no more processes, or no interpreter that could be started: the scan goes on alone
        assert process.stdin is not None and process.stdout is not None
        self._to, self._from = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        with contextlib.suppress(OSError, AttributeError):  # Linux only, and less than PIPE may be allowed
            fcntl.fcntl(self._from, fcntl.F_SETPIPE_SZ, PIPE)
        return process

    @property
    def process(self) -> int | None:
        """Its id while it runs."""
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """End the process at once."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process = None

    @property
    def busy(self) -> bool:
        """Whether something that was lent is still to come, read or not."""
        return bool(self.lent or self._returned)

    def returned(self) -> list[tuple[Branch, list[Sums]]]:
        """Branches that were lent to a helper that failed, as they were lent, and the sums told of them."""
        returned, self._returned = self._returned, []
        return returned

    def lend(self, turns: deque[Branch], gate: int) -> None:
        """Give the helper enough to do, from the end of ``turns``."""
        if self._process is None or not self._ready:
            return
        lent = sum(len(piece.todo) for piece in self.lent.values())
        if len(self.lent) < MIN_LENT or (lent < ENOUGH and len(self.lent) < MAX_LENT):
            left = sum(len(branch.todo) for branch in turns) // 2  # the scan keeps the other half
            for branch in reversed(list(turns)):
                if not left or len(self.lent) >= MAX_LENT or (len(self.lent) >= MIN_LENT and lent >= ENOUGH):
                    break
                fit = self._fit(branch, min(len(branch.todo), left, MAX_FOLDERS))
                if fit:
                    self._send(branch.split(fit), gate)
                    lent += fit
                    left -= fit
        self._write()

    @staticmethod
    def _fit(branch: Branch, most: int) -> int:
        """How many at the end of ``branch`` can be told by their path below the scanned folder."""
        for index in range(most):
            item = branch.todo[index]
            if item[3].above is not None or len(item[4]) >= LONG:
                return index
        return most

    def _send(self, piece: Branch, gate: int) -> None:
        self._number += 1
        self.lent[self._number] = piece
        first = [(name, inode, path) for _, name, inode, _, path, _, _ in reversed(piece.todo)]
        data = marshal.dumps((self._number, gate, SECONDS, first))
        self._out += len(data).to_bytes(4, "little") + data

    def _write(self) -> None:
        try:
            while self._out:
                del self._out[: os.write(self._to, self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self._fail()

    def receive(self, wait: bool) -> list[tuple[Branch, Batch]]:
        """What the helper has answered since; ``wait`` a moment when that is nothing yet."""
        if self._process is None:
            return []
        if wait:
            poll = select.poll()  # select() takes no descriptor above 1023
            poll.register(self._from, select.POLLIN)
            if self._out:
                poll.register(self._to, select.POLLOUT)
            self._waiting = self._waiting or time.monotonic()
            if not poll.poll(WAIT * 1000) and time.monotonic() - self._waiting > STALLED:
                self._fail()
                return []
        self._write()
        batches: list[tuple[Branch, Batch]] = []
        try:
            while self._process is not None:
                data = os.read(self._from, PIPE)
                if not data:
                    self._fail()
                    break
                self._in += data
                self._waiting = 0.0
        except BlockingIOError:
            pass
        except OSError:
            self._fail()
        try:
            while len(self._in) >= 4:
                end = 4 + int.from_bytes(self._in[:4], "little")
                if len(self._in) < end:
                    break
                message = marshal.loads(self._in[4:end])
                del self._in[:end]
                if message == ():
                    self._ready = True
                else:
                    batches.append(self._answer(message))
        except _NONSENSE:
            self._fail()
        return batches

    def _fail(self) -> None:
        """The helper is no good any more: what it has is read here."""
        self.close()
        self._in.clear()
        self._out.clear()
        self._returned += [(piece, self._sums.get(number, [])) for number, piece in self.lent.items()]
        self.lent.clear()

    def _answer(self, message: tuple[Any, ...]) -> tuple[Branch, Batch]:
        """Check a message. Raises one of ``_NONSENSE``; then nothing of it was used."""
        number, whole, sums = message[:3]
        piece = self.lent.get(number)
        if piece is None or len(sums) != len(piece.children):
            raise ValueError("an answer to nothing that was asked")
        for blocks, apparent, files, used, end, gone in sums:
            array("q", (blocks, apparent, files, end)).append(gone)
            float(used)
        last = self._sums.get(number) or [(0, 0, 0, 0.0, 0, False)] * len(sums)
        if whole:
            batch = _checked(sums, last, message[3:], len(piece.children))
            del self.lent[number]
            self._sums.pop(number, None)
        else:
            batch = Batch(False, sums, last)
            self._sums[number] = sums
        return piece, batch


def _checked(sums: list[Sums], last: list[Sums], rest: tuple[Any, ...], first: int) -> Batch:
    """The rest of a whole answer to a branch that began with ``first`` folders, if it can be one."""
    position, values, raw_links, unreadable, hidden, mounts, large, todo = rest
    count, over = divmod(len(values), WIDTH)
    tree = Tree("", 0)
    for place, name in enumerate(OWN[1:], 2):
        array(getattr(tree, name).typecode, values[place::WIDTH])
    links = tuple(array(getattr(tree, name).typecode) for name in LINKS)
    for column, raw in zip(links, raw_links, strict=True):
        column.frombytes(raw)
    names = len(links[0])
    starts = [0, *values[WIDTH - 1 :: WIDTH], names]
    ends = [0, *(each[4] for each in sums), names]
    parents = values[1::WIDTH]
    "".join(values[::WIDTH]), "".join(item[3] for item in todo), "".join(item[1] for item in (*mounts, *todo, *large))
    owners = [*parents, *hidden, *(item[0] for item in (*mounts, *todo))]
    rows = [*unreadable, *(file[0] for file in large)]
    if (
        over
        or len({len(column) for column in links}) != 1
        or starts != sorted(starts)
        or ends != sorted(ends)
        or not 0 <= position <= first
        or any(not -first <= parent < row for row, parent in enumerate(parents))
        or any(not -first <= parent < count for parent in owners)
        or any(not 0 <= row < count for row in rows)
        or any(len(item) != 4 for item in todo)
        or any(len(file) != 6 for file in large)
    ):
        raise ValueError("an answer that contradicts itself")
    return Batch(True, sums, last, position, values, count, links, unreadable, hidden, mounts, large, todo)


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
