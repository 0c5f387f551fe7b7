"""The server as a process and inside one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import urllib.parse
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.drive_bed.app import App
from tests.drive_bed.faults import Fault
from tests.drive_bed.listen import Listener
from tests.drive_bed.raw import raw
from tests.drive_bed.serve import CHECKOUT, DriveServer, start
from tests.drive_bed.state import State


def test_starts_on_a_port_and_stops_on_a_signal(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process, server = start(tmp_path, port=port)
    try:
        assert server.url == f"http://127.0.0.1:{port}"
        assert server.files == []
    finally:
        server.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    start_and_die = "import os, pathlib, sys; from tests.drive_bed.serve import start; "
    start_and_die += "print(start(pathlib.Path(sys.argv[1]))[0].pid, flush=True); os.kill(os.getpid(), 9)"
    command = [sys.executable, "-c", start_and_die, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    died = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, timeout=20)
    assert died.returncode == -signal.SIGKILL
    server = psutil.Process(int(died.stdout)) if psutil.pid_exists(int(died.stdout)) else None
    if server is not None:
        psutil.wait_procs([server], timeout=10)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


def test_says_so_when_it_cannot_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RuntimeError, match="did not start"):
        start(tmp_path, port=taken.getsockname()[1])


async def test_inside_a_process(tmp_path: Path) -> None:
    state = State(tmp_path)
    listener = Listener(App(state))
    port = await listener.start()
    grant = state.accounts.grant(state.account("ann@example.org"), "client", frozenset({"x/auth/drive"}))
    rule = state.faults.add(Fault(status=500))
    about = {"Authorization": "Bearer " + state.accounts.token(grant).value}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=about) as http:
        assert [(await http.get("/drive/v3/files")).status for _ in range(2)] == [500, 403]
    assert state.faults.hits() == {rule: 1}
    assert [one.status for one in state.log] == [500, 403]
    await listener.stop()


@pytest.mark.parametrize(
    "said", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"GET", b"\0" * 70_000]
)
async def test_survives_nonsense(drive_server: DriveServer, said: bytes) -> None:
    where = urllib.parse.urlsplit(drive_server.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(said)
    writer.write_eof()
    assert (await reader.read())[:12] in (b"", b"HTTP/1.1 400")
    writer.close()
    assert drive_server.files == []


async def test_keeps_a_connection_and_takes_requests_ahead(drive_server: DriveServer) -> None:
    where = urllib.parse.urlsplit(drive_server.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(b"POST /token HTTP/1.1\r\nContent-Length: 3\r\n\r\na=b" * 3)
    for _ in range(3):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        assert b"unsupported_grant_type" in await reader.readexactly(length)
    writer.close()


async def test_what_a_client_does_can_be_awaited(drive_server: DriveServer) -> None:
    async with raw(drive_server.account()) as call:
        rule = drive_server.fault(path="/about", status=500)
        address = await call.session("x", 1 << 20)
        with pytest.raises(TimeoutError):
            drive_server.wait(rule=rule, timeout=0.01)
        waits = [
            asyncio.to_thread(drive_server.wait, rule=rule),
            asyncio.to_thread(drive_server.wait, uploaded=1 << 19),
            asyncio.to_thread(drive_server.wait, finished=2, of="^(GET|PUT) "),
        ]
        waiting = asyncio.gather(*waits)
        await call.chunk(address, b"1" * (1 << 19), 0, 1 << 20)
        await call("GET", "/drive/v3/about?fields=user")
        await waiting


async def test_a_download_that_breaks_off_is_counted(drive_server: DriveServer) -> None:
    ann = drive_server.account()
    drive_server.folder.joinpath("big").write_bytes(b"1" * (64 << 20))
    id = drive_server.call("put", email=ann.email, name="x", client=ann.client, path=str(drive_server.folder / "big"))[
        "id"
    ]
    where = urllib.parse.urlsplit(drive_server.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(
        f"GET /drive/v3/files/{id}?alt=media HTTP/1.1\r\nAuthorization: Bearer {ann.access_token()}\r\n\r\n".encode()
    )
    await reader.readexactly(1 << 20)
    writer.transport.abort()
    await asyncio.to_thread(drive_server.wait, finished=1)
    assert 1 << 19 < drive_server.requests[0].bytes_out < 64 << 20


async def test_a_reset_forgets_everything(drive_server: DriveServer, tmp_path: Path) -> None:
    ann = drive_server.account()
    token = ann.access_token()
    ann.put("x", b"1")
    drive_server.fault(times=0, status=500)
    drive_server.reset(tmp_path / "other")
    assert (drive_server.files, drive_server.requests) == ([], [])
    async with aiohttp.ClientSession(drive_server.url) as http:
        answer = await http.get("/drive/v3/files", headers={"Authorization": "Bearer " + token})
        assert answer.status == 401
    assert not list((tmp_path / "drive").rglob("0*"))
