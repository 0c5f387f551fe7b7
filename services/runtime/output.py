"""A run's result, ``output/``: adapter in PEFT's format, tokenizer, ``metadata.json``, ``benchmark.json``."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from services import atomic
from services.data.types import DatasetInfo, Row
from services.runs.types import RunSpec
from services.runtime import chat_template, tokenizer
from services.runtime.classifier import Classifier, milliseconds
from services.runtime.evaluation import Evaluation
from services.runtime.learner import Learner
from services.runtime.schedule import StepPlan

if TYPE_CHECKING:
    from services.runtime.meter import Progress

TIMED = 16  # held-out texts that a classifier is timed on, one by one


def write(
    folder: Path,
    spec: RunSpec,
    info: DatasetInfo,
    learner: Learner,
    plan: StepPlan,
    progress: Progress,
    results: Evaluation,
    held_out: Sequence[Row],
) -> Path:
    """Build ``folder/output`` beside its place and rename it there. Raises OSError (a full disk, …)."""
    target, temporary = folder / "output", folder / f".output.tmp-{os.getpid()}"
    for leftover in folder.glob(".output.tmp-*"):
        shutil.rmtree(leftover)
    temporary.mkdir()
    metrics = figures(learner, info, results, held_out)
    learner.save(temporary, spec.model_label)
    for name in tokenizer.FILES:
        if (learner.folder / name).is_file():
            shutil.copyfile(learner.folder / name, temporary / name)
    if _is_chat(spec, info) and tokenizer.Tokenizer(learner.folder).chat_template is None:
        atomic.write_text(temporary / "chat_template.jinja", chat_template.PLAIN)
    _json(temporary / "metadata.json", metadata(spec, info, progress, metrics))
    _json(temporary / "benchmark.json", benchmark(learner, plan, progress, results, metrics))
    if target.exists():
        shutil.rmtree(target)
    temporary.rename(target)
    atomic.sync_directory(folder)
    return target


def _is_chat(spec: RunSpec, info: DatasetInfo) -> bool:
    """Whether the rows were put into a chat template, and not into the dataset's prompt."""
    return info.format == "chat" and info.task == "generate" and spec.config.task != "classify"


def _json(path: Path, content: dict[str, Any]) -> None:
    atomic.write_text(path, json.dumps(content, indent=1, ensure_ascii=False))


def metadata(spec: RunSpec, info: DatasetInfo, progress: Progress, metrics: dict[str, float]) -> dict[str, Any]:
    """What the adapter is and where it comes from."""
    return {
        "base_model": spec.model_label,
        "model_path": spec.model,
        "type": _type(spec),
        "task": info.task,
        "method": spec.config.method,
        "head": spec.config.task == "classify",
        "format": "chat" if _is_chat(spec, info) else "text",
        "prompt": "" if _is_chat(spec, info) else info.prompt,  # none: it is talked to, in the chat template
        "labels": list(info.labels),
        "training_date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "config": msgspec.to_builtins(spec.config),
        "data": info.name,
        "data_sha256": spec.data_sha256,
        "seed": spec.seed,
        "run": spec.id,
        "steps": progress.step,
        "metrics": metrics,
    }


def _type(spec: RunSpec) -> str:
    """The registry's word for what the run makes."""
    if spec.config.task == "classify":
        return "classifier"
    return "full" if spec.config.method == "full" else "adapter"


def figures(learner: Learner, info: DatasetInfo, results: Evaluation, rows: Sequence[Row]) -> dict[str, float]:
    """The held-out figures; a classifier's with its median time for one text alone, over some of ``rows``."""
    found = {name: value for name, value in results.figures().items() if name != "seconds"}
    if isinstance(learner, Classifier):
        words, some = tokenizer.Tokenizer(learner.folder), [row.text for row in rows[:TIMED]]
        found["ms_per_text"] = milliseconds(learner, words, info.prompt, some)
    return found


def benchmark(
    learner: Learner, plan: StepPlan, progress: Progress, results: Evaluation, metrics: dict[str, float]
) -> dict[str, Any]:
    """What the run took, and on what."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "device": learner.device.type,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": plan.threads,
        "dtype": str(learner.dtype).removeprefix("torch."),
        "train_seconds": progress.seconds,
        "train_tokens": progress.tokens,
        "train_tokens_s": progress.tokens / progress.seconds if progress.seconds else 0.0,
        "eval_seconds": results.seconds,
        "eval_rows": results.rows,
        "peak_rss_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "metrics": metrics,
    }
