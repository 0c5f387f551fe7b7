"""Starts this node's processes of a run that several share, with the variables that torchrun would set.

    python -m services.runs.ray.ranks FIRST COUNT WORLD HOST PORT -- COMMAND…

Like torchrun on each node, but the first process keeps its pipe to the supervisor, and exit codes arrive as they are.
Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

_GRACE_S = 10.0  # from one process's failure to the end of the others


def main(words: list[str]) -> int:
    """Run COMMAND as the ranks FIRST to FIRST+COUNT-1 of WORLD; the code of the first that failed, or 0."""
    first, count, world = (int(word) for word in words[:3])
    host, port = words[3:5]
    command = words[words.index("--") + 1 :]
    pipe = os.environ.get("HYBRID_EVENTS_FD")
    shared = os.environ | {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(count)}
    shared |= {"MASTER_ADDR": host, "MASTER_PORT": port}
    children = []
    for local in range(count):
        own = shared | {"RANK": str(first + local), "LOCAL_RANK": str(local)}
        told = bool(pipe) and first + local == 0
        if not told:
            own.pop("HYBRID_EVENTS_FD", None)
        children.append(subprocess.Popen(command, env=own, pass_fds=(int(pipe or 0),) if told else ()))

    def pass_on(*_: object) -> None:
        for child in children:
            child.terminate()

    signal.signal(signal.SIGTERM, pass_on)
    return wait(children)


def wait(children: list[subprocess.Popen[bytes]]) -> int:
    """Until all have ended; those that outlive a failed one for long are killed."""
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
