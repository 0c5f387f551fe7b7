"""The Hugging Face hub's cache: what we list against what huggingface_hub itself counts and would delete."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.settings import Settings
from services.storage import kinds
from services.storage.kinds import listing
from services.storage.kinds.hub_scan import scan_repo
from services.storage.kinds.rule import Box, Look
from services.storage.reclaim import Item, KindItems
from services.workspace import Workspace
from tests.storage.kinds.conftest import du, fill
from tests.storage.kinds.hub_cache import Cache, commit

hub_api = pytest.importorskip("huggingface_hub")


def list_hub(hub: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> KindItems:
    monkeypatch.setenv("HF_HUB_CACHE", str(hub))
    return listing.list_kinds(workspace, ("huggingface",), stop=threading.Event())[0]


def by_name(kind: KindItems) -> dict[str, Item]:
    return {item.name: item for item in kind.items}


def strategy_paths(hub: Path, *commits: str) -> set[str]:
    """What huggingface_hub would remove, the shared payloads that its execution sweeps included."""
    strategy = hub_api.scan_cache_dir(hub).delete_revisions(*commits)
    parts = {*strategy.blobs, *strategy.refs, *strategy.repos, *strategy.snapshots}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        shutil.copytree(hub, copy, symlinks=True)
        hub_api.scan_cache_dir(copy).delete_revisions(*commits).execute()
        swept = [p for p in hub.glob("blobs/*/*") if not os.path.lexists(copy / p.relative_to(hub))]
    return {str(p) for p in (*parts, *swept) if not p.name.endswith(".lock")}


def move_away(item: Item, bin_folder: Path) -> None:
    bin_folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(item.paths):
        os.rename(path, bin_folder / str(number))  # noqa: PTH104


@pytest.fixture
def cache(home: Path) -> Cache:
    return Cache(home / ".cache/huggingface/hub")


def test_a_detached_revision_goes_with_the_blobs_that_only_it_needs(
    cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = cache.revision("org/m", 1, {"config.json": "c1", "model.bin": "w"})
    cache.revision("org/m", 2, {"config.json": "c2", "model.bin": "w", "onnx/x": "x"}, refs=("main", "refs/pr/1"))
    kind = list_hub(cache.hub, workspace, monkeypatch)
    assert kind.bytes == du(cache.hub) and kind.freed_bytes == du(root)
    items = by_name(kind)
    assert set(items) == {"model/org/m", f"model/org/m@{commit(1)[:8]}"}
    old, repo = items[f"model/org/m@{commit(1)[:8]}"], items["model/org/m"]
    assert old.suggested and old.risk == "low" and not repo.suggested
    assert (
        set(old.paths) == {f"{root}/snapshots/{commit(1)}", f"{root}/blobs/c1"} == strategy_paths(cache.hub, commit(1))
    )
    assert old.freed_bytes == du(*map(Path, old.paths))
    move_away(old, tmp_path / "bin")
    after = hub_api.scan_cache_dir(cache.hub)
    assert not after.warnings and [r.nb_files for r in after.repos] == [3]


def test_revisions_that_share_what_nothing_else_needs_go_together(
    cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.revision("m", 1, {"a": "shared", "b": "one"})
    cache.revision("m", 2, {"a": "shared"})
    cache.revision("m", 3, {"a": "alone"})
    cache.revision("m", 4, {"a": "new"}, refs=("main",))
    items = by_name(list_hub(cache.hub, workspace, monkeypatch))
    together = items[f"model/m@{commit(1)[:8]}+{commit(2)[:8]}"]
    assert set(together.paths) == strategy_paths(cache.hub, commit(1), commit(2))
    assert set(items[f"model/m@{commit(3)[:8]}"].paths) == strategy_paths(cache.hub, commit(3))


def test_a_repository_downloaded_by_commit_is_one_item(
    cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = cache.revision("m", 1, {"a": "a"})
    items = by_name(list_hub(cache.hub, workspace, monkeypatch))
    assert set(items) == {"model/m"} and "by commit" in items["model/m"].note and not items["model/m"].suggested
    assert set(items["model/m"].paths) == {str(root)} == strategy_paths(cache.hub, commit(1))


def test_what_downloads_leave_behind(cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    root = cache.revision("m", 1, {"a": "a", "gone": "b"}, refs=("main",))
    (root / "blobs/b").unlink()
    (root / "refs/old").write_text(commit(9))
    fill(root / ".no_exist" / commit(1) / "x.json", 0)
    hour_ago = time.time() - 4000
    for path in (fill(root / "blobs/e.incomplete", 9000), fill(root / "blobs/orphan"), root / "blobs"):
        os.utime(path, (hour_ago, hour_ago))
    lock = fill(cache.hub / ".locks/models--m/a.lock", 0)
    os.utime(lock, (hour_ago, hour_ago))
    kind = list_hub(cache.hub, workspace, monkeypatch)
    items = by_name(kind)
    assert items["model/m incomplete"].paths == (str(root / "blobs/e.incomplete"),)
    assert items["model/m incomplete"].suggested
    assert set(items["model/m broken"].paths) == {f"{root}/refs/old", f"{root}/snapshots/{commit(1)}/gone"}
    assert items["model/m unused"].paths == (str(root / "blobs/orphan"),)
    assert items["model/m unused"].used_by  # its inode changed this hour: a download may be about to link it
    assert items[".locks"].suggested and items[".no_exist"].risk == "none"
    assert kind.bytes == du(cache.hub)
    assert hub_api.scan_cache_dir(cache.hub).warnings
    for name in ("model/m broken", "model/m incomplete"):
        move_away(items[name], cache.hub.parent / name)
    assert not hub_api.scan_cache_dir(cache.hub).warnings


def test_a_running_download_holds_its_repository(
    cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.revision("m", 1, {"a": "a"})
    cache.revision("m", 2, {"a": "b"}, refs=("main",))
    cache.revision("other", 3, {"a": "a"}, refs=("main",))
    lock = fill(cache.hub / ".locks/models--m/a.lock", 0)
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        items = by_name(list_hub(cache.hub, workspace, monkeypatch))
        assert all(
            items[name].used_by and not items[name].suggested for name in items if "/m" in name or name[0] == "."
        )
        assert not items["model/other"].used_by
    os.utime(lock, (1, 1))
    items = by_name(list_hub(cache.hub, workspace, monkeypatch))
    assert not any(item.used_by for item in items.values())


def test_shared_payloads_go_with_the_last_that_needs_them(
    cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for repo, number in (("a", 1), ("b", 2)):
        cache.revision(repo, number, {"w": "both", "own": f"own-{repo}"}, refs=("main",))
        cache.share(repo, "both", "ab" * 32)
    cache.share("a", "own-a", "cd" * 32)
    kind = list_hub(cache.hub, workspace, monkeypatch)
    items = by_name(kind)
    assert kind.bytes == du(cache.hub)
    for repo, number in (("a", 1), ("b", 2)):
        assert set(items[f"model/{repo}"].paths) == strategy_paths(cache.hub, commit(number))
        assert items[f"model/{repo}"].freed_bytes == du(*map(Path, items[f"model/{repo}"].paths))
    assert str(cache.hub / "blobs/cd" / ("cd" * 32)) in items["model/a"].paths
    move_away(items["model/a"], tmp_path / "bin")
    after = hub_api.scan_cache_dir(cache.hub)
    assert not after.warnings and {repo.repo_id for repo in after.repos} == {"b"}
    assert (cache.hub / "blobs/ab" / ("ab" * 32)).exists()
    items = by_name(list_hub(cache.hub, workspace, monkeypatch))
    assert str(cache.hub / "blobs/ab" / ("ab" * 32)) in items["model/b"].paths
    shutil.rmtree(cache.hub / "models--b")
    free = by_name(list_hub(cache.hub, workspace, monkeypatch))["shared unused"]
    assert len(free.paths) == 2 and free.suggested


def test_a_blob_that_another_repository_leads_to_stays(
    cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = cache.revision("a", 1, {"w": "lent"})
    cache.revision("a", 2, {"w": "new"}, refs=("main",))
    b = cache.revision("b", 3, {"x": "x"}, refs=("main",))
    (b / "snapshots" / commit(3) / "w").symlink_to("../../../models--a/blobs/lent")
    items = by_name(list_hub(cache.hub, workspace, monkeypatch))
    assert items[f"model/a@{commit(1)[:8]}"].paths == (f"{a}/snapshots/{commit(1)}",)
    assert items["model/a"].used_by == ("model/b",)


def test_a_blob_is_used_however_the_link_to_it_is_written(
    cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = cache.revision("a", 1, {"w": "one"}, refs=("main",))
    for blob in ("two", "three"):
        fill(repo / "blobs" / blob, 3000)
    snapshot = repo / "snapshots" / commit(1)
    (snapshot / "roundabout").symlink_to("../../blobs/./two")
    (snapshot / "absolute").symlink_to(repo / "blobs/three")
    before = time.time() - 2 * 3600
    for blob in (repo / "blobs").iterdir():
        os.utime(blob, (before, before))
    items = by_name(list_hub(cache.hub, workspace, monkeypatch))
    assert set(items) == {"model/a"}
    [owner] = hub_api.scan_cache_dir(cache.hub).repos
    assert scan_repo(str(repo), "model/a").size == owner.size_on_disk


def test_hard_links_between_repositories_free_nothing_alone(
    cache: Cache, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = cache.revision("a", 1, {"w": "big"}, refs=("main",))
    b = cache.revision("b", 2, {"w": "big"}, refs=("main",))
    (b / "blobs/big").unlink()
    os.link(a / "blobs/big", b / "blobs/big")
    kind = list_hub(cache.hub, workspace, monkeypatch)
    size = (a / "blobs/big").stat().st_blocks * 512
    assert all(item.freed_bytes == item.bytes - size for item in kind.items)
    assert kind.bytes == du(cache.hub) == du(a, b) + du(cache.hub) - du(a, b)
    assert kind.freed_bytes == du(a, b)


REVISIONS = st.lists(
    st.tuples(st.dictionaries(st.sampled_from("abcd") | st.just("sub/e"), st.sampled_from("uvwxyz")), st.booleans()),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    repos=st.lists(REVISIONS, min_size=1, max_size=3),
    shared=st.sets(st.tuples(st.integers(0, 2), st.sampled_from("uvwxyz"))),
)
def test_random_caches_agree_with_the_owners_strategy(repos: list, shared: set) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache(Path(folder) / "hub")
        number = 0
        for index, revisions in enumerate(repos):
            for files, named in revisions:
                number += 1
                cache.revision(f"r{index}", number, files, refs=(f"ref{number}",) if named else ())
        for index, blob in sorted(shared):
            if (cache.hub / f"models--r{index}/blobs/{blob}").is_file():
                cache.share(f"r{index}", blob, f"{ord(blob):02x}" * 32)
        found = {f"model/{repo.repo_id}": repo for repo in hub_api.scan_cache_dir(cache.hub).repos}
        workspace = Workspace(Path(folder), Settings())
        look = Look(_RULE, Box({}, cache.hub, workspace, threading.Event()), (), (str(cache.hub),))
        kind = look.run()
        assert kind.bytes == du(cache.hub)
        for name, repo in found.items():
            ours = scan_repo(str(repo.repo_path), name)
            assert ours.size == repo.size_on_disk
            sizes = {revision.commit_hash: revision.size_on_disk for revision in repo.revisions}
            assert {r.commit: r.size for r in ours.revisions.values()} == sizes
        for item in kind.items:
            name, at, hashes = item.name.partition("@")
            if name not in found:
                continue
            commits = [r.commit_hash for r in found[name].revisions if not at or r.commit_hash[:8] in hashes.split("+")]
            assert set(item.paths) == strategy_paths(cache.hub, *commits)
            for number, path in enumerate(item.paths):
                os.rename(path, f"{folder}/{number}")  # noqa: PTH104
            after = hub_api.scan_cache_dir(cache.hub)
            assert not after.warnings
            left = {r.commit_hash: r.size_on_disk for repo in after.repos for r in repo.revisions}
            before = {r.commit_hash: r.size_on_disk for repo in found.values() for r in repo.revisions}
            assert left == {c: size for c, size in before.items() if c not in commits}
            for number, path in enumerate(item.paths):
                os.rename(f"{folder}/{number}", path)  # noqa: PTH104


_RULE = next(kind for kind in kinds.KINDS if kind.name == "huggingface")
