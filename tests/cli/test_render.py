"""What a person reads of a result."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from hybrid_tui.render import renderable


class Inner(msgspec.Struct, frozen=True):
    name: str
    size_bytes: int
    labels: tuple[str, ...] = ()
    sha256: str = ""


class Outer(msgspec.Struct, frozen=True):
    first_token_s: float
    tokens_s: float
    accuracy: float
    rows: tuple[Inner, ...]
    note: str = ""
    at: float | None = None


def text(result: object) -> str:
    console = Console(file=io.StringIO(), width=200)
    console.print(renderable(result))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_units_follow_the_names_and_brackets_stay() -> None:
    said = text(Outer(0.25, 114.2, 0.858, (Inner("[red]x[/red]", 1500),)))
    for part in ("0.2 s", "114 tokens/s", "85.8 %", "1.5 kB", "[red]x[/red]"):
        assert part in said
    assert "note" not in said
    assert "1,795" not in text(Outer(0, 0, 0, (), at=1_795_408_737.0))


def test_long_lists_are_counted_and_digests_shortened_in_tables() -> None:
    said = text((Inner("a", 1, tuple("abcdefgh"), "0123456789abcdef"), Inner("b", 1, ("one", "two"))))
    assert "8 labels" in said
    assert "one, two" in said
    assert "0123456789ab" in said
    assert "0123456789abc" not in said
