"""The trainer's process: ``python -m services.runtime.train RUN_DIR``, started by the run's supervisor.

Reads ``spec.json`` in the run's folder, reports through ``services.runs.emit``, exits with 0, ``EXIT_CANCELLED``
after a checkpoint on request, or 1 with the cause told.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from pathlib import Path

import msgspec

from services.errors import HybridError
from services.runs.emit import EXIT_CANCELLED, Emitter
from services.runs.types import RunSpec
from services.runtime import world


def main(arguments: list[str]) -> int:
    """Entry point; see the module's text."""
    if len(arguments) != 1:
        print("Usage: python -m services.runtime.train RUN_DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0]).absolute()
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    emitter: Emitter | world.Silent = Emitter(folder) if world.World().first else world.Silent()
    try:
        spec = _spec(folder)
        emitter.phase("preparing", "loading torch")
        if not world.is_child():
            count = world.wanted(spec.config.processes, spec.config.device)
            if count > 1:
                return world.launch([sys.executable, "-m", "services.runtime.train", str(folder)], count)
        from services.runtime import training

        try:
            training.run(spec, folder, emitter)
        except training.Cancelled:
            return EXIT_CANCELLED
    except HybridError as error:
        emitter.error(str(error), error.hint)
        return 1
    except Exception as error:
        traceback.print_exc()  # to the run's log.txt
        emitter.error(*_cause(error))
        return 1
    return 0


def _spec(folder: Path) -> RunSpec:
    try:
        return msgspec.json.decode((folder / "spec.json").read_bytes(), type=RunSpec)
    except (OSError, msgspec.MsgspecError) as error:
        raise HybridError(f"{folder / 'spec.json'} can't be read: {error}.", hint="Start the run anew.") from error


def _cause(error: Exception) -> tuple[str, str]:
    """A sentence and a hint for an error that no part below foresaw; its trace is in the log."""
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full; the run's checkpoints are intact.", "Free space, then resume the run."
    memory = isinstance(error, MemoryError) or "out of memory" in first.lower() or "can't allocate memory" in first
    if memory:
        return f"The memory is full: {first}.", "Start again with a smaller batch_tokens or max_length."
    return f"{type(error).__name__}: {first}.", "log.txt in the run's folder has the whole trace."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
