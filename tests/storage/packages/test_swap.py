"""packages.swap on real virtual environments: done, failed, cancelled, killed; whatever happens nothing is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.context import Context, NeedsYes, Progress
from services.errors import BadInput, HybridError, Refused
from services.storage.packages import holding
from services.storage.packages.actions import CudaParams, audit
from services.storage.packages.swapping import RestoreParams, SwapParams, restore, swap_builds
from services.storage.packages.types import Swapped, SwapPlan

Tree = Callable[[Path], dict[str, object]]
CHECKOUT = Path(__file__).parents[3]
CPU = {"torch/__init__.py": "", "torch/version.py": "cuda = None\n"}
MAP = """
import mmap, sys
file = open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print(1, flush=True)
input()
"""


@pytest.fixture
def venv(venv_with_pip: Path) -> Path:
    return venv_with_pip


@pytest.fixture
def agreed(ctx: Context) -> Context:
    return dataclasses.replace(ctx, yes=True)


start = subprocess.Popen


def run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def read(path: str) -> str:
    return Path(path).read_text()


def python(venv: Path, code: str) -> str:
    done = subprocess.run([venv / "bin/python", "-B", "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def installed(venv: Path) -> set[str]:
    found = (venv / "lib").glob("python3*/site-packages/*.dist-info")
    return {path.name.removesuffix(".dist-info").replace("_", "-").lower() for path in found}


def params(venv: Path) -> SwapParams:
    return SwapParams(str(venv), force=True)  # also where these tests run on a box with a GPU


async def test_torch_becomes_its_cpu_build_and_the_rest_goes(agreed: Context, venv: Path) -> None:
    seen: list[Progress] = []
    ctx = dataclasses.replace(agreed, report=seen.append)
    result = await swap_builds(ctx, params(venv))
    assert isinstance(result, Swapped)
    assert python(venv, "import torch, torch.version as v; print(torch.__version__, v.cuda)") == "2.9.1 None"
    have = installed(venv)
    assert "torch-2.9.1+cpu" in have and {"trainer-1.2", "boosted-3.0", "nvidia-nccl-cu12-2.27"} <= have
    assert not have & {"torch-2.9.1", "triton-3.5.1", "bitsandbytes-0.48", "nvidia-cublas-cu12-12.8.4"}
    assert [h.name for h in result.held] == ["nvidia-nccl-cu12"] and result.held[0].reason == "boosted needs it."
    assert result.freed_bytes > 800_000 and result.before_bytes - result.after_bytes == result.freed_bytes
    assert result.verified == ("torch 2.9.1", "trainer")
    freeze, log = read(result.freeze), read(result.log)
    assert "torch==2.9.1\n" in freeze and "Successfully installed" in log
    assert any(p.stage == "install" and "Successfully" in p.note for p in seen)
    assert not (venv / holding.FOLDER).exists()
    assert run(venv / "bin/python", "-m", "pip", "check").strip() == "No broken requirements found."
    again = await swap_builds(agreed, params(venv))
    assert isinstance(again, Swapped) and again.removed == () and again.sentences


async def test_the_script_of_the_new_build_runs_with_the_environment_s_python(agreed: Context, venv: Path) -> None:
    await swap_builds(agreed, params(venv))
    assert (venv / "bin/torchrun").read_text().splitlines()[0] == f"#!{venv}/bin/python"


async def test_the_plan_is_shown_and_nothing_is_touched_without_a_yes(ctx: Context, venv: Path, tree: Tree) -> None:
    before = tree(venv)
    plan = await swap_builds(dataclasses.replace(ctx, dry_run=True), params(venv))
    assert isinstance(plan, SwapPlan)
    assert set(plan.uninstall) == {
        "torch==2.9.1", "triton==3.5.1", "bitsandbytes==0.48", "nvidia-cublas-cu12==12.8.4", "nvidia-cudnn-cu12==9.1",
    }  # fmt: skip
    assert (plan.install, plan.tool, plan.checks) == (("torch==2.9.1+cpu",), "pip", ("torch", "trainer"))
    assert any("4bit" in line for line in plan.breaks)
    with pytest.raises(NeedsYes) as refused:
        await swap_builds(ctx, params(venv))
    assert refused.value.plan.freed_bytes == plan.freed_bytes > 800_000
    with pytest.raises(Refused, match="read-only"):
        await swap_builds(dataclasses.replace(ctx, read_only=True, yes=True), params(venv))
    assert tree(venv) == before


async def test_a_build_that_can_not_be_had_changes_nothing(
    agreed: Context, venv: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = tree(venv)
    monkeypatch.setenv("PIP_FIND_LINKS", str(venv))
    with pytest.raises(
        HybridError, match=r"torch==2\.9\.1\+cpu could not be had by pip: .*torch==2\.9\.1\+cpu"
    ) as failed:
        await swap_builds(agreed, params(venv))
    assert "Nothing was changed" in failed.value.hint
    assert tree(venv) == before


@pytest.mark.parametrize(
    ("files", "requires", "words"),
    [
        ({"torch/__init__.py": "raise ImportError('no libgomp')"}, [], "torch no longer imports.*no libgomp"),
        (CPU | {"torch/version.py": "cuda = '12.8'\n"}, [], "torch no longer imports.*built for CUDA"),
        (CPU, ["absent>=3"], "need absent>=3"),
        (CPU, ["rates>=2"], "need rates>=2"),
        (CPU | {"rates/__init__.py": "1/0"}, [], "trainer no longer"),
    ],
)  # fmt: skip
async def test_a_build_that_does_not_do_is_taken_back_to_the_last_byte(
    agreed: Context, venv: Path, tree: Tree, tmp_path: Path, make_wheel: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str], requires: list[str], words: str,
) -> None:  # fmt: skip
    trainer = next((venv / "lib").glob("python3*/site-packages/trainer/__init__.py"))
    trainer.write_text("import torch, rates\n")
    make_wheel(tmp_path / "bad", "torch", "2.9.1+cpu", files, requires)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "bad"))
    before = tree(venv)
    with pytest.raises(HybridError, match=words):
        await swap_builds(agreed, params(venv))
    assert tree(venv) == before
    assert python(venv, "import torch, trainer; print(torch.version.cuda)") == "12.8"


@pytest.mark.parametrize("stage", ["import before", "install", "import after"])
async def test_a_cancelled_swap_moves_everything_back(agreed: Context, venv: Path, tree: Tree, stage: str) -> None:
    before = tree(venv)
    reached = asyncio.Event()
    ctx = dataclasses.replace(agreed, report=lambda p: reached.set() if p.stage == stage else None)
    task = asyncio.create_task(swap_builds(ctx, params(venv)))
    await asyncio.wait_for(reached.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tree(venv) == before


KILLED = textwrap.dedent("""
    import asyncio, os, signal, sys
    from pathlib import Path
    from services import workspace
    from services.context import Context
    from services.storage.packages import holding, swapping
    left, real = int(sys.argv[3]), holding._move
    def move(source, target):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        real(source, target)
    holding._move = move
    ctx = Context(workspace.open_workspace(Path(sys.argv[1])), yes=True)
    asyncio.run(swapping.swap_builds(ctx, swapping.SwapParams(sys.argv[2], force=True)))
