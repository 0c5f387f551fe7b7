"""Whether base.txt is free of packages for GPUs, directly and through what it needs, and agrees with gpu.txt."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from services.errors import BadInput
from services.storage.packages import cuda, families, requirements, split
from services.storage.packages.graph import Graph
from services.storage.packages.installer import CPU_INDEX
from services.storage.packages.requirements import Line
from services.storage.packages.types import EnvCheck, LineProblem


@dataclass
class _File:
    """A requirements file with what it includes: lines by the name of the file they stand in."""

    lines: list[tuple[str, Line]] = field(default_factory=list)
    problems: list[LineProblem] = field(default_factory=list)

    def all(self) -> list[Line]:
        return [line for _, line in self.lines]


def check(folder: Path, graph: Graph) -> EnvCheck:
    """Check ``folder``/base.txt and gpu.txt; ``graph`` is of the environment that tells what packages need.

    Raises BadInput when one of the two can't be read.
    """
    base, gpu = _read(folder / "base.txt", folder), _read(folder / "gpu.txt", folder, leave=folder / "base.txt")
    problems = [*base.problems, *gpu.problems]
    has_index = split.cpu_index(base.all())
    for name, line in base.lines:
        problems += [LineProblem(name, line.number, _short(line), words) for words in _slipped(line, has_index, graph)]
    if not any(line.kind == "include" and Path(line.target).name == "base.txt" for line in gpu.all()):
        problems.append(LineProblem("gpu.txt", 0, "", "It does not include base.txt: add the line -r base.txt"))
    problems += _disagreements(base, gpu)
    count = [sum(line.kind == "requirement" for line in file.all()) for file in (base, gpu)]
    return EnvCheck(str(folder), not problems, count[0], count[1], tuple(problems))


def _read(path: Path, folder: Path, leave: Path | None = None, seen: tuple[Path, ...] = ()) -> _File:
    """``path`` with its includes, ``leave`` excepted."""
    result = _File()
    name = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
    for line in requirements.read(path):
        result.lines.append((name, line))
        if line.kind == "bad":
            result.problems.append(LineProblem(name, line.number, _short(line), line.problem))
        if line.kind != "include" or "://" in line.target:
            continue
        target = (path.parent / line.target).resolve()
        if target == (leave and leave.resolve()) or target in seen:
            continue
        try:
            included = _read(target, folder.resolve(), leave, (*seen, path.resolve(), target))
        except BadInput as error:
            result.problems.append(LineProblem(name, line.number, _short(line), str(error)))
            continue
        result.lines += included.lines
        result.problems += included.problems
    return result


def _slipped(line: Line, has_index: bool, graph: Graph) -> list[str]:
    """Why a line of base.txt brings packages for GPUs; empty when it does not."""
    if line.kind != "requirement":
        return []
    if split.is_gpu(line):
        return [f"{line.name or line.target} is of use on an NVIDIA GPU only: it belongs in gpu.txt."]
    if split.by_build(line):
        if families.cuda_local(line.pin):
            return [f"{line.pin} is a CUDA build: leave its local version out."]
        if not has_index and not line.pin.endswith("+cpu"):
            return [f"Without an index of CPU builds this is {line.name}'s CUDA build: add --extra-index-url "
                    f"{CPU_INDEX}"]  # fmt: skip
        return []
    return _through(line, graph)


def _through(line: Line, graph: Graph) -> list[str]:
    """Packages for GPUs that an installed package of base.txt needs. What torch needs is left to its build."""
    start = graph.index_of(line.name) if line.name else None
    if start is None:
        return []
    paths: dict[int, list[str]] = {start: [line.name]}
    todo = [start]
    found: list[str] = []
    while todo:
        at = todo.pop(0)
        for target in sorted(graph.direct(at)):
            record = graph.records[target]
            family = families.family(record.name)
            if target in paths or (family is not None and family.by_build):
                continue
            paths[target] = [*paths[at], record.name]
            if cuda.is_cuda(record):
                found.append(f"It brings {record.name}, of use on an NVIDIA GPU only: {' needs '.join(paths[target])}.")
            else:
                todo.append(target)
    return found


def _disagreements(base: _File, gpu: _File) -> list[LineProblem]:
    """Packages that are in both files, or twice in one, with versions that no build can meet together."""
    problems: list[LineProblem] = []
    earlier: dict[str, list[tuple[str, Line]]] = {}
    for name, line in (*base.lines, *gpu.lines):
        if line.kind != "requirement" or line.requirement is None:
            continue
        others = earlier.setdefault(line.name, [])
        for where, before in others:
            if not _agree(before, line):
                words = f"{where} line {before.number} asks for {before.requirement}: no version meets both."
                problems.append(LineProblem(name, line.number, _short(line), words))
                break
        others.append((name, line))
    return problems


def _agree(one: Line, other: Line) -> bool:
    """Whether a version can meet both; told for certain only where one of them pins it."""
    assert one.requirement is not None and other.requirement is not None
    if one.requirement.marker and other.requirement.marker and one.requirement.marker != other.requirement.marker:
        return True  # they may never hold together
    pins = [(one.pin, other), (other.pin, one)]
    decided = [
        line.requirement.specifier.contains(pin, prereleases=True) for pin, line in pins if pin and line.requirement
    ]
    return not decided or any(decided)


def _short(line: Line) -> str:
    return line.text.splitlines()[0].strip()[:120]
