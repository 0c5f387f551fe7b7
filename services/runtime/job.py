"""A run made ready: its data read, its model opened, its processes met."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from services.data import store
from services.data.types import DatasetInfo, Row
from services.errors import BadInput
from services.runs.emit import Emitter
from services.runs.types import RunSpec, TrainConfig
from services.runtime import batches, evaluation, loading, sharding
from services.runtime.batches import Example, Order
from services.runtime.learner import Learner, open_learner
from services.runtime.lora import LoraConfig
from services.runtime.peft_learner import PeftLearner
from services.runtime.tokenizer import Tokenizer
from services.runtime.world import Silent, World

FULL_LR = 2e-4  # full fine-tuning above this rate usually destroys what the model knows


@dataclass
class Job:
    """Everything that a run works with."""

    spec: RunSpec
    folder: Path
    emitter: Emitter | Silent
    info: DatasetInfo
    learner: Learner
    tokenizer: Tokenizer
    order: Order
    held_out: list[Row]
    validation: list[Row] = field(default_factory=list)
    world: World = field(default_factory=World)
    sharded: bool = False  # the model is split over the world's processes, which must all compute alike

    @property
    def config(self) -> TrainConfig:
        """The run's settings."""
        return self.spec.config

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, where the answers are labels."""
        return self.info.labels if self.info.task == "classify" else ()


def prepare(spec: RunSpec, folder: Path, emitter: Emitter | Silent) -> Job:
    """Open the data first, then the model with a fresh adapter."""
    config, data = spec.config, Path(spec.data)
    info = store.load_info(data)
    held_out = evaluation.sample(store.read_rows(data, "test"), config.eval_rows)
    if not held_out:
        raise BadInput(f"{spec.data} has no test rows to evaluate on.", hint="Prepare the dataset again.")
    if config.task == "classify" and not info.labels:
        raise BadInput(f"The dataset {info.name} has no labels to classify by.", hint="Use task=generate.")
    validation = evaluation.sample(store.read_rows(data, "val"), config.val_rows) if config.eval_steps else []
    model = loading.local_folder(spec.model)
    described = loading.read_config(model)
    tokenizer = Tokenizer(model, spec.created_at)
    examples = _examples(spec, info, tokenizer, emitter)
    world = World()
    where = loading.choose_device(config.device)
    world.join(where)
    dtype = loading.choose_dtype(config.dtype, where)
    sharded = world.agree(sharding.wanted(config, model, where, dtype, world.size))
    learner = open_learner(
        spec.model,
        config.dtype,
        method=config.method,
        device=config.device,
        labels=info.labels if config.task == "classify" else None,
        sharded=sharded,
    )
    learner.attach(LoraConfig(config.r, config.alpha, config.dropout, config.method == "rslora"), spec.seed)
    if config.checkpointing == "on" or (sharded and config.checkpointing == "auto"):
        learner.save_memory()
    if sharded:
        assert isinstance(learner, PeftLearner)
        learner.shard()
        emitter.log("info", f"The model is split over {world.size} processes.")
    _tell_start(config, learner, len(examples), emitter)
    rows, tokens = _batch_size(config, learner, loading.is_encoder(described))
    order = Order(tuple(examples), spec.seed, rows, tokens)
    return Job(spec, folder, emitter, info, learner, tokenizer, order, held_out, validation, world, sharded)


def _examples(spec: RunSpec, info: DatasetInfo, tokenizer: Tokenizer, emitter: Emitter | Silent) -> list[Example]:
    config = spec.config
    rows = store.read_rows(Path(spec.data), "train")
    if config.task == "classify":
        length = config.max_length
        examples, cut, out = batches.encode_labelled(tokenizer, info.prompt, rows, info.labels, max_length=length)
    else:
        examples, cut, out = batches.encode(
            tokenizer, info.prompt, rows, classify=info.task == "classify", max_length=config.max_length
        )
    if cut or out:
        emitter.log("warning", f"Of {len(rows)} rows {cut} were shortened and {out} left out: max_length too small.")
    if not examples:
        raise BadInput(f"No row of {spec.data} can be trained on.", hint="Raise max_length, or look at the data.")
    return examples


def _tell_start(config: TrainConfig, learner: Learner, rows: int, emitter: Emitter | Silent) -> None:
    trained = sum(parameter.numel() for parameter in learner.parameters())
    where = f"{learner.device.type} in {str(learner.dtype).removeprefix('torch.')}"
    emitter.log("info", f"{rows} rows, {trained:,} trained parameters ({config.method}), on {where}.")
    if config.method == "full" and config.lr > FULL_LR:
        emitter.log("warning", f"lr={config.lr:g} is high for full fine-tuning; 5e-5 is usual.")


def _batch_size(config: TrainConfig, learner: Learner, encoder: bool) -> tuple[int, int]:
    """Rows and tokens of a step."""
    gpu = learner.device.type != "cpu"
    fitting = sys.maxsize if gpu else 64 if encoder else 16
    return config.batch_rows or fitting, config.batch_tokens or (16_384 if gpu else 2_048)
