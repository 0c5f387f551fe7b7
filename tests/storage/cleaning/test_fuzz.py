"""Some rounds of the fuzzer (HYBRID_FUZZ_ROUNDS for more), and an attacker that does not wait for its turn."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from services.storage.cleaning import quarantine
from services.storage.cleaning.store import Store
from services.storage.cleaning.work import Cleaner
from services.workspace import Workspace
from tests.storage.cleaning import fuzz
from tests.storage.cleaning.beds import fingerprint, plan_of, undo_all

ATTACKER = textwrap.dedent(
    """
    import os, random, sys
    cache, outside = sys.argv[1:]
    rng = random.Random(0)
    number = 0
    print("ready", flush=True)
    while True:
        number += 1
        place = f"{cache}/{rng.randrange(6)}"
        try:
            if number % 3 == 0:      # a file of its own, whole at once, over a planned name or beside it
                source = f"{outside}/source{number}"
                with open(source, "w") as file:
                    file.write(f"<{number}>")
                name = rng.choice(["0", "1", f"new{number}"])
                os.link(source, f"{place}/{name}.tmp{number}")
                os.rename(f"{place}/{name}.tmp{number}", f"{place}/{name}")
            elif number % 3 == 1:    # a folder for a link to what must not be touched, and back
                os.rename(place, f"{outside}/stolen{number}")
                os.symlink(f"{outside}/precious", place)
                os.unlink(place)
                os.rename(f"{outside}/stolen{number}", place)
            else:                    # the precious file itself under a planned name
                os.link(f"{outside}/precious/file", f"{place}/link{number}")
                os.replace(f"{place}/link{number}", f"{place}/{rng.randrange(5)}")
        except OSError:
            pass
    """
)


@pytest.fixture
def place(tmp_path: Path) -> str:
    """In memory where that is possible: thousands of fsyncs."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else str(tmp_path)


def test_some_rounds(place: str) -> None:
    rounds = int(os.environ.get("HYBRID_FUZZ_ROUNDS", "50"))
    counts = fuzz.run(rounds, place=place)
    assert counts["rounds"] == rounds
    assert counts["attacks"] > rounds and counts["kills"] > rounds / 20


def test_the_fuzzer_notices_a_clean_up_that_deletes_by_name_alone(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.storage.cleaning.quarantine.same", lambda *_: True)
    with pytest.raises(AssertionError, match="seed"):
        fuzz.run(60, place=place)


@pytest.mark.parametrize(("now", "at_two"), [(False, quarantine.AT_TWO), (True, quarantine.AT_TWO), (True, 1)])
def test_a_process_that_swaps_and_links_without_pause(
    workspace: Workspace, tmp_path: Path, now: bool, at_two: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "AT_TWO", at_two)
    cache, outside = tmp_path / "cache" / "tree", tmp_path / "outside"
    (outside / "precious").mkdir(parents=True)
    (outside / "precious" / "file").write_text("precious")
    before = fingerprint(outside / "precious")
    store = Store(workspace)
    cache.parent.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", ATTACKER, str(cache), str(outside)], stdout=subprocess.PIPE
    ) as attacker:
        assert attacker.stdout is not None
        attacker.stdout.readline()
        try:
            for round_ in range(25):
                if not os.path.lexists(cache):  # made elsewhere: the attacker's links must not lead us astray
                    fresh = tmp_path / f"fresh{round_}"
                    for folder in range(6):
                        (fresh / str(folder)).mkdir(parents=True)
                        for name in range(5):
                            (fresh / str(folder) / str(name)).write_text("planned")
                    fresh.rename(cache)
                stored = plan_of(workspace, [cache], cache.parent)
                if stored.targets:
                    with store.lock():
                        Cleaner(store).execute(stored, now=now)
        finally:
            attacker.kill()
    undo_all(workspace)
    after = fingerprint(outside / "precious")
    assert after["file"][1:3] == before["file"][1:3]
    # What else got there, the attacker's own writes carried there through its links; ours follow none.
    assert b"planned" not in {figures[2] for figures in after.values()}
    sources = list(outside.glob("source*"))
    assert len(sources) > 50
    for source in sources:  # the last one may be half written
        assert source.read_text() in ("", f"<{source.name.removeprefix('source')}>")
