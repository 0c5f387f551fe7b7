"""Several processes that share a run, without the seconds that each would take to import torch and PEFT anew."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

Events = list[dict[str, Any]]


def _process(folder: Path, rank: int, count: int, port: int) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from services.runtime import train

    with (folder / "told").open("wb") if rank == 0 else contextlib.nullcontext() as events:
        if events:
            os.environ["HYBRID_EVENTS_FD"] = str(events.fileno())
        code = train.main([str(folder)])
    os._exit(code)


def run(
    folder: Path, *, kill: Callable[[dict[str, Any]], bool] = lambda event: False
) -> tuple[list[int | None], Events]:
    """Train in two processes, forked from one that has everything imported; their exit codes and the events.

    Both are killed at the first event of which ``kill`` says so.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["peft", "services.runtime.training", "torch.distributed.fsdp", "tests.runtime.processes"]
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "told").unlink(missing_ok=True)
    os.mkfifo(folder / "told")
    children: list[BaseProcess] = [context.Process(target=_process, args=(folder, rank, 2, port)) for rank in range(2)]
    for child in children:
        child.start()
    events: Events = []
    with (folder / "told").open(encoding="utf-8") as told:
        for line in told:
            events.append(json.loads(line))
            if kill(events[-1]):
                for child in children:
                    child.kill()
                break
    for child in children:
        child.join(60)
    return [child.exitcode for child in children], events
