"""``drive.init``: one root, whoever makes it, and hybrid.toml keeps everything else."""

from __future__ import annotations

import asyncio
import tomllib
from pathlib import Path

import pytest

from services import settings_edit
from services.context import Context, NeedsYes, Plan
from services.drive import google_init, google_root, google_session
from services.drive.google_init import Initialised, InitParams, init
from services.drive.google_root import FOLDERS, Ambiguous
from services.drive.open import open_store
from services.errors import BadInput, HybridError, StoreUnreachable
from services.workspace import Workspace
from tests.drive.google_bed import SignedIn, again
from tests.drive_bed.serve import DriveServer


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(google_init, "SETTLE", 0.1)


async def _init(workspace: Workspace, root_id: str = "", *, yes: bool = False) -> Initialised:
    done = await init(Context(workspace, yes=yes), InitParams(root_id))
    assert isinstance(done, Initialised)
    return done


async def test_it_makes_the_layout_and_notes_the_id_and_again_changes_nothing(
    signed_in: SignedIn, drive_server: DriveServer
) -> None:
    workspace = signed_in()
    done = await _init(workspace)
    assert (done.how, done.folders, done.warnings) == ("created", len(FOLDERS), ())
    root = drive_server.named("Banking LLM")
    assert [held.id for held in root] == [done.root_id]
    below = {held.name for held in drive_server.files if done.root_id in held.parents}
    assert below == {"models", "datasets", "notebooks", "results", "docs"}
    text = (workspace.root / "hybrid.toml").read_text()
    assert text.startswith('# mine\n[store]\nkind = "drive"  # not a folder\n')
    assert tomllib.loads(text)["drive"]["root_id"] == done.root_id
    before = (drive_server.files, text)
    await google_session.close(workspace)
    second = await _init(again(workspace))
    assert (second.how, second.folders, second.root_id) == ("found", 0, done.root_id)
    assert (drive_server.files, (workspace.root / "hybrid.toml").read_text()) == before


async def test_another_box_finds_it_by_name_and_mark(signed_in: SignedIn, drive_server: DriveServer) -> None:
    account = drive_server.account()
    first = await _init(signed_in("one", account))
    account.put("Banking LLM", mime="application/vnd.google-apps.folder")  # of the same name, and not marked
    second = await _init(signed_in("two", account))
    assert (second.how, second.root_id, second.folders) == ("found", first.root_id, 0)


@pytest.mark.parametrize("stale", [0.0, 0.3])
async def test_two_at_once_end_up_with_one(signed_in: SignedIn, drive_server: DriveServer, stale: float) -> None:
    account = drive_server.account()
    drive_server.fault(path=r"/drive/v3/files\?", method="GET", stale=stale, times=0)
    boxes = [signed_in(f"box{n}", account) for n in range(4)]
    done = await asyncio.gather(*(_init(box) for box in boxes))
    assert len({d.root_id for d in done}) == 1
    assert [held.id for held in drive_server.named("Banking LLM") if not held.trashed] == [done[0].root_id]
    for path in FOLDERS:
        assert len(drive_server.named(path.rpartition("/")[2])) == 1, path


async def test_a_lost_reply_makes_no_second_root(signed_in: SignedIn, drive_server: DriveServer) -> None:
    drive_server.fault(method="POST", path=r"/drive/v3/files\?", lose_reply=True, times=2)
    await _init(signed_in())
    names = [held.name for held in drive_server.files]
    assert len(names) == len(set(names)) == 1 + len(FOLDERS)


