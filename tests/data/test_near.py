"""Near-duplicate search against the plain definition; normalised forms."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from services.data import near

_sets = st.frozensets(st.sampled_from([f"w{n}" for n in range(12)]), min_size=1, max_size=8)
_long = st.integers(0, 90).map(lambda start: frozenset(f"w{n}" for n in range(start, start + 30 + start % 40)))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(_sets, _long), max_size=25), st.one_of(_sets, _long), st.data())
def test_finds_exactly_what_the_definition_calls_near(known, asked, data):
    index = near.NearIndex(near.frequencies(data.draw(st.sampled_from([known, known[:3], []]))))
    for tokens in known:
        index.add(tokens)
    found = index.find(asked)
    expected = {n for n, other in enumerate(known) if len(asked & other) >= 0.8 * len(asked | other)}
    assert (found in expected) if expected else found is None


def test_case_punctuation_and_spacing_do_not_make_a_text_another():
    assert near.normalise("  I can't — PAY?! ") == near.normalise("i cant pay")
    assert near.normalise("Ｃａｒｄ") == "card"
    assert near.normalise("?!") == "?!"  # a text of signs alone stays itself
    assert near.normalise("?") != near.normalise("!")


def test_counts_texts_with_a_near_duplicate():
    references = ["one two three four five", "something else"]
    assert near.count_near(["five four three two one!", "one two three", "other"], references) == 1
