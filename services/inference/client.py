"""The parent's side of the runtime worker: starts it when first needed, streams its replies, survives its death."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import signal
import sys
from collections import deque
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import msgspec

import services
from services import formats
from services.context import Context
from services.data.types import Split
from services.errors import BadInput, HybridError, Refused, StoreUnreachable
from services.inference.types import Message, Reply, Request, Subject

COMMAND = (sys.executable, "-P", "-m", "services.runtime.worker")
MODEL_STACK = ("torch", "transformers", "safetensors")
_LINE_LIMIT = 64 * 1024 * 1024  # one reply: the whole text of a long answer, or an evaluation's figures
_END_SECONDS = 5.0
_WATCH_SECONDS = 0.5


class RequestFields(TypedDict, total=False):
    """What ``WorkerClient.stream`` takes besides the operation; see ``services.inference.types.Request``."""

    subject: Subject
    text: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]
    constrain: bool
    data: str
    split: Split
    limit: int


def require_models() -> None:
    """Raise HybridError when a package of the model stack is not installed; nothing is imported."""
    missing = [name for name in MODEL_STACK if importlib.util.find_spec(name) is None]
    if missing:
        raise HybridError(
            f"Talking to a model needs {' and '.join(missing)}, not installed in {sys.prefix}.",
            hint="make run brings it; or: pip install torch (the CPU build on a box without a GPU), "
            "then pip install 'hybrid-tui[models]'.",
        )


class WorkerClient:
    """One runtime worker, started with the first request and again after its death.

    Requests are worked off in order; several streams may wait at once. A stream that its reader leaves early
    cancels its request. ``close`` must be awaited before the loop ends.
    """

    def __init__(self, ctx: Context, command: tuple[str, ...] | None = None) -> None:
        """``command`` replaces the worker's command line (another program that speaks the same lines)."""
        self._folder = ctx.workspace.root
        self._limit = int(ctx.workspace.settings.inference.memory_gb * 1e9)
        self._command = command
        self._child: _Child | None = None
        self._starting = asyncio.Lock()
        self._ids = itertools.count(1)

    async def __aenter__(self) -> WorkerClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def pid(self) -> int | None:
        """The worker's process id while it runs."""
        return self._child.process.pid if self._child and self._child.alive else None

    @property
    def busy(self) -> bool:
        """Whether a request waits or is being answered."""
        return self._child is not None and bool(self._child.pending)

    async def stream(
        self, op: Literal["load", "generate", "classify", "evaluate", "ping", "unload"], **fields: Unpack[RequestFields]
    ) -> AsyncGenerator[Reply, None]:
        """Send one request and yield its replies: "loading", "token", "progress", and last "done".

        A cancelled request ends with "done" whose data has ``stopped`` true. Raises HybridError or one of its kinds
        for an "error" reply, a worker that died (with the cause its stderr gave) or grew beyond
        ``[inference] memory_gb``; the next request then starts a fresh worker.
        """
        fresh = self.pid is None
        child = await self._running()
        request = Request(next(self._ids), op, **fields)
        if fresh and op != "ping":
            yield Reply(request.id, "loading", {"stage": "starting the model's process"})
        queue = child.submit(request)
        ended = False
        try:
            while not ended:
                reply = await queue.get()
                ended = reply.ev in ("done", "error")
                if reply.ev == "error":
                    raise as_error(reply.data)
                yield reply
        finally:
            child.pending.pop(request.id, None)
            if not ended:
                child.cancel(request.id)

    async def ask(
        self, op: Literal["load", "generate", "classify", "evaluate", "ping", "unload"], **fields: Unpack[RequestFields]
    ) -> dict[str, Any]:
        """``stream``, waited for: the data of the "done" reply."""
        data: dict[str, Any] = {}
        async with contextlib.aclosing(self.stream(op, **fields)) as replies:
            async for reply in replies:
                data = reply.data
        return data

    async def cancel(self, grace: float = 10.0) -> None:
        """Stop every request; return when all have ended.

        A worker that doesn't stop within ``grace`` seconds (it may be inside one long operation, such as reading
        weights) is killed; its streams end with "done", ``stopped`` true, all the same.
        """
        child = self._child
        if child is None:
            return
        for id in tuple(child.pending):
            child.cancel(id)
        try:
            await asyncio.wait_for(child.idle.wait(), grace)
        except TimeoutError:
            child.stopped_by_us = True
            await child.end(0)

    async def close(self) -> None:
        """End the worker: its stdin is closed, then after 5 s SIGTERM, then SIGKILL. Idempotent."""
        async with self._starting:
            child, self._child = self._child, None
            if child is not None:
                child.stopped_by_us = True
                await child.end(_END_SECONDS)

    async def _running(self) -> _Child:
        async with self._starting:
            child = self._child
            if child is not None and child.alive and not child.pending and child.rss() > self._limit:
                await child.end(_END_SECONDS)
            if child is None or not child.alive:
                self._child = None
                if self._command is None:
                    require_models()
                self._child = await _Child.start(self._command or COMMAND, self._folder, self._limit)
            assert self._child is not None
            return self._child