async def test_two_that_adopt_at_once_agree(
    signed_in: SignedIn, drive_server: DriveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(google_init, "SETTLE", 1.5)  # longer than a look and the write after it take
    account = drive_server.account(scope="drive")
    mine = account.put("Banking LLM", mime="application/vnd.google-apps.folder", by="")
    boxes = [signed_in(f"box{n}", account) for n in range(3)]
    done = await asyncio.gather(*(_init(box, yes=True) for box in boxes))
    assert {d.root_id for d in done} == {mine}
    firsts = {await open_store(again(box)).first_id("docs/registry/log") for box in boxes}
    assert len(firsts) == 1
    for path in FOLDERS:
        assert len(drive_server.named(path.rpartition("/")[2])) == 1, path


async def test_a_folder_of_a_persons_own_is_adopted_only_with_a_yes(
    signed_in: SignedIn, drive_server: DriveServer
) -> None:
    account = drive_server.account(scope="drive")
    folder = "application/vnd.google-apps.folder"
    mine = account.put("Banking LLM", mime=folder, by="")
    models = account.put("models", mime=folder, parent=mine, by="")
    workspace = signed_in("work", account)
    with pytest.raises(NeedsYes, match="did not make"):
        await _init(workspace)
    done = await _init(workspace, yes=True)
    assert (done.how, done.root_id) == ("adopted", mine)
    assert [held.id for held in drive_server.named("models")] == [models]
    assert (await _init(again(workspace))).how == "found"


async def test_of_several_folders_none_is_guessed(signed_in: SignedIn, drive_server: DriveServer) -> None:
    account = drive_server.account(scope="drive")
    ids = [account.put("Banking LLM", mime="application/vnd.google-apps.folder", by="") for _ in range(2)]
    with pytest.raises(Ambiguous, match=ids[0]) as caught:
        await _init(signed_in("work", account))
    assert ids[1] in str(caught.value) and "root_id=" in caught.value.hint
    marked = [
        account.put("Other", mime="application/vnd.google-apps.folder", properties={google_root.MARK: "root"})
        for _ in range(2)
    ]
    workspace = signed_in("other", account)
    (workspace.root / "hybrid.toml").write_text(
        (workspace.root / "hybrid.toml").read_text().replace("[drive]", 'root = "Other"\n[drive]')
    )
    with pytest.raises(Ambiguous, match="|".join(marked)):
        await open_store(again(workspace)).list("models")


async def test_a_root_in_the_trash_or_gone_is_said(signed_in: SignedIn, drive_server: DriveServer) -> None:
    account = drive_server.account()
    workspace = signed_in("work", account)
    assert (await open_store(workspace).status()).created is False
    with pytest.raises(StoreUnreachable, match="shows no folder") as caught:
        await open_store(workspace).list("models")
    assert "drive.init" in caught.value.hint
    done = await _init(workspace)
    tree = (await google_session.session(workspace)).tree
    await tree.client.trash(done.root_id)
    await google_session.close(workspace)
    with pytest.raises(StoreUnreachable, match="trash"):
        await open_store(again(workspace)).list("models")
    with pytest.raises(StoreUnreachable, match="is gone"):
        await open_store(again(workspace, root_id="nowhere")).list("models")
    file = account.put("file", b"x")
    with pytest.raises(BadInput, match="not a folder"):
        await open_store(again(workspace, root_id=file)).list("models")


async def test_a_plan_first_and_nothing_written_read_only(signed_in: SignedIn, drive_server: DriveServer) -> None:
    workspace = signed_in()
    plan = await init(Context(workspace, dry_run=True), InitParams())
    assert isinstance(plan, Plan) and "is made" in plan.summary
    with pytest.raises(HybridError, match="read-only"):
        await init(Context(workspace, read_only=True), InitParams())
    assert drive_server.files == []


TEXTS = [
    ("", '[drive]\nroot_id = "x"\n'),
    ("[drive]", '[drive]\nroot_id = "x"\n'),
    ("a = 1", 'a = 1\n\n[drive]\nroot_id = "x"\n'),
    ('[drive]\r\nroot_id = ""  # none\r\n', '[drive]\r\nroot_id = "x"  # none\r\n'),
    ("[drive]\nroot_id='old'\nscope = \"drive\"\n[panel]\n", '[drive]\nroot_id = "x"\nscope = "drive"\n[panel]\n'),
    ('[ drive ] # ours\nscope = "drive"\n', '[ drive ] # ours\nroot_id = "x"\nscope = "drive"\n'),
]


@pytest.mark.parametrize(("before", "after"), TEXTS)
def test_one_value_of_hybrid_toml_changes_and_nothing_else(tmp_path: Path, before: str, after: str) -> None:
    file = tmp_path / "hybrid.toml"
    file.write_bytes(before.encode())
    assert settings_edit.put(file, "drive", "root_id", "x")
    assert file.read_bytes().decode() == after
    assert not settings_edit.put(file, "drive", "root_id", "x")


@pytest.mark.parametrize(
    "text", ['drive = {root_id = ""}\n', 'drive.scope = "drive"\n', "[drive\n", '[drive]\nroot_id = """\na"""\n']
)
def test_what_cannot_be_changed_safely_is_left_and_the_line_is_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "hybrid.toml"
    file.write_text(text)
    with pytest.raises(HybridError) as caught:
        settings_edit.put(file, "drive", "root_id", "x")
    assert 'root_id = "x"' in caught.value.hint and file.read_text() == text
