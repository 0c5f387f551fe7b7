"""Several GPUs of one machine: how much faster they are than one, and what splitting the model (FSDP) saves and costs.

    python -m benchmarks.several_gpus [--only scaling,lora,full] [--gpus 2]

``scaling``: LoRA on a 1B Llama shape, our own path, one GPU and all, each with the same batches: tokens/s, and whether
the losses are the same. ``lora`` (8B) and ``full`` (1B, then 8B): transformers and PEFT on all GPUs with the layers
computed again in the backward pass, the model whole on each and split over them: tokens/s and the peak of each GPU's
memory. Random weights (written to --models), random ids in rows of 2,048 tokens, bf16, r=16, fused AdamW. The steps
are those of a run, ``services.runtime.training.take_step``. ``--device cpu --shape tiny`` tries it out anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from services.runtime import world

WARM_UP, LR = 3, 1e-4
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
}


class Case(msgspec.Struct, frozen=True):
    """One measurement: ``rows`` in a step, ``at_once`` of them computed together by a process."""

    name: str
    shape: str
    method: str
    processes: int
    shard: str
    rows: int
    at_once: int
    own: bool


def cases(only: str, gpus: int, shape: str | None) -> list[Case]:
    """What is measured."""
    found = []
    if "scaling" in only:
        found += [Case(f"scaling, {n} GPU", shape or "1B", "lora", n, "off", 8 * gpus, 8, True) for n in (1, gpus)]
    wanted = [("lora", "8B", 4)] * ("lora" in only) + [("full", "1B", 4), ("full", "8B", 2)] * ("full" in only)
    for method, size, at_once in wanted:
        for shard, words in (("off", "whole on each"), ("on", "split")):
            name = f"{method} {shape or size}, {words}"
            found.append(Case(name, shape or size, method, gpus, shard, at_once * gpus, at_once, False))
    return found


def make_model(folder: Path, shape: str, device: str) -> None:
    """A Llama with random weights, if it is not there yet."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if (folder / "done").is_file():
        return
    vocabulary = 512 if shape == "tiny" else 128256
    config = LlamaConfig(
        **SHAPES[shape], num_key_value_heads=SHAPES[shape]["num_attention_heads"] // 4, vocab_size=vocabulary,
        tie_word_embeddings=True, rope_theta=500000.0, max_position_embeddings=8192, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        LlamaForCausalLM(config).save_pretrained(folder)
    torch.set_default_dtype(torch.float32)
    (folder / "done").touch()
    if device == "cuda":
        torch.cuda.empty_cache()


def opened(case: Case, model: Path, device: str, dtype: str) -> Any:
    """The job of this process, as ``services.runtime.job`` makes it from a run's folder."""
    from services.runs.emit import Emitter
    from services.runs.types import RunSpec, TrainConfig
    from services.runtime import loading, pointwise
    from services.runtime.job import Job
    from services.runtime.learner import open_learner
    from services.runtime.lora import LoraConfig

    here, sharded = loading.choose_device(device), case.shard == "on"
    together = world.World()
    together.join(here)
    if case.own and here.type == "cuda":
        print(pointwise.compile_all(here) or "kernels compiled", file=sys.stderr)
    general = not case.own
    learner: Any = open_learner(
        str(model),
        dtype,
        general=general,
        method=case.method,
        device=device,
        sharded=sharded,  # type: ignore[arg-type]
    )
    learner.attach(LoraConfig(16, 32.0), 0)
    if general:
        learner.save_memory()
    if sharded:
        learner.shard()
    spec = RunSpec(
        v=1, id="benchmark", kind="train", target="local", command=(), cwd="", config=TrainConfig(), model=str(model),
        model_label="", data="", data_sha256="", seed=0, created_at=0.0,
    )  # fmt: skip
    nothing: Any = None
    emitter: Any = Emitter(model)
    return Job(spec, model, emitter, nothing, learner, nothing, nothing, [], world=together, sharded=sharded)


def measure(case: Case, model: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """This process's part of the measurement."""
    import torch

    from services.runtime import training
    from services.runtime.batches import Batch, Example
    from services.runtime.meter import Progress

    job = opened(case, model, arguments.device, arguments.dtype)
    vocabulary = json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    chance, length = random.Random(0), arguments.tokens + 1  # the last token predicts nothing
    optimizer = training._optimizer(job.learner, LR)
    progress, losses, started = Progress(micro=case.at_once * length), [], 0.0
    on_gpu = job.learner.device.type == "cuda"
    for step in range(WARM_UP + arguments.steps):
        rows = [Example(tuple(chance.randrange(vocabulary) for _ in range(length)), 1) for _ in range(case.rows)]
        if step == WARM_UP:
            if on_gpu:
                torch.cuda.synchronize()
            started = time.perf_counter()
        loss, _ = training.take_step(job, optimizer, Batch(tuple(rows), 0), progress, LR)
        progress.step += 1
        losses.append(loss)
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    peaks: list[Any] = [peak]
    if case.processes > 1:
        peaks = [None] * case.processes
        torch.distributed.all_gather_object(peaks, peak)
    job.world.leave()
    return {"tokens_s": case.rows * length * arguments.steps / seconds, "peaks": peaks, "losses": losses}


def parent(arguments: argparse.Namespace) -> None:
    """Every case in processes of its own, and the comparisons."""
    known: dict[str, dict[str, Any]] = {}
    for case in cases(arguments.only, arguments.gpus, arguments.shape):
        model = arguments.models / case.shape
        make_model(model, case.shape, arguments.device)
        out = arguments.models / "figures.json"
        out.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.several_gpus", "--case", msgspec.json.encode(case).decode()]
        for name in ("models", "steps", "tokens", "device", "dtype"):
            command += [f"--{name}", str(getattr(arguments, name))]
        code = world.launch(command, case.processes)
        if code or not out.is_file():
            print(f"{case.name:28} could not run (exit code {code})", flush=True)
            continue
        known[case.name] = figures = json.loads(out.read_text(encoding="utf-8"))
        peaks = " ".join(f"{peak / 1e9:.1f}" for peak in figures["peaks"])
        course = f"{figures['losses'][0]:.4f} → {figures['losses'][-1]:.4f}"
        print(f"{case.name:28} {figures['tokens_s']:9.0f} tokens/s  peak {peaks} GB  loss {course}", flush=True)
        first = case.name.split(",")[0]
        before = next((name for name in known if name != case.name and name.split(",")[0] == first), None)
        if before:
            speed = figures["tokens_s"] / known[before]["tokens_s"]
            apart = max(abs(a - b) for a, b in zip(figures["losses"], known[before]["losses"], strict=True))
            print(f"{'':28} {speed:9.2f} times as fast as '{before}'; losses differ by at most {apart:.2g}", flush=True)


def main() -> None:
    """Entry point; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="scaling,lora,full")
    parser.add_argument("--gpus", type=int, default=2, help="how many there are to use")
    parser.add_argument("--models", type=Path, default=Path("/tmp/hybrid-models/several"), help="where they are made")
    parser.add_argument("--shape", choices=SHAPES, help="one shape for all")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=2048, help="of a row")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not arguments.case:
        parent(arguments)
        return
    case = msgspec.json.decode(arguments.case, type=Case)
    found = measure(case, arguments.models / case.shape, arguments)
    if os.environ["RANK"] == "0":
        (arguments.models / "figures.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
