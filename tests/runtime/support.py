"""A small real run: a dataset that a tiny model can learn, its spec, and the trainer as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from services.data.prompts import CLASSIFY
from services.data.types import DatasetInfo, Row
from services.runs.types import RunSpec, TrainConfig

LABELS = ("card_arrival", "card_lost", "exchange_rate", "refund")
TEXTS = {
    "card_arrival": "when is the new card delivery",
    "card_lost": "I lost the card please help",
    "exchange_rate": "what exchange rate is it",
    "refund": "why has the refund not been",
}


def rows(count: int) -> list[Row]:
    """Rows of all labels in turn, of different lengths."""
    words = ("please", "now", "today", "the account", "my bank", "again and again")
    return [
        Row(f"{TEXTS[label]} {' '.join(words[: i // len(LABELS) % 5])} {i % 7}", label)
        for i in range(count)
        for label in [LABELS[i % len(LABELS)]]
    ]


def write_dataset(folder: Path, *, train: int = 48, test: int = 12, task: str = "classify") -> Path:
    """A prepared dataset as ``services.data`` writes it."""
    folder.mkdir(parents=True)
    splits = {"train": rows(train), "val": rows(4), "test": rows(test)}
    for name, content in splits.items():
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in content)
        (folder / f"{name}.jsonl").write_bytes(lines)
    info = DatasetInfo(
        name=folder.name,
        task="classify" if task == "classify" else "generate",
        prompt=CLASSIFY,
        labels=LABELS if task == "classify" else (),
        counts={name: len(content) for name, content in splits.items()},
        sha256="0" * 64,
        source="test",
        seed=0,
        created_at=0.0,
    )
    (folder / "dataset.json").write_bytes(msgspec.json.encode(info))
    return folder


def write_run(folder: Path, model: Path, data: Path, **config: Any) -> Path:
    """A run's folder with its spec; ``config`` changes the defaults (fp32, batches of 4)."""
    folder.mkdir(parents=True)
    settings = {"dtype": "fp32", "batch_rows": 4, "r": 4, "alpha": 8.0, "checkpoint_seconds": 1e6, **config}
    spec = RunSpec(
        v=1,
        id=folder.name,
        kind="train",
        target="local",
        command=(sys.executable, "-m", "services.runtime.train", str(folder)),
        cwd=str(Path.cwd()),
        config=msgspec.convert(settings, TrainConfig),
        model=str(model),
        model_label="tiny",
        data=str(data),
        data_sha256="0" * 64,
        seed=3,
        created_at=0.0,
    )
    (folder / "spec.json").write_bytes(msgspec.json.encode(spec))
    (folder / "control").mkdir()
    return folder


def start(folder: Path) -> tuple[subprocess.Popen[bytes], Any]:
    """Start the trainer as a supervisor does; the process and the reading end of its events."""
    reader, writer = os.pipe()
    environment = os.environ | {"HYBRID_RUN_DIR": str(folder), "HYBRID_EVENTS_FD": str(writer)}
    command = json.loads((folder / "spec.json").read_bytes())["command"]
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, pass_fds=(writer,), env=environment)
    os.close(writer)
    return process, os.fdopen(reader, encoding="utf-8")


def train(folder: Path) -> tuple[int, list[dict[str, Any]]]:
    """The trainer's whole program in this process (torch is loaded already): exit code and events."""
    from services.runtime import train as trainer

    handler = signal.getsignal(signal.SIGTERM)
    with (folder / "told.jsonl").open("wb") as events:
        os.environ["HYBRID_EVENTS_FD"] = str(events.fileno())
        try:
            code = trainer.main([str(folder)])
        finally:
            del os.environ["HYBRID_EVENTS_FD"]
            signal.signal(signal.SIGTERM, handler)
    return code, [json.loads(line) for line in (folder / "told.jsonl").read_text(encoding="utf-8").splitlines()]


def losses(events: list[dict[str, Any]]) -> dict[int, float]:
    """Step → loss, of those told."""
    return {e["step"]: e["loss"] for e in events if e["ev"] == "metric" and e["split"] == "train"}
