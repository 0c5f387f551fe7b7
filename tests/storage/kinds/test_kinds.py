"""What each kind lists, on the real layouts of their tools."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services import workspace as workspaces
from services.errors import BadInput
from services.storage import kinds
from services.storage.kinds import docker, listing, system
from services.storage.reclaim import Item, KindItems
from services.workspace import Workspace
from tests.storage.kinds.conftest import du, fill

Lookup = Callable[..., KindItems]


def by_name(kind: KindItems) -> dict[str, Item]:
    return {item.name: item for item in kind.items}


def old(path: Path, days: float = 30) -> Path:
    at = time.time() - days * 86400
    os.utime(path, (at, at))
    return path


def test_every_kind_says_how_it_comes_back() -> None:
    for kind in kinds.KINDS:
        assert kind.restore.endswith(".") and kind.title and kind.name == kind.name.lower()
    assert len({kind.name for kind in kinds.KINDS}) == len(kinds.KINDS)


def test_an_empty_box_has_nothing_and_costs_next_to_nothing(workspace: Workspace, home: Path) -> None:
    names = tuple(kind.name for kind in kinds.KINDS if kind.name not in ("apt", "docker", "conda"))
    started = time.perf_counter()
    found = listing.list_kinds(workspace, names, stop=threading.Event())
    assert time.perf_counter() - started < 0.5
    assert all(not kind.items and not kind.bytes for kind in found)


def test_the_first_report_names_what_exists_unmeasured(workspace: Workspace, home: Path) -> None:
    fill(home / ".cache/pip/wheels/a/b.whl")
    reports: list[tuple[KindItems, ...]] = []
    result = listing.list_kinds(workspace, ("pip", "uv"), stop=threading.Event(), on_partial=reports.append)
    assert {(k.kind, k.exists, k.bytes) for k in reports[0]} == {("uv", False, 0), ("pip", True, None)}
    assert result[0].kind == "pip" and result[0].bytes == du(home / ".cache/pip")


def test_a_set_stop_ends_it(workspace: Workspace, home: Path) -> None:
    fill(home / ".cache/pip/wheels/a/b.whl")
    stop = threading.Event()
    stop.set()
    assert listing.list_kinds(workspace, ("pip",), stop=stop)[0].bytes is None


def test_an_unknown_kind_is_met_with_the_nearest(workspace: Workspace) -> None:
    with pytest.raises(BadInput, match="did you mean 'huggingface'"):
        listing.list_kinds(workspace, ("hugingface",), stop=threading.Event())


def test_only_what_pip_knows_is_an_item(look: Lookup, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CACHE_DIR", str(home / "stuff"))
    fill(home / "stuff/http-v2/a/b")
    fill(home / "stuff/thesis.tex")
    kind = look("pip")
    assert set(by_name(kind)) == {"http-v2"} and kind.bytes == du(home / "stuff")


def test_code_that_came_with_models_goes_by_library_and_other_files_stay(look: Lookup, home: Path) -> None:
    modules = home / ".cache/huggingface/modules"
    for name in ("__init__.py", "transformers_modules/org/model/abc/modeling.py", "datasets_modules/x.py", "mine/y.py"):
        fill(modules / name)
    kind = look("huggingface-modules")
    assert set(by_name(kind)) == {"transformers_modules", "datasets_modules"} and kind.bytes == du(modules)
    assert by_name(kind)["transformers_modules"].freed_bytes == du(modules / "transformers_modules")


def test_hard_links_from_outside_are_not_freed(look: Lookup, home: Path) -> None:
    big = fill(home / ".cache/uv/archive-v0/x/lib.so", 200_000)
    fill(home / ".cache/uv/archive-v0/x/own.py", 9000)
    (home / "venv").mkdir()
    os.link(big, home / "venv/lib.so")
    item = by_name(look("uv"))["packages"]
    assert item.bytes - item.freed_bytes == big.stat().st_blocks * 512
    (home / "venv/lib.so").unlink()
    assert by_name(look("uv"))["packages"].freed_bytes == item.bytes


def test_uvs_lock_holds_it_and_old_buckets_go_alone(look: Lookup, home: Path) -> None:
    uv = home / ".cache/uv"
    for bucket in ("archive-v0/a", "wheels-v5/b", "simple-v15/c", "simple-v16/d", ".tmpXY/e"):
        fill(uv / bucket)
    lock = fill(uv / ".lock", 0)
    items = by_name(look("uv"))
    assert set(items) == {"packages", "simple", "old formats", "unfinished"}
    assert items["old formats"].paths == (str(uv / "simple-v15"),)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as uv holds it while it works
        assert all(item.used_by == ("uv",) and not item.suggested for item in look("uv").items)


def test_poetrys_environments_are_never_touched(look: Lookup, home: Path) -> None:
    poetry = home / ".cache/pypoetry"
    fill(poetry / "virtualenvs/app/bin/python")
    fill(poetry / "artifacts/a.whl")
    kind = look("poetry")
    assert [item.paths for item in kind.items] == [(str(poetry / "artifacts"),)]
    assert kind.bytes == du(poetry / "artifacts")


def test_conda_packages_that_environments_share_are_not_suggested(look: Lookup, home: Path) -> None:
    pkgs = home / "miniconda3/pkgs"
    fill(pkgs / "numpy-2-0.conda", 50_000)
    for name in ("numpy-2-0", "old-1-0"):
        fill(pkgs / name / "info/index.json")
        fill(pkgs / name / "lib/a.so", 90_000)
    (home / "miniconda3/envs/e").mkdir(parents=True)
    os.link(pkgs / "numpy-2-0/lib/a.so", home / "miniconda3/envs/e/a.so")
    items = by_name(look("conda"))
    assert items["miniconda3/pkgs/old-1-0"].suggested and not items["miniconda3/pkgs/numpy-2-0"].suggested
    assert items["miniconda3/pkgs archives"].paths == (str(pkgs / "numpy-2-0.conda"),)


def test_condas_places_come_from_its_configuration(look: Lookup, home: Path) -> None:
    (home / ".condarc").write_text(
        "channels:\n  - x\npkgs_dirs:\n  - ~/here  # big disk\n  - '/there'\nenvs_dirs: []\n"
    )
    assert look("conda").paths[:2] == (str(home / "here"), "/there")


def test_a_file_counts_in_one_kind_only(workspace: Workspace, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = home / "all"
    fill(everything / "archive-v0/x", 50_000)
    fill(everything / "wheels-v5/pip/http/y", 60_000)
    monkeypatch.setenv("UV_CACHE_DIR", str(everything))
    monkeypatch.setenv("PIP_CACHE_DIR", str(everything / "wheels-v5/pip"))
    found = {k.kind: k for k in listing.list_kinds(workspace, ("uv", "pip"), stop=threading.Event())}
    assert sum(k.bytes or 0 for k in found.values()) == du(everything)
    assert not found["uv"].items  # what it would remove contains pip's


def test_compilers_caches_are_held_while_fresh(look: Lookup, home: Path) -> None:
    file = fill(home / ".triton/cache/hash/kernel.so")
    assert look("triton").items[0].used_by
    old(file)
    assert look("triton").items[0].suggested


def test_the_newest_vscode_server_and_running_ones_stay(look: Lookup, home: Path) -> None:
    servers = home / ".vscode-server/bin"
    for age, name in ((1, "new"), (5, "running"), (9, "old")):
        fill(servers / name / "node")
        old(servers / name, age)
    sleeper = servers / "running/sleeper"
    sleeper.write_bytes(Path("/bin/sleep").read_bytes())
    sleeper.chmod(0o755)
    old(servers / "running", 5)
    process = subprocess.Popen([sleeper, "60"])
    try:
        items = {item.name.rsplit("/", 1)[-1]: item for item in look("vscode-server").items}
    finally:
        process.kill()
        process.wait()
    assert set(items) == {"running", "old"}
    assert items["running"].used_by == (f"sleeper ({process.pid})",) and items["old"].suggested


def test_trash_tells_where_things_were(look: Lookup, home: Path) -> None:
    trash = home / ".local/share/Trash"
    fill(trash / "files/a b.txt")
    fill(trash / "info/a b.txt.trashinfo", 0).write_text("[Trash Info]\nPath=/home/me/a%20b.txt\nDeletionDate=x\n")
    item = look("trash").items[0]
    assert item.paths == (str(trash / "files/a b.txt"), str(trash / "info/a b.txt.trashinfo"))
    assert item.note == "It was /home/me/a b.txt." and item.risk == "high" and not item.suggested


def test_apts_packages_are_one_item(look: Lookup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "APT", str(tmp_path / "archives"))
    debs = [fill(tmp_path / "archives" / name) for name in ("a.deb", "b.deb", "partial/c.deb")]
    fill(tmp_path / "archives/lock", 0)
    item = look("apt").items[0]
    assert set(item.paths) == {str(deb) for deb in debs} and item.suggested


def test_cargo_is_held_by_its_lock(look: Lookup, home: Path) -> None:
    fill(home / ".cargo/registry/src/x")
    fill(home / ".cargo/git/db/y")
    fill(home / ".cargo/bin/tool")
    lock = fill(home / ".cargo/.package-cache", 0)
    items = by_name(look("cargo"))
    assert items["registry/src"].risk == "none" and items["git/db"].risk == "low" and len(items) == 2
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert all(item.used_by for item in look("cargo").items)


def test_projects_leftovers_are_found_but_not_in_environments(look: Lookup, workspace: Workspace, home: Path) -> None:
    fill(workspace.root / "src/__pycache__/a.cpython-311.pyc")
    fill(workspace.root / "src/deep/__pycache__/b.cpython-311.pyc")
    fill(workspace.root / "venv/pyvenv.cfg", 0)
    fill(workspace.root / "venv/lib/__pycache__/c.pyc")
    fill(workspace.root / "odd/__pycache__/thesis.tex")
    fill(home / "code/app/__pycache__/d.pyc")
    fill(home / "code/app/node_modules/x/__pycache__/e.pyc")
    fill(home / ".hidden/__pycache__/f.pyc")
    fill(home / "code/app/.mypy_cache/3.11/x.json")
    items = by_name(look("pycache"))
    assert set(items) == {"workspace", "~/code"}
    assert set(items["workspace"].paths) == {
        str(workspace.root / "src/__pycache__"), str(workspace.root / "src/deep/__pycache__"),
    }  # fmt: skip
    assert items["~/code"].paths == (str(home / "code/app/__pycache__"),)
    assert all(item.suggested for item in items.values())
    assert by_name(look("mypy"))["~/code"].bytes == du(home / "code/app/.mypy_cache")


def test_notebook_checkpoints_are_safe_only_if_nothing_is_lost(look: Lookup, workspace: Workspace) -> None:
    for folder, content in (("same", b"{}"), ("other", b"{1}")):
        fill(workspace.root / folder / "n.ipynb", 0).write_bytes(b"{}")
        fill(workspace.root / folder / ".ipynb_checkpoints/n-checkpoint.ipynb", 0).write_bytes(content)
    items = by_name(look("notebook-checkpoints"))
    assert items["workspace same"].suggested and items["workspace same"].risk == "none"
    assert not items["workspace other"].suggested and items["workspace other"].risk == "high"


def test_only_old_and_large_logs_are_listed(look: Lookup, workspace: Workspace, home: Path) -> None:
    old(fill(workspace.root / "a.log", 1_500_000))
    old(fill(home / "b.log.1", 1_500_000))
    fill(home / "young.log", 1_500_000)
    old(fill(home / "small.log"))
    items = by_name(look("logs"))
    assert set(items) == {"a.log", "~/b.log.1"} and not any(item.suggested for item in items.values())


def run(workspace: Workspace, name: str, phase: str, steps: int = 2, output: bool = False) -> Path:
    """A run's folder as docs/runs.md has it."""
    folder = workspace.runs / name
    fill(folder / "spec.json", 0).write_text(json.dumps({"model": str(workspace.models / "base")}))
    fill(folder / "attempts/1/lock", 0)
    if phase:
        end = json.dumps({"ev": "end", "data": {"phase": phase}}).rjust(4096)
        fill(folder / "attempts/1/end.json", 0).write_text(end)
    for step in range(steps):
        fill(folder / f"checkpoints/step-{step:06}/adapter.bin", 30_000)
    if output:
        fill(folder / "output/adapter.bin", 30_000)
    return folder


