"""Decoding speed against transformers.generate, same model, prompt, precision and threads, in one run.

    python -m benchmarks.inference [MODEL_FOLDER] [--tokens 64] [--rounds 3] [--dtype bf16]

The two take turns, each round one answer; the medians are printed. Without a folder: the demo's model, converted in
this workspace or in the current folder's ``.hybrid/models``.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

PROMPT = (
    "A card payment was declined although there is money in the account. Explain in plain words what may have "
    "happened, what the customer can check, and when to call the bank. " * 6
)


def ours(model: str, dtype: str, ids: list[int], tokens: int) -> Any:
    """A function that answers once: (seconds to the first token, tokens a second after it)."""
    from services.runtime.engine import open_engine

    engine = open_engine(model, dtype)

    def answer() -> tuple[float, float]:
        engine.use(None)  # forgets the prompt, so that it is read again
        begun = time.perf_counter()
        scores = engine.prefill(ids, tokens, lambda: False)
        assert scores is not None
        id = int(scores.argmax())
        first = time.perf_counter()
        for _ in range(tokens - 1):
            id = int(engine.step(id).argmax())
        return first - begun, (tokens - 1) / (time.perf_counter() - first)

    return answer


def theirs(model: str, dtype: str, ids: list[int], tokens: int) -> Any:
    """The same through transformers.generate with its default cache and attention."""
    import torch
    from transformers import AutoModelForCausalLM

    from services.runtime import loading

    folder = loading.local_folder(model)
    precision = loading.choose_dtype(dtype, loading.choose_device())
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=precision).to(loading.choose_device()).eval()
    prompt = torch.tensor([ids], device=loaded.device)
    how = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}

    def answer() -> tuple[float, float]:
        begun = time.perf_counter()
        loaded.generate(prompt, max_new_tokens=1, **how)
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        loaded.generate(prompt, max_new_tokens=tokens, **how)
        return first, (tokens - 1) / max(time.perf_counter() - begun - first, 1e-9)

    return answer


def default_model() -> str:
    """The demo's model, made ready in the current workspace."""
    from services import workspace
    from services.context import Context
    from services.models.resolve import ensure_ready

    return asyncio.run(ensure_ready(Context(workspace.open_workspace(Path.cwd())), "smollm2-135m-instruct")).path


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["auto", "bf16", "fp32"], default="bf16")
    given = parser.parse_args()
    model = given.model or default_model()

    from services.runtime.loading import use_threads
    from services.runtime.tokenizer import Tokenizer

    threads = use_threads()
    ids = Tokenizer(Path(model)).encode(PROMPT)
    contestants = {"hybrid-tui": ours, "transformers.generate": theirs}
    answers = {name: make(model, given.dtype, ids, given.tokens) for name, make in contestants.items()}
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in answers}
    for round in range(given.rounds + 1):
        for name, answer in answers.items():
            measured = answer()
            if round:  # the first warms up
                figures[name].append(measured)

    print(f"{Path(model).name}, {given.dtype}, {threads} threads, prompt {len(ids)} tokens, answer {given.tokens}")
    print(f"{'':24}{'first token s':>14}{'tokens/s':>10}")
    medians = {n: tuple(statistics.median(column) for column in zip(*f, strict=True)) for n, f in figures.items()}
    for name, (first, rate) in medians.items():
        print(f"{name:24}{first:14.3f}{rate:10.1f}")
    us, them = medians.values()
    print(f"{'ratio (higher is better)':24}{them[0] / us[0]:14.2f}{us[1] / them[1]:10.2f}")


if __name__ == "__main__":
    main()
