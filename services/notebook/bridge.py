"""Synchronous calls of asynchronous services, also where a loop runs already, as in every Jupyter cell."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from services.errors import HybridError

T = TypeVar("T")

_LOOK_SECONDS = 0.5  # a signal that comes just before the thread falls asleep is seen after so long
_STOP_SECONDS = 30  # how long an interrupted call may take to put its things away
_start = threading.Lock()
_running: tuple[int, asyncio.AbstractEventLoop] | None = None


def call(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` in the one background loop of this process and wait for it.

    An interrupt (the notebook's stop button) cancels it first. The hint of a HybridError is added to what is shown.
    """
    loop, ended = _loop(), threading.Event()
    tasks: list[asyncio.Task[Any] | None] = []
    given_up = False

    async def run() -> T:
        try:
            tasks.append(asyncio.current_task())
            if given_up:
                raise asyncio.CancelledError
            return await work
        finally:
            work.close()
            ended.set()

    def cancel() -> None:
        for task in tasks:
            if task is not None:
                task.cancel()

    submitted = False
    try:
        future = asyncio.run_coroutine_threadsafe(run(), loop)
        submitted = True
        while not concurrent.futures.wait([future], timeout=_LOOK_SECONDS).done:
            pass
        return future.result()
    except HybridError as error:
        if error.hint and error.hint not in getattr(error, "__notes__", ()):
            error.add_note(error.hint)
        raise
    except BaseException:
        given_up = True
        loop.call_soon_threadsafe(cancel)
        ended.wait(_STOP_SECONDS if submitted else 1)  # an interrupt can come before there is anything to wait for
        raise


def _loop() -> asyncio.AbstractEventLoop:
    """The loop, started when first needed; a forked child gets its own."""
    global _running
    with _start:
        if _running is None or _running[0] != os.getpid():
            _running = os.getpid(), _started()
        return _running[1]


def _started() -> asyncio.AbstractEventLoop:
    ready, box = threading.Event(), list[asyncio.AbstractEventLoop]()
    quit = asyncio.Event()

    async def main() -> None:
        box.append(asyncio.get_running_loop())
        ready.set()
        await quit.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="hybrid-tui", daemon=True)
    thread.start()
    ready.wait()

    def stop() -> None:  # so that what a store holds open is closed in its own loop
        box[0].call_soon_threadsafe(quit.set)
        thread.join(5)

    atexit.register(stop)
    return box[0]
