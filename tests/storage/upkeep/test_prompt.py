"""The line for a shell's prompt, printed by its own file with nothing else imported."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from services import workspace as workspaces
from services.context import Context
from services.storage import actions as storage
from services.storage.types import Caches
from services.storage.upkeep import actions, prompt, samples
from services.workspace import Workspace

GB = 10**9
SCRIPT = [sys.executable, "-I", "-S", prompt.__file__]


def printed(cwd: Path, **environ: str) -> str:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HYBRID_")} | environ
    done = subprocess.run(SCRIPT, cwd=cwd, env=env, capture_output=True, text=True, encoding="utf-8", check=True)
    assert done.stderr == ""
    return done.stdout


ROOMY = {"HYBRID_DISK_BUDGET_GB": "1000000", "HYBRID_DISK_MIN_FREE_GB": "0"}


def test_it_says_what_is_free_and_no_more_when_all_is_well(workspace: Workspace) -> None:
    status = os.statvfs(workspace.root)
    free = float(printed(workspace.root, **ROOMY).removesuffix(" GB free\n"))
    assert free == pytest.approx(status.f_bavail * status.f_frsize / GB, rel=0.05, abs=0.5)
    below = workspace.root / "a" / "b"
    below.mkdir(parents=True)
    assert printed(below, **ROOMY).endswith(" GB free\n")


def test_it_says_what_is_over_its_budget(workspace: Workspace) -> None:
    samples.record_caches(workspace, Caches((), 3_400_000_000, 3 * GB, True))
    line = printed(workspace.root, **ROOMY)
    assert line.endswith(" GB free ▲caches 3.4/3.0\n") and line[0] != "▲"
    line = printed(workspace.root, HYBRID_DISK_BUDGET_GB="0.01", HYBRID_DISK_MIN_FREE_GB="1000000")
    assert re.fullmatch(r"▲[\d.]+ GB free ▲used [\d.]+/0.0 ▲caches 3.4/3.0\n", line)
    samples.record_caches(workspace, Caches((), 3_400_000_000, 3 * GB, True), now=time.time() - 5 * 86400)
    assert "▲caches 3.4/3.0 (5 d ago)" in printed(workspace.root, **ROOMY)


async def test_budgets_are_those_recorded_until_the_settings_change(workspace: Workspace) -> None:
    """The record is made to differ from the file, to see which of them is read."""
    toml = workspace.root / workspaces.MARK
    toml.write_text("[disk]\nbudget_gb = 1000000\nmin_free_gb = 0\ncaches_gb = 7\n")
    opened = workspaces.open_workspace(workspace.root)
    await storage.usage(Context(opened), storage.UsageParams())
    samples.record_caches(opened, Caches((), 8 * GB, 7 * GB, True))
    assert printed(workspace.root).endswith("▲caches 8.0/7.0\n")
    latest = samples.folder(workspace) / "latest"
    latest.write_text(latest.read_text().replace("caches_budget_bytes 7000000000", "caches_budget_bytes 6000000000"))
    assert printed(workspace.root).endswith("▲caches 8.0/6.0\n")
    toml.write_text("[disk]\nbudget_gb = 1000000\nmin_free_gb = 0\ncaches_gb = 5\n")
    os.utime(toml, ns=(1, 1))
    assert printed(workspace.root).endswith("▲caches 8.0/5.0\n")
    assert printed(workspace.root, HYBRID_DISK_CACHES_GB="4").endswith("▲caches 8.0/4.0\n")


@pytest.mark.parametrize("toml", ["[disk]\nbudget_gb = 'x'\n", "not toml [", "disk = 3\n", ""])
@pytest.mark.parametrize("latest", [b"", b"\xff\xfe", b"caches_bytes", b"caches_bytes x settings_ns -1"])
def test_damaged_files_never_disturb_a_prompt(workspace: Workspace, toml: str, latest: bytes) -> None:
    (workspace.root / workspaces.MARK).write_text(toml)
    samples.folder(workspace).mkdir()
    (samples.folder(workspace) / "latest").write_bytes(latest)
    assert re.fullmatch(r"▲?[\d.]+ GB free( ▲used [\d.]+/15.0)?\n", printed(workspace.root))
    assert " GB free" in printed(workspace.root, HYBRID_DISK_BUDGET_GB="x")


def test_outside_a_workspace_it_prints_nothing(tmp_path: Path) -> None:
    assert printed(tmp_path) == ""
    assert printed(tmp_path, HYBRID_WORKSPACE=str(tmp_path / "gone")) == ""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", f'rmdir "{gone}"; exec "$@"', "sh", *SCRIPT], cwd=gone, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_workspace_is_found_as_everywhere_else(workspace: Workspace, tmp_path: Path) -> None:
    for start in (workspace.root, tmp_path):
        found = prompt.find(str(start), {})
        assert (found or str(start)) == str(workspaces.find(start))
    assert prompt.find("/", {"HYBRID_WORKSPACE": "~/x"}) == os.path.expanduser("~/x")  # noqa: PTH111


async def test_the_action_gives_the_line_and_the_command_that_prints_it(workspace: Workspace) -> None:
    told = await actions.prompt(Context(workspace), actions.NoParams())
    printed_line = subprocess.run(  # noqa: ASYNC221
        told.command, shell=True, cwd=workspace.root, capture_output=True, text=True, check=True, encoding="utf-8"
    ).stdout
    assert "GB free" in told.line and printed_line.split(" GB")[1] == told.line.split(" GB")[1] + "\n"


def test_it_imports_nothing_but_os(workspace: Workspace) -> None:
    """What costs the time: of the standard library only what every interpreter loads but this one."""
    samples.record_usage(workspace, storage.disk.usage(str(workspace.root), workspace.settings.disk))
    code = f"import sys; had = set(sys.modules); sys.argv = ['x']; exec(compile(open({prompt.__file__!r}).read(), "
    code += "'p', 'exec'), {'__name__': '__main__'}); print(*sorted(set(sys.modules) - had))"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], cwd=workspace.root, capture_output=True, text=True, check=True
    )
    line, modules = done.stdout.split("\n")[:2]
    assert "GB free" in line
    assert set(modules.split()) <= {"os", "os.path", "posixpath", "genericpath", "stat", "_stat", "_collections_abc"}
