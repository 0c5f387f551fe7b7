"""One list of requirements as two files: base.txt for a CPU box, gpu.txt (``-r base.txt`` and more) for Colab.

torch has one name for both builds. base.txt names PyTorch's index of CPU builds, where pip prefers "2.9.1+cpu" to
"2.9.1"; gpu.txt, which includes base.txt, excludes that one build by its local version (PEP 440: ``!=2.9.1+cpu``).
"""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from services.storage.packages import families
from services.storage.packages.installer import CPU_INDEX
from services.storage.packages.records import Record
from services.storage.packages.requirements import Line, parse

_CUDA_INDEX = re.compile(
    r"download\.pytorch\.org/whl/(?:nightly/|test/)?cu\d+|pypi\.nvidia\.com|developer\.download\.nvidia"
)
_UNLISTED = ("pip", "setuptools", "wheel", "distribute")  # as pip freeze leaves them out


@dataclass(frozen=True)
class Split:
    """The texts of both files, what went to gpu.txt alone, and what a person should know."""

    base: str
    gpu: str
    moved: tuple[str, ...]
    sentences: tuple[str, ...]


def is_gpu(line: Line) -> bool:
    """Whether a requirement is of use on an NVIDIA GPU only: by its name, or by a CUDA build asked for by URL."""
    family = families.family(line.name) if line.name else None
    if family is not None and not family.by_build:
        return family.step != "keep"
    return bool(line.requirement is None and re.search(r"(\+|%2B)cu\d+", line.target))


def by_build(line: Line) -> bool:
    """Whether both builds of the package have its one name, as torch's do."""
    family = families.family(line.name) if line.name else None
    return line.kind == "requirement" and family is not None and family.by_build and line.requirement is not None


def cpu_index(lines: list[Line]) -> bool:
    """Whether an index of CPU builds is named."""
    return any(line.kind == "option" and "download.pytorch.org/whl/cpu" in line.target for line in lines)


def make(lines: list[Line], title: str, source: Path, out: Path) -> Split:
    """Split ``lines`` of the file ``source`` for the folder ``out``; ``title`` names the source in the headers."""
    base: list[str] = []
    gpu: list[str] = []
    moved: list[str] = []
    said: list[str] = []
    torch: list[str] = []
    for comments, line in _blocks(lines):
        text = "\n".join([*comments, line.text] if line.kind != "blank" else [*comments, ""])
        if line.kind == "requirement" and is_gpu(line):
            gpu.append(text)
            moved.append(line.name or line.target)
        elif line.kind == "option" and _CUDA_INDEX.search(line.target):
            gpu.append(text)
        elif by_build(line):
            base.append(_without_local(text, line))
            torch += _gpu_build(line, said)
            moved.append(line.name)
        else:
            base.append(_moved_path(text, line, source, out))
    has_torch = any(by_build(line) for line in lines)
    index = [f"--extra-index-url {CPU_INDEX}"] if has_torch and not cpu_index(lines) else []
    head = [f"# For a box without a GPU. Made from {title} by env.split: change that, then run it again."]
    tail = ["# For an NVIDIA GPU, as in Colab: base.txt and what only runs there. Made by env.split.", "-r base.txt"]
    return Split(_text([*head, *index, *base]), _text([*tail, *torch, *gpu]), tuple(moved), tuple(said))


def from_records(records: list[Record], root: Path) -> list[Line]:
    """The lines of an environment, as a freeze gives them; a source below ``root`` relative to that."""
    lines: list[str] = []
    for record in sorted(records, key=lambda record: record.key):
        if record.editable:
            inside = Path(record.editable).is_relative_to(root)
            lines.append(f"-e {os.path.relpath(record.editable, root) if inside else record.editable}")
        elif record.key not in _UNLISTED:
            family = families.family(record.name)
            version = families.public(record.version) if family and family.by_build else record.version
            lines.append(f"{record.name}=={version}")
    return parse("\n".join([*dict.fromkeys(lines), ""]))


def diff(path: Path, text: str) -> str:
    """What changes in ``path`` when it becomes ``text``, as a unified diff; "" when nothing does or it is new."""
    try:
        before = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    name = f"{path.parent.name}/{path.name}"
    changes = difflib.unified_diff(before.splitlines(), text.splitlines(), name, f"{name} (new)", lineterm="", n=1)
    return "\n".join(changes)


def _blocks(lines: list[Line]) -> list[tuple[list[str], Line]]:
    """Each line with the comments that stand right above it, which go where it goes."""
    blocks: list[tuple[list[str], Line]] = []
    comments: list[str] = []
    for line in lines:
        if line.kind == "comment":
            comments.append(line.text)
            continue
        blocks.append((comments, line))
        comments = []
    if comments:
        blocks.append((comments[:-1], Line(0, comments[-1], "comment")))
    return blocks


def _without_local(text: str, line: Line) -> str:
    """ "torch==2.9.1+cu128" for base.txt: the index decides which build of 2.9.1 it is."""
    local = line.pin.partition("+")[2]
    return text.replace(f"+{local}", "", 1) if local else text


def _gpu_build(line: Line, said: list[str]) -> list[str]:
    """The line of gpu.txt that keeps the CPU build out, with the same markers and hashes."""
    requirement, version = line.requirement, families.public(line.pin)
    assert requirement is not None  # by_build said so
    if not version:
        said.append(f"{line.name} is not pinned to a version, so gpu.txt can't exclude its CPU build: pin it with ==.")
        return []
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    cuda = families.cuda_local(line.pin)
    pinned = f"=={line.pin}" if cuda else f"=={version},!={version}+cpu"
    marker = f" ; {requirement.marker}" if requirement.marker else ""
    hashes = re.findall(r"--hash[= ]\S+", line.text)
    if hashes:
        said.append(f"The hashes of {line.name} are of one build: add those of the other to its line.")
    return [" \\\n    ".join([f"{requirement.name}{extras}{pinned}{marker}", *hashes])]


def _moved_path(text: str, line: Line, source: Path, out: Path) -> str:
    """An include's path is relative to the file it stands in; that file is now another."""
    relative = line.kind in ("include", "constraint") and not re.match(r"^(/|[a-z]+://)", line.target)
    if not relative or source.parent == out:
        return text
    target = os.path.relpath(source.parent / line.target, out)
    return text.replace(line.target, target, 1)


def _text(blocks: list[str]) -> str:
    return "\n".join(blocks).rstrip("\n") + "\n"
