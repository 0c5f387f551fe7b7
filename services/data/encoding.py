"""Is a file UTF-8 text? Answered block by block, before anybody takes it apart, with the byte and line that is not."""

from __future__ import annotations

import codecs
from pathlib import Path

from services.errors import BadInput, nearest

_BLOCK = 1 << 20


def check_utf8(path: Path) -> None:
    """Raises BadInput when ``path`` is missing, unreadable, empty, not UTF-8 or holds a NUL byte.

    One block of 1 MiB is held in memory at a time.
    """
    decode = codecs.getincrementaldecoder("utf-8")().decode
    read = lines = 0
    blank = True
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                if not read:
                    _refuse_utf16(path, block)
                try:
                    decode(block)
                except UnicodeDecodeError as error:
                    raise _not_utf8(path, block, read, lines, error) from None
                if (nul := block.find(0)) >= 0:
                    line = lines + block.count(b"\n", 0, nul) + 1
                    raise BadInput(f"{path} is no text file: line {line} holds a NUL byte.")
                blank = blank and not block.strip(b" \t\r\n\xef\xbb\xbf")
                read, lines = read + len(block), lines + block.count(b"\n")
        decode(b"", True)
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not UTF-8: its last character is cut off.", hint="Fetch the file again.") from None
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}.") from None
    if blank:
        raise BadInput(f"{path} is empty.", hint="A CSV with a header line or a JSONL file with rows is needed.")


def missing(path: Path) -> BadInput:
    """The error for a file that is not there, naming the nearest one that is."""
    near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    return BadInput(f"There is no file {path}{nearest(path.name, near) or '.'}")


def _refuse_utf16(path: Path, start: bytes) -> None:
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadInput(
            f"{path} is UTF-16, not UTF-8.", hint=f"Convert it: iconv -f UTF-16 -t UTF-8 {path.name} > utf8.csv"
        )


def _not_utf8(path: Path, block: bytes, read: int, lines: int, error: UnicodeDecodeError) -> BadInput:
    """``error`` counts from the bytes that the decoder had kept of the block before."""
    at = error.start - (len(error.object) - len(block))
    line = lines + block.count(b"\n", 0, max(at, 0)) + 1
    return BadInput(
        f"{path} is not UTF-8: byte {read + at} (line {line}) is 0x{error.object[error.start]:02x}.",
        hint=f"If it is Western European text: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8{path.suffix}",
    )