""")


def kill_at(ctx: Context, venv: Path, moves: int) -> int:
    command = [sys.executable, "-c", KILLED, ctx.workspace.root, venv, str(moves)]
    done = subprocess.run(command, cwd=CHECKOUT, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, capture_output=True)
    return done.returncode


@pytest.mark.parametrize("moves", [0, 9, 33])
async def test_a_swap_killed_at_any_move_is_undone_by_the_next_call(
    ctx: Context, venv: Path, tree: Tree, moves: int
) -> None:
    before = tree(venv)
    assert kill_at(ctx, venv, moves) == -signal.SIGKILL
    assert (moves == 0) == (without_holding(tree(venv)) == before)
    assert (await audit(ctx, CudaParams(str(venv)))).unfinished == (str(venv),)
    with pytest.raises(Refused, match=r"was interrupted") as refused:
        await swap_builds(dataclasses.replace(ctx, yes=True), params(venv))
    assert "packages.restore" in refused.value.hint
    with pytest.raises(Refused, match="read-only"):
        await restore(dataclasses.replace(ctx, read_only=True), RestoreParams(str(venv)))
    restored = await restore(ctx, RestoreParams(str(venv)))
    assert restored.what == "restored"
    assert tree(venv) == before
    with pytest.raises(Refused, match="No interrupted swap"):
        await restore(ctx, RestoreParams(str(venv)))


def without_holding(content: dict[str, object]) -> dict[str, object]:
    return {path: what for path, what in content.items() if not path.startswith(holding.FOLDER)}


async def test_an_undo_killed_half_way_is_taken_up_again(ctx: Context, venv: Path, tree: Tree) -> None:
    before = tree(venv)
    assert kill_at(ctx, venv, 30) == -signal.SIGKILL
    held = holding.Holding(str(venv))
    journal = held.read()
    assert journal is not None
    for path in journal.old[5:15]:  # what an undo killed after ten files leaves
        (venv / path).parent.mkdir(parents=True, exist_ok=True)
        (held.old / path).rename(venv / path)
    await restore(ctx, RestoreParams(str(venv)))
    assert without_holding(tree(venv)) == before


async def test_what_was_installed_since_is_not_overwritten(ctx: Context, venv: Path, tree: Tree) -> None:
    assert kill_at(ctx, venv, 30) == -signal.SIGKILL
    run(venv / "bin/python", "-m", "pip", "install", "-q", "-I", "--no-deps", "--no-compile", "torch===2.9.1")
    since = without_holding(tree(venv))
    with pytest.raises(Refused, match="put back by something else") as refused:
        await restore(ctx, RestoreParams(str(venv)))
    assert str(venv / holding.FOLDER) in refused.value.hint
    assert without_holding(tree(venv)) == since


async def test_a_proved_swap_killed_while_tidying_is_only_tidied(agreed: Context, venv: Path) -> None:
    held = holding.Holding(str(venv))
    await swap_builds(agreed, params(venv))
    (held.old / "lib").mkdir(parents=True)
    (held.old / "lib/left").write_bytes(b"x" * 5000)
    held.write(holding.Journal("committed", time.time(), ("torch==2.9.1",), ("torch==2.9.1+cpu",), ""))
    result = await restore(agreed, RestoreParams(str(venv)))
    assert (result.what, result.files) == ("finished", 1)
    assert "torch-2.9.1+cpu" in installed(venv) and not held.folder.exists()


async def test_two_swaps_do_not_meet_and_an_installer_left_behind_is_waited_for(
    agreed: Context, venv: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holding, "LOCK_SECONDS", 0.2)
    before = tree(venv)
    held = holding.Holding(str(venv))
    with held.locked():
        child = start(["sleep", "30"], pass_fds=(held.lock_fd,))
        held.write(holding.Journal("staging", time.time(), (), (), ""))
    try:
        with pytest.raises(Refused, match="its installer still is"):
            await restore(agreed, RestoreParams(str(venv)))
    finally:
        child.kill()
        child.wait()
    await restore(agreed, RestoreParams(str(venv)))
    assert tree(venv) == before


async def test_files_in_use_hold_the_swap_back(agreed: Context, venv: Path) -> None:
    library = next((venv / "lib").glob("python3*/site-packages/torch/lib/libtorch_cuda.so"))
    child = start([sys.executable, "-c", MAP, library], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline()
        with pytest.raises(Refused, match=rf"\({child.pid}\) uses these packages now"):
            await swap_builds(agreed, params(venv))
    finally:
        child.kill()
        child.communicate()


async def test_a_record_that_claims_foreign_files_is_refused(agreed: Context, venv: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "precious"
    foreign.write_text("mine")
    record = next((venv / "lib").glob("python3*/site-packages/triton-3.5.1.dist-info/RECORD"))
    record.write_text(record.read_text() + f"../../../../{foreign.name},,\n")
    with pytest.raises(Refused, match="lies outside of"):
        await swap_builds(agreed, params(venv))
    assert foreign.read_text() == "mine"


async def test_a_folder_that_is_a_link_to_elsewhere_is_not_followed(
    agreed: Context, venv: Path, tmp_path: Path, tree: Tree
) -> None:
    folder = next((venv / "lib").glob("python3*/site-packages/triton"))
    elsewhere = tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    before = tree(elsewhere)
    result = await swap_builds(agreed, params(venv))
    assert isinstance(result, Swapped) and tree(elsewhere) == before


async def test_the_system_s_packages_and_conda_s_are_left_to_their_tools(agreed: Context, venv: Path) -> None:
    installer_file = next((venv / "lib").glob("python3*/site-packages/torch-2.9.1.dist-info/INSTALLER"))
    installer_file.write_text("conda\n")
    with pytest.raises(Refused, match="came by conda") as refused:
        await swap_builds(agreed, params(venv))
    assert "conda install" in refused.value.hint
    (next((venv / "lib").glob("python3*")) / "EXTERNALLY-MANAGED").touch()
    with pytest.raises(Refused, match="looked after by the operating system"):
        await swap_builds(agreed, params(venv))
    with pytest.raises(BadInput, match="no Python environment"):
        await swap_builds(agreed, SwapParams(str(venv / "bin")))


@pytest.mark.skipif(
    not (shutil.which("uv") or (Path(sys.executable).parent / "uv").exists()), reason="there is no uv here"
)
async def test_an_environment_made_by_uv_is_swapped_by_uv(agreed: Context, tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    venv = tmp_path / "by-uv"
    run(uv, "venv", "-q", "--python", sys.executable, venv)
    run(uv, "pip", "install", "-q", "--python", venv / "bin/python", "torch===2.9.1", "trainer")
    found = await audit(agreed, CudaParams(str(venv)))
    assert found.freed_bytes < found.total_bytes / 2  # the files are linked into uv's cache
    assert any("uv's" in sentence for sentence in found.sentences)
    result = await swap_builds(agreed, params(venv))
    assert isinstance(result, Swapped) and result.verified == ("torch 2.9.1", "trainer")
    assert python(venv, "import torch; print(torch.version.cuda)") == "None"
    assert "$ " + uv in read(result.log)
    assert "uv" in (next((venv / "lib").glob("python3*/site-packages/torch-*.dist-info/INSTALLER"))).read_text()
