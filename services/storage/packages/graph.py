"""Who needs whom in one environment, by what the installed distributions say (Requires-Dist).

Markers are evaluated for that environment's Python, not for the one this runs in. An extra counts as in use when
someone in the environment asks for it, or when all that it would bring is installed.
"""

from __future__ import annotations

import platform
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement

from services.storage.packages.records import Record, normal
from services.storage.packages.types import Need


@dataclass(frozen=True)
class Edge:
    """``source`` (an index) needs ``target`` (an index), for ``extra`` only unless that is ""."""

    source: int
    target: int
    requirement: str
    extra: str


class Graph:
    """The requirements among ``records``; the first of several of the same name stands for it."""

    def __init__(self, records: list[Record], python: str) -> None:
        self.records = records
        self.index: dict[str, int] = {}
        for i, record in enumerate(records):
            self.index.setdefault(record.key, i)
        self._needs: dict[int, list[Edge]] = defaultdict(list)
        self._needed: dict[int, list[Edge]] = defaultdict(list)
        self._environment = marker_environment(python)
        self._read(self._environment)

    def index_of(self, name: str) -> int | None:
        """The index of the distribution called ``name``, None when it is not installed."""
        return self.index.get(normal(name))

    def needed_by(self, index: int) -> tuple[str, ...]:
        """Who requires it, as "name" or "name[extra]"."""
        words = {
            self.records[e.source].name + (f"[{e.extra}]" if e.extra else "")
            for e in self._needed[index]
            if e.source != index
        }
        return tuple(sorted(words, key=str.lower))

    def sources(self, index: int, *, always: bool = False) -> set[int]:
        """Who requires it directly; ``always``: those only that do so without an extra."""
        return {e.source for e in self._needed[index] if not (always and e.extra)} - {index}

    def direct(self, index: int) -> set[int]:
        """What it requires directly, extras in use by someone included, those only installed aside."""
        return {e.target for e in self._needs[index] if not e.extra} - {index}

    def missing(self, records: Iterable[Record]) -> list[str]:
        """Requirements of ``records`` (extras aside) that nothing in the environment meets, as "name specifier"."""
        versions = {record.key: record.version for record in self.records}
        return [
            str(requirement)
            for record in records
            for requirement in _requirements(record.requires)
            if _holds(requirement, self._environment, "")
            and not _met(str(requirement), versions.get(normal(requirement.name), ""))
        ]

    def dependents(self, roots: Iterable[int]) -> set[int]:
        """All that need one of ``roots``, directly or through others; ``roots`` themselves not counted."""
        return self._closure(set(roots), self._needed, forward=False)

    def targets(self, roots: Iterable[int]) -> set[int]:
        """All that ``roots`` need, directly or through others."""
        return self._closure(set(roots), self._needs, forward=True)

    def tree(self, index: int) -> Iterator[Need]:
        """Who needs it, who needs those, …: each one's part is shown once; beyond an extra it is not followed."""
        shown = {index}

        def walk(at: int, depth: int) -> Iterator[Need]:
            for e in sorted(self._needed[at], key=lambda e: (self.records[e.source].key, e.extra)):
                if e.source == at:
                    continue
                record, again = self.records[e.source], e.source in shown
                repeated = again and not e.extra and bool(self.sources(e.source))
                yield Need(depth, record.name, record.version, e.requirement, e.extra, repeated)
                if e.extra or again:
                    continue
                shown.add(e.source)
                if depth < 100:
                    yield from walk(e.source, depth + 1)

        yield from walk(index, 1)

    def brought(self, roots: Iterable[int]) -> list[int]:
        """What is here only because of ``roots``: nobody else needs it, nobody asked for it by name."""
        gone = set(roots)
        candidates = {i for i in self.targets(gone) - gone if not self.records[i].requested}
        candidates -= {i for i in candidates if self.records[i].key in ("pip", "setuptools", "wheel", "uv")}
        while kept := {i for i in candidates if self.sources(i) - candidates - gone}:
            candidates -= kept
        return sorted(candidates)

    def unmet(self, index: int, changed: dict[str, str]) -> list[str]:
        """Requirements of a distribution that are not met once ``changed`` holds (name → version, "" for gone)."""
        versions = {r.key: r.version for r in reversed(self.records)} | {normal(k): v for k, v in changed.items()}
        return [
            e.requirement
            for e in self._needs[index]
            if not e.extra and not _met(e.requirement, versions.get(self.records[e.target].key, ""))
        ]

    @staticmethod
    def _closure(roots: set[int], edges: dict[int, list[Edge]], *, forward: bool) -> set[int]:
        todo, found = list(roots), set(roots)
        while todo:
            for e in edges[todo.pop()]:
                other = e.target if forward else e.source
                if other not in found:
                    found.add(other)
                    todo.append(other)
        return found - roots

    def _read(self, environment: dict[str, str]) -> None:
        asked: dict[int, set[str]] = defaultdict(set)
        extras: list[tuple[Edge, set[str]]] = []
        whole: dict[tuple[int, str], bool] = {}
        for i, record in enumerate(self.records):
            for requirement in _requirements(record.requires):
                target = self.index.get(normal(requirement.name))
                if _holds(requirement, environment, ""):
                    if target is not None:
                        self._add(Edge(i, target, str(requirement), ""))
                        asked[target] |= {normal(e) for e in requirement.extras}
                    continue
                for extra in _extras_of(requirement, record.extras):
                    if _holds(requirement, environment, extra):
                        whole[i, extra] = whole.get((i, extra), True) and target is not None
                        if target is not None:
                            extras.append((Edge(i, target, str(requirement), extra), set(requirement.extras)))
        pending = extras
        while True:  # an extra in use may ask for extras of others
            used = [p for p in pending if normal(p[0].extra) in asked[p[0].source]]
            if not used:
                break
            pending = [p for p in pending if p not in used]
            for e, more in used:
                self._add(Edge(e.source, e.target, e.requirement, ""))
                asked[e.target] |= {normal(extra) for extra in more}
        for e, _ in pending:
            if whole[e.source, e.extra]:
                self._add(e)

    def _add(self, edge: Edge) -> None:
        self._needs[edge.source].append(edge)
        self._needed[edge.target].append(edge)