class _Child:
    """One process and what it still owes. ``idle`` is set while ``pending`` is empty of unfinished requests."""

    def __init__(self, process: asyncio.subprocess.Process, limit: int) -> None:
        self.process = process
        self.pending: dict[int, asyncio.Queue[Reply]] = {}
        self.unfinished: set[int] = set()
        self.idle = asyncio.Event()
        self.idle.set()
        self.stopped_by_us = False
        self.alive = True
        self._limit = limit
        self._overgrown = 0
        self._tail: deque[str] = deque(maxlen=40)
        self._errors = asyncio.create_task(self._read_errors(), name="worker stderr")
        self._replies = asyncio.create_task(self._read_replies(), name="worker replies")
        self._watch = asyncio.create_task(self._watch_memory(), name="worker memory")

    @classmethod
    async def start(cls, command: tuple[str, ...], folder: Path, limit: int) -> _Child:
        """Spawn ``command`` in its own session, so that a Ctrl+C in the terminal reaches only us."""
        root = str(Path(services.__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            # How long a thread spins for its next piece of work. The default (300,000) starves everybody as soon as
            # training runs beside: 1 token/s instead of 10; on an idle box this one costs some 7 %.
            "GOMP_SPINCOUNT": "10000",
            "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error",
            **os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE, cwd=folder, env=environment, limit=_LINE_LIMIT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise HybridError(f"The model's process can't be started: {error.strerror} ({command[0]}).") from error
        return cls(process, limit)

    def submit(self, request: Request) -> asyncio.Queue[Reply]:
        """Send ``request``; its replies come through the queue, the last one being "done" or "error"."""
        queue: asyncio.Queue[Reply] = asyncio.Queue()
        if not self.alive:
            queue.put_nowait(Reply(request.id, "error", {"message": "The model's process has just ended."}))
            return queue
        self.pending[request.id] = queue
        self.unfinished.add(request.id)
        self.idle.clear()
        self._send(request)
        return queue

    def cancel(self, id: int) -> None:
        """Ask the worker to stop request ``id``."""
        if self.alive and id in self.unfinished:
            self._send(Request(0, "cancel", target=id))

    def rss(self) -> int:
        """The process' resident bytes now; 0 when it is gone."""
        import psutil

        try:
            return int(psutil.Process(self.process.pid).memory_info().rss)
        except psutil.Error:
            return 0

    async def end(self, seconds: float) -> None:
        """Stop the process within about ``seconds``, then reap it and settle what is pending."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        for wait, what in ((seconds, signal.SIGTERM), (seconds and 2.0, signal.SIGKILL)):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._replies), wait)
            if self._replies.done():
                break
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(what)
        await self._replies

    def _send(self, request: Request) -> None:
        assert self.process.stdin is not None
        if not self.process.stdin.is_closing():  # else its death is about to be noticed by _read_replies
            self.process.stdin.write(msgspec.json.encode(request) + b"\n")

    async def _read_replies(self) -> None:
        assert self.process.stdout is not None
        decode = msgspec.json.Decoder(Reply).decode
        strange = ""
        try:
            while line := await self.process.stdout.readline():
                self._deliver(decode(line))
        except (ValueError, msgspec.MsgspecError) as error:  # readline: a line over the limit
            strange = f"it wrote a line that is no reply ({error})"
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
        self.alive = False
        code = await self._reap()
        self._watch.cancel()
        await asyncio.wait([self._errors, self._watch], timeout=1.0)
        self._settle(strange or self._cause(code))

    async def _reap(self) -> int:
        """The exit code; a process that closed its stdout and lives on is killed."""
        try:
            return await asyncio.wait_for(self.process.wait(), 2.0)
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()

    def _deliver(self, reply: Reply) -> None:
        if reply.ev in ("done", "error"):
            self.unfinished.discard(reply.id)
            if not self.unfinished:
                self.idle.set()
        if queue := self.pending.get(reply.id):
            queue.put_nowait(reply)

    def _settle(self, cause: str) -> None:
        """The process is gone: end every stream that waits."""
        for id in tuple(self.unfinished):
            if self.stopped_by_us:
                self._deliver(Reply(id, "done", {"text": "", "stopped": True}))
            else:
                self._deliver(Reply(id, "error", {"message": cause, "hint": self._hint()}))

    def _cause(self, code: int) -> str:
        if self._overgrown:
            return (
                f"The model's process grew to {formats.size(self._overgrown)}, beyond the {formats.size(self._limit)} "
                "it may take, and was stopped."
            )
        said = next((line for line in reversed(self._tail) if line.strip()), "")
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if code == -signal.SIGKILL and not said:
            said = "often the system's answer to too little memory"
        return f"The model's process {how}" + (f": {said.strip()}" if said else ".")

    def _hint(self) -> str:
        if self._overgrown:
            return "Raise memory_gb under [inference] in hybrid.toml, or take a smaller model."
        return "Try again: the next request starts a fresh process."

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        rest = b""
        while chunk := await self.process.stderr.read(65536):
            *lines, rest = (rest + chunk).split(b"\n")
            self._tail.extend(line.decode(errors="replace")[:500] for line in lines)
            rest = rest[-65536:]
        if rest:
            self._tail.append(rest.decode(errors="replace")[:500])

    async def _watch_memory(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            if self.unfinished and (rss := self.rss()) > self._limit:
                self._overgrown = rss
                self.process.kill()
                return


_KINDS: dict[int, type[HybridError]] = {
    kind.exit_code: kind for kind in (HybridError, BadInput, Refused, StoreUnreachable)
}


def as_error(data: dict[str, Any]) -> HybridError:
    """The exception that an "error" reply's data stands for."""
    kind = _KINDS.get(data.get("exit_code", 1), HybridError)
    return kind(str(data.get("message", "The model's process gave no reason.")), hint=str(data.get("hint", "")))
