"""Who needs whom, and the CUDA audit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from services.context import Context
from services.errors import BadInput
from services.storage.packages import cuda, families
from services.storage.packages.actions import CudaParams, WhyParams, audit, why
from services.storage.packages.graph import Graph
from services.storage.packages.records import Record, normal
from services.storage.packages.types import CudaAudit, CudaFinding


def record(name: str, *requires: str, extras: tuple[str, ...] = (), requested: bool = False) -> Record:
    return Record(
        name, "1.0", "/nowhere", f"{name}-1.0.dist-info", requires=requires, extras=extras, requested=requested,
        key=normal(name),
    )  # fmt: skip


def needed_by(name: str, *records: Record, python: str = "3.11.7") -> tuple[str, ...]:
    graph = Graph(list(records), python)
    index = graph.index_of(name)
    assert index is not None
    return graph.needed_by(index)


@pytest.mark.parametrize(
    ("marker", "python", "holds"),
    [
        ('python_version < "3.12"', "3.11.7", True),
        ('python_version < "3.12"', "3.13.0", False),
        ('python_full_version >= "3.11.5"', "3.11", False),
        ('sys_platform == "no-such"', "3.11", False),
        ('platform_python_implementation == "CPython"', "3.9", True),
    ],
)
def test_markers_are_those_of_the_environment_s_python(marker: str, python: str, holds: bool) -> None:
    names = needed_by("b", record("a", f"b>=1; {marker}"), record("b"), python=python)
    assert names == (("a",) if holds else ())


def test_names_are_compared_as_indexes_do() -> None:
    assert needed_by("Flit.Core", record("a", "flit_core"), record("flit-core")) == ("a",)


def test_an_extra_counts_when_someone_asks_for_it() -> None:
    a, b = record("a", "b[fast]"), record("b", 'c; extra == "fast"', 'd; extra == "slow"', extras=("fast", "slow"))
    assert needed_by("c", a, b, record("c"), record("d")) == ("b",)
    assert needed_by("d", a, b, record("c"), record("d")) == ("b[slow]",)  # all that it brings is installed


def test_an_extra_of_which_something_is_missing_does_not_count() -> None:
    b = record("b", 'c; extra == "all"', 'gone; extra == "all"', extras=("all",))
    assert needed_by("c", b, record("c")) == ()


def test_what_is_brought_along_is_not_what_others_need_or_what_was_asked_for() -> None:
    records = [
        record("top", "one", "two", "asked"), record("one", "deep"), record("two"), record("deep", "one"),
        record("asked", requested=True), record("other", "two"),
    ]  # fmt: skip
    graph = Graph(records, "3.11")
    assert [records[i].name for i in graph.brought([0])] == ["one", "deep"]  # they need each other


def test_a_circle_ends() -> None:
    graph = Graph([record("a", "b"), record("b", "c"), record("c", "a")], "3.11")
    assert [(need.depth, need.name) for need in graph.tree(0)] == [(1, "c"), (2, "b"), (3, "a")]


async def test_why_shows_the_whole_tree_of_a_real_environment(ctx: Context, venv: Path) -> None:
    found = await why(ctx, WhyParams("nvidia-cublas-cu12", str(venv)))
    assert [(n.depth, n.name) for n in found.needed] == [
        (1, "nvidia-cudnn-cu12"), (2, "torch"), (3, "bitsandbytes"), (3, "trainer"), (1, "torch"),
    ]  # fmt: skip
    assert found.needed[-1].again and found.needed[0].requirement == "nvidia-cublas-cu12"
    assert not found.requested


async def test_why_says_what_a_package_alone_brings(ctx: Context, venv: Path) -> None:
    found = await why(ctx, WhyParams("trainer", str(venv)))
    assert [b.name for b in found.brought] == ["rates"]  # torch was asked for by name
    assert found.freed_bytes == found.bytes + found.brought[0].bytes
    assert found.sentence == "Nobody needs trainer; it was asked for by name."


async def test_a_package_that_is_not_there_is_named_with_the_nearest(ctx: Context, venv: Path) -> None:
    with pytest.raises(BadInput, match="did you mean 'triton'"):
        await why(ctx, WhyParams("tritton", str(venv)))


def finding(result: CudaAudit, name: str) -> CudaFinding:
    return next(f for f in result.findings if f.name == name)


async def test_the_audit_names_cost_use_and_step_of_each(ctx: Context, venv: Path) -> None:
    result = await audit(ctx, CudaParams(str(venv)))
    names = {f.name for f in result.findings}
    assert names == {
        "torch", "triton", "bitsandbytes", "nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-nccl-cu12",
    }  # fmt: skip
    torch = finding(result, "torch")
    assert (torch.step, torch.replacement, torch.cuda) == ("swap", "torch==2.9.1+cpu", "12.8")
    assert finding(result, "nvidia-nccl-cu12").needed_by == ("boosted",)
    assert finding(result, "nvidia-cublas-cu12").cuda == "12"
    assert "4bit" in finding(result, "bitsandbytes").breaks
    assert result.total_bytes == sum(f.bytes for f in result.findings) == result.environments[0].cuda_bytes
    assert result.freed_bytes == result.total_bytes  # the file that two of them share goes too
    assert result.complete and not result.unfinished


async def test_the_cpu_build_is_no_finding(ctx: Context, venv: Path) -> None:
    version = next((venv / "lib").glob("python3*/site-packages/torch/version.py"))
    version.write_text("__version__ = '2.9.1+cpu'\ncuda = None\n")
    (version.parent / "lib/libtorch_cuda.so").unlink()
    record_file = next((venv / "lib").glob("python3*/site-packages/torch-2.9.1.dist-info/RECORD"))
    record_file.write_text(re.sub(r"torch/lib/libtorch_cuda.*\n", "", record_file.read_text()))
    result = await audit(ctx, CudaParams(str(venv)))
    assert "torch" not in {f.name for f in result.findings}


async def test_the_cuda_library_tells_a_build_whose_version_file_does_not(ctx: Context, venv: Path) -> None:
    next((venv / "lib").glob("python3*/site-packages/torch/version.py")).unlink()
    assert finding(await audit(ctx, CudaParams(str(venv))), "torch").cuda == ""


@pytest.mark.parametrize("left", ["proc/driver/nvidia/version", "dev/nvidia0", "dev/dxg"])
def test_a_gpu_is_told_by_what_its_driver_leaves(tmp_path: Path, left: str) -> None:
    assert cuda.gpu(tmp_path)[0] is False
    (tmp_path / left).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / left).touch()
    assert cuda.gpu(tmp_path) == (True, f"This box has an NVIDIA GPU or its driver (/{left}).")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("nvidia-cublas-cu12", "remove"), ("nvidia_nccl_cu13", "remove"), ("cuda-toolkit", "remove"),
        ("Flash_Attn", "remove"), ("jax-cuda12-plugin", "remove"), ("cupy-cuda12x", "remove"), ("vllm", "remove"),
        ("tensorrt-cu12-libs", "remove"), ("onnxruntime-gpu", "swap"), ("torchvision", "swap"), ("cudf-cu12", "remove"),
        ("nvidia-ml-py", "keep"), ("torchmetrics", None), ("tritonclient", None), ("jax", None), ("onnxruntime", None),
        ("numpy", None), ("cudatext", None), ("transformers", None), ("sentence-transformers", None),
    ],
)  # fmt: skip
def test_the_table_knows_packages_for_gpus_and_leaves_others_alone(name: str, step: str | None) -> None:
    family = families.family(name)
    assert (family.step if family else None) == step


@pytest.mark.parametrize(
    ("version", "found"),
    [
        ("2.9.1+cu128", "12.8"),
        ("2.13.0+cu130", "13.0"),
        ("1.13.1+cu117.with", "11.7"),
        ("2.9.1+cpu", ""),
        ("2.9.1", ""),
    ],
)
def test_a_local_version_tells_the_cuda_version(version: str, found: str) -> None:
    assert families.cuda_local(version) == found
