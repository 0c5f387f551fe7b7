"""A trainer without a model: emits, checkpoints, obeys and fails as a real one does. Driven by the spec's command line.

    python trainer.py RUN_DIR [steps=20] [pause=0.01] [checkpoint=5] [crash=KIND@STEP] [secret=NAME] [finish=PATH]

It counts steps, continues from the last checkpoint, succeeds early once PATH exists, and leaves
``output/metadata.json`` with the steps it made.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from services.runs.emit import EXIT_CANCELLED, Emitter


def save(emit: Emitter, run_dir: Path, step: int) -> None:
    folder = run_dir / "checkpoints" / f"step-{step:06d}"
    new = folder.with_name(f".{folder.name}")
    new.mkdir(parents=True, exist_ok=True)
    data = json.dumps({"step": step}).encode()
    (new / "state.json").write_bytes(data)
    new.rename(folder)
    emit.ckpt(folder, step, len(data), hashlib.sha256(data).hexdigest())


def last(run_dir: Path) -> int:
    return max((int(path.name[5:]) for path in (run_dir / "checkpoints").glob("step-*")), default=0)


def crash(kind: str, emit: Emitter) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "error":
        emit.error("The loss is not a number at step 7.", "Lower lr.")
        sys.exit(1)
    elif kind == "exit":
        print("Traceback: something went wrong here", file=sys.stderr)
        sys.exit(4)
    elif kind == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    elif kind == "child":  # leaves a child behind that would hold the pipes for ever
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], close_fds=False)
    elif kind == "garbage":
        fd = int(os.environ["HYBRID_EVENTS_FD"])
        os.write(
            fd, b'not json\n["a list"]\n{"no": "ev"}\n{"ev": "surprise"}\n{"ev": "phase", "phase": "evaluating"}\n'
        )
    elif kind == "hoard":  # more memory than there is
        hoard = [b"x" * 10_000_000 for _ in range(100)]
        print(len(hoard))
    elif kind == "flood":
        sys.stdout.write("x" * 99 + "\n")
        for _ in range(60_000):
            sys.stdout.write("y" * 99 + "\n")


def main() -> int:
    run_dir = Path(sys.argv[1])
    options = dict(word.split("=", 1) for word in sys.argv[2:])
    steps, pause, every = (
        int(options.get("steps", 20)),
        float(options.get("pause", 0.01)),
        int(options.get("checkpoint", 5)),
    )
    kind, _, at = options.get("crash", "").partition("@")
    emit = Emitter()
    emit.phase("preparing", "reading")
    first = last(run_dir)
    emit.phase("running")
    made = 0
    for step in range(first + 1, steps + 1):
        time.sleep(pause)
        made += 1
        emit.metric(
            step, total_steps=steps, loss=float("nan") if step == 3 else 5.0 / step, tokens_s=100.0, eta_s=steps - step
        )
        if step % every == 0 or emit.checkpoint_wanted():
            save(emit, run_dir, step)
        if "finish" in options and Path(options["finish"]).exists():
            break
        if kind and step == int(at) and emit.attempt == 1:
            crash(kind, emit)
        if emit.cancelled():
            save(emit, run_dir, step) if last(run_dir) != step else None
            return EXIT_CANCELLED
    (run_dir / "output").mkdir(exist_ok=True)
    told = {"first": first + 1, "made": made, "secret": os.environ.get(options.get("secret", ""), "")[:4]}
    (run_dir / "output" / "metadata.json").write_text(json.dumps(told))
    emit.result(steps, accuracy=0.75, macro_f1=0.7, rows=100)
    return 0


if __name__ == "__main__":
    sys.exit(main())
