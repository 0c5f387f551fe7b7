"""What the package services return. Sizes are bytes on disk (allocated blocks); a file with two names counts once.

Paths are text as ``services.storage.paths.shown`` writes them; an environment is named by its folder (``sys.prefix``).
"""

from __future__ import annotations

from typing import Literal

import msgspec

EnvironmentKind = Literal["this", "venv", "uv", "conda", "pipx", "uv-tool", "python", "user"]
"""this: the one this program runs in. uv: a virtual environment that uv made. python: an interpreter's own packages
(the system's, pyenv's, …). user: ``pip install --user``."""

Step = Literal["swap", "remove", "keep"]


class Environment(msgspec.Struct, frozen=True):
    """A Python environment of this box. ``bytes`` is all that its package folders (``folders``) hold.

    ``cuda_bytes`` is what its packages for NVIDIA GPUs take. ``python`` is its version ("3.11.7"; "3.11" where only
    that is known). ``problem`` says what could not be read, "" if nothing.
    """

    path: str
    kind: EnvironmentKind
    python: str
    bytes: int
    distributions: int
    cuda_bytes: int
    folders: tuple[str, ...] = ()
    problem: str = ""


class Distribution(msgspec.Struct, frozen=True):
    """An installed distribution, by its RECORD: ``bytes`` it takes, its compiled files included.

    ``freed_bytes`` is what deleting it alone would give back: a file counts if no other name of it remains elsewhere
    (uv links its files from its cache) and no other distribution claims it. ``needed_by`` names who requires it here;
    "name[extra]" requires it for an extra of its. ``editable`` is the folder of its source, which is not counted, "" if
    it is no editable install. ``missing_files`` are in its RECORD and not on disk; ``shared_files`` are claimed by
    another distribution too and counted with the first by name. ``problem`` is one sentence, "" if none.
    """

    name: str
    version: str
    environment: str
    bytes: int
    freed_bytes: int
    files: int
    installer: str
    editable: str
    cuda: bool
    needed_by: tuple[str, ...]
    problem: str = ""
    missing_files: int = 0
    shared_files: int = 0
    requested: bool = False


class Orphan(msgspec.Struct, frozen=True):
    """Files in a package folder that no distribution claims, below one name of that folder (``path``)."""

    path: str
    bytes: int
    files: int


class PackageList(msgspec.Struct, frozen=True):
    """The distributions of ``environments``, largest first; the ``top`` asked for, sums are of all.

    ``total_bytes`` is the sum over all package folders = that of all distributions − ``outside_bytes`` (their scripts
    and data outside of the package folders) + ``orphan_bytes`` + ``folder_bytes`` (folders that hold files of several).
    ``linked_bytes`` would not come free by deleting the packages since the files have other names elsewhere.
    """

    environments: tuple[Environment, ...]
    distributions: tuple[Distribution, ...]
    distributions_bytes: int
    orphan_bytes: int
    folder_bytes: int
    outside_bytes: int
    linked_bytes: int
    total_bytes: int
    seconds: float
    complete: bool
    orphans: tuple[Orphan, ...] = ()
    sentences: tuple[str, ...] = ()


class Environments(msgspec.Struct, frozen=True):
    """Every environment found on this box, largest first."""

    environments: tuple[Environment, ...]
    total_bytes: int
    seconds: float
    complete: bool


class Need(msgspec.Struct, frozen=True):
    """One line of the tree of who needs a package, in the order of a walk; ``depth`` 1 needs the package itself.

    ``requirement`` is what it asks for, as its metadata says. ``extra``: needed only for that extra ("" if always).
    ``again``: this package's own part of the tree was shown above already.
    """

    depth: int
    name: str
    version: str
    requirement: str
    extra: str = ""
    again: bool = False


class Brought(msgspec.Struct, frozen=True):
    """A package that is here only because of another: nobody else needs it and nobody asked for it by name."""

    name: str
    version: str
    bytes: int
    freed_bytes: int


class Why(msgspec.Struct, frozen=True):
    """Who needs a package (``needed``) and what it alone brings along (``brought``).

    ``freed_bytes`` is what the package and all it brings would give back together.
    """

    name: str
    version: str
    environment: str
    bytes: int
    freed_bytes: int
    requested: bool
    sentence: str
    needed: tuple[Need, ...] = ()
    brought: tuple[Brought, ...] = ()


