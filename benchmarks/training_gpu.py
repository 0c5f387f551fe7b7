"""LoRA training on one CUDA GPU against TRL's SFTTrainer: speed, memory, and the loss curves beside each other.

    python -m benchmarks.training_gpu --tokenizer MODEL_FOLDER --data banking77/train.csv [--only short] [--out DIR]

Models have random weights in two Llama shapes: 135M (SmolLM2's) for short text, banking77 as prompts, and 1B (Llama
3.2's) for long text, rows of 2,048 tokens that all carry a label. LoRA r=16 on all linear layers, bf16, fused AdamW,
the same rows in the same order for both. Every trainer is a process of its own; SFTTrainer is tried with several batch
sizes, with and without gradient checkpointing, and its best counts. Tokens are real ones, padding counts on neither
side. The rate of a large bf16 matrix product on the same card is measured first.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RANK, ALPHA, LR, WARM_UP = 16, 32.0, 5e-4, 10
SHAPES: dict[str, dict[str, Any]] = {
    "short": {
        "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True, "rope_theta": 100000.0,
        "max_position_embeddings": 8192, "head_dim": 64,
    },
    "long": {
        "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 8192, "vocab_size": 128256, "tie_word_embeddings": True, "rope_theta": 500000.0,
        "max_position_embeddings": 131072, "head_dim": 64,
    },
}  # fmt: skip
ROW = 2049  # the last token predicts nothing


def make_model(folder: Path, kind: str, tokenizer: Path) -> Path:
    """A folder with random weights of one of the shapes."""
    import shutil

    import torch
    from safetensors.torch import save_file

    if (folder / "model.safetensors").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    shape = SHAPES[kind]
    config = shape | {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
        "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(tokenizer / name, folder / name)
    generator = torch.Generator("cuda").manual_seed(0)
    width, inner = shape["hidden_size"], shape["intermediate_size"]
    q, kv = shape["num_attention_heads"] * shape["head_dim"], shape["num_key_value_heads"] * shape["head_dim"]

    def matrix(rows: int, columns: int) -> Any:
        return (torch.randn(rows, columns, generator=generator, device="cuda") * 0.02).bfloat16()

    def norm() -> Any:
        return torch.ones(width, dtype=torch.bfloat16)

    tensors = {"model.embed_tokens.weight": matrix(shape["vocab_size"], width), "model.norm.weight": norm()}
    for number in range(shape["num_hidden_layers"]):
        prefix = f"model.layers.{number}."
        tensors |= {
            f"{prefix}input_layernorm.weight": norm(),
            f"{prefix}post_attention_layernorm.weight": norm(),
            f"{prefix}self_attn.q_proj.weight": matrix(q, width),
            f"{prefix}self_attn.k_proj.weight": matrix(kv, width),
            f"{prefix}self_attn.v_proj.weight": matrix(kv, width),
            f"{prefix}self_attn.o_proj.weight": matrix(width, q),
            f"{prefix}mlp.gate_proj.weight": matrix(inner, width),
            f"{prefix}mlp.up_proj.weight": matrix(inner, width),
            f"{prefix}mlp.down_proj.weight": matrix(width, inner),
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def the_work(model: Path, data: Path, kind: str, rows: int, steps: int) -> list[list[Any]]:
    """The steps' examples, ``rows`` each: prompts with their answers, or rows of the text of the file, one by one."""
    import itertools
    import random

    from services.data import prompts
    from services.data.types import Row
    from services.runtime import batches
    from services.runtime.batches import Example
    from services.runtime.tokenizer import Tokenizer

    with data.open(encoding="utf-8", newline="") as file:
        read = [Row(row["text"], row["category"]) for row in csv.DictReader(file)]
    random.Random(0).shuffle(read)
    examples, _, _ = batches.encode(Tokenizer(model), prompts.CLASSIFY, read, classify=True, max_length=512)
    if kind == "long":
        ids = [id for example in examples for id in example.ids]
        ids *= 1 + rows * ROW // len(ids)
        starts = range(0, len(ids) - ROW, ROW)
        examples = [Example(tuple(ids[start : start + ROW]), 1) for start in starts]
    endless = itertools.cycle(examples)
    return [list(itertools.islice(endless, rows)) for _ in range(steps + WARM_UP)]


