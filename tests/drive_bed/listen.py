"""The listening side: sockets, the process's entry, certificates for hosts that CONNECT names."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
import sys
import tempfile
from pathlib import Path

from tests.drive_bed.app import App
from tests.drive_bed.http import Connection
from tests.drive_bed.messages import Answer, Request
from tests.drive_bed.state import State


class Listener:
    """A server that listens. The throwaway authority of its TLS is in the state's folder, made when it is needed."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._contexts: dict[Path, ssl.SSLContext] = {}
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, host, port, backlog=512)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    def _connection(self) -> Connection:
        async def answer(request: Request) -> Answer:
            return await self.app(request)

        return Connection(answer, lambda *told: self.app.done(*told), self._tls)

    def _tls(self, host: str) -> ssl.SSLContext:
        from tests.drive_bed import authority

        folder = self.app.state.folder
        if folder not in self._contexts:
            self._contexts[folder] = authority.context(folder)
        return self._contexts[folder]


async def _main(port: int, folder: Path, until_eof: bool) -> None:
    app = App(State(folder))
    listener = Listener(app)
    bound = await listener.start(port=port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    if until_eof:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _watch, stop)
    print(json.dumps({"url": f"http://127.0.0.1:{bound}", "port": bound, "folder": str(folder)}), flush=True)
    await stop.wait()
    await listener.stop()


def _watch(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1):
        stop.set()


def main() -> int:
    """``python -m tests.drive_server``: serve until a signal comes; one JSON line on stdout says where."""
    parser = argparse.ArgumentParser(prog="tests.drive_server", description="Google Drive v3 on loopback, for tests.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--folder", type=Path, help="where files lie; a temporary folder without it")
    parser.add_argument("--until-eof", action="store_true", help="stop at the end of stdin: when the starter is gone")
    given = parser.parse_args()
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
        asyncio.run(_main(given.port, given.folder, given.until_eof))
        return 0
    with tempfile.TemporaryDirectory(prefix="drive-server-") as folder:
        asyncio.run(_main(given.port, Path(folder), given.until_eof))
    return 0


if __name__ == "__main__":
    sys.exit(main())
