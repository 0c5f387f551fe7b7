"""The action table: every parameter is described and can be given as a word."""

from __future__ import annotations

import contextlib

import pytest

from hybrid_tui.actions import ACTIONS, Action, _value, description
from services.errors import BadInput


@pytest.mark.parametrize("action", ACTIONS.values(), ids=lambda action: action.name)
def test_every_parameter_is_described_and_takes_a_word(action: Action) -> None:
    for field in action.fields():
        assert description(field.type), f"{action.name}: {field.name} has no description"
        with contextlib.suppress(BadInput):  # one that does not fit is refused in a sentence, never with a crash
            _value(action, field.name, "1", field.type)
