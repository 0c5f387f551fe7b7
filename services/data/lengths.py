"""How many tokens a dataset's rows take: counted by the model's tokenizer in a child process, or estimated by words."""

from __future__ import annotations

import asyncio
import os
import random
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import services
from services.data import chat, prompts, store
from services.data.types import DatasetInfo, Row, Split
from services.errors import BadInput, HybridError, Refused, StoreUnreachable

_PIECE = re.compile(r"\w+|[^\w\s]")
_TOKENS_PER_PIECE = 1.15
"""Tokens to a word or mark by SmolLM2's tokenizer: 1.1 in banking77; other languages have up to three times as many."""

_KINDS: dict[int, type[HybridError]] = {kind.exit_code: kind for kind in (BadInput, Refused, StoreUnreachable)}


class Request(msgspec.Struct, frozen=True):
    """What the child is asked: a model's folder or hub id, a dataset's folder."""

    model: str
    data: str
    max_length: int
    samples: int
    seed: int


class SplitLengths(msgspec.Struct, frozen=True):
    """Tokens of a split's rows, prompt and answer and end of text together, before anything is cut.

    ``cut``: rows longer than the limit, ``cut_share`` of all; ``left_out``: those of them that have no room for more
    than template and answer and are not trained on. ``epoch_tokens``: what one pass over the split costs, a cut row
    counted as the limit, which it may miss by a token or two.
    """

    split: Split
    rows: int
    p50: int
    p95: int
    max: int
    cut: int
    cut_share: float
    left_out: int
    epoch_tokens: int


class Sample(msgspec.Struct, frozen=True):
    """A row as the model sees it; only ``answer`` (``answer_tokens`` of the ``tokens``) is learned."""

    prompt: str
    answer: str
    tokens: int
    answer_tokens: int


class Measured(msgspec.Struct, frozen=True):
    """``chat``: the rows were put into the model's own chat template."""

    splits: tuple[SplitLengths, ...]
    samples: tuple[Sample, ...]
    chat: bool


def lengths(split: Split, whole: Sequence[int], limit: int, left_out: int) -> SplitLengths:
    """The figures of a split from the lengths of its rows."""
    ordered = sorted(whole)
    last = len(ordered) - 1
    cut = sum(length > limit for length in ordered)
    return SplitLengths(
        split=split,
        rows=len(ordered),
        p50=ordered[last // 2] if ordered else 0,
        p95=ordered[int(0.95 * last)] if ordered else 0,
        max=ordered[-1] if ordered else 0,
        cut=cut,
        cut_share=cut / len(ordered) if ordered else 0.0,
        left_out=left_out,
        epoch_tokens=sum(min(length, limit) for length in ordered) - left_out * limit,
    )


async def count(request: Request, progress: Callable[[int], None]) -> Measured:
    """Ask a child with the model's tokenizer. Raises what it says went wrong, as one of our errors."""
    root = str(Path(services.__file__).parent.parent)
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "services.runtime.measure", msgspec.json.encode(request).decode(),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}, limit=1 << 26,
    )  # fmt: skip
    assert child.stdout is not None and child.stderr is not None
    noise = asyncio.ensure_future(child.stderr.read())
    last: dict[str, Any] = {}
    try:
        async for line in child.stdout:
            last = msgspec.json.decode(line, type=dict[str, Any])
            if "done" in last:
                progress(int(last["done"]))
        code = await child.wait()
        said = (await noise).decode(errors="replace").strip().splitlines()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        noise.cancel()
    if "result" in last:
        return msgspec.convert(last["result"], Measured)
    if "error" in last:
        kind = _KINDS.get(int(last.get("exit_code", 1)), HybridError)
        raise kind(str(last["error"]), hint=str(last.get("hint", "")))
    raise HybridError(f"Counting tokens failed: {said[-1] if said else f'exit code {code}'}.")


def estimate(info: DatasetInfo, folder: Path, request: Request) -> Measured:
    """``count`` without a tokenizer: by words and marks. A conversation's samples have a role before each message."""
    splits: list[SplitLengths] = []
    samples: list[Sample] = []
    for split in store.SPLITS:
        rows = store.read_rows(folder, split)
        views = [_written(info, row) for row in rows]
        whole = [_tokens(prompt) + _tokens(answer) + 1 for prompt, answer in views]
        splits.append(lengths(split, whole, request.max_length, 0))
        if split == "train":
            for number in random.Random(request.seed).sample(range(len(rows)), min(request.samples, len(rows))):
                prompt, answer = views[number]
                samples.append(Sample(prompt, answer, whole[number], _tokens(answer) + 1))
    return Measured(tuple(splits), tuple(samples), False)


def _written(info: DatasetInfo, row: Row) -> tuple[str, str]:
    if row.messages:
        return chat.script(row.messages[:-1]) + "\nassistant:", f" {row.answer}"
    return prompts.render(info.prompt, row.text), prompts.completion(row.answer, classify=info.task == "classify")


def _tokens(text: str) -> int:
    return round(_TOKENS_PER_PIECE * len(_PIECE.findall(text)))
