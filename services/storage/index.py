"""The kept index: the last scans of a workspace, one file a scanned folder, so that its result is there at once.

A file is a magic number with the version, the length and checksum of a header, the header (JSON: whose it is, the
result as it was shown), then the columns of the tree as they lie in memory. It is written whole beside the old one and
renamed over it; its mtime says when it was last found true. One that is damaged, of another version or of another byte
order is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import sys
import time
import zlib
from pathlib import Path
from typing import BinaryIO

import msgspec

from services import atomic
from services.storage.tree import LINKS, OWN, TOTALS, LargeFile, Tree
from services.storage.types import Scan

VERSION = 1
_MAGIC = b"HYBSCAN" + bytes([VERSION])
_FRAME = struct.Struct("<8sII")  # magic, bytes and checksum of the header

MAX_FILES = 32
"""Scanned folders that are remembered; the one not looked at for longest gives way."""


class _Header(msgspec.Struct, frozen=True):
    path: bytes
    device: int
    began: float
    byteorder: str
    folders: int
    links: int
    names: int  # bytes
    checksum: int  # of all that follows the header
    large_blocks: int
    large: list[tuple[int, bytes, int, int, float, int]]
    scan: Scan


class Kept(msgspec.Struct, frozen=True):
    """What one file holds, ``tree`` None if only its head is read. ``age``: seconds since it was found true."""

    scan: Scan
    tree: Tree | None
    age: float


class Index:
    """The kept scans in ``folder``, which need not exist. ``warnings`` says what was not usable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []

    def load(self, path: str, *, head_only: bool = False) -> Kept | None:
        """The last scan of just this folder; None when there is none that can be used."""
        return self._load(self._file(path), path, head_only)

    def covering(self, path: str) -> tuple[Kept, int] | None:
        """The newest scan that ``path`` lies in, with its tree, and the row that ``path`` has there."""
        found = []
        above = path
        while True:
            file = self._file(above)
            with contextlib.suppress(OSError):
                found.append((file.stat().st_mtime, above, file))
            if above == "/":
                break
            above = os.path.dirname(above)  # noqa: PTH120  (Path can't hold every name)
        for _, above, file in sorted(found, reverse=True):
            kept = self._load(file, above, head_only=False)
            row = kept.tree.find(path) if kept is not None and kept.tree is not None else None
            if kept is not None and row is not None:
                return kept, row
        return None

    def save(self, scan: Scan, tree: Tree) -> None:
        """Remember a complete scan. Raises OSError when it can't be written; what was there then stays.

        A tree that is already there, to the byte, is only marked as found true now.
        """
        body = [getattr(tree, column).tobytes() for column in (*OWN, *TOTALS, *LINKS)]
        body.append(os.fsencode("\0".join(tree.names)))
        checksum = 0
        for piece in body:
            checksum = zlib.crc32(piece, checksum)
        file = self._file(tree.path)
        if self._has(file, tree, checksum):
            os.utime(file)
            return
        header = _Header(
            os.fsencode(tree.path), tree.device, tree.began, sys.byteorder, len(tree), len(tree.link_inode),
            len(body[-1]), checksum, tree.large_blocks,
            [(f.row, os.fsencode(f.name), f.blocks, f.apparent, f.used, f.inode) for f in tree.large], scan,
        )  # fmt: skip
        head = msgspec.json.encode(header)
        frame = _FRAME.pack(_MAGIC, len(head), zlib.crc32(head))
        atomic.write_bytes(file, b"".join((frame, head, *body)), mode=0o600)
        self._forget_oldest()

    def _has(self, file: Path, tree: Tree, checksum: int) -> bool:
        with contextlib.suppress(OSError, ValueError, struct.error, msgspec.DecodeError), file.open("rb") as opened:
            header = _header(opened)
            same = (header.checksum, header.path, header.device) == (checksum, os.fsencode(tree.path), tree.device)
            return same and zlib.crc32(opened.read()) == checksum
        return False

    def _forget_oldest(self) -> None:
        files = sorted(self.folder.glob("*.scan"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[MAX_FILES:]:
            file.unlink(missing_ok=True)

    def _file(self, path: str) -> Path:
        return self.folder / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.scan"

    def _load(self, file: Path, path: str, head_only: bool) -> Kept | None:
        try:
            with file.open("rb") as opened:
                age = max(0.0, time.time() - os.fstat(opened.fileno()).st_mtime)
                header = _header(opened)
                if header.path != os.fsencode(path) or header.byteorder != sys.byteorder:
                    raise ValueError("of another machine")
                scan = msgspec.structs.replace(header.scan, age=age)
                return Kept(scan, None if head_only else _tree(header, path, opened.read()), age)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, struct.error, msgspec.DecodeError) as error:
            reason = error if type(error) is ValueError else "damaged"
            self.warnings.append(f"The kept scan {file} is {reason}; it is not used, and replaced by the next scan.")
            return None


def _header(opened: BinaryIO) -> _Header:
    """The header of an opened file. Raises ValueError, struct.error or msgspec.DecodeError when it is not sound."""
    magic, length, checksum = _FRAME.unpack(opened.read(_FRAME.size))
    if magic != _MAGIC:
        raise ValueError("of another version" if magic[:-1] == _MAGIC[:-1] else "damaged")
    head = opened.read(length)
    if zlib.crc32(head) != checksum:
        raise ValueError("damaged")
    return msgspec.json.decode(head, type=_Header)


def _tree(header: _Header, path: str, body: bytes) -> Tree:
    """The columns from ``body``. Raises ValueError when they are not what the header says."""
    if zlib.crc32(body) != header.checksum:
        raise ValueError("damaged")
    tree = Tree(path, header.device)
    at = 0
    for column in (*OWN, *TOTALS, *LINKS):
        values = getattr(tree, column)
        size = values.itemsize * (header.links if column in LINKS else header.folders)
        values.frombytes(body[at : at + size])
        at += size
    tree.names = os.fsdecode(body[at:]).split("\0")
    if len(body) - at != header.names or len(tree.names) != header.folders:
        raise ValueError("damaged")
    tree.began = header.began
    tree.large_blocks = header.large_blocks
    tree.large = [
        LargeFile(row, os.fsdecode(name), blocks, apparent, used, inode)
        for row, name, blocks, apparent, used, inode in header.large
    ]
    return tree
