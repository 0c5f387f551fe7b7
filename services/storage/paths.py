"""File names are bytes; results, terminals and JSON carry text. Here the one is turned into the other and back.

A name that is valid UTF-8 is written as it is. Other bytes are written as ``\\xff``, so that a path can be copied
from a result into a parameter again.
"""

from __future__ import annotations

import errno
import os
import re

from services.errors import BadInput

_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")


def shown(path: str) -> str:
    """``path`` (as the os module gives it) as text that UTF-8 can carry."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    return path


def actual(text: str) -> str:
    """The path that ``shown`` wrote as ``text``; "~" stands for the home folder. Absolute, symbolic links resolved.

    A path that exists as it is written wins over one written with escapes. Raises BadInput for a NUL character.
    """
    if "\0" in text:
        raise BadInput("A path can't contain a NUL character.")
    path = os.path.expanduser(text)  # noqa: PTH111  (Path can't hold every name)
    if not os.path.lexists(path) and "\\x" in path:
        unescaped = os.fsdecode(_ESCAPED.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(path)))
        if os.path.lexists(unescaped):
            path = unescaped
    return os.path.realpath(path)


def open_folder(path: str) -> int:
    """A descriptor of the folder ``path`` for reading, also when the path is longer than the system takes at once.

    Raises BadInput when there is none, when it is no folder, or when it may not be read.
    """
    try:
        return _open(path)
    except FileNotFoundError:
        raise BadInput(f"There is no folder {shown(path)}.", hint="Check the path.") from None
    except NotADirectoryError:
        raise BadInput(f"{shown(path)} is not a folder.", hint="Name the folder it lies in.") from None
    except PermissionError:
        raise BadInput(f"The folder {shown(path)} may not be read.", hint="Ask its owner, or scan another.") from None
    except OSError as error:
        raise BadInput(f"The folder {shown(path)} can't be read: {error.strerror}.") from None


def _open(path: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        return os.open(path, flags)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG or "/" not in path.strip("/"):
            raise
    fd = os.open("/" if path.startswith("/") else ".", flags)
    for name in path.split("/"):
        if not name:
            continue
        above = fd
        try:
            fd = os.open(name, flags, dir_fd=above)
        finally:
            os.close(above)
    return fd
