"""The client against children that misbehave; they are real processes speaking the worker's lines, without torch."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from services.context import Context
from services.errors import BadInput, HybridError
from services.inference import client as clients
from services.inference.client import WorkerClient

_CHILD = """
import json, os, signal, sys, time
def say(id, ev, **data): print(json.dumps({"id": id, "ev": ev, "data": data}), flush=True)
def requests():
    for line in sys.stdin: yield json.loads(line)
say(0, "ready", pid=os.getpid())
"""


def child(body: str) -> tuple[str, ...]:
    """The command line of a worker whose behaviour is ``body``."""
    return (sys.executable, "-c", _CHILD + body)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for ``condition``, at most ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    """No process of this id, and no zombie either."""
    return not psutil.pid_exists(pid)


ANSWER = """
for r in requests():
    if r["op"] == "ping": say(r["id"], "done", pid=os.getpid()); continue
    for piece in r.get("text", "").split(): say(r["id"], "token", text=piece)
    say(r["id"], "done", text=r.get("text", ""))
"""


async def test_replies_come_as_a_stream_and_one_child_serves_all(ctx: Context) -> None:
    async with WorkerClient(ctx, child(ANSWER)) as client:
        assert client.pid is None
        events = [(r.ev, r.data.get("text")) async for r in client.stream("generate", text="a bé 🎉")]
        assert events == [
            ("loading", None), ("token", "a"), ("token", "bé"), ("token", "🎉"), ("done", "a bé 🎉"),
        ]  # fmt: skip
        pid = client.pid
        answers = await asyncio.gather(*(client.ask("generate", text=str(i)) for i in range(5)))
        assert [a["text"] for a in answers] == list("01234")
        assert client.pid == pid is not None and not client.busy
    assert gone(pid)


async def test_a_line_of_megabytes_arrives_whole(ctx: Context) -> None:
    body = 'for r in requests(): say(r["id"], "done", text="ü" * 4_000_000)'
    async with WorkerClient(ctx, child(body)) as client:
        assert (await client.ask("generate"))["text"] == "ü" * 4_000_000


async def test_a_crash_is_told_with_its_cause_and_the_next_request_works(ctx: Context, tmp_path: Path) -> None:
    mark = tmp_path / "crashed"
    body = f"""
for r in requests():
    say(r["id"], "token", text="half")
    if not os.path.exists({str(mark)!r}):
        open({str(mark)!r}, "w").close()
        print("some noise\\nRuntimeError: the GPU fell off", file=sys.stderr); sys.exit(3)
    say(r["id"], "done", text="half an answer")
"""
    async with WorkerClient(ctx, child(body)) as client:
        with pytest.raises(HybridError, match=r"ended with code 3: RuntimeError: the GPU fell off") as caught:
            await client.ask("generate")
        assert "fresh process" in caught.value.hint
        assert (await client.ask("generate"))["text"] == "half an answer"


async def test_a_child_that_cannot_start_says_why(ctx: Context) -> None:
    async with WorkerClient(ctx, ("/nonexistent/python",)) as client:
        with pytest.raises(HybridError, match="can't be started"):
            await client.ask("generate")
    async with WorkerClient(ctx, (sys.executable, "-c", "raise SystemExit('no torch here')")) as client:
        with pytest.raises(HybridError, match="no torch here"):
            await client.ask("generate")


async def test_garbage_on_stdout_ends_the_child_with_a_clear_error(ctx: Context) -> None:
    body = 'for r in requests(): print("Downloading: 100%", flush=True); time.sleep(60)'
    async with WorkerClient(ctx, child(body)) as client:
        with pytest.raises(HybridError, match="no reply"):
            await asyncio.wait_for(client.ask("generate"), 10)


async def test_errors_keep_their_kind_and_the_child(ctx: Context) -> None:
    body = 'for r in requests(): say(r["id"], "error", message="No such model.", hint="Look.", exit_code=2)'
    async with WorkerClient(ctx, child(body)) as client:
        with pytest.raises(BadInput, match="No such model") as caught:
            await client.ask("generate")
        assert caught.value.hint == "Look."
        pid = client.pid
        with pytest.raises(BadInput):
            await client.ask("generate")
        assert client.pid == pid


async def test_growing_beyond_the_memory_limit_is_stopped_and_explained(ctx: Context) -> None:
    body = """