class CudaFinding(msgspec.Struct, frozen=True):
    """A package for NVIDIA GPUs. ``step`` is what to do without such a GPU: swap it for ``replacement``, remove, keep.

    ``cuda`` is the CUDA version it was built for ("13.0", "" if unknown). ``breaks`` says what no longer works without
    it, "" if nothing; ``reason`` why the step is this one.
    """

    environment: str
    name: str
    version: str
    bytes: int
    freed_bytes: int
    step: Step
    replacement: str = ""
    cuda: str = ""
    needed_by: tuple[str, ...] = ()
    breaks: str = ""
    reason: str = ""


class CudaAudit(msgspec.Struct, frozen=True):
    """What packages for NVIDIA GPUs cost, in all environments (``environments``: those that have any).

    ``gpu`` says whether this box has such a GPU and how that was told; ``has_gpu`` is the short form. ``total_bytes``
    is what they take, ``freed_bytes`` what removing them would give back before any CPU build is installed.
    ``unfinished`` are environments in which a swap was interrupted: packages.restore undoes it.
    """

    gpu: str
    environments: tuple[Environment, ...]
    findings: tuple[CudaFinding, ...]
    total_bytes: int
    sentences: tuple[str, ...]
    has_gpu: bool = False
    freed_bytes: int = 0
    seconds: float = 0.0
    complete: bool = True
    unfinished: tuple[str, ...] = ()


class HeldPackage(msgspec.Struct, frozen=True):
    """A package for GPUs that the swap leaves where it is, and why, in a sentence."""

    name: str
    reason: str


class SwapPlan(msgspec.Struct, frozen=True):
    """What packages.swap would do in ``environment``: what ``--dry-run`` gives.

    ``uninstall`` are "name==version"; ``install`` the requirements of the CPU builds; ``breaks`` one sentence each.
    ``bytes`` is what the uninstalled take, ``freed_bytes`` what comes free, before the CPU builds are installed.
    ``tool`` is what installs: "pip" or "uv". ``checks`` are the modules that must still import afterwards.
    """

    environment: str
    tool: str
    uninstall: tuple[str, ...]
    install: tuple[str, ...]
    breaks: tuple[str, ...]
    held: tuple[HeldPackage, ...]
    bytes: int
    freed_bytes: int
    checks: tuple[str, ...] = ()
    unfinished: str = ""


class Swapped(msgspec.Struct, frozen=True):
    """What packages.swap did. ``freed_bytes`` is the package folders' before less their after; ``disk_freed_bytes`` the
    true difference of the disk's free bytes. ``verified`` are the modules imported afterwards, with their versions.
    """

    environment: str
    removed: tuple[str, ...]
    installed: tuple[str, ...]
    held: tuple[HeldPackage, ...]
    before_bytes: int
    after_bytes: int
    freed_bytes: int
    disk_freed_bytes: int
    verified: tuple[str, ...]
    freeze: str
    log: str
    seconds: float
    sentences: tuple[str, ...] = ()


class SwapRestored(msgspec.Struct, frozen=True):
    """What packages.restore did: "restored" an interrupted swap, or "finished" one that only had to be tidied up."""

    environment: str
    what: Literal["restored", "finished"]
    files: int
    bytes: int
    sentence: str


class SplitFile(msgspec.Struct, frozen=True):
    """A requirements file that env.split wrote, or found as it should be."""

    path: str
    requirements: int
    state: Literal["new", "changed", "unchanged"]


class SplitResult(msgspec.Struct, frozen=True):
    """base.txt (CPU) and gpu.txt made from ``source``. ``gpu`` are the requirements that went to gpu.txt.

    ``diff`` is what changes in files that exist; ``sentences`` what a person should know.
    """

    source: str
    files: tuple[SplitFile, ...]
    gpu: tuple[str, ...]
    diff: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


class LineProblem(msgspec.Struct, frozen=True):
    """What is wrong in a requirements file; ``line`` counts from 1, 0 when it is the file as a whole."""

    file: str
    line: int
    text: str
    problem: str


class EnvCheck(msgspec.Struct, frozen=True):
    """Whether base.txt is free of GPU packages and agrees with gpu.txt."""

    folder: str
    ok: bool
    base: int
    gpu: int
    problems: tuple[LineProblem, ...]