def marker_environment(python: str) -> dict[str, str]:
    """PEP 508 variables for an environment of Python ``python`` ("3.11" or "3.11.7") on this machine."""
    parts = python.split(".") if python else [str(n) for n in sys.version_info[:3]]
    full = ".".join(parts if len(parts) > 2 else [*parts, "0"])
    return {
        "implementation_name": "cpython",
        "implementation_version": full,
        "os_name": "posix" if sys.platform != "win32" else "nt",
        "platform_machine": platform.machine(),
        "platform_python_implementation": "CPython",
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": full,
        "python_version": ".".join(parts[:2]),
        "sys_platform": sys.platform,
    }


def _requirements(lines: Iterable[str]) -> Iterator[Requirement]:
    for line in lines:
        try:
            yield Requirement(line)
        except InvalidRequirement:  # old metadata; pip passes over it too
            continue


def _extras_of(requirement: Requirement, extras: Iterable[str]) -> list[str]:
    """Those of ``extras`` that its marker names: evaluating it for every other one is most of the work."""
    marker = normal(str(requirement.marker)) if requirement.marker else ""
    return [extra for extra in extras if normal(extra) in marker] if "extra" in marker else []


def _holds(requirement: Requirement, environment: dict[str, str], extra: str) -> bool:
    if requirement.marker is None:
        return not extra
    try:
        return requirement.marker.evaluate({**environment, "extra": extra})
    except Exception:  # a marker that compares what can't be compared: packaging raises several kinds
        return False


def _met(requirement: str, version: str) -> bool:
    parsed = Requirement(requirement)
    return bool(version) and (bool(parsed.url) or parsed.specifier.contains(version, prereleases=True))
