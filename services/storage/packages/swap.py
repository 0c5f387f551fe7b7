"""The plan of a swap: which packages for GPUs go, which CPU builds come, what breaks, what is left and why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from services.errors import Refused
from services.storage import paths
from services.storage.packages import cuda, families, holding, installer
from services.storage.packages.graph import Graph
from services.storage.packages.installer import Tool
from services.storage.packages.records import Record, normal
from services.storage.packages.sizes import Measured
from services.storage.packages.types import HeldPackage, SwapPlan

MAX_CHECKS = 12
"""Packages that need torch whose import is tried before and after."""


@dataclass(frozen=True)
class Swap:
    """A plan with what its execution needs: the indices in ``measured`` that go, and the tool."""

    measured: Measured
    graph: Graph
    gone: tuple[int, ...]
    tool: Tool | None
    plan: SwapPlan

    def files(self) -> list[str]:
        """What goes, relative to the environment: not what a package that stays claims too."""
        prefix, gone = self.measured.place.path + "/", set(self.gone)
        found = [
            path
            for index in self.gone
            for path, _ in self.measured.owned[index]
            if self.measured.claimed_again.get(path, gone) <= gone
        ]
        outside = [path for path in found if not path.startswith(prefix)]
        if outside:
            raise Refused(
                f"{paths.shown(outside[0])} lies outside of {paths.shown(prefix)}: the swap would touch what is not "
                "its own.",
                hint="Uninstall that package by the tool that installed it.",
            )
        relative = [path.removeprefix(prefix) for path in found]
        if any(paths.shown(path) != path for path in relative):
            raise Refused("A file of these packages has a name that is not UTF-8.", hint="Uninstall them with pip.")
        return relative


def make(measured: Measured) -> Swap:
    """The plan for one environment. Raises Refused where neither pip nor uv is to be had."""
    graph = Graph(measured.records, measured.place.python)
    found = {index: record for index, record in enumerate(measured.records) if cuda.is_cuda(record)}
    gone, held = _without_needed(graph, found)
    install = tuple(filter(None, (cuda.replacement(found[index]) for index in sorted(gone))))
    gone |= {i for requirement in install if (i := graph.index_of(requirement.partition("==")[0])) is not None}
    torch = graph.index_of("torch")
    by = measured.records[torch].installer if torch is not None else ""
    tool = installer.choose(measured.place, measured.records, by) if install else None
    order = sorted(gone, key=lambda index: -measured.bytes[index])
    plan = SwapPlan(
        environment=paths.shown(measured.place.path),
        tool=tool.name if tool else "",
        uninstall=tuple(measured.records[index].pinned for index in order),
        install=install,
        breaks=tuple(_breaks(graph, gone, install)),
        held=tuple(held),
        bytes=sum(measured.bytes[index] for index in gone),
        freed_bytes=measured.freed(gone),
        checks=tuple(_checks(graph, gone, install)),
        unfinished=str(Path(measured.place.path, holding.FOLDER)) if holding.unfinished(measured.place.path) else "",
    )
    return Swap(measured, graph, tuple(order), tool, plan)


def refuse_unfit(swap: Swap, *, force: bool) -> None:
    """Raises Refused where a swap must not be done: a GPU is here, the system's own packages, conda's, files in use."""
    place, records = swap.measured.place, swap.measured.records
    shown = paths.shown(place.path)
    has_gpu, told = cuda.gpu()
    if has_gpu and not force:
        raise Refused(f"{told} Its packages are of use here.", hint="force=true swaps them all the same.")
    if place.managed or not place.interpreter:
        raise Refused(
            f"{shown} is looked after by the operating system, or has no Python of its own.",
            hint="Swap in a virtual environment; here: pip uninstall, by hand.",
        )
    if of_conda := [records[i].name for i in swap.gone if records[i].installer == "conda"]:
        raise Refused(
            f"{', '.join(of_conda)} in {shown} came by conda, which must also take them away.",
            hint=f"conda install -p {shown} pytorch cpuonly -c pytorch",
        )
    if not os.access(place.path, os.W_OK) or not all(os.access(folder, os.W_OK) for folder in place.folders):
        raise Refused(f"{shown} may not be written.", hint="Call it as the environment's owner.")
    if users := in_use(place.path, swap.files()):
        raise Refused(f"{', '.join(users)} use{'s' * (len(users) == 1)} these packages now.", hint="End it first.")


def in_use(prefix: str, files: list[str]) -> list[str]:
    """Processes that have one of ``files`` mapped, as "name (pid)"; by /proc, so none elsewhere than on Linux."""
    libraries = {f"{prefix}/{path}" for path in files if ".so" in path}
    users: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            lines = (process / "maps").read_text(errors="surrogateescape").splitlines()
            if any(line.partition("/")[1] and "/" + line.partition("/")[2] in libraries for line in lines):
                users.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
        except OSError:
            continue
    return users


def freeze(records: list[Record]) -> str:
    """The environment as a requirements file, for a person to put it back by hand."""
    lines = [f"-e {record.editable}" if record.editable else record.pinned for record in records]
    return "\n".join([*lines, ""])


def unmet(swap: Swap, staged: list[Record]) -> list[str]:
    """Requirements of the staged CPU builds that the environment would not meet."""
    gone = set(swap.gone)
    staying = [record for index, record in enumerate(swap.measured.records) if index not in gone]
    return Graph([*staying, *staged], swap.measured.place.python).missing(staged)


def _without_needed(graph: Graph, found: dict[int, Record]) -> tuple[set[int], list[HeldPackage]]:
    """Which of ``found`` can go. A package stays when one that stays needs it and no build of the same name comes."""
    gone, held = set(found), []
    changed = True
    while changed:
        changed = False
        for index in sorted(gone):
            family = families.family(found[index].name)
            if family is not None and family.by_build:
                continue
            needed = sorted(graph.records[s].name for s in graph.sources(index, always=True) - gone)
            if needed:
                gone.discard(index)
                held.append(HeldPackage(found[index].name, f"{', '.join(needed)} needs it."))
                changed = True
    return gone, held


def _breaks(graph: Graph, gone: set[int], install: tuple[str, ...]) -> list[str]:
    coming = {normal(r.partition("==")[0]): r.partition("==")[2] for r in install}
    changed = {graph.records[i].key: coming.get(graph.records[i].key, "") for i in gone}
    said: dict[str, list[str]] = {}
    for index in sorted(gone):
        family = families.family(graph.records[index].name)
        if family is not None and family.breaks:
            said.setdefault(family.breaks, []).append(graph.records[index].name)
    lines = [f"{', '.join(names)}: {words}" for words, names in said.items()]
    for index in sorted(graph.dependents(gone) - gone):
        for requirement in graph.unmet(index, changed):
            lines.append(f"{graph.records[index].name} asks for {requirement}, which would no longer be met.")
    for index in sorted(gone):
        extras = [w for w in graph.needed_by(index) if w.endswith("]") and normal(w.partition("[")[0]) not in changed]
        if extras and not coming.get(graph.records[index].key):
            lines.append(f"{', '.join(extras)} would lose {graph.records[index].name}.")
    return lines


def _checks(graph: Graph, gone: set[int], install: tuple[str, ...]) -> list[str]:
    """Modules whose import is tried: the CPU builds' own, then those of packages that need what goes."""
    own = [graph.records[i] for r in install if (i := graph.index_of(r.partition("==")[0])) is not None]
    dependents = sorted(graph.dependents(gone) - gone)[:MAX_CHECKS]
    return list(dict.fromkeys(m for r in (*own, *(graph.records[i] for i in dependents)) for m in _modules(r)))


def _modules(record: Record) -> list[str]:
    """The module to import for a distribution: the one of its own name, or else the first package it brings."""
    tops = [path.partition("/")[0] for path in record.files if path.count("/") == 1 and path.endswith("/__init__.py")]
    tops = [top for top in tops if top.isidentifier() and not top.startswith("_")]
    same = [top for top in tops if normal(top) == record.key]
    return (same or tops)[:1]
