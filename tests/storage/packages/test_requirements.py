"""env.split and env.check, with pip as the judge of what the two files mean."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.context import Context, NeedsYes
from services.errors import BadInput, CheckFailed, Refused
from services.storage.packages import requirements, split
from services.storage.packages.splitting import CheckParams, SplitParams, check_requirements, split_requirements
from services.storage.packages.types import EnvCheck, SplitResult

SOURCE = """\
# What the assistant needs.

# pinned for reproducibility
torch==2.9.1  # the model stack
trainer>=1
bitsandbytes>=0.45 ; python_version >= "3"
# attention, on Ampere and newer
flash-attn==2.8.3 \\
    --hash=sha256:aaaa
rates
"""


def files(ctx: Context, folder: str = "requirements") -> tuple[str, str]:
    return tuple((ctx.workspace.root / folder / name).read_text() for name in ("base.txt", "gpu.txt"))  # type: ignore[return-value]


async def split_text(ctx: Context, text: str) -> SplitResult:
    (ctx.workspace.root / "requirements.txt").write_text(text)
    return await split_requirements(ctx, SplitParams())


async def test_gpu_packages_go_to_gpu_with_their_comments_markers_and_hashes(ctx: Context) -> None:
    result = await split_text(ctx, SOURCE)
    base, gpu = files(ctx)
    assert base.splitlines()[1:] == [
        "--extra-index-url https://download.pytorch.org/whl/cpu",
        "# What the assistant needs.", "", "# pinned for reproducibility", "torch==2.9.1  # the model stack",
        "trainer>=1", "rates",
    ]  # fmt: skip
    assert gpu.splitlines()[1:] == [
        "-r base.txt", "torch==2.9.1,!=2.9.1+cpu", 'bitsandbytes>=0.45 ; python_version >= "3"',
        "# attention, on Ampere and newer", "flash-attn==2.8.3 \\", "    --hash=sha256:aaaa",
    ]  # fmt: skip
    assert result.gpu == ("torch", "bitsandbytes", "flash-attn")
    assert [f.state for f in result.files] == ["new", "new"]


async def test_the_same_again_changes_nothing_and_asks_nothing(ctx: Context) -> None:
    await split_text(ctx, SOURCE)
    before = files(ctx)
    again = await split_requirements(ctx, SplitParams())
    assert [f.state for f in again.files] == ["unchanged", "unchanged"] and again.diff == ()
    assert files(ctx) == before


async def test_a_changed_file_is_overwritten_only_after_a_yes_that_saw_the_diff(ctx: Context) -> None:
    await split_text(ctx, SOURCE)
    base = ctx.workspace.root / "requirements/base.txt"
    base.write_text(base.read_text() + "mine\n")
    with pytest.raises(NeedsYes) as asked:
        await split_requirements(ctx, SplitParams())
    assert "-mine" in "\n".join(asked.value.plan.steps)
    with pytest.raises(Refused, match="read-only"):
        await split_requirements(dataclasses.replace(ctx, read_only=True, yes=True), SplitParams())
    shown = await split_requirements(dataclasses.replace(ctx, dry_run=True), SplitParams())
    assert "-mine" in shown.diff[0] and "mine" in base.read_text()
    await split_requirements(dataclasses.replace(ctx, yes=True), SplitParams())
    assert "mine" not in base.read_text()


async def test_pip_takes_the_cpu_build_from_base_and_the_cuda_build_from_gpu(ctx: Context, venv_with_pip: Path) -> None:
    """The fake torch's two builds lie side by side, as on PyTorch's index and PyPI together."""
    await split_text(ctx, "torch==2.9.1\ntrainer\nbitsandbytes\n")
    assert builds(venv_with_pip, ctx.workspace.root / "requirements/base.txt") >= {"torch 2.9.1+cpu", "trainer 1.2"}
    gpu = builds(venv_with_pip, ctx.workspace.root / "requirements/gpu.txt")
    assert gpu >= {"torch 2.9.1", "trainer 1.2", "bitsandbytes 0.48", "triton 3.5.1"}


def builds(venv: Path, file: Path) -> set[str]:
    report = file.with_suffix(".json")
    command = [venv / "bin/python", "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed"]
    subprocess.run([*command, "--report", report, "-r", file], check=True, capture_output=True)
    found = json.loads(report.read_text())["install"]
    return {f"{one['metadata']['name']} {one['metadata']['version']}" for one in found}


async def test_the_environment_is_a_source_too(ctx: Context, venv: Path) -> None:
    await split_requirements(ctx, SplitParams(source="environment", env=str(venv)))
    base, gpu = files(ctx)
    assert "\ntorch==2.9.1\n" in base and "\ntrainer==1.2\n" in base and "pip==" not in base
    assert {"triton==3.5.1", "bitsandbytes==0.48", "torch==2.9.1,!=2.9.1+cpu"} <= set(gpu.splitlines())


async def test_a_cuda_build_asked_for_stays_in_gpu_and_its_index_goes_there(ctx: Context) -> None:
    await split_text(ctx, "--extra-index-url https://download.pytorch.org/whl/cu128\ntorch[opt]==2.9.1+cu128\n")
    base, gpu = files(ctx)
    assert "torch[opt]==2.9.1\n" in base and "cu128" not in base
    assert "torch[opt]==2.9.1+cu128\n" in gpu and "whl/cu128\n" in gpu


async def test_includes_keep_pointing_to_the_same_file(ctx: Context) -> None:
    (ctx.workspace.root / "more.txt").write_text("rich\n")
    await split_text(ctx, "-r more.txt\nrates\n")
    assert "-r ../more.txt\n" in files(ctx)[0]
    assert (await check_requirements(ctx, CheckParams())).ok


async def test_an_unpinned_torch_and_hashes_of_it_are_spoken_of(ctx: Context) -> None:
    assert "not pinned" in (await split_text(ctx, "torch>=2\n")).sentences[0]
    ctx = dataclasses.replace(ctx, yes=True)
    assert "hashes of torch" in (await split_text(ctx, "torch==2.9.1 --hash=sha256:ab\n")).sentences[0]
    assert "torch==2.9.1,!=2.9.1+cpu \\\n    --hash=sha256:ab\n" in files(ctx)[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [("rich\nnot a requirement!\n", "line 2 can't be read"), ("--no-such-option\n", "line 1 can't be read")],
)
async def test_a_line_that_can_not_be_read_is_named_and_nothing_is_written(ctx: Context, text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        await split_text(ctx, text)
    assert not (ctx.workspace.root / "requirements").exists()


async def test_what_it_writes_is_no_source_and_a_missing_or_strange_file_is_named(ctx: Context) -> None:
    await split_text(ctx, SOURCE)
    with pytest.raises(BadInput, match=r"is what env\.split writes"):
        await split_requirements(ctx, SplitParams(source="requirements/base.txt"))
    with pytest.raises(BadInput, match="There is no file"):
        await split_requirements(ctx, SplitParams(source="nothing.txt"))
    (ctx.workspace.root / "bytes.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(BadInput, match="not UTF-8 text"):
        await split_requirements(ctx, SplitParams(source="bytes.txt"))


async def problems(ctx: Context, base: str, gpu: str, env: Path | None = None) -> list[tuple[str, int, str]]:
    folder = ctx.workspace.root / "requirements"
    folder.mkdir(exist_ok=True)
    (folder / "base.txt").write_text(base)
    (folder / "gpu.txt").write_text(gpu)
    try:
        result = await check_requirements(ctx, CheckParams(env=str(env or "")))
    except CheckFailed as failed:
        assert isinstance(failed.result, EnvCheck) and not failed.result.ok and failed.exit_code == 3
        return [(p.file, p.line, p.problem) for p in failed.result.problems]
    assert result.ok
    return []


INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu\n"
WHEEL = "torch-2.9.1%2Bcu128-cp311-cp311-linux_x86_64.whl"


@pytest.mark.parametrize(
    ("base", "gpu", "file", "line", "words"),
    [
        ("rich\nvllm==1.0\n", "-r base.txt\n", "base.txt", 2, "belongs in gpu.txt"),
        ("# all\n\nnvidia-cublas-cu12\n", "-r base.txt\n", "base.txt", 3, "belongs in gpu.txt"),
        ("torch==2.9.1\n", "-r base.txt\n", "base.txt", 1, "Without an index of CPU builds"),
        (INDEX + "torch==2.9.1+cu128\n", "-r base.txt\n", "base.txt", 2, "is a CUDA build"),
        (f"https://x.org/{WHEEL}\n", "-r base.txt\n", "base.txt", 1, "belongs"),
        (INDEX + "torch==2.9.1\n", "-r base.txt\ntorch==2.9.0\n", "gpu.txt", 2, "base.txt line 2 asks"),
        ("rates>=2\n", "-r base.txt\n\nrates==1.5\n", "gpu.txt", 3, "base.txt line 1 asks"),
        ("rates\nrates==1\nrates==2\n", "-r base.txt\n", "base.txt", 3, "base.txt line 2 asks"),
        ("rich\n", "bitsandbytes\n", "gpu.txt", 0, "does not include base.txt"),
        ("rich\n", "-r base.txt\nrich!!\n", "gpu.txt", 2, "It is no requirement"),
        ("rich\n-r gone.txt\n", "-r base.txt\n", "base.txt", 2, "There is no file"),
    ],
)  # fmt: skip
async def test_the_check_names_file_line_and_reason(
    ctx: Context, base: str, gpu: str, file: str, line: int, words: str
) -> None:
    found = await problems(ctx, base, gpu)
    assert len(found) == 1
    assert found[0][:2] == (file, line) and words in found[0][2]


async def test_a_gpu_package_that_a_base_package_needs_is_found_with_the_way_to_it(ctx: Context, venv: Path) -> None:
    found = await problems(ctx, "rates\nboosted\n", "-r base.txt\n", venv)
    assert found == [
        ("base.txt", 2, "It brings nvidia-nccl-cu12, of use on an NVIDIA GPU only: boosted needs nvidia-nccl-cu12.")
    ]


async def test_what_torch_needs_is_left_to_its_build(ctx: Context, venv: Path) -> None:
    assert await problems(ctx, INDEX + "torch==2.9.1\ntrainer\n", "-r base.txt\ntorch==2.9.1,!=2.9.1+cpu\n", venv) == []


async def test_a_gpu_package_in_an_included_file_is_found_there(ctx: Context) -> None:
    folder = ctx.workspace.root / "requirements"
    folder.mkdir()
    (folder / "extra.txt").write_text("\ntriton\n")
    found = await problems(ctx, "-r extra.txt\n", "-r base.txt\n")
    assert [(file, line) for file, line, _ in found] == [("extra.txt", 2)]


async def test_files_that_include_each_other_end(ctx: Context) -> None:
    assert await problems(ctx, "-r base.txt\nrich\n", "-r gpu.txt\n-r base.txt\n") == []


def test_the_command_fails_with_3_and_prints_the_whole_result(ctx: Context) -> None:
    folder = ctx.workspace.root / "requirements"
    folder.mkdir()
    (folder / "base.txt").write_text("vllm\n")
    (folder / "gpu.txt").write_text("-r base.txt\n")
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "hybrid_tui", "--workspace", ctx.workspace.root, "--run", "env.check", "--json"]
    done = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert done.returncode == 3 and "1 problem." in done.stderr
    assert json.loads(done.stdout)["problems"][0]["line"] == 1


LINES = st.sampled_from(
    ["", "# a", "  # b", "rich", "rich==15.0 # c", "torch==2.9.1", "torch>=2", "vllm", "triton ; python_version < '3'",
     "-r other.txt", "-c c.txt", "--pre", "a==1 \\\n    --hash=sha256:a \\\n    --hash=sha256:b", "-e ./here",
     "git+https://x.org/y#egg=flash-attn", "https://x.org/nvidia_cublas_cu12-1-py3-none-any.whl"]
)  # fmt: skip


@given(st.lists(LINES, max_size=8), st.booleans())
def test_no_line_is_lost_and_splitting_again_gives_the_same(lines: list[str], ended: bool) -> None:
    text = "\n".join(lines) + ("\n" if ended else "")
    parsed = requirements.parse(text)
    assert "\n".join(line.text for line in parsed).rstrip() == text.rstrip()
    there = Path("/w/requirements.txt")
    made = split.make(parsed, "requirements.txt", there, Path("/w"))
    together = made.base.splitlines() + made.gpu.splitlines()
    for line in parsed:
        assert all(part in together for part in line.text.splitlines())
    again = split.make(requirements.parse(text), "requirements.txt", there, Path("/w"))
    assert again == made
    assert not any(split.is_gpu(line) for line in requirements.parse(made.base) if line.kind == "requirement")