class Clock:
    """Times the steps after the warm-up, on the GPU's clock; the peak of its memory is that of all steps."""

    def __init__(self, work: list[list[Any]]) -> None:
        self.work, self.started, self.done = work, 0.0, 0
        self.losses: list[float] = []

    def step_begins(self) -> None:
        """Called before every step."""
        import torch

        if self.done == WARM_UP:
            torch.cuda.synchronize()
            self.started = time.perf_counter()
        self.done += 1

    def report(self, **more: Any) -> None:
        """Print the figures for the parent process."""
        import torch

        torch.cuda.synchronize()
        seconds = time.perf_counter() - self.started
        tokens = sum(example.tokens for batch in self.work[WARM_UP:] for example in batch)
        figures = {
            "tokens_s": tokens / seconds,
            "step_ms": 1000 * seconds / (len(self.work) - WARM_UP),
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
            "losses": [round(loss, 4) for loss in self.losses],
        }
        print(json.dumps(figures | more), flush=True)


def train_ours(model: Path, work: list[list[Any]], arguments: argparse.Namespace) -> None:
    """Our step loop, as ``services.runtime.training`` runs it."""
    import torch

    from services.runtime import pointwise
    from services.runtime.learner import open_learner
    from services.runtime.lora import LoraConfig

    if not arguments.plain:
        complaint = pointwise.compile_all(torch.device("cuda"))
        if complaint:
            print(f"not compiled: {complaint}", file=sys.stderr)
    learner = open_learner(str(model), "bf16")
    learner.attach(LoraConfig(RANK, ALPHA), seed=0)
    (flat,) = learner.parameters()
    optimizer = torch.optim.AdamW([flat], lr=LR, weight_decay=0.0, fused=True)
    clock = Clock(work)

    def step(batch: list[Any]) -> None:
        labels = sum(example.tokens - example.answer for example in batch)
        flat.grad.zero_()  # type: ignore[union-attr]
        loss = learner.learn(batch, 1 / labels) / labels
        torch.nn.utils.clip_grad_norm_([flat], 1.0)
        optimizer.step()
        learner.updated()
        clock.losses.append(float(loss))

    for batch in work:
        clock.step_begins()
        step(batch)
    clock.report()
    if arguments.profile:
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            for batch in work[-2:]:
                step(batch)
            torch.cuda.synchronize()
        table = seen.key_averages().table(sort_by="self_cuda_time_total", row_limit=45, max_name_column_width=70)
        print(table, file=sys.stderr)


def train_sft(model: Path, work: list[list[Any]], arguments: argparse.Namespace) -> None:
    """TRL's SFTTrainer with PEFT, given the same rows in the same order."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from torch.utils.data import SequentialSampler
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Ticks(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *arguments: Any, **named: Any) -> None:
            clock.step_begins()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **named: Any) -> None:
            if "loss" in logs:
                clock.losses.append(logs["loss"])

    class InOrder(SFTTrainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    clock = Clock(work)
    rows = [
        {"input_ids": list(e.ids), "completion_mask": [0] * e.answer + [1] * (e.tokens - e.answer)}
        for batch in work
        for e in batch
    ]
    settings = SFTConfig(
        output_dir="/tmp/hybrid-benchmark", per_device_train_batch_size=len(work[0]), max_steps=len(work),
        learning_rate=LR, lr_scheduler_type="constant", weight_decay=0.0, logging_steps=1, save_strategy="no",
        report_to="none", bf16=True, disable_tqdm=True, optim="adamw_torch_fused", completion_only_loss=True,
        gradient_checkpointing=arguments.checkpointing, max_length=None, dataloader_num_workers=2,
    )  # fmt: skip
    trainer = InOrder(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16),
        args=settings,
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules="all-linear", task_type="CAUSAL_LM"),
        processing_class=AutoTokenizer.from_pretrained(model),
        callbacks=[Ticks()],
    )
    trainer.train()
    clock.report()


def matmul_rate() -> float:
    """FLOP/s of a bf16 product of 8192 × 8192 random matrices: the median of 20."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(25):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        a @ b
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return float(2 * 8192**3 / (sorted(times[5:])[10] / 1000))


