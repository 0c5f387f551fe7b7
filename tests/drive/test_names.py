"""Hostile names become safe local parts, kept apart, with a way back."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from services.drive import names
from services.drive.store import parts
from services.errors import BadInput

ANY = st.text(st.characters(), max_size=12) | st.text(
    st.sampled_from("./\\ ％~AaéÉ\u0301\u202e\n2F41cCoOnN\u0327ſßİ"), max_size=8
)
LONG = st.builds(
    lambda text, n: (text * n)[:400], st.text(st.characters(), min_size=1, max_size=5), st.integers(1, 400)
)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())


@given(ANY | LONG)
@example("..")
@example("a/../../b")
@example("nul.txt")
@example("COM¹")
@example("\ud800\udc00")
def test_a_local_part_stays_in_its_folder_and_is_printable(name: str) -> None:
    for local in (names.local_name(name), *names.local_names([name, name.swapcase()]).values()):
        assert parts(local) == (local,)
        assert 0 < len(local.encode()) <= names.LONGEST
        assert local.isprintable() and "\\" not in local and local[-1] not in ". " and local[0] != " "
        assert local.split(".")[0].rstrip(" ").lower() not in {"con", "nul", "aux", "prn", "com1", "lpt9", "com¹"}
        assert Path("/top").joinpath(local).parent == Path("/top")


@given(ANY)
def test_every_name_that_was_not_cut_has_a_way_back(name: str) -> None:
    for local in (names.local_name(name), names.local_names([name, name.swapcase()])[name]):
        assert names.drive_name(local) == name or "％~" in local
        assert names.stands_for(local, name)


@settings(deadline=None)
@given(st.sets(ANY | LONG, max_size=8), st.booleans())
@example({"Con", "CON", "con"}, True)
@example({"é", "e\u0301", "É"}, False)
@example({"Model.bin", "model.bin", "％4Dodel.bin"}, False)
def test_no_two_names_of_a_folder_become_alike(found: set[str], more: bool) -> None:
    if more:
        found |= {n.upper() for n in found} | {unicodedata.normalize("NFD", n) for n in found}
    local = names.local_names(found)
    assert set(local) == found
    assert len({_folded(part) for part in local.values()}) == len(found)
    assert all(names.stands_for(part, name) for name, part in local.items())


@given(ANY)
def test_what_is_pushed_comes_back_under_the_name_it_had(name: str) -> None:
    local = names.local_name(name)
    if "％~" not in local:
        assert names.local_name(names.drive_name(local)) == local


def test_ordinary_names_stay_as_they_are() -> None:
    for name in (
        "adapter_model.safetensors",
        "100%.txt",
        "model%20card.md",
        "Prüfung 2.pdf",
        ".incoming",
        "a:b",
        "数.bin",
    ):
        assert names.local_name(name) == name == names.drive_name(name)


def test_a_long_name_keeps_its_beginning_and_its_ending() -> None:
    name = "x" * 300 + ".safetensors"
    local = names.local_name(name)
    assert local.startswith("x" * 100) and local.endswith(".safetensors") and names.stands_for(local, name)
    assert names.local_name("x" * 299 + ".safetensors") != local
    with pytest.raises(BadInput, match="short form"):
        names.drive_name(local)
