"""LoRA training speed and memory against TRL's SFTTrainer and Hugging Face's Trainer, in one run.

    python -m benchmarks.training [MODEL_FOLDER] [--steps 20] [--dtype bf16] [--dtype fp32] [--data CSV]

Same model, rows in the same order of batches, LoRA (r=8 on all linear layers), precision, optimizer, effective batch
(16 rows) and threads. Tokens are real ones: padding counts on neither side. Each trainer is a process of its own and
they take turns, so that a busy box slows all of them. The peers need ``trl``: HYBRID_BENCH_PYTHON names a Python that
has it beside torch and this checkout's other packages.

The loss column is the mean over the steps: speed that trains worse does not count.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from services.data import prompts
from services.data.types import Row
from services.runtime import batches, loading
from services.runtime.batches import Batch
from services.runtime.tokenizer import Tokenizer

ROWS, RANK, ALPHA, LR, WARM_UP = 16, 8, 16.0, 5e-4, 2
NAMES = {"ours": "hybrid-tui", "plain": "hybrid-tui, uncompiled", "sft": "TRL SFTTrainer", "hf": "HF Trainer + PEFT"}


def some_rows(path: Path | None) -> list[Row]:
    """Rows of a CSV (text, category), or made-up ones of banking77's lengths."""
    if path is not None:
        with path.open(encoding="utf-8", newline="") as file:
            return [Row(row["text"], row["category"]) for row in csv.DictReader(file)]
    pick = random.Random(0)
    words = ("my", "card", "was", "not", "there", "when", "I", "tried", "to", "pay", "at", "the", "shop", "blocked")
    labels = ("card_arrival", "declined_card_payment", "exchange_rate", "lost_or_stolen_card")
    return [Row(" ".join(pick.choices(words, k=pick.randint(5, 30))), pick.choice(labels)) for _ in range(2000)]


def the_batches(model: Path, data: Path | None, steps: int) -> list[Batch]:
    """The steps' batches: sorted by length inside chunks, as all three get them."""
    rows = some_rows(data)
    examples, _, _ = batches.encode(Tokenizer(model), prompts.CLASSIFY, rows, classify=True, max_length=512)
    found = batches.epoch_batches(examples, epoch=0, seed=0, batch_rows=ROWS, batch_tokens=1 << 20)
    return [batch for batch in found if len(batch.examples) == ROWS][: steps + WARM_UP]


class Clock:
    """Times the steps after the warm-up."""

    def __init__(self, work: list[Batch]) -> None:
        self.work, self.started, self.done = work, 0.0, 0
        self.losses: list[float] = []

    def step_begins(self) -> None:
        """Called before every step."""
        if self.done == WARM_UP:
            self.started = time.perf_counter()
        self.done += 1

    def report(self) -> None:
        """Print the figures for the parent process."""
        seconds = time.perf_counter() - self.started
        tokens = sum(batch.tokens for batch in self.work[WARM_UP:])
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        loss = sum(self.losses) / len(self.losses) if self.losses else float("nan")
        print(json.dumps({"tokens_s": tokens / seconds, "rss": rss, "loss": loss, "seconds": seconds}), flush=True)


def train_ours(model: Path, work: list[Batch], dtype: str, *, compiled: bool) -> None:
    """Our step loop as ``services.runtime.training`` runs it."""
    import torch

    from services.runtime import pointwise
    from services.runtime.learner import open_learner
    from services.runtime.lora import LoraConfig

    if compiled:
        complaint = pointwise.compile_all(torch.device("cpu"))
        if complaint:
            print(f"not compiled: {complaint}", file=sys.stderr)
    learner = open_learner(str(model), dtype)
    learner.attach(LoraConfig(RANK, ALPHA), seed=0)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=LR, weight_decay=0.0, fused=True)
    clock = Clock(work)
    for batch in work:
        clock.step_begins()
        optimizer.zero_grad(set_to_none=False)
        loss = learner.learn(batch.examples, 1 / batch.labels) / batch.labels
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        learner.updated()
        clock.losses.append(float(loss))
    clock.report()


