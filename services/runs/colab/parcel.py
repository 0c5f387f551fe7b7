"""Files as one tar in numbered parts with their checksums, for a way that takes only files of moderate size.

Standard library only: it runs on both sides.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

PART_BYTES = 24 * 1024 * 1024  # base64 in one JSON document, held in memory at both ends


class Damaged(ValueError):
    """A part is missing, or is not what it was when it was packed."""


class _Parts(io.RawIOBase):
    """A file object that writes ``part-NNNN`` files into ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: list[dict[str, Any]] = []
        self._buffer = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += data
        while len(self._buffer) >= PART_BYTES:
            self._put(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]
        return len(data)

    def close(self) -> None:
        if not self.closed and (self._buffer or not self.parts):
            self._put(bytes(self._buffer))
            self._buffer.clear()
        super().close()

    def _put(self, data: bytes) -> None:
        name = f"part-{len(self.parts):04d}"
        (self.folder / name).write_bytes(data)
        self.parts.append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})


def pack(folder: Path, entries: Iterable[tuple[Path, str]]) -> list[dict[str, Any]]:
    """Pack files and folders, each under its name, into parts in the new ``folder``; what each part is.

    ``folder`` appears whole, or not at all.
    """
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    raw = _Parts(new)
    with raw, tarfile.open(fileobj=raw, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for path, name in entries:
            tar.add(path, name, filter=_plain)
    shutil.rmtree(folder, ignore_errors=True)
    new.rename(folder)
    return raw.parts


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if "__pycache__" in info.name or not (info.isfile() or info.isdir() or info.issym()):
        return None
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _verified(folder: Path, parts: list[dict[str, Any]]) -> Iterator[bytes]:
    for part in parts:
        try:
            data = (folder / part["name"]).read_bytes()
        except OSError:
            raise Damaged(f"{part['name']} is missing") from None
        if len(data) != part["bytes"] or hashlib.sha256(data).hexdigest() != part["sha256"]:
            raise Damaged(f"{part['name']} is not what it was when it was packed")
        yield data


def unpack(folder: Path, parts: list[dict[str, Any]], into: Path) -> None:
    """Verify the parts in ``folder`` and unpack them into ``into``. Raises Damaged before or while unpacking."""
    whole = folder / "whole.tar"
    try:
        with whole.open("wb") as file:
            for data in _verified(folder, parts):
                file.write(data)
        with tarfile.open(whole) as tar:
            for member in tar:
                tar.extract(member, into, filter="data")
    except (tarfile.TarError, OSError) as error:
        raise Damaged(str(error)) from error
    finally:
        whole.unlink(missing_ok=True)


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``folder``, by its path relative to it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
