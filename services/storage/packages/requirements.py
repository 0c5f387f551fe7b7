"""Requirements files, line by line, as pip reads them; every line keeps the text it was written with.

https://pip.pypa.io/en/stable/reference/requirements-file-format/
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from services.errors import BadInput
from services.storage.packages.records import normal

LineKind = Literal["blank", "comment", "option", "include", "constraint", "requirement", "bad"]

_COMMENT = re.compile(r"(^|\s+)#.*$")
_OPTION_OF_LINE = re.compile(r"\s--?[a-z][a-z-]*(?:[= ]|$).*$", re.DOTALL)
_INCLUDE = re.compile(r"^(?:-r|--requirement)(?:\s+|=|(?=\S))(.+)$")
_CONSTRAINT = re.compile(r"^(?:-c|--constraint)(?:\s+|=|(?=\S))(.+)$")
_EDITABLE = re.compile(r"^(?:-e|--editable)(?:\s+|=)(.+)$")
_OPTIONS = (
    "-i", "--index-url", "--extra-index-url", "--no-index", "-f", "--find-links", "--no-binary", "--only-binary",
    "--prefer-binary", "--require-hashes", "--pre", "--trusted-host", "--use-feature",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One logical line. ``text`` is as written, its continuation lines included, without the last newline.

    ``number`` counts physical lines from 1. ``name`` is the package's, normalised, "" where it can't be told.
    ``target`` is what an include or a constraint names. ``problem`` says why a bad line is one.
    """

    number: int
    text: str
    kind: LineKind
    name: str = ""
    requirement: Requirement | None = None
    target: str = ""
    problem: str = ""

    @property
    def pin(self) -> str:
        """The one version it allows ("2.9.1+cu128"), "" when it allows several."""
        specifiers = list(self.requirement.specifier) if self.requirement else []
        exact = [s.version for s in specifiers if s.operator in ("==", "===") and not s.version.endswith(".*")]
        return exact[0] if len(exact) == 1 else ""


def read(path: Path) -> list[Line]:
    """The lines of a requirements file. Raises BadInput when the file can't be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(
            f"There is no file {path}.", hint="Check the path; env.split makes base.txt and gpu.txt."
        ) from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text (byte {error.start}).", hint="Save it as UTF-8.") from None
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}.") from None
    return parse(text)


def parse(text: str) -> list[Line]:
    """The lines of a requirements file's text."""
    lines: list[Line] = []
    pending: list[str] = []
    start = 1
    for number, physical in enumerate(text.split("\n"), 1):
        physical = physical.rstrip("\r")
        if not pending:
            start = number
        pending.append(physical)
        if physical.endswith("\\") and not physical.lstrip().startswith("#"):
            continue
        lines.append(_line(start, pending))
        pending = []
    if pending:
        lines.append(_line(start, pending))
    if lines and lines[-1].kind == "blank":  # what follows the last newline
        lines.pop()
    return lines


def _line(number: int, physical: list[str]) -> Line:
    text = "\n".join(physical)
    joined = " ".join(_COMMENT.sub("", part.removesuffix("\\")).strip() for part in physical).strip()
    if not joined:
        return Line(number, text, "comment" if "#" in text else "blank")
    if match := _INCLUDE.match(joined):
        return Line(number, text, "include", target=match[1].strip())
    if match := _CONSTRAINT.match(joined):
        return Line(number, text, "constraint", target=match[1].strip())
    if match := _EDITABLE.match(joined):
        return Line(number, text, "requirement", _name_of_place(match[1].strip()), target=match[1].strip())
    if joined.startswith("-"):
        if re.split(r"[\s=]", joined, maxsplit=1)[0] in _OPTIONS:
            return Line(number, text, "option", target=re.split(r"[\s=]", joined, maxsplit=1)[-1].strip())
        return Line(number, text, "bad", problem="pip knows no such option in a requirements file.")
    return _requirement(number, text, _OPTION_OF_LINE.sub("", joined).strip())


def _requirement(number: int, text: str, words: str) -> Line:
    try:
        requirement = Requirement(words)
        return Line(number, text, "requirement", normal(requirement.name), requirement)
    except InvalidRequirement as error:
        place = words.partition(";")[0].strip()
        if re.match(r"^[a-z+]+://|^\.{0,2}/|^file:", place) or place.endswith((".whl", ".tar.gz", ".zip")):
            return Line(number, text, "requirement", _name_of_place(place), target=place)
        return Line(number, text, "bad", problem=f"It is no requirement: {str(error).splitlines()[0]}.")


def _name_of_place(place: str) -> str:
    """The package's name in a URL or path: by its #egg=, or its wheel's file name; "" where neither tells."""
    parts = urllib.parse.urlsplit(place)
    egg = urllib.parse.parse_qs(parts.fragment).get("egg", [""])[0]
    if egg:
        return normal(egg.partition("[")[0])
    try:
        return str(parse_wheel_filename(urllib.parse.unquote(parts.path).rpartition("/")[2])[0])
    except InvalidWheelFilename:
        return ""