def train_peer(kind: str, model: Path, work: list[Batch], dtype: str) -> None:
    """SFTTrainer or Trainer with PEFT, given the same batches in the same order, padded by their own collators."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *arguments: Any, **named: Any) -> None:
            clock.step_begins()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **named: Any) -> None:
            if "loss" in logs:
                clock.losses.append(logs["loss"])

    clock = Clock(work)
    tokenizer = AutoTokenizer.from_pretrained(model)
    lora = LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules="all-linear", task_type="CAUSAL_LM")
    precision = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    base = AutoModelForCausalLM.from_pretrained(model, dtype=precision)
    settings: dict[str, Any] = {
        "output_dir": "/tmp/hybrid-benchmark",
        "per_device_train_batch_size": ROWS,
        "max_steps": len(work),
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,  # the weights are bf16 already; autocast on top would only cost
        "disable_tqdm": True,
        "optim": "adamw_torch",
    }
    examples = [example for batch in work for example in batch.examples]
    trainer: Any
    if kind == "sft":
        from trl import SFTConfig, SFTTrainer

        rows = [
            {"input_ids": list(e.ids), "completion_mask": [0] * e.answer + [1] * (e.tokens - e.answer)}
            for e in examples
        ]
        arguments = SFTConfig(**settings, completion_only_loss=True, gradient_checkpointing=False, max_length=None)

        class InOrder(SFTTrainer):  # type: ignore[misc]
            def _get_train_sampler(self, *_: Any) -> Any:
                return SequentialSampler(self.train_dataset)

        trainer = InOrder(
            model=base,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            peft_config=lora,
            processing_class=tokenizer,
            callbacks=[Ticks()],
        )
    else:
        from transformers import TrainingArguments

        rows = [{"input_ids": list(e.ids), "labels": [-100] * e.answer + list(e.ids[e.answer :])} for e in examples]

        class HfInOrder(Trainer):  # type: ignore[misc]
            def _get_train_sampler(self, *_: Any) -> Any:
                return SequentialSampler(self.train_dataset)

        trainer = HfInOrder(
            model=get_peft_model(base, lora),
            args=TrainingArguments(**settings),
            train_dataset=Dataset.from_list(rows),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[Ticks()],
        )
    trainer.train()
    clock.report()


def measure(kind: str, arguments: argparse.Namespace, dtype: str) -> dict[str, float] | None:
    """Run one trainer as a child process; None when it can't (its message goes to stderr)."""
    python = sys.executable if kind in ("ours", "plain") else os.environ.get("HYBRID_BENCH_PYTHON", sys.executable)
    command = [python, "-m", "benchmarks.training", str(arguments.model), "--child", kind, "--dtype", dtype]
    command += ["--steps", str(arguments.steps), "--threads", str(arguments.threads)]
    command += ["--data", str(arguments.data)] if arguments.data else []
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"tokens_s"')]
    if done.returncode or not lines:
        print(f"{NAMES[kind]} could not run: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        return None
    figures: dict[str, float] = json.loads(lines[-1])
    return figures


def table(results: dict[str, list[dict[str, float]]], dtype: str, arguments: argparse.Namespace) -> None:
    """Print the best round of each, and our ratio to each peer."""
    print(f"\n{dtype}, {arguments.steps} steps of {ROWS} rows, {arguments.threads} threads, best of {arguments.rounds}")
    print(f"{'':22} {'real tokens/s':>14} {'ours / it':>10} {'peak memory':>12} {'ours / it':>10} {'mean loss':>10}")
    best = {kind: max(rounds, key=lambda f: f["tokens_s"]) for kind, rounds in results.items() if rounds}
    ours = best.get("ours")
    for kind, figures in best.items():
        speed = ours["tokens_s"] / figures["tokens_s"] if ours else float("nan")
        memory = ours["rss"] / figures["rss"] if ours else float("nan")
        print(
            f"{NAMES[kind]:22} {figures['tokens_s']:14.0f} {speed:10.2f} {figures['rss'] / 1e9:9.2f} GB "
            f"{memory:10.2f} {figures['loss']:10.3f}"
        )


def main() -> None:
    """Entry point; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=Path(".hybrid/models/smollm2-135m-instruct"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--dtype", action="append", choices=("bf16", "fp32"))
    parser.add_argument("--data", type=Path, help="a CSV with the columns text and category (banking77's train.csv)")
    parser.add_argument("--peers", default="sft,hf", help="which peers, separated by commas")
    parser.add_argument("--child", choices=tuple(NAMES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        loading.use_threads(arguments.threads)
        work = the_batches(arguments.model, arguments.data, arguments.steps)
        if arguments.child in ("ours", "plain"):
            train_ours(arguments.model, work, arguments.dtype[0], compiled=arguments.child == "ours")
        else:
            train_peer(arguments.child, arguments.model, work, arguments.dtype[0])
        return
    for dtype in arguments.dtype or ["bf16", "fp32"]:
        kinds = ["ours", "plain", *arguments.peers.split(",")]
        results: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for _ in range(arguments.rounds):
            for kind in kinds:
                figures = measure(kind, arguments, dtype)
                if figures is not None:
                    results[kind].append(figures)
        table(results, dtype, arguments)


if __name__ == "__main__":
    main()
