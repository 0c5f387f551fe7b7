"""The repository check on real repositories made by the real git."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.context import Context
from services.errors import BadInput
from services.settings import Disk, Settings
from services.storage.upkeep import actions, objects, repository
from services.storage.upkeep.types import ModelFile, RepoCheck
from services.workspace import Workspace

CHECKOUT = Path(__file__).parents[3]
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n"
MB = 1_000_000


class Repo:
    """A repository and the words to make a history in it."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main", *options)

    def git(self, *words: str, check: bool = True) -> str:
        env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        env |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        identity = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always")
        done = subprocess.run(["git", *identity, *words], cwd=self.path, env=env, capture_output=True, check=check)
        return os.fsdecode(done.stdout).strip()

    def commit(self, message: str, **files: int | str | None) -> str:
        """Write files (a size in bytes or a text; None removes), commit, return the commit's id."""
        for name, content in files.items():
            self.write(name.replace("__", "/").replace("_", "."), content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def write(self, name: str, content: int | str | None) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            file.unlink()
        else:
            file.write_bytes(os.urandom(content) if isinstance(content, int) else content.encode())

    def check(self, *, history: bool = True, **budget: float | str) -> RepoCheck:
        return repository.check(str(self.path), Disk(**budget), threading.Event(), history=history)  # type: ignore[arg-type]


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """A fresh repository with one innocent commit."""
    made = Repo(tmp_path / "repo")
    made.commit("first", readme_md="hello")
    return made


def only(found: RepoCheck) -> ModelFile:
    assert found.count == 1, found.files
    return found.files[0]


def test_a_clean_repository_is_ok_and_its_size_is_what_du_says(repo: Repo) -> None:
    found = repo.check()
    du = subprocess.run(["du", "-s", "-B1", repo.path / ".git"], capture_output=True, text=True, check=True).stdout
    assert (found.level, found.count, found.history, found.remedies) == ("ok", 0, "whole", ())
    assert found.git_bytes == int(du.split()[0])
    assert found.git_dir == str(repo.path / ".git")


def test_a_large_blob_that_was_removed_later_is_found_with_the_commit_that_brought_it(repo: Repo) -> None:
    brought = repo.commit("brought", models__big_safetensors=50 * MB)
    repo.commit("removed", models__big_safetensors=None)
    found = repo.check(repo_mb=40)
    file = only(found)
    assert (file.path, file.bytes, file.why) == ("models/big.safetensors", 50 * MB, "model")
    assert (file.in_index, file.in_history, file.commit) == (False, True, brought)
    assert file.committed_at is not None and abs(file.committed_at - time.time()) < 60
    assert (
        found.level == "broken" and "1 only in history" in found.sentence and "more than its budget" in found.sentence
    )
    commands = [remedy.command for remedy in found.remedies]
    assert "git filter-repo --invert-paths --path models/big.safetensors" in commands
    assert not any(command.startswith("git rm") for command in commands)


def test_a_file_only_staged_is_in_the_index_alone(repo: Repo) -> None:
    repo.write("staged.pt", 10)
    repo.git("add", "staged.pt")
    found = repo.check()
    file = only(found)
    assert (file.in_index, file.in_history, file.commit) == (True, False, "")
    assert not any("filter-repo" in remedy.command for remedy in found.remedies)


def test_the_commands_for_the_index_take_the_files_out(repo: Repo) -> None:
    repo.commit("models", a_pt=10, sub__large_csv=2 * MB)
    repo.write("it's [v1] & more.bin", 20)
    repo.git("add", "-A")
    repo.git("config", "user.name", "A")
    repo.git("config", "user.email", "a@b.c")
    found = repo.check(repo_file_mb=1)
    assert sum(file.in_index for file in found.files) == 3
    end = next(i for i, remedy in enumerate(found.remedies) if "filter-repo" in remedy.command)
    for remedy in found.remedies[:end]:
        subprocess.run(remedy.command, shell=True, cwd=repo.path, check=True, capture_output=True)
    after = repo.check(repo_file_mb=1)
    assert not any(file.in_index for file in after.files)
    assert (repo.path / "it's [v1] & more.bin").exists() and (repo.path / "a.pt").exists()
    assert repo.git("status", "--porcelain") == ""  # ignored from now on


def test_large_files_of_any_name_are_found_and_small_ones_are_not(repo: Repo) -> None:
    repo.commit("data", big_csv=3 * MB, small_csv=1000)
    file = only(repo.check(repo_file_mb=2))
    assert (file.path, file.why, file.in_index, file.in_history) == ("big.csv", "large", True, True)
    assert repo.check(repo_file_mb=4).level == "ok"


def test_lfs_pointers_and_folders_called_like_models_are_left_alone(repo: Repo) -> None:
    repo.commit("pointers", model_bin=POINTER, weights_bin__notes_txt="a folder", fake_pt="version https://example.org")
    found = repo.check()
    assert only(found).path == "fake.pt"
    assert found.lfs_pointers == 1


def test_thousands_of_pointers_are_no_findings(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "KEEP", 20)
    for i in range(300):
        repo.write(f"m{i}.bin", POINTER.replace("12345", str(i)))
    repo.commit("pointers")
    found = repo.check()
    assert (found.level, found.count, found.lfs_pointers) == ("ok", 0, 300)


def test_allowed_files_are_not_complained_of(repo: Repo) -> None:
    repo.commit("fixtures", tests__data__a_npz=10, tests__data__big_csv=2 * MB, b_npz=10)
    assert only(repo.check(repo_allow="tests/*", repo_file_mb=1)).path == "b.npz"


def test_side_branches_tags_and_the_stash_are_history_too(repo: Repo) -> None:
    repo.git("checkout", "-q", "-b", "side")
    on_side = repo.commit("side", side_ckpt=100)
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-ff", "-m", "merge", "side")
    repo.commit("gone", side_ckpt=None)
    repo.git("branch", "-D", "side")
    tagged = repo.commit("tagged", tagged_gguf=200)
    repo.git("tag", "v1")
    repo.git("reset", "-q", "--hard", "HEAD~1")
    repo.write("stashed.onnx", 300)
    repo.git("add", "-A")
    repo.git("stash")
    found = {file.path: file for file in repo.check().files}
    assert found.keys() == {"side.ckpt", "tagged.gguf", "stashed.onnx"}
    assert found["side.ckpt"].commit == on_side and found["tagged.gguf"].commit == tagged
    assert not any(file.in_index for file in found.values())


def test_what_nothing_reaches_is_counted_apart(repo: Repo) -> None:
    repo.commit("kept")
    repo.write("blob", 2 * MB)
    repo.git("hash-object", "-w", "blob")
    (repo.path / "blob").unlink()
    found = repo.check(repo_file_mb=1)
    assert found.level == "ok" and found.count == 0 and found.unreachable_bytes == 2 * MB
    assert [remedy.command for remedy in found.remedies] == ["git gc --prune=now"]
    repo.git("gc", "--prune=now", "-q")
    assert repo.check(repo_file_mb=1).unreachable_bytes == 0


def test_names_that_are_no_utf8_or_hold_odd_characters(repo: Repo) -> None:
    for name in (b"\xff.pt", b"tab\there.pt", b'quo"te.pt', "größe.pt".encode()):
        Path(os.fsdecode(os.fsencode(repo.path) + b"/" + name)).write_bytes(os.urandom(9))
    repo.commit("odd")
    found = repo.check()
    assert {file.path for file in found.files} == {"\\xff.pt", "tab\there.pt", 'quo"te.pt', "größe.pt"}
    assert all(file.commit and file.in_index and file.in_history for file in found.files)
    msgspec.json.encode(found)


def test_a_work_tree_shares_the_repository(repo: Repo, tmp_path: Path) -> None:
    repo.commit("model", a_pt=10)
    repo.git("worktree", "add", "-q", str(tmp_path / "tree"))
    found = repository.check(str(tmp_path / "tree"), Disk(), threading.Event())
    assert found.git_dir == str(repo.path / ".git") and only(found).path == "a.pt"
    below = tmp_path / "tree" / "below"
    below.mkdir()
    assert only(repository.check(str(below), Disk(), threading.Event())).in_index


def test_bare_and_shallow_repositories(repo: Repo, tmp_path: Path) -> None:
    repo.commit("model", a_pt=10)
    repo.commit("gone", a_pt=None)
    repo.commit("later", b_txt="x")
    repo.git("clone", "-q", "--bare", ".", str(tmp_path / "bare"))
    bare = repository.check(str(tmp_path / "bare"), Disk(), threading.Event())
    assert only(bare).path == "a.pt" and bare.history == "whole"
    repo.git("clone", "-q", "--depth", "1", f"file://{repo.path}", str(tmp_path / "shallow"))
    shallow = repository.check(str(tmp_path / "shallow"), Disk(), threading.Event())
    assert shallow.level == "ok" and shallow.history == "shallow" and "shallow or partial clone" in shallow.sentence


def test_a_partial_clone_is_checked_without_fetching(repo: Repo, tmp_path: Path) -> None:
    repo.git("config", "uploadpack.allowFilter", "true")
    repo.commit("model", a_pt=5000)
    repo.commit("gone", a_pt=None)
    repo.commit("here", b_bin=100)
    repo.commit("gone too", b_bin=None)
    repo.git("clone", "-q", "--filter=blob:none", f"file://{repo.path}", str(tmp_path / "partial"))
    before = sorted((tmp_path / "partial" / ".git" / "objects").rglob("*"))
    found = repository.check(str(tmp_path / "partial"), Disk(), threading.Event())
    assert (found.level, found.history, found.problems) == ("ok", "shallow", ())
    assert "partial clone" in found.sentence
    assert sorted((tmp_path / "partial" / ".git" / "objects").rglob("*")) == before


def test_an_empty_repository_and_none_at_all(tmp_path: Path) -> None:
    assert Repo(tmp_path / "empty").check().level == "ok"
    (tmp_path / "plain").mkdir()
    found = repository.check(str(tmp_path / "plain"), Disk(), threading.Event())
    assert (found.level, found.sentence) == ("unknown", f"{tmp_path / 'plain'} is not in a git repository.")


def test_without_git(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repo.path))
    found = repo.check()
    assert (found.level, found.sentence) == ("unknown", "git is not installed.")