for r in requests():
    if r.get("text") == "big": hog = bytearray(os.urandom(1)) * 300_000_000; time.sleep(60)
    say(r["id"], "done", text="fine")
"""
    client = WorkerClient(limited(ctx, 0.2), child(body))
    async with client:
        await client.ask("generate")
        pid = client.pid
        with pytest.raises(HybridError, match=r"beyond the 200\.0 MB") as caught:
            await asyncio.wait_for(client.ask("generate", text="big"), 20)
        assert "memory_gb" in caught.value.hint
        assert (await client.ask("generate"))["text"] == "fine"
        assert client.pid != pid


async def test_a_child_left_too_large_is_replaced_before_the_next_request(ctx: Context) -> None:
    body = """
hog = b""
for r in requests():
    say(r["id"], "done", pid=os.getpid())
    hog = bytearray(os.urandom(1)) * 300_000_000
"""
    async with WorkerClient(limited(ctx, 0.2), child(body)) as client:
        first = (await client.ask("generate"))["pid"]
        await until(lambda: psutil.Process(first).memory_info().rss > 250_000_000)
        second = (await client.ask("generate"))["pid"]
        assert second != first and gone(first)


def limited(ctx: Context, gigabytes: float) -> Context:
    """``ctx`` with another memory limit."""
    import dataclasses

    old = ctx.workspace.settings
    inference = msgspec.structs.replace(old.inference, memory_gb=gigabytes)
    settings = msgspec.structs.replace(old, inference=inference)
    return dataclasses.replace(ctx, workspace=dataclasses.replace(ctx.workspace, settings=settings))


STUBBORN = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for r in requests():
    say(r["id"], "token", text="…")
    while True: time.sleep(1)
"""


async def test_cancel_ends_a_child_that_does_not_listen(ctx: Context) -> None:
    async with WorkerClient(ctx, child(STUBBORN)) as client:
        replies = client.stream("generate")
        assert [(await anext(replies)).ev, (await anext(replies)).ev] == ["loading", "token"]
        pid = client.pid
        begun = time.monotonic()
        await client.cancel(grace=0.3)
        assert time.monotonic() - begun < 5
        last = await anext(replies)
        assert last.ev == "done" and last.data["stopped"]
        assert pid is not None and gone(pid)


async def test_close_ends_a_child_that_ignores_everything_but_sigkill(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_END_SECONDS", 0.3)
    client = WorkerClient(ctx, child(STUBBORN))
    replies = client.stream("generate")
    await anext(replies)
    await anext(replies)
    pid = client.pid
    begun = time.monotonic()
    await client.close()
    assert time.monotonic() - begun < 6 and pid is not None and gone(pid)
    assert (await anext(replies)).data["stopped"]
    await client.close()


async def test_a_stream_left_early_cancels_its_request(ctx: Context) -> None:
    body = """
for r in requests():
    if r["op"] == "cancel": say(cut, "done", text="", stopped=True); print("cancelled", cut, file=sys.stderr); continue
    if r["op"] == "ping": say(r["id"], "done", cut=cut); continue
    cut = r["id"]; say(cut, "token", text="x")
"""
    async with WorkerClient(ctx, child(body)) as client:
        async for reply in (stream := client.stream("generate")):
            if reply.ev == "token":
                break
        await stream.aclose()
        await client.cancel(grace=5)
        assert (await client.ask("ping"))["cut"] == 1
        assert not client.busy


async def test_a_missing_model_stack_is_said_before_anything_starts(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "MODEL_STACK", ("json", "a_package_nobody_has"))
    async with WorkerClient(ctx) as client:
        with pytest.raises(HybridError, match="a_package_nobody_has") as caught:
            await client.ask("generate")
        assert "make run" in caught.value.hint and client.pid is None


async def test_the_users_own_services_folder_is_not_imported(ctx: Context) -> None:
    (ctx.workspace.root / "services").mkdir()
    (ctx.workspace.root / "services" / "__init__.py").write_text("raise RuntimeError('the wrong one')")
    command = (sys.executable, "-P", "-c", "import services, sys; sys.exit(services.__file__)")
    async with WorkerClient(ctx, command) as client:
        with pytest.raises(HybridError, match="ended with code 1") as caught:
            await client.ask("generate")
    assert str(Path(clients.services.__file__)) in str(caught.value)
    assert os.fspath(ctx.workspace.root) not in str(caught.value)
