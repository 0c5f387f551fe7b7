"""What a run computes at once on each device: its batches, its precision, and over how many GPUs it is split."""

from __future__ import annotations

import functools
import math
import sys
from dataclasses import dataclass

from services.advisor import memory
from services.advisor.devices import Device
from services.advisor.shapes import Shape
from services.runs import estimate_tokens
from services.runs.estimate_tokens import Batches, Tokens
from services.runs.types import TrainConfig

_ROWS, _ENCODER_ROWS = 16, 64  # of a step on a CPU, where the settings leave it to the trainer
_WORTH_COMPILING, _WORTH_SECONDS = 20_000_000, 180.0  # parameters, and seconds of a run that has a limit


@dataclass(frozen=True)
class Planner:
    """``labels`` of a classification head (0: none); whether this box's CPU computes in ``bf16``; its ``gpus``."""

    config: TrainConfig
    shape: Shape
    tokens: Tokens
    labels: int
    bf16: bool
    gpus: int

    def on(self, device: Device) -> memory.Plan:
        """What each process computes at once on ``device``."""
        config, gpu = self.config, device.kind != "CPU"
        processes = config.processes or (max(1, self.gpus) if gpu and device.target == "local" else 1)
        batch = self.batches(gpu)
        share = 1 / processes
        if config.micro_tokens:
            share = min(share, config.micro_tokens / batch.tokens)
        row = max(1, min(self.tokens.longest, config.max_length))
        plan = memory.Plan(
            method=config.method, dtype=self._dtype(gpu), rank=config.r,
            tokens=max(math.ceil(batch.tokens * share), row), row_tokens=row,
            labels=max(1, math.ceil(batch.labels * share)), checkpointing=config.checkpointing == "on",
            head_labels=self.labels, positions=math.ceil(batch.positions * share),
            pairs=math.ceil(batch.pairs * share), sizes=min(batch.sizes, self.steps(gpu)[0]), compiled=self._compiled(),
            processes=processes,
        )  # fmt: skip
        return self._split(plan, device)

    def batches(self, gpu: bool) -> Batches:
        """The batches of a pass, on a GPU or a CPU."""
        usual = sys.maxsize if gpu else _ENCODER_ROWS if self.shape.encoder else _ROWS
        most = self.config.batch_tokens or (16_384 if gpu else 2_048)
        return _batches(self.tokens, self.config.batch_rows or usual, most, self.config.seed)

    def steps(self, gpu: bool) -> tuple[int, int]:
        """Steps of the run and the tokens they see; a limit in seconds is not known before the speed is."""
        each, config = self.batches(gpu).count, self.config
        whole = max(1, math.ceil(each * config.epochs))
        steps = min(whole, config.max_steps) if config.max_steps else whole
        seen = min(round(steps * self.tokens.train / each), math.ceil(self.tokens.train * config.epochs))
        return steps, seen

    def _dtype(self, gpu: bool) -> memory.Dtype:
        if self.config.dtype != "auto":
            return self.config.dtype
        return "bf16" if gpu or self.bf16 else "fp32"

    def _compiled(self) -> bool:
        config = self.config
        long = not config.max_seconds or config.max_seconds >= _WORTH_SECONDS
        worth = self.shape.parameters >= _WORTH_COMPILING and long
        return config.compile == "on" or (config.compile == "auto" and worth)

    def _split(self, plan: memory.Plan, device: Device) -> memory.Plan:
        """``plan`` with the model split where the trainer would split it; then layers are computed again by itself."""
        by_itself = device.kind != "CPU" and memory.splits_itself(self.shape, plan, device.usable_bytes)
        if not (self.config.shard == "on" or (self.config.shard == "auto" and by_itself)):
            return plan
        return memory.split(plan, checkpointing=self.config.checkpointing != "off")


@functools.lru_cache(maxsize=4)
def _batches(tokens: Tokens, rows: int, most: int, seed: int) -> Batches:
    return estimate_tokens.batches(tokens, rows=rows, most=most, seed=seed)
