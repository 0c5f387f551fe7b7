"""A trainer without a model whose figures follow from its settings alone: quick, and the same each time.

The nearer ``lr`` is to 1e-3 and ``r`` to 8, the lower its validation loss; it validates each step. It obeys the
protocol of ``services.runs.emit``, goes on from its last checkpoint, and leaves a small adapter folder.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

from services.runs.emit import EXIT_CANCELLED, Emitter

STEPS = 8


def loss(lr: float, r: int, step: int) -> float:
    """The validation loss at ``step``."""
    return abs(math.log10(lr) + 3) + abs(r - 8) / 16 + 1 / step


def main() -> int:
    run_dir = Path(sys.argv[1])
    pause = float(sys.argv[2])
    spec = json.loads((run_dir / "spec.json").read_text())
    config = spec["config"]
    emit = Emitter()
    emit.phase("running")
    saved = run_dir / "checkpoints" / "at"
    first = int(saved.read_text()) if saved.exists() else 0
    for step in range(first + 1, STEPS + 1):
        time.sleep(pause)
        emit.metric(step, total_steps=STEPS, loss=1.0 / step)
        value = loss(config["lr"], config["r"], step)
        if config["lr"] > 0.5:
            emit.error("The loss is not a finite number at step 1.", "Use a lower lr.")
            return 1
        emit.metric(step, split="val", loss=value, accuracy=math.exp(-value))
        saved.write_text(str(step))
        emit.ckpt(saved, step, 1, "0" * 64)
        if emit.cancelled():
            return EXIT_CANCELLED
    (run_dir / "output").mkdir(exist_ok=True)
    (run_dir / "output" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "tiny", "r": 8}))
    (run_dir / "output" / "adapter_model.safetensors").write_bytes(_safetensors())
    (run_dir / "output" / "metadata.json").write_text(json.dumps({"base_model": "tiny", "metrics": {"accuracy": 0.5}}))
    return 0


def _safetensors() -> bytes:
    head = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(head).to_bytes(8, "little") + head + bytes(4)


if __name__ == "__main__":
    sys.exit(main())
