"""What the built-in settings reach on banking77, with the frozen encoder and a linear head beside it.

    python -m benchmarks.training_accuracy --data banking77 [--encoder MINILM_FOLDER] [--decoder SMOLLM2_FOLDER]
                                           [--only frozen,minilm,head,generative]

``--data`` is the folder with train.csv and test.csv (text, category). All of train.csv is trained on, all of test.csv
is asked. The hardware comes first, then a line a case as soon as it is known: accuracy, macro-F1, seconds of training,
of the whole run, and of processor time (on a busy box the last one is what compares).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from services.data.prompts import CLASSIFY
from services.data.scores import accuracy, macro_f1
from services.data.types import DatasetInfo, Row
from services.runs.types import RunSpec, TrainConfig

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "frozen": ("encoder", {}),
    "minilm": ("encoder", {"task": "classify", "epochs": 3.0}),
    "head": ("decoder", {"task": "classify", "epochs": 2.0}),
    "generative": ("decoder", {"task": "generate", "max_seconds": 360.0, "epochs": 3.0}),
}
STEPS, PORTION = 400, 64  # of the linear head on frozen vectors; rows embedded at once


def rows(file: Path) -> list[Row]:
    """The rows of a CSV with the columns text and category."""
    with file.open(encoding="utf-8", newline="") as opened:
        return [Row(row["text"], row["category"]) for row in csv.DictReader(opened)]


def prepare(source: Path, folder: Path) -> DatasetInfo:
    """A dataset in ``folder`` with the two files' rows as train and test."""
    folder.mkdir()
    splits = {"train": rows(source / "train.csv"), "val": [], "test": rows(source / "test.csv")}
    for name, content in splits.items():
        (folder / f"{name}.jsonl").write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in content))
    info = DatasetInfo(
        name="banking77", task="classify", prompt=CLASSIFY, labels=tuple(sorted({r.answer for r in splits["train"]})),
        counts={name: len(content) for name, content in splits.items()}, sha256="0" * 64, source=str(source), seed=0,
        created_at=time.time(),
    )  # fmt: skip
    (folder / "dataset.json").write_bytes(msgspec.json.encode(info))
    return info


def frozen(model: Path, data: Path, info: DatasetInfo) -> dict[str, float]:
    """A linear head on the vectors of the untouched encoder: logistic regression on all rows at once."""
    import torch

    from services.data import store
    from services.runtime import batches, loading
    from services.runtime.peft_learner import PeftLearner
    from services.runtime.tokenizer import Tokenizer

    started, tokenizer, device = time.monotonic(), Tokenizer(model), loading.choose_device()
    learner = PeftLearner(model, device, loading.choose_dtype("auto", device), body=True)

    @torch.no_grad()
    def vectors(split: Any) -> tuple[torch.Tensor, list[str]]:
        read = store.read_rows(data, split)
        ids = [batches.head_ids(tokenizer, info.prompt, row.text, 512) or [] for row in read]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = torch.zeros(len(ids), learner.width)
        for start in range(0, len(order), PORTION):
            some = order[start : start + PORTION]
            found[some] = learner.pooled([ids[i] for i in some], training=False, mean=True).cpu()
        return torch.nn.functional.normalize(found, dim=1), [row.answer for row in read]

    seen, answers = vectors("train")
    targets = torch.tensor([info.labels.index(answer) for answer in answers])
    head = torch.nn.Linear(learner.width, len(info.labels))
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1, weight_decay=1e-4)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(10 * head(seen), targets).backward()
        optimizer.step()
    asked, truth = vectors("test")
    predicted = [info.labels[i] for i in head(asked).argmax(1).tolist()]
    seconds = time.monotonic() - started
    return {"accuracy": accuracy(truth, predicted), "macro_f1": macro_f1(truth, predicted), "seconds": seconds}


def trained(name: str, model: Path, data: Path, folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """One run of the trainer, as ``train.start`` would make it."""
    from services.runtime import train

    folder.mkdir()
    spec = RunSpec(
        v=1, id=name, kind="train", target="local", command=(), cwd=str(Path.cwd()),
        config=msgspec.convert(settings, TrainConfig), model=str(model), model_label=model.name, data=str(data),
        data_sha256="0" * 64, seed=0, created_at=time.time(),
    )  # fmt: skip
    (folder / "spec.json").write_bytes(msgspec.json.encode(spec))
    (folder / "control").mkdir()
    if train.main([str(folder)]) != 0:
        raise SystemExit(f"The run '{name}' failed; see above.")
    metrics = json.loads((folder / "output" / "metadata.json").read_text(encoding="utf-8"))["metrics"]
    took = json.loads((folder / "output" / "benchmark.json").read_text(encoding="utf-8"))
    return dict(metrics) | {"seconds": took["train_seconds"], "tokens_s": took["train_tokens_s"]}


def chosen(words: str) -> list[str]:
    """The cases that ``--only`` names. Raises ArgumentTypeError for one that there is not."""
    names = [word.strip() for word in words.split(",") if word.strip()]
    if not names or (unknown := [name for name in names if name not in CASES]):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) if names else 'nothing'} is none of {', '.join(CASES)}")
    return names


def hardware() -> str:
    """What this runs on, in one line."""
    import torch

    from services.runtime import loading

    device = loading.choose_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    precision = str(loading.choose_dtype("auto", device)).removeprefix("torch.")
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{name}, {cores} cores, {precision}, torch {torch.__version__}, load {load:.1f} at the start"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def main() -> None:
    """Entry point; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, help="all-MiniLM-L6-v2's folder")
    parser.add_argument("--decoder", type=Path, help="SmolLM2-135M-Instruct's folder")
    parser.add_argument("--only", type=chosen, default=",".join(CASES), help=f"some of {', '.join(CASES)}; else all")
    arguments = parser.parse_args()
    print(hardware(), flush=True)
    folder = Path(tempfile.mkdtemp(prefix="hybrid-accuracy-"))
    try:
        info = prepare(arguments.data, folder / "data")
        for name in arguments.only:
            kind, settings = CASES[name]
            model = getattr(arguments, kind)
            if model is None:
                print(f"{name:10} left out: it needs --{kind}", flush=True)
                continue
            started, before = time.monotonic(), sum(os.times()[:4])
            if name == "frozen":
                figures = frozen(model, folder / "data", info)
            else:
                figures = trained(name, model, folder / "data", folder / name, settings)
            print(
                f"{name:10} accuracy {figures['accuracy']:.2%}  macro-F1 {figures['macro_f1']:.2%}  training "
                f"{figures['seconds']:.0f} s  whole {time.monotonic() - started:.0f} s  "
                f"processor {sum(os.times()[:4]) - before:.0f} s  load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
