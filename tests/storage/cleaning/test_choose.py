"""What is meant by ids, kinds and filters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.errors import BadInput
from services.storage.cleaning.choose import GB, Wanted, choose
from services.storage.reclaim import Item, KindItems

DAY = 86400.0
NOW = 100 * DAY


def thing(name: str, size: int = 1, used: float | None = 1.0, **more: object) -> Item:
    kind = name.partition(":")[0]
    values = {"risk": "low", "suggested": True, **more}
    return Item(name, kind, name, (f"/c/{name}",), size, size, 1, used, "It comes back.", **values)  # type: ignore[arg-type]


def kind(*items: Item, name: str = "pip") -> KindItems:
    return KindItems(name, name, ("/c",), True, 0, 0, 0, None, "", "low", items)


def chosen(wanted: Wanted, *kinds: KindItems) -> list[str]:
    return [item.id for item in choose(kinds, wanted, NOW).items]


def test_with_nothing_named_all_that_is_suggested_is_meant() -> None:
    kinds = kind(thing("pip:a"), thing("pip:b", suggested=False), thing("pip:c", risk="high"))
    choice = choose((kinds,), Wanted(), NOW)
    assert [item.id for item in choice.items] == ["pip:a"]
    assert "1 item of pip" in choice.scope


def test_what_is_in_use_or_risky_or_kept_is_held_with_the_reason() -> None:
    kinds = kind(thing("pip:a", used_by=("python (1)",)), thing("pip:b", risk="high"), thing("pip:c"))
    choice = choose((kinds,), Wanted(kinds=("pip",), keep=("pip:c*",)), NOW)
    assert not choice.items
    assert [held.reason for held in choice.held] == [
        "It is in use by python (1).",
        "Its risk is high, and only up to low was asked for; risk=high takes it too.",
        "It is on the list of what is kept ('pip:c*').",
    ]
    assert chosen(Wanted(items=("pip:b",), risk="high"), kinds) == ["pip:b"]


def test_an_unknown_item_or_kind_is_named_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"no item 'pip:wheel'; did you mean 'pip:wheels'\?"):
        choose((kind(thing("pip:wheels")),), Wanted(items=("pip:wheel",)))
    with pytest.raises(BadInput, match=r"no cache kind 'pipp'; did you mean 'pip'\?"):
        choose((kind(thing("pip:wheels")),), Wanted(kinds=("pipp",)))


def test_age_counts_from_the_last_use_and_never_used_is_old() -> None:
    kinds = kind(thing("pip:new", used=99 * DAY), thing("pip:old", used=60 * DAY), thing("pip:never", used=None))
    assert chosen(Wanted(older_than_days=30), kinds) == ["pip:old", "pip:never"]


sizes = st.lists(st.tuples(st.integers(0, 3 * GB), st.none() | st.floats(0, NOW)), max_size=12)


@given(sizes, st.integers(0, 5))
def test_under_a_size_takes_the_least_recently_used_and_no_more_than_needed(
    things: list[tuple[int, float | None]], limit: int
) -> None:
    items = [thing(f"pip:{n}", size, used) for n, (size, used) in enumerate(things)]
    taken = choose((kind(*items),), Wanted(under_gb=limit), NOW).items
    stay = [item for item in items if item not in taken]
    remaining = sum(item.bytes for item in stay)
    assert remaining <= limit * GB
    assert all((a.last_used or 0) <= (b.last_used or 0) for a in taken for b in stay)
    if taken:
        assert remaining + taken[-1].bytes > limit * GB
