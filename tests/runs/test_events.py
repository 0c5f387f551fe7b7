"""The reader: whatever the files hold and whenever it looks, each event once, and every damage by name."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.runs import events
from services.runs.events import Follower
from services.runs.types import Event


def event(seq: int, attempt: int = 1, ev: str = "metric", **data: object) -> Event:
    return msgspec.convert(
        {"v": 1, "run": "r", "attempt": attempt, "seq": seq, "t": 1.0 * seq, "ev": ev, "data": data}, Event
    )


def line(seq: int, attempt: int = 1, **data: object) -> bytes:
    return msgspec.json.encode(event(seq, attempt, **data)) + b"\n"


def write(folder: Path, number: int, *lines: bytes) -> Path:
    path = folder / f"events-{number:06d}.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def keys(found: list[Event]) -> list[tuple[int, int]]:
    return [(one.attempt, one.seq) for one in found]


def test_nothing_yet(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "absent")
    assert follower.poll() == [] and follower.problems == ()


def test_a_line_in_the_making_is_left_for_later(tmp_path: Path) -> None:
    path = write(tmp_path, 1, line(1), line(2)[:-9])
    follower = Follower(tmp_path)
    assert keys(follower.poll()) == [(1, 1)]
    assert follower.poll() == []
    path.write_bytes(line(1) + line(2) + line(3))
    assert keys(follower.poll()) == [(1, 2), (1, 3)]
    assert follower.problems == ()


def test_a_torn_end_of_an_older_attempt_is_named_and_reading_goes_on(tmp_path: Path) -> None:
    write(tmp_path, 1, line(1), line(2)[:20])
    write(tmp_path, 2, line(1, attempt=2))
    follower = Follower(tmp_path)
    assert keys(list(follower.all())) == [(1, 1), (2, 1)]
    assert follower.problems == ("events-000001.jsonl:2: torn at the end of the file",)


@pytest.mark.parametrize(
    "damage",
    [
        b"not json\n",
        b"\xff\xfe\x00\n",
        b"[]\n",
        b'{"v":1}\n',
        b"\n",
        b'{"v":1,"run":"r","attempt":1,"seq":0,"t":0,"ev":"hb"}\n',
    ],
)
def test_a_damaged_line_is_named_and_skipped(tmp_path: Path, damage: bytes) -> None:
    write(tmp_path, 1, line(1), damage, line(3))
    follower = Follower(tmp_path)
    assert keys(follower.poll()) == [(1, 1), (1, 3)]
    assert len(follower.problems) == 1 and follower.problems[0].startswith("events-000001.jsonl:2: not an event")


def test_duplicates_are_dropped_and_gaps_named_until_filled(tmp_path: Path) -> None:
    path = write(tmp_path, 1, line(1), line(1), line(4), line(4), line(5))
    follower = Follower(tmp_path)
    assert keys(follower.poll()) == [(1, 1), (1, 4), (1, 5)]
    assert follower.problems == ("events-000001.jsonl:3: events 2 to 3 of attempt 1 missing before this line",)
    with path.open("ab") as file:
        file.write(line(3) + line(2) + line(3))
    assert keys(follower.poll()) == [(1, 3), (1, 2)]
    assert follower.problems == ()


def test_a_missing_file_is_a_gap(tmp_path: Path) -> None:
    write(tmp_path, 1, line(1))
    write(tmp_path, 3, line(3))
    follower = Follower(tmp_path)
    assert keys(follower.poll()) == [(1, 1), (1, 3)]
    assert follower.problems == ("events-000003.jsonl:1: event 2 of attempt 1 missing before this line",)


def test_a_file_that_became_shorter_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, 1, line(1), line(2), line(3))
    follower = Follower(tmp_path)
    follower.poll()
    path.write_bytes(line(1) + line(2))
    assert follower.poll() == []
    path.write_bytes(line(1) + line(2) + line(3) + line(4))
    assert keys(follower.poll()) == [(1, 4)]
    assert len(follower.problems) == 1 and "became shorter" in follower.problems[0]


def test_megabytes_without_a_newline_neither_fill_memory_nor_hide_what_follows(tmp_path: Path) -> None:
    write(tmp_path, 1, line(1), b"x" * (3 * events.CHUNK + 17), b"\n", line(3))
    follower = Follower(tmp_path)
    assert keys(list(follower.all())) == [(1, 1), (1, 3)]
    assert len(follower.problems) == 1 and "events-000001.jsonl:2" in follower.problems[0]


def test_a_long_history_comes_in_bounded_pieces(tmp_path: Path) -> None:
    total = 40_000
    write(tmp_path, 1, *(line(seq, loss=1.0, text="words " * 8) for seq in range(1, total + 1)))
    follower = Follower(tmp_path)
    pieces = [follower.poll()]
    while follower.behind:
        pieces.append(follower.poll())
    assert len(pieces) >= 3 and max(len(piece) for piece in pieces) < total / 2
    assert keys([one for piece in pieces for one in piece]) == [(1, seq) for seq in range(1, total + 1)]


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_polling_while_it_grows_gives_what_one_reading_gives(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kinds = data.draw(
        st.lists(st.sampled_from(["next", "next", "twice", "gap", "bad", "file", "attempt", "torn"]), max_size=30)
    )
    folder, seq, attempt, number = tmp_path_factory.mktemp("run"), 0, 1, 1
    contents: list[tuple[int, bytes]] = []
    for kind in kinds:
        if kind in ("next", "gap", "twice"):
            seq += 1 + 2 * (kind == "gap")
            contents.append((number, line(seq, attempt, note="é\r") * (1 + (kind == "twice"))))
        elif kind == "bad":
            contents.append((number, b"{damaged\r line}\n"))
        elif kind == "torn":
            contents.append((number, b'{"torn'))
        if kind in ("file", "attempt", "torn"):
            number += 1
            attempt, seq = (attempt, seq) if kind == "file" else (attempt + 1, 0)
    growing = Follower(folder)
    seen: list[Event] = []
    for number, piece in contents:
        for part in _cut(piece, data.draw(st.lists(st.integers(0, len(piece)), max_size=2))):
            with (folder / f"events-{number:06d}.jsonl").open("ab") as file:
                file.write(part)
            if data.draw(st.booleans()):
                seen += growing.all()
    seen += growing.all()
    whole = Follower(folder)
    assert seen == list(whole.all())
    assert growing.problems == whole.problems
    assert len(set(keys(seen))) == len(seen)


def _cut(piece: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(places), len(piece)]
    return [piece[start:end] for start, end in itertools.pairwise(bounds)]
