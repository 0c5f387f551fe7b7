"""The real worker: streaming, cancelling, dying, noise, and never answering as the wrong model."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from services.context import Context
from services.errors import BadInput, HybridError
from services.inference.client import WorkerClient
from services.inference.types import Message, Subject

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.models

LONG: dict[str, Any] = {"max_tokens": 32_768, "temperature": 0.0, "text": "How"}


async def test_one_worker_serves_base_adapter_and_errors(
    ctx: Context, base: Subject, adapted: Subject, tmp_path: Path
) -> None:
    async with WorkerClient(ctx) as client:
        alone = await client.ask("generate", subject=base, text="How can I", max_tokens=30)
        pid = client.pid

        replies = [r async for r in client.stream("generate", subject=adapted, text="my card", max_tokens=30)]
        pieces = [r.data["text"] for r in replies if r.ev == "token"]
        done = replies[-1].data
        assert "".join(pieces) == done["text"] != alone["text"]
        assert done["tokens"] <= 30 and done["first_token_s"] > 0 and done["rss_bytes"] > 50e6 and not done["stopped"]

        label = await client.ask("generate", subject=adapted, text="my card", constrain=True)
        assert label["text"] in adapted.labels

        torn = Path(shutil.copytree(adapted.adapter or "", tmp_path / "torn"))
        (torn / "adapter_model.safetensors").write_bytes(b"torn")
        with pytest.raises(HybridError, match="damaged"):
            await client.ask("generate", subject=msgspec.structs.replace(adapted, adapter=str(torn)), text="x")
        with pytest.raises(BadInput, match="no model folder"):
            await client.ask("generate", subject=Subject("x", str(tmp_path / "nothing")), text="x")
        with pytest.raises(BadInput, match="tokens; the model takes"):
            await client.ask("generate", subject=base, text="card " * 70_000)

        again = await client.ask("generate", subject=base, text="How can I", max_tokens=30)
        assert again["text"] == alone["text"], "the base answers as if an adapter were still merged"
        assert client.pid == pid, "an error must not cost the process"

        chat = await client.ask("generate", subject=base, messages=(Message("user", "Hé 🎉"),), max_tokens=5)
        assert chat["prompt_tokens"] > 5


async def test_an_adapter_written_again_in_place_is_read_again(ctx: Context, adapted: Subject, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(adapted.adapter or "", tmp_path / "again"))
    subject = msgspec.structs.replace(adapted, adapter=str(folder))
    async with WorkerClient(ctx) as client:
        first = await client.ask("generate", subject=subject, text="my card", max_tokens=30)
        tensors = {name: -3 * tensor for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
        save_file(tensors, folder / "adapter_model.safetensors")
        os.utime(folder / "adapter_model.safetensors", ns=(1, 1))
        second = await client.ask("generate", subject=subject, text="my card", max_tokens=30)
    assert first["text"] != second["text"]


async def test_cancel_midway_then_ping_and_go_on(ctx: Context, base: Subject) -> None:
    async with WorkerClient(ctx) as client:
        pieces = 0
        last: dict[str, Any] = {}
        async for reply in client.stream("generate", subject=base, **LONG):
            last = reply.data
            pieces += reply.ev == "token"
            if pieces == 5:
                assert (await asyncio.wait_for(client.ask("ping"), 5))["pid"] == client.pid
                begun = time.monotonic()
                await client.cancel()
                assert time.monotonic() - begun < 5
                pieces += 1
        assert last["stopped"] and 5 <= last["tokens"] < 32_000 and last["text"]
        pid = client.pid
        assert (await client.ask("generate", subject=base, text="a", max_tokens=3))["tokens"] <= 3
        assert client.pid == pid


async def test_kill_9_while_answering(ctx: Context, base: Subject) -> None:
    async with WorkerClient(ctx) as client:
        with pytest.raises(HybridError, match="SIGKILL"):
            async for reply in client.stream("generate", subject=base, **LONG):
                if reply.ev == "token" and client.pid:
                    os.kill(client.pid, signal.SIGKILL)
        assert (await client.ask("generate", subject=base, text="a", max_tokens=3))["tokens"] <= 3


_NOISY = """
import os
import services.runtime.engine as engine, services.runtime.worker as worker
real = engine.open_engine
def noisy(*a, **k):
    print("a library prints"); os.write(1, b'{"id": 1, "ev": "done", "data": {}}\\n'); os.system("echo a child prints")
    return real(*a, **k)
engine.open_engine = noisy
worker.main()
"""


async def test_what_libraries_print_is_no_reply(ctx: Context, base: Subject) -> None:
    async with WorkerClient(ctx, (sys.executable, "-P", "-c", _NOISY)) as client:
        answer = await client.ask("generate", subject=base, text="a", max_tokens=3)
    assert answer["tokens"] <= 3


_PARENT = """
import asyncio, sys
from pathlib import Path
from services.context import Context
from services.inference.client import WorkerClient
from services.inference.types import Subject
from services.workspace import open_workspace

async def main():
    client = WorkerClient(Context(open_workspace(Path(sys.argv[1]))))
    async for reply in client.stream("generate", subject=Subject("base", sys.argv[2]), text="How", max_tokens=32768):
        if reply.ev == "token": print(client.pid, flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_worker_ends_with_its_parent(ctx: Context, base: Subject, how: signal.Signals) -> None:
    command = [sys.executable, "-c", _PARENT, str(ctx.workspace.root), base.model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.send_signal(how)
        parent.wait(15)
    end = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the worker outlived its parent"
        time.sleep(0.02)


def test_nonsense_on_stdin_is_answered_and_survived() -> None:
    lines = b'nonsense\n{"id": 1, "op": "fly"}\n{"id": 2, "op": "generate"}\n{"id": 3, "op": "ping"}\n'
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "services.runtime.worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as worker:  # fmt: skip
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(lines)
        worker.stdin.flush()
        replies = [json.loads(worker.stdout.readline()) for _ in range(5)]
        by_id = {(r["id"], r["ev"]): r["data"] for r in replies}
        assert by_id[(3, "done")]["pid"] == worker.pid
        assert "names no model" in by_id[(2, "error")]["message"]
        assert len([r for r in replies if r["id"] == 0 and r["ev"] == "error"]) == 2
        worker.stdin.close()
        assert worker.wait(10) == 0
