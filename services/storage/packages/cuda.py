"""The CUDA audit: what packages for NVIDIA GPUs cost on a box that has none, and what could be done about each."""

from __future__ import annotations

import re
from pathlib import Path

from services import formats
from services.storage.packages import families
from services.storage.packages.graph import Graph
from services.storage.packages.records import Record
from services.storage.packages.sizes import Measured
from services.storage.packages.types import CudaFinding

_CUDA_LINE = re.compile(r"^cuda(?:\s*:[^=]+)?\s*=\s*['\"]([\d.]+)['\"]", re.MULTILINE)


def gpu(root: Path = Path("/")) -> tuple[bool, str]:
    """Whether this box has an NVIDIA GPU, and a sentence saying how that was told: by what its driver leaves in /."""
    for name in ("proc/driver/nvidia/version", "dev/nvidia0", "dev/dxg"):
        if (root / name).exists():
            return True, f"This box has an NVIDIA GPU or its driver (/{name})."
    return False, "No NVIDIA GPU: neither /proc/driver/nvidia nor /dev/nvidia0 nor /dev/dxg is here."


def is_cuda(record: Record) -> bool:
    """Whether a distribution is made for NVIDIA GPUs; for torch and its kin, whether this is their CUDA build."""
    family = families.family(record.name)
    if family is None or family.step == "keep":
        return False
    return bool(build(record)) if family.by_build else True


def build(record: Record) -> str:
    """The CUDA version a distribution was built for, "?" when it holds CUDA libraries of an unknown one, else "".

    Told by the local part of its version, by ``cuda = …`` in its version.py, or by its libtorch_cuda.so.
    """
    if found := families.cuda_local(record.version):
        return found
    family = families.family(record.name)
    if family is None or not family.by_build:
        match = re.search(r"(?:cu|cuda-?)(\d\d)(?:\d|x)?(?:-|$)", record.key)
        return match[1] if match else ""
    if re.search(r"\+(cpu|rocm|xpu)", record.version):
        return ""
    try:
        text = Path(record.folder, record.key, "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    if match := _CUDA_LINE.search(text):
        return match[1]
    if any(path.rpartition("/")[2].startswith("libtorch_cuda") for path in record.files):
        return "?"
    return ""


def findings(measured: Measured, graph: Graph) -> list[CudaFinding]:
    """What is made for NVIDIA GPUs in one environment, largest first."""
    rows = [_finding(measured, graph, index, r) for index, r in enumerate(measured.records) if is_cuda(r)]
    return sorted(rows, key=lambda row: (-row.bytes, row.name))


def _finding(measured: Measured, graph: Graph, index: int, record: Record) -> CudaFinding:
    family = families.family(record.name)
    assert family is not None  # is_cuda said so
    return CudaFinding(
        environment=measured.place.path,
        name=record.name,
        version=record.version,
        bytes=measured.bytes[index],
        freed_bytes=measured.freed([index]),
        step=family.step,
        replacement=replacement(record),
        cuda=build(record).replace("?", ""),
        needed_by=graph.needed_by(index),
        breaks=family.breaks,
        reason=family.reason,
    )


def replacement(record: Record) -> str:
    """The requirement of the CPU build of the same version, "" when there is none."""
    family = families.family(record.name)
    if family is None or family.step != "swap":
        return ""
    if family.by_build:
        return f"{record.name}=={families.public(record.version)}+cpu"
    return f"{family.replacement}=={families.public(record.version)}"


def sentences(has_gpu: bool, rows: list[CudaFinding]) -> tuple[str, ...]:
    """The audit in words: what it costs, what to do, what it would break."""
    total = sum(row.bytes for row in rows)
    if not rows:
        return ("No package for NVIDIA GPUs was found.",)
    places = len({row.environment for row in rows})
    where = "one environment" if places == 1 else f"{places} environments"
    said = [f"{len(rows)} package{'s' * (len(rows) != 1)} for NVIDIA GPUs take {formats.size(total)} in {where}."]
    if has_gpu:
        return (*said, "This box can use them: nothing needs to be done.")
    for row in rows:
        if row.step == "swap":
            said.append(
                f"{row.name} {row.version} is a CUDA build; {row.replacement} does the same here, in {row.environment}."
            )
    freed = sum(row.freed_bytes for row in rows if row.step != "keep")
    said.append(f"Without them {formats.size(freed)} come free, less what the CPU builds take.")
    if freed < total * 0.9:
        said.append("The rest stays until a cache that links the same files (uv's) is cleaned too.")
    return (*said, "packages.swap env=PATH makes the plan of one environment (add --dry-run to see it only).")
