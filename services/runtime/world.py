"""Several processes that share every step of a run, one a GPU, or several on a CPU.

Each has the whole model. The batches are those of one process: every process computes its share of a batch's rows, the
gradients are summed, and all take the same step. Processes find each other by torchrun's environment variables (RANK,
WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), so that torchrun can start them too. ``launch`` starts them on this
machine by itself, because torchrun closes the pipe to the supervisor and turns every exit code into 1.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")
_GRACE_S = 5.0  # from one process's failure to the end of the others


def wanted(processes: int, device: str) -> int:
    """How many processes to start for a config: as asked, or one for every GPU. Raises nothing, imports torch late."""
    if processes or device == "cpu":
        return max(1, processes)
    import torch

    return max(1, torch.cuda.device_count()) if torch.cuda.is_available() else 1


def is_child() -> bool:
    """Whether this process is already one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(command: Sequence[str], count: int) -> int:
    """Run ``command`` ``count`` times as one group on this machine; the exit code of the first that failed, or 0.

    Only rank 0 gets the pipe to the supervisor. SIGTERM is passed on.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipe = os.environ.get("HYBRID_EVENTS_FD")
    shared = os.environ | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if "OMP_NUM_THREADS" not in os.environ:
        shared["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // count))
    children = []
    for rank in range(count):
        own = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        if rank:
            own.pop("HYBRID_EVENTS_FD", None)
        fds = (int(pipe),) if pipe and not rank else ()
        children.append(subprocess.Popen(list(command), env=own, pass_fds=fds))

    def pass_on(*_: object) -> None:
        for child in children:
            child.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    return _wait(children)


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    failed, deadline = 0, float("inf")
    while any(child.poll() is None for child in children):
        for child in children:
            if child.poll() and not failed:
                failed, deadline = child.returncode, time.monotonic() + _GRACE_S
        if time.monotonic() > deadline:
            for child in children:
                child.kill()
        time.sleep(0.05)
    failed = failed or next((child.returncode for child in children if child.returncode), 0)
    return 128 - failed if failed < 0 else failed


class World:
    """This process among the others; a world of one does nothing."""

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.size = int(os.environ.get("WORLD_SIZE", "1"))

    def join(self, device: Any) -> None:
        """Meet the others: NCCL between CUDA devices, else Gloo."""
        if self.size > 1:
            import torch

            if device.type == "cuda":
                torch.cuda.set_device(device)
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")

    def leave(self) -> None:
        """Part from the others."""
        if self.size > 1:
            import torch

            torch.distributed.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process tells and writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This process's part of ``items``; all parts together are all of them."""
        return list(items[self.rank :: self.size])

    def sum(self, tensors: Sequence[Any]) -> None:
        """Replace each tensor by the sum over all processes."""
        if self.size > 1:
            import torch

            for tensor in tensors:
                torch.distributed.all_reduce(tensor)

    def any(self, flags: Sequence[bool], device: Any) -> list[bool]:
        """For each flag, whether it is true in any process."""
        if self.size == 1:
            return list(flags)
        import torch

        values = torch.tensor([float(flag) for flag in flags], device=device)
        torch.distributed.all_reduce(values)
        return [value > 0 for value in values.tolist()]

    def agree(self, value: T) -> T:
        """Rank 0's ``value``, everywhere."""
        if self.size == 1:
            return value
        import torch

        box: list[Any] = [value]
        torch.distributed.broadcast_object_list(box)
        return box[0]  # type: ignore[no-any-return]


class Silent:
    """What processes other than the first tell: nothing. See ``services.runs.emit.Emitter``."""

    def __init__(self) -> None:
        self._terminated = False
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, *_: object) -> None:
        self._terminated = True

    def cancelled(self) -> bool:
        """Whether this process was asked to stop."""
        return self._terminated

    def checkpoint_wanted(self) -> bool:
        """Rank 0 looks after that."""
        return False

    def error(self, message: str, hint: str = "") -> None:
        """To the log, where a process's own trouble can be looked up."""
        print(f"process {os.environ.get('RANK')}: {message} {hint}", file=sys.stderr, flush=True)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **values: None