def test_the_variables_of_a_hook_do_not_mislead_it(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Repo(tmp_path / "other")
    other.commit("model", a_pt=10)
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    assert repo.check().count == 0


@pytest.mark.parametrize("damage", ["pack", "tree", "head", "index"])
def test_a_corrupt_repository_is_said_in_a_sentence(repo: Repo, damage: str) -> None:
    repo.commit("model", a_pt=10)
    tree = repo.git("rev-parse", "HEAD^{tree}")
    git = repo.path / ".git"
    if damage == "pack":
        repo.git("gc", "-q")
        pack = next((git / "objects" / "pack").glob("*.pack"))
        pack.chmod(0o644)
        pack.write_bytes(pack.read_bytes()[:40] + os.urandom(200))
    elif damage == "tree":
        (git / "objects" / tree[:2] / tree[2:]).unlink()
    elif damage == "head":
        (git / "HEAD").write_bytes(b"\0\xff garbage")
    else:
        (git / "index").write_bytes(b"DIRC" + os.urandom(60))
    found = repo.check()
    assert found.level in ("unknown", "broken")
    assert found.history == "broken" or not found.git_dir
    for sentence in (found.sentence, *found.problems):
        assert sentence.endswith(".") and "\n" not in sentence and "Traceback" not in sentence


def test_history_may_be_left_out(repo: Repo) -> None:
    repo.commit("model", a_pt=10)
    repo.commit("gone", a_pt=None, b_pt=10)
    found = repo.check(history=False)
    assert only(found).path == "b.pt" and found.history == "skipped" and "History was not looked at" in found.sentence


def test_many_findings_are_counted_and_the_largest_named(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "KEEP", 40)
    for i in range(200):
        repo.write(f"m{i}.pt", 1000 + i)
    repo.commit("many")
    found = repo.check(repo_file_mb=0.0011)
    assert found.count == 200 and len(found.files) == objects.SHOWN
    assert found.bytes == sum(range(1000, 1200))
    assert found.files[0].path == "m199.pt" and "200 model or large files" in found.sentence
    assert any("--strip-blobs-bigger-than" in remedy.command for remedy in found.remedies)
    assert any("--path-glob '*.pt'" in remedy.command for remedy in found.remedies)
    exact = repo.check(repo_allow="other/*.pt")  # a pattern would take these along
    assert not any("glob" in remedy.command or "strip" in remedy.command for remedy in exact.remedies)
    assert sum(remedy.command.count("--path ") for remedy in exact.remedies) == objects.SHOWN


async def test_a_cancelled_check_ends_git_too(repo: Repo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A git that never ends stands for a history that takes long; it must be gone soon after the cancel."""
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    real = shutil.which("git")
    pid = tmp_path / "pid"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *batch-all*) echo $$ > {pid}; exec sleep 60;; esac\nexec {real} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    task = asyncio.create_task(
        actions.check_repository(Context(Workspace(repo.path, Settings())), actions.RepoParams())
    )
    for _ in range(500):
        await asyncio.sleep(0.01)
        if pid.exists() and pid.read_text().strip():
            break
    number = int(pid.read_text())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(300):
        await asyncio.sleep(0.01)
        if not _lives(number):
            return
    raise AssertionError("git goes on")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_check_is_recorded_and_known_to_be_old_once_git_went_on(repo: Repo) -> None:
    workspace = Workspace(repo.path, Settings())
    workspace.ensure_state()
    record = workspace.state / "storage" / "repo.json"
    for ctx in (Context(workspace, read_only=True), Context(workspace, dry_run=True)):
        await actions.check_repository(ctx, actions.RepoParams())
        assert not record.exists()
    await actions.check_repository(Context(workspace), actions.RepoParams())
    recorded = actions._recorded_repository(workspace)
    assert recorded is not None and recorded.current and recorded.level == "ok"
    await asyncio.sleep(0.02)
    repo.commit("model", a_pt=10)
    recorded = actions._recorded_repository(workspace)
    assert recorded is not None and not recorded.current
    looked = await actions.glance(Context(workspace), actions.NoParams())  # a small one is checked anew
    assert looked.repo is not None and looked.repo.current and looked.repo.count == 1
    record.write_bytes(b"{torn")
    assert actions._recorded_repository(workspace) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["a.pt", "b.bin", "c.txt", "d/e.gguf"]),
        st.sampled_from([None, 1, 900, 1200, 5000]),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_a_random_history_is_told_as_it_was_made(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int | None]]
) -> None:
    repo = Repo(tmp_path_factory.mktemp("random"))
    first: dict[tuple[bytes, str], str] = {}  # content and one of its names → the first commit that has it there
    for name, size in steps:
        (repo.path / name).unlink(missing_ok=True)
        if size is not None:
            repo.write(name, size)
        commit = repo.commit("step")
        for file in here(repo):
            first.setdefault((file.read_bytes(), str(file.relative_to(repo.path))), commit)
    wanted = {content for content, name in first if len(content) > 1000 or not name.endswith(".txt")}
    found = repo.check(repo_file_mb=0.001)
    now = {file.read_bytes() for file in here(repo)} & wanted
    assert sorted(file.bytes or 0 for file in found.files) == sorted(map(len, wanted))
    assert sorted(file.bytes or 0 for file in found.files if file.in_index) == sorted(map(len, now))
    for file in found.files:
        assert file.in_history
        assert file.commit in {
            c for (content, name), c in first.items() if (len(content), name) == (file.bytes, file.path)
        }


def here(repo: Repo) -> list[Path]:
    return [p for p in repo.path.rglob("*") if p.is_file() and ".git" not in p.parts]


@pytest.mark.parametrize("path", ["missing", "readme.md", "\0"])
async def test_a_path_that_is_no_folder_is_bad_input(repo: Repo, path: str) -> None:
    with pytest.raises(BadInput) as caught:
        ctx = Context(Workspace(repo.path, Settings()))
        await actions.check_repository(ctx, actions.RepoParams(path=f"{repo.path}/{path}"))
    assert str(caught.value).endswith(".")


def test_from_the_command_line(repo: Repo) -> None:
    repo.commit("model", a_pt=10)
    command = [sys.executable, "-m", "hybrid_tui", "--workspace", str(repo.path), "--run"]
    env = os.environ | {"HOME": str(repo.path), "PYTHONPATH": str(CHECKOUT)}
    checked = subprocess.run(
        [*command, "storage.check", "checks=repo-files,repo-size", "--json"], capture_output=True, text=True, env=env
    )
    assert checked.returncode == 3 and "a.pt" in checked.stderr
    document = msgspec.json.decode(checked.stdout)
    assert [finding["level"] for finding in document["findings"]] == ["broken", "ok"]
    assert not document["ok"] and document["broken"] == 1
