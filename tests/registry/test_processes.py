"""Real processes at the same registry at once, and processes killed at random moments."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from services import workspace as workspaces
from services.context import Context
from services.registry import manifest
from services.registry.actions import (
    AddParams,
    HistoryParams,
    ListParams,
    PromoteParams,
    add,
    history,
    list_versions,
    promote,
)
from services.registry.types import Listing, Version
from services.workspace import Workspace
from tests.registry.conftest import MakeAdapter

ROOT = Path(__file__).resolve().parents[2]
START = """
import asyncio, json, pathlib, sys, msgspec
from services import workspace
from services.context import Context
from services.errors import HybridError
from services.registry.actions import *
ctx = Context(workspace.open_workspace(pathlib.Path(sys.argv[1])))
def say(call):
    try:
        print(msgspec.json.encode(asyncio.run(call)).decode(), flush=True)
    except HybridError as error:
        print(json.dumps({"error": str(error), "exit_code": error.exit_code}), flush=True)
print("ready", flush=True)
sys.stdin.readline()
"""


class Shell:
    """A Python process that has imported everything, waits for ``go``, and then prints one JSON line per action."""

    def __init__(self, workspace: Workspace, code: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", START + code, str(workspace.root)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", self.process.communicate()[1]

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def said(self) -> list[dict[str, object]]:
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return [json.loads(line) for line in out.splitlines()]


def _at_once(workspace: Workspace, codes: list[str]) -> list[list[dict[str, object]]]:
    shells = [Shell(workspace, code) for code in codes]
    for shell in shells:
        shell.wait_ready()
    for shell in shells:
        shell.go()
    return [shell.said() for shell in shells]


def _whole(listing: Listing) -> None:
    """Every listed version lies where it is said to lie, with its own bytes."""
    for version in listing.versions:
        data = (Path(version.path) / manifest.NAME).read_bytes()
        assert manifest.digest(data) == version.digest
        for file in manifest.read(data).files:
            assert (Path(version.path) / file.path).stat().st_size == file.size


def _listing(workspace: Workspace) -> Listing:
    return asyncio.run(list_versions(Context(workspace), ListParams()))


def _add_in(workspace: Workspace, folder: Path) -> Version:
    version = asyncio.run(add(Context(workspace), AddParams(model="banking", path=str(folder))))
    assert isinstance(version, Version)
    return version


def test_processes_that_add_and_promote_at_once_lose_nothing(workspace: Workspace, adapter: MakeAdapter) -> None:
    folders = [adapter(f"a{n}", accuracy=n / 10) for n in range(4)]
    _add_in(workspace, folders[0])
    adding = [
        f"for n in range(5): say(add(ctx, AddParams(model='banking', path={str(f)!r}, note='{i}')))"
        for i, f in enumerate(folders)
    ]
    promoting = [
        "for n in range(5): say(promote(ctx, PromoteParams(model='banking', version='latest', to='candidate')))"
    ]
    said = _at_once(workspace, adding + promoting)
    added = [answer for answers in said[:4] for answer in answers]
    assert not [a for a in added if "version" not in a], [a for a in added if "version" not in a]
    numbers = [answer["version"] for answer in added]
    assert sorted(numbers) == list(range(2, 22)), numbers  # each got its own number, none is missing
    for answers in said[:4]:
        mine = [a["version"] for a in answers]
        assert mine == sorted(mine)
    listing = _listing(workspace)
    assert listing.problems == ()
    assert {v.version: v.digest for v in listing.versions if v.version > 1} == {
        a["version"]: a["digest"] for a in added
    }
    _whole(listing)
    told = asyncio.run(history(Context(workspace), HistoryParams(limit=0)))
    assert all(e.accepted for e in told.entries)
    moves = sum(1 for a in said[4] if a.get("changed"))
    assert told.total == 1 + 21 + moves
    view = json.loads((workspace.store_path / "docs/model_registry.json").read_text())
    assert view["records"] == told.total  # the last writer left the view up to date
    assert {m["version"]: m["digest"] for m in view["models"]} == {v.version: v.digest for v in listing.versions}


def test_of_two_shells_one_promotes_and_the_other_is_told_who(workspace: Workspace, adapter: MakeAdapter) -> None:
    for n in range(3):
        _add_in(workspace, adapter(f"a{n}"))
    asyncio.run(promote(Context(workspace), PromoteParams(model="banking", version="1")))
    codes = [f"say(promote(ctx, PromoteParams(model='banking', version='{v}', expected=1)))" for v in (2, 3)]
    answers = [answers[0] for answers in _at_once(workspace, codes)]
    [won] = [a for a in answers if "version" in a]
    [lost] = [a for a in answers if "error" in a]
    assert lost["exit_code"] == 3
    assert f"was moved to {won['version']} by {won['by']}" in str(lost["error"])
    deployed = next(v for v in _listing(workspace).versions if "deployed" in v.aliases)
    assert deployed.version == won["version"]


def test_killed_at_any_moment_the_registry_reads_and_a_retry_works(workspace: Workspace, adapter: MakeAdapter) -> None:
    folder = adapter(size=3_000_000)
    chance = random.Random(7)
    _add_in(workspace, folder)
    committed = 1
    code = f"while True: say(add(ctx, AddParams(model='banking', path={str(folder)!r})))"
    for _ in range(8):
        shell = Shell(workspace, code)
        shell.wait_ready()
        shell.go()
        end = time.monotonic() + chance.uniform(0.005, 0.25)
        while time.monotonic() < end:
            time.sleep(0.001)
        shell.process.kill()
        out, _ = shell.process.communicate()
        said = [json.loads(line)["version"] for line in out.splitlines() if line.endswith("}")]
        listing = _listing(workspace)
        assert listing.problems == ()
        numbers = [v.version for v in listing.versions]
        assert numbers == list(range(len(numbers), 0, -1))
        assert len(numbers) >= committed + len(said)  # what was answered is there; at most one more was committed
        assert len(numbers) <= committed + len(said) + 1
        _whole(listing)
        committed = len(numbers)
    again = _add_in(workspace, folder)
    assert again.version == committed + 1
    listing = _listing(workspace)
    _whole(listing)
    finals = {f"banking-v{n}" for n in range(1, committed + 2)}
    there = {p.name for p in (workspace.store_path / "models/finetuned").iterdir() if not p.name.startswith(".")}
    incoming = workspace.store_path / "models/finetuned/.incoming"
    assert not [p for p in incoming.iterdir() if p.is_dir()]  # what the dead left half-copied is gone
    assert there == finals  # the retry also brought home what a killed writer had committed but not moved


def test_a_key_makes_a_retry_after_a_kill_the_same_version(workspace: Workspace, adapter: MakeAdapter) -> None:
    call = f"say(add(ctx, AddParams(model='banking', path={str(adapter())!r}, key='demo')))"
    answers = [a[0] for a in _at_once(workspace, [call, call, call])]
    assert [a["version"] for a in answers] == [1, 1, 1]
    assert len(_listing(workspace).versions) == 1
    assert not list((workspace.store_path / "models/finetuned/.incoming").iterdir())


def test_opening_an_existing_workspace_from_elsewhere_sees_the_same(workspace: Workspace, adapter: MakeAdapter) -> None:
    _add_in(workspace, adapter())
    [answer] = _at_once(workspace, ["say(list_versions(ctx, ListParams()))"])[0]
    mine = workspaces.open_workspace(workspace.root)
    assert [v["id"] for v in answer["versions"]] == [v.id for v in _listing(mine).versions]  # type: ignore[attr-defined]


def test_an_addition_that_goes_on_elsewhere_is_not_swept_away(workspace: Workspace, adapter: MakeAdapter) -> None:
    big, small = adapter("big", size=60_000_000), adapter("small")
    shell = Shell(workspace, f"say(add(ctx, AddParams(model='banking', path={str(big)!r})))")
    shell.wait_ready()
    shell.go()
    incoming = workspace.store_path / "models/finetuned/.incoming"
    end = time.monotonic() + 30
    while not list(incoming.glob("*/adapter_model.safetensors")) and time.monotonic() < end:
        time.sleep(0.001)
    _add_in(workspace, small)
    [answer] = shell.said()
    assert "version" in answer, answer
    listing = _listing(workspace)
    assert len(listing.versions) == 2
    _whole(listing)
    assert not list(incoming.iterdir())
