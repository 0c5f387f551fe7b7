"""A web server for one answer: Google sends the browser to 127.0.0.1, and this hears what it says.

https://datatracker.ietf.org/doc/html/rfc8252#section-7.3
"""

from __future__ import annotations

import asyncio
import contextlib
import html
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from services.errors import BadInput

Query = dict[str, str]
Verdict = tuple[bool, str, Callable[[], None] | None]
"""Whether the answer was ours, a sentence for the page, what to do once the page is sent."""

_SECONDS = 10.0
_PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>hybrid-tui</title><body style="font:18px/1.5 sans-serif;max-width:36em;margin:15vh auto;padding:0 1em">
<p>{text}</p></body>"""


class Listener:
    """Listens on 127.0.0.1 only, from ``open`` to ``close``."""

    def __init__(self, path: str, judge: Callable[[Query], Verdict]) -> None:
        self.path = path
        self.judge = judge
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self, port: int) -> None:
        """Listen on ``port``, 0 for any free one. Raises BadInput when it is taken."""
        try:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=16 * 1024)
        except OSError as error:
            raise BadInput(
                f"Port {port} of 127.0.0.1 can't be listened on: {error.strerror}.",
                hint="Choose another with port=…, or use flow=paste.",
            ) from None
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Stop listening and hang up."""
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(_SECONDS):
                    head = await reader.readuntil(b"\r\n\r\n")
                    await self._answer(head, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        method, _, rest = head.split(b"\r\n", 1)[0].decode("latin-1").partition(" ")
        target = urlsplit(rest.rpartition(" ")[0])
        query = {key: values[0] for key, values in parse_qs(target.query).items()}
        then = None
        if method != "GET" or target.path != self.path or not {"code", "error"} & set(query):
            status, text = "404 Not Found", "There is nothing here. hybrid-tui waits for Google's answer."
        else:
            ours, text, then = self.judge(query)
            status = "200 OK" if ours else "400 Bad Request"
        body = _PAGE.format(text=html.escape(text)).encode()
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        try:
            await writer.drain()
        finally:
            if then is not None:  # also when the browser has hung up: it has said what there was to say
                then()