def measure(arguments: argparse.Namespace, kind: str, trainer: str, rows: int, *flags: str) -> dict[str, Any] | None:
    """One trainer as a child process; None when it can't (its last line goes to stderr)."""
    command = [sys.executable, "-m", "benchmarks.training_gpu", "--child", trainer, "--only", kind]
    steps = 16 * arguments.steps if trainer == "ours" and kind == "short" else arguments.steps  # ours are so short
    command += ["--rows", str(rows), "--steps", str(steps), "--data", str(arguments.data)]
    command += ["--tokenizer", str(arguments.tokenizer), "--models", str(arguments.models), *flags]
    environment = os.environ | {"PYTHONPATH": f"{Path.cwd()}:{os.environ.get('PYTHONPATH', '')}", "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=150)
    except subprocess.TimeoutExpired:
        print(f"{kind} {trainer} {rows} {flags}: over 150 s", flush=True)
        return None
    name = f"{kind}-{trainer}-{rows}{''.join(flags)}"
    if arguments.out:
        (arguments.out / f"{name}.log").write_text(done.stdout + "\n" + done.stderr, encoding="utf-8")
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"tokens_s"')]
    if done.returncode or not lines:
        print(f"{name} could not run: {done.stderr.strip()[-1200:]}", flush=True)
        return None
    figures: dict[str, Any] = json.loads(lines[-1])
    print(
        f"{name:40} {figures['tokens_s']:10.0f} tokens/s  {figures['step_ms']:8.1f} ms a step  "
        f"peak {figures['allocated'] / 1e9:6.2f} GB ({figures['reserved'] / 1e9:.2f} reserved)  "
        f"loss {figures['losses'][0]:.3f} → {figures['losses'][-1]:.3f}  [{time.perf_counter() - started:.0f} s]",
        flush=True,
    )
    return figures


def compare(arguments: argparse.Namespace, kind: str, rate: float) -> None:
    """Ours and SFTTrainer's at several batch sizes; then the verdict and both curves."""
    sizes: dict[str, tuple[list[int], list[tuple[int, bool]]]] = {
        "short": ([672, 2048], [(64, False), (672, False), (2048, False), (2048, True)]),
        "long": ([8], [(4, False), (8, False), (8, True)]),
    }
    our_sizes, their_sizes = sizes[kind]
    mine = {rows: measure(arguments, kind, "ours", rows) for rows in our_sizes}
    if arguments.plain:
        measure(arguments, kind, "ours", our_sizes[0], "--plain")
    tried = {
        (rows, checkpointing): measure(arguments, kind, "sft", rows, *["--checkpointing"] * checkpointing)
        for rows, checkpointing in their_sizes
    }
    known = {size: figures for size, figures in tried.items() if figures}
    done = [figures for figures in mine.values() if figures]
    if not done or not known:
        return
    ours = max(done, key=lambda f: f["tokens_s"])
    best = max(known.values(), key=lambda f: f["tokens_s"])
    print(f"{kind}: ours / SFTTrainer's best = {ours['tokens_s'] / best['tokens_s']:.2f} in speed", flush=True)
    same, ours_same = known.get((our_sizes[0], False)), mine[our_sizes[0]]
    if same and ours_same:
        speed = ours_same["tokens_s"] / same["tokens_s"]
        print(f"{kind}: at the same {our_sizes[0]} rows a step: {speed:.2f} in speed")
        memory = ours_same["allocated"] / same["allocated"]
        print(f"{kind}: memory at the same tokens a step: {memory:.2f} of SFTTrainer's")
        print(f"{kind}: losses, ours       {ours_same['losses'][: len(same['losses'])]}")
        print(f"{kind}: losses, SFTTrainer {same['losses']}")
    shape = SHAPES[kind]
    width, inner, dim = shape["hidden_size"], shape["intermediate_size"], shape["head_dim"]
    heads = shape["num_attention_heads"] + 2 * shape["num_key_value_heads"]
    linear = width * (heads * dim + shape["num_attention_heads"] * dim + 3 * inner) * shape["num_hidden_layers"]
    if kind == "long":
        used = 4 * (linear + width * shape["vocab_size"]) * ours["tokens_s"]
        print(
            f"{kind}: {used / 1e12:.0f} TFLOP/s of {rate / 1e12:.0f} measured = {used / rate:.1%} (4 FLOPs/parameter)"
        )


def main() -> None:
    """Entry point; see the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a folder with SmolLM2's tokenizer")
    parser.add_argument("--data", type=Path, required=True, help="banking77's train.csv")
    parser.add_argument("--models", type=Path, default=Path("/tmp/hybrid-models"), help="where the models are made")
    parser.add_argument("--only", default="short,long")
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--out", type=Path, help="a folder for each trainer's whole output")
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=("ours", "sft"), help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help="also without torch.compile")
    parser.add_argument("--checkpointing", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    kinds = arguments.only.split(",")
    if arguments.child:
        model = arguments.models / kinds[0]
        work = the_work(model, arguments.data, kinds[0], arguments.rows, arguments.steps)
        (train_ours if arguments.child == "ours" else train_sft)(model, work, arguments)
        return
    import torch

    for kind in kinds:
        make_model(arguments.models / kind, kind, arguments.tokenizer)
    rate = matmul_rate()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, matmul {rate / 1e12:.0f} TFLOP/s", flush=True)
    for kind in kinds:
        compare(arguments, kind, rate)


if __name__ == "__main__":
    main()
