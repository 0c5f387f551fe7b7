"""Conversations as people's files hold them, and as rows: OpenAI's ``messages`` and ShareGPT's ``conversations``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.data.types import Role, Row, Turn

_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
}  # fmt: skip


class Unusable(Exception):
    """Why a conversation can't be trained on, in a few words that complete "left out: …"."""


def is_conversation(value: Any) -> bool:
    """Whether ``value`` is a list of messages, or one written as JSON in a text column."""
    found = _decoded(value)
    return isinstance(found, Sequence) and bool(found) and all(_is_message(item) for item in found)


def turns(value: Any) -> tuple[Turn, ...]:
    """The messages in ``value``, up to the last of the assistant; several of one speaker in a row become one.

    Raises Unusable: no answer, an empty message, the assistant speaks first, tool calls, pictures.
    """
    found = _decoded(value)
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise Unusable("no list of messages")
    spoken: list[Turn] = []
    for item in found:
        turn = _turn(item)
        if spoken and spoken[-1].role == turn.role:
            spoken[-1] = Turn(turn.role, f"{spoken[-1].content}\n\n{turn.content}")
        else:
            spoken.append(turn)
    while spoken and spoken[-1].role != "assistant":
        spoken.pop()
    roles = [turn.role for turn in spoken]
    if not roles:
        raise Unusable("no answer of the assistant")
    if "system" in roles[1:]:
        raise Unusable("a system message after the first")
    if roles[roles[0] == "system"] != "user":
        raise Unusable("the assistant speaks first")
    return tuple(spoken)


def row(messages: tuple[Turn, ...]) -> Row:
    """A conversation (see ``turns``) as a row."""
    return Row(messages[-2].content, messages[-1].content, messages)


def asked(row: Row, *, system: bool = True) -> str:
    """All that is said before the answer: what makes two rows the same question. ``system``: its message included."""
    if not row.messages:
        return row.text
    return "\n".join(turn.content for turn in row.messages[:-1] if system or turn.role != "system")


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if not value.lstrip().startswith("["):
        return None
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and ("role" in item or "from" in item)


def _turn(item: Any) -> Turn:
    if not _is_message(item):
        raise Unusable("a message without role")
    name = str(item.get("role") or item.get("from") or "").strip().lower()
    role = _ROLES.get(name)
    if role is None or item.get("tool_calls"):
        raise Unusable(
            "tool calls" if name in ("tool", "function", "observation") or role else f"the role '{name[:20]}'"
        )
    content = _content(item["content"] if "content" in item else item.get("value"))
    if not content:
        raise Unusable("an empty message")
    return Turn(role, content)


def _content(value: Any) -> str:
    """Text, or text in parts: ``[{"type": "text", "text": …}]``."""
    if isinstance(value, str):
        return value.strip()
    if not isinstance(value, Sequence):
        return ""
    parts = []
    for part in value:
        if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
            raise Unusable("pictures or other parts that are no text")
        parts.append(part["text"])
    return "\n".join(parts).strip()


def script(messages: Sequence[Turn]) -> str:
    """A conversation for a person to read, a role before each message."""
    return "\n".join(f"{turn.role}: {turn.content}" for turn in messages)
