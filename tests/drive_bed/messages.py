"""A request, an answer, and what shall go wrong with one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tests.drive_bed.errors import ApiError


class Broken(Exception):
    """The connection has to end here. ``reset``: with a TCP reset, else by closing. ``sent``: bytes of the answer."""

    def __init__(self, why: str, *, reset: bool = False, sent: int = 0) -> None:
        super().__init__(why)
        self.reset, self.sent = reset, sent


@dataclass(slots=True)
class Trouble:
    """What a request's faults add up to; see ``faults.Fault`` for the meanings."""

    latency: float = 0.0
    status: int = 0
    reason: str = ""
    retry_after: float | None = None
    rate: int = 0
    drop_request_at: int | None = None
    drop_response_at: int | None = None
    truncate_at: int | None = None
    corrupt_at: int | None = None
    corrupt_stored: int | None = None
    commit_at_most: int | None = None
    lose_reply: bool = False
    forget_session: bool = False
    stale: float = 0.0
    incomplete: bool = False
    page_at_most: int | None = None
    reset: bool = False
    names: list[str] = field(default_factory=list)

    @property
    def cut(self) -> bool:
        """The answer will end before its length."""
        return self.drop_response_at is not None


class Line(Protocol):
    """What a request needs of its connection."""

    scheme: str

    def chunks(self, request: Request) -> AsyncIterator[memoryview]: ...

    def abort(self) -> None: ...


@dataclass(slots=True)
class Request:
    """One request. ``path`` is decoded, ``query`` has each parameter once, header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    raw_query: str
    headers: dict[str, str]
    line: Line
    trouble: Trouble
    bytes_in: int = 0
    body_read: bool = False
    account: str = ""
    client: str = ""
    units: int = 0

    @property
    def length(self) -> int:
        return int(self.headers.get("content-length") or 0)

    @property
    def has_body(self) -> bool:
        return self.length > 0 or "transfer-encoding" in self.headers

    @property
    def address(self) -> str:
        """Scheme and host as the client sees them."""
        return f"{self.line.scheme}://{self.headers.get('host', '127.0.0.1')}"

    def chunks(self) -> AsyncIterator[memoryview]:
        """The body as it comes; a piece is valid until the next."""
        return self.line.chunks(self)

    async def read(self, limit: int = 16 << 20) -> bytes:
        """The whole body, up to ``limit`` bytes."""
        body = bytearray()
        async for piece in self.chunks():
            body += piece
            if len(body) > limit:
                raise ApiError(413, "uploadTooLarge", "Request is too large.")
        return bytes(body)

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; {} when empty. Raises ApiError 400."""
        body = await self.read()
        return parse_object(body)


def parse_object(body: bytes) -> dict[str, Any]:
    """A JSON object, {} for nothing. Raises ApiError 400 as Google does for what it can't parse."""
    if not body.strip():
        return {}
    try:
        parsed = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ApiError(400, "parseError", "Parse Error") from error
    if not isinstance(parsed, dict):
        raise ApiError(400, "parseError", "Parse Error")
    return parsed


@dataclass(slots=True)
class Answer:
    """An answer: ``body``, or ``count`` bytes of ``file`` from ``offset``."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    file: Path | None = None
    offset: int = 0
    count: int = 0

    @property
    def length(self) -> int:
        return self.count if self.file is not None else len(self.body)


def as_json(value: Any, status: int = 200) -> Answer:
    """An answer with ``value`` as JSON."""
    headers = {"Content-Type": "application/json; charset=UTF-8", "Cache-Control": "no-cache, no-store, max-age=0"}
    return Answer(status, headers, msgspec.json.encode(value))
