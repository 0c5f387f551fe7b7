"""The process that reads along with a scan: ``main`` answers the batches that ``pool.Pool`` sends.

It is given the scanned folder open, and enters nothing below that was not listed (``walk.Opener``). It ends when its
input does, so never later than the process that started it. A message is its length in four bytes and a tuple as
marshal writes it: both sides are the same interpreter, and nothing else is as quick.
"""

from __future__ import annotations

import gc
import marshal
import os
import time
from typing import Any, BinaryIO

from services.storage.branches import Branch, Child, Todo
from services.storage.reader import Reader
from services.storage.tree import LINKS, LargeFile, Part
from services.storage.walk import LONG, Opener

PIPE = 2**20
"""Bytes that wait in a pipe, where the system lets us say so: else each side would wait for the other."""

SUMS_EVERY = 0.1
"""Seconds after which the sums so far are sent while a folder of many files is read."""


class Helper(Reader):
    """Reads batches below the folder open as ``fd``, and leaves to the scan what concerns the whole of it."""

    def __init__(self, fd: int, began: float, settled: float, out: BinaryIO) -> None:
        super().__init__(Opener(fd), False, settled, None)
        self._path = ""
        self._out = out
        self._reset()
        self._begin(began)

    def answer(self, number: int, gate: int, seconds: float, first: list[tuple[str, int | None, str]]) -> None:
        """Read the folders ``first`` with what is below them, for so many seconds, and send what came out."""
        self._number, self._gate = number, gate
        self._hidden: list[int] = []
        self._left: list[tuple[int, str]] = []
        self._named: list[int] = []
        self._files_seen: list[LargeFile] = []
        self._ends: list[int] = []  # of the links of each of the first folders
        root = self._opener.root
        todo: list[Todo] = [(-1, name, inode, root, path, -1, -1) for name, inode, path in first]
        branch = Branch(todo, [(self._root, 0)] * len(todo), [Child(item[1], None) for item in todo])
        self._branch = branch
        now = time.monotonic()
        self._next_sums = now + SUMS_EVERY
        end = now + seconds
        links = branch.part.link_inode
        while branch.todo and len(branch.todo[-1][4]) < LONG and time.monotonic() < end:
            parent = branch.todo[-1][0]
            if parent < 0:
                self._ends += [len(links)] * (-1 - parent - len(self._ends))
            self._visit(branch)
        self._send(True)

    def _send(self, whole: bool) -> None:
        branch, part = self._branch, self._branch.part
        ends = self._ends + [len(part.link_inode)] * (len(branch.children) - len(self._ends))
        sums = [
            (child.blocks, child.apparent, child.files, child.used, end, child.gone)
            for child, end in zip(branch.children, ends, strict=True)
        ]
        message: tuple[Any, ...] = (self._number, whole, sums)
        if whole:
            files = [(f.row, f.name, f.blocks, f.apparent, f.used, f.inode) for f in self._files_seen]
            todo = [(parent, name, inode, path) for parent, name, inode, _, path, _, _ in branch.todo]
            links = [getattr(part, column).tobytes() for column in LINKS]
            message += (branch.position, part.values, links, self._named, self._hidden, self._left, files, todo)
        send(self._out, message)

    def _tick(self) -> None:
        if time.monotonic() >= self._next_sums:
            self._send(False)
            self._next_sums = time.monotonic() + SUMS_EVERY

    def _count_link(self, child: Child, inode: int, device: int, blocks: int, size: int) -> bool:
        return True  # the scan counts it where it meets it first, in either process

    def _remember(self, part: Part, file: LargeFile) -> None:
        self._files_seen.append(file)

    def _name_unreadable(self, part: Part, row: int) -> None:
        self._named.append(row)

    def _note_unreadable(self, branch: Branch, parent: int) -> None:
        self._hidden.append(parent)

    def _leave_out(self, branch: Branch, child: Child, parent: int, name: str) -> None:
        self._left.append((parent, name))


def send(out: BinaryIO, message: tuple[Any, ...]) -> None:
    """Write one message to a blocking pipe."""
    data = marshal.dumps(message)
    out.write(len(data).to_bytes(4, "little") + data)
    out.flush()


def main(fd: int, began: float, settled: float) -> None:
    """Answer batches until the input ends."""
    gc.disable()
    source, out = os.fdopen(0, "rb"), os.fdopen(1, "wb")
    helper = Helper(fd, began, settled, out)
    try:
        send(out, ())
        while len(head := source.read(4)) == 4:
            helper.answer(*marshal.loads(source.read(int.from_bytes(head, "little"))))
    except (EOFError, BrokenPipeError):
        os._exit(0)  # the scan is gone; there is nobody to write to, not even what is buffered