def test_runs_that_failed_and_checkpoints_nobody_resumes(look: Lookup, workspace: Workspace) -> None:
    bad = run(workspace, "20260101-0000-aaaa", "failed")
    good = run(workspace, "20260101-0000-bbbb", "succeeded", output=True)
    kind = look("runs")
    items = by_name(kind)
    assert set(items) == {f"20260101-0000-{c}" for c in ("aaaa", "aaaa checkpoints", "bbbb checkpoints")}
    assert items["20260101-0000-aaaa"].paths == (str(bad),)
    assert items["20260101-0000-aaaa checkpoints"].paths == (str(bad / "checkpoints/step-000000"),)
    assert len(items["20260101-0000-bbbb checkpoints"].paths) == 2
    assert [item.name for item in kind.items if item.suggested] == ["20260101-0000-bbbb checkpoints"]
    assert kind.bytes == du(workspace.runs) and kind.freed_bytes == du(bad, *(good / "checkpoints").iterdir())


def test_a_living_run_holds_itself_and_its_model(look: Lookup, workspace: Workspace) -> None:
    folder = run(workspace, "20260101-0000-cccc", "")
    fill(workspace.models / "base/model.safetensors")
    fill(workspace.models / "other/model.safetensors")
    with (folder / "attempts/1/lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert look("runs").items == ()
        assert by_name(look("models"))["base"].used_by == ("run 20260101-0000-cccc",)
    assert by_name(look("runs"))["20260101-0000-cccc"].note == "It was lost."
    assert not by_name(look("models"))["other"].used_by


def settings_with(workspace: Workspace, text: str) -> Workspace:
    (workspace.root / "hybrid.toml").write_text(text)
    return workspaces.open_workspace(workspace.root)


def test_a_project_adds_a_kind(look: Lookup, workspace: Workspace, home: Path) -> None:
    own = settings_with(
        workspace,
        '[kinds.wandb]\ntitle = "W&B runs"\npaths = ["wandb", "~/wandb"]\npattern = "run-*"\nrisk = "low"\n'
        'restore = "wandb sync has them."\nbudgeted = true\n',
    )
    assert own.warnings == ()
    for path in (workspace.root / "wandb/run-1/x", workspace.root / "wandb/latest/x", home / "wandb/run-2"):
        fill(path)
    (workspace.root / "wandb/run-link").symlink_to("/")
    fill(workspace.root / "wandb/run-repo/.git/config")
    kind = look("wandb", own)
    assert {item.paths[0] for item in kind.items} == {str(workspace.root / "wandb/run-1"), str(home / "wandb/run-2")}
    assert kind.title == "W&B runs" and kind.budgeted and kind.items[0].restore == "wandb sync has them."
    assert kind.bytes == du(workspace.root / "wandb/run-1", home / "wandb/run-2")


@pytest.mark.parametrize(
    "path", ["/", "~", ".", "..", "/usr/share", "~/..", ".hybrid/drive", ".hybrid", "link", ".git/objects", "x/../.."]
)
def test_a_project_cant_name_a_place_that_is_not_its_to_clean(look: Lookup, workspace: Workspace, path: str) -> None:
    (workspace.root / "link").symlink_to("/usr")
    (workspace.root / ".git/objects").mkdir(parents=True)
    kind = look("own", settings_with(workspace, f'[kinds.own]\npaths = ["{path}"]\n'))
    assert not kind.items and not kind.exists and kind.problem.endswith(".") and "hybrid.toml" in kind.problem


def test_bad_sections_warn_and_name_the_nearest_key(workspace: Workspace) -> None:
    loaded = settings_with(
        workspace,
        '[kinds.a]\npath = ["x"]\n[kinds.b]\npaths = ["x"]\nrisk = "some"\n[kinds."Ü"]\npaths=["x"]\n'
        '[kinds.c]\npaths = ["x"]\npattern = "../*"\n',
    )
    warnings = "\n".join(loaded.warnings)
    assert "unknown key 'path' in [kinds.a]; did you mean 'paths'?" in warnings
    assert "[kinds.a] is not used" in warnings and "[kinds.b] risk = 'some'" in warnings and "[kinds.Ü]" in warnings
    assert set(loaded.settings.kinds) == {"b", "c"} and loaded.settings.kinds["c"].pattern == "*"


DOCKER = """#!/bin/sh
case "$1" in
system) echo '{"Active":"0","Reclaimable":"11.63MB (70%)","Size":"16.43MB","TotalCount":"5","Type":"Images"}'
  echo '{"Active":"1","Reclaimable":"0B (0%)","Size":"2.5GB","TotalCount":"2","Type":"Local Volumes"}'
  echo '{"Active":"0","Reclaimable":"1.5GB","Size":"2GB","TotalCount":"9","Type":"Build Cache"}';;
images) echo '{"ID":"a","Repository":"<none>","Size":"100MB","Tag":"<none>"}';;
esac
"""


def put_docker(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fill(folder / "docker", 0)
    program.write_text(script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")


def test_docker_is_listed_from_its_own_words(look: Lookup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_docker(tmp_path / "bin", DOCKER, monkeypatch)
    kind = look("docker")
    items = by_name(kind)
    assert items["build cache"].freed_bytes // 10**6 == 1500 and items["dangling images"].bytes // 10**6 == 100
    assert all(item.paths == () and not item.suggested for item in items.values())
    assert "2 volumes of 2.5 GB are left alone" in kind.problem and kind.exists


@pytest.mark.parametrize(("script", "words"), [("sleep 9", "within"), ("echo no engine >&2; exit 1", "no engine")])
def test_a_docker_that_does_not_answer_costs_a_second(
    look: Lookup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    put_docker(tmp_path / "bin", f"#!/bin/sh\n{script}\n", monkeypatch)
    started = time.perf_counter()
    assert words in look("docker").problem
    assert time.perf_counter() - started < docker.SECONDS + 1


def test_no_docker_no_question(look: Lookup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    kind = look("docker")
    assert not kind.exists and not kind.problem and docker.size_of("11.63MB (70%)") == 11_630_000
