"""Estimates: parameters from real headers, memory that grows with what is kept, what fits where, what is refused."""

from __future__ import annotations

import json
import random
import struct
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.advisor import devices, machine, memory, rates, shapes
from services.advisor.devices import Device, OnDevice, Work
from services.advisor.machine import Gpu, Machine
from services.advisor.memory import Plan
from services.context import Context
from services.errors import BadInput, HybridError
from services.runs import costs, estimate, estimate_tokens
from services.runs.estimate_plan import Planner
from services.runs.estimate_tokens import Tokens
from services.runs.types import RunSpec, TrainConfig

from .test_costs import NOW, event, made, run, with_month

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
    "tie_word_embeddings": True,
}  # fmt: skip
SMOL = 134_515_008


def model(folder: Path, config: dict[str, object], tensors: dict[str, list[int]] | None = None) -> Path:
    """A model's folder with a safetensors header but no tensors' bytes behind it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if tensors:
        header = json.dumps({n: {"dtype": "BF16", "shape": s, "data_offsets": [0, 2]} for n, s in tensors.items()})
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
    return folder


def test_parameters_are_counted_in_the_header_else_from_the_dimensions(tmp_path: Path) -> None:
    smol = shapes.read(model(tmp_path / "a", LLAMA))
    assert abs(smol.parameters - SMOL) < 40_000 and smol.counted == "config"  # the norms are missing
    assert smol.linear_parameters == 106_168_320 and smol.adapter_parameters(8) == 2_442_240
    tensors = {"model.embed_tokens.weight": [10, 4], "model.layers.0.q.weight": [6, 4], "model.norm.weight": [4]}
    small = shapes.read(model(tmp_path / "b", LLAMA, tensors))
    assert (small.parameters, small.linears, small.counted) == (68, ((4, 6),), "header")
    bert = shapes.read(model(tmp_path / "c", {**LLAMA, "model_type": "bert", "architectures": ["BertModel"]}))
    assert bert.encoder and bert.vocab == 0 and not bert.own
    (tmp_path / "b" / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(BadInput, match="can't be read"):
        shapes.read(tmp_path / "b")
    with pytest.raises(BadInput, match="names no hidden_size"):
        shapes.read(model(tmp_path / "d", {"model_type": "x"}))


@pytest.fixture(scope="module")
def smol(tmp_path_factory: pytest.TempPathFactory) -> shapes.Shape:
    return shapes.read(model(tmp_path_factory.mktemp("m") / "a", LLAMA))


PLAN = Plan("lora", "bf16", 8, 2048, 60, 400)


@settings(deadline=None)
@given(tokens=st.integers(64, 65_536), rank=st.integers(1, 256), place=st.sampled_from(["cpu", "gpu"]))
def test_memory_grows_with_what_is_kept(smol: shapes.Shape, tokens: int, rank: int, place: memory.Place) -> None:
    plan = Plan("lora", "bf16", rank, tokens, 32, max(1, tokens // 5))

    def total(**changes: object) -> int:
        return memory.estimate(smol, msgspec.structs.replace(plan, **changes), place).total

    assert total(checkpointing=True) <= total() <= total(tokens=tokens + 64)
    if place == "gpu":  # on a CPU products in 16 bit take memory of their own
        assert total() <= total(dtype="fp32")
    assert total(positions=tokens) <= total(positions=2 * tokens)
    assert total() <= total(rank=rank + 1)
    parts = memory.estimate(smol, plan, place)
    assert parts.total == sum(msgspec.structs.asdict(parts).values())


MINILM = {
    "model_type": "bert", "architectures": ["BertModel"], "hidden_size": 384, "num_hidden_layers": 6,
    "num_attention_heads": 12, "intermediate_size": 1536, "vocab_size": 30522,
}  # fmt: skip
BANKING77 = {"tokens": 969, "row_tokens": 107, "labels": 103, "positions": 1712, "pairs": 183_184}


def planned(**more: object) -> Plan:
    return Plan(**{"method": "lora", "dtype": "bf16", "rank": 8, **BANKING77, **more})  # type: ignore[arg-type]


def test_real_runs_on_a_cpu_were_within_the_stated_error(smol: shapes.Shape, tmp_path: Path) -> None:
    """Peak memory of the trainer's process in GB, banking77, as docs/costs.md lists it."""
    smol = msgspec.structs.replace(smol, stored_bytes=2 * smol.parameters)
    minilm = shapes.read(model(tmp_path / "minilm", MINILM))
    texts = {"tokens": 2042, "row_tokens": 98, "labels": 64, "positions": 2585, "pairs": 142_175, "head_labels": 77}
    mixed = {"tokens": 2044, "labels": 370, "positions": 3531, "pairs": 377_817}
    measured = [
        (smol, planned(compiled=True, sizes=256), 2.88),
        (smol, planned(compiled=True, sizes=28), 2.28),
        (smol, planned(compiled=True, sizes=30, **mixed), 3.38),
        (smol, planned(dtype="fp32", compiled=True, sizes=9), 2.38),
        (smol, planned(compiled=True, sizes=30, head_labels=77, tokens=900, pairs=160_000, labels=16), 1.84),
        (smol, planned(method="dora", sizes=6), 5.70),
        (smol, planned(method="full", sizes=14), 7.81),
        (minilm, planned(sizes=111, **texts), 2.01),
        (minilm, planned(sizes=37, dtype="fp32", **texts), 1.80),
        (smol, memory.split(planned(processes=2, sizes=4, tokens=485, labels=52, positions=856, pairs=91_592)), 2.02),
    ]
    for shape, plan, actual in measured:
        assert 0.87 < actual / memory.estimate(shape, plan, "cpu").total * 1e9 < 1.15, plan


def billions(tmp_path: Path) -> shapes.Shape:
    """The Llama shape with 8 billion parameters that was measured on two H100s."""
    return shapes.read(model(tmp_path / "8b", EIGHT))


EIGHT = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256,
    "tie_word_embeddings": True,
}  # fmt: skip


def test_memory_on_gpus_is_as_measured_whole_and_split(tmp_path: Path) -> None:
    """Peak of each H100 in GB, as docs/training.md lists it: 4 rows of 2,048 tokens at once, layers computed again."""
    rows = planned(
        rank=16, tokens=8192, row_tokens=2048, labels=8192, positions=0, pairs=0, checkpointing=True, processes=2
    )
    eight = msgspec.structs.replace(billions(tmp_path), own=False)
    for plan, actual in ((rows, 21.2), (memory.split(rows), 15.6)):
        assert 0.95 < actual / memory.estimate(eight, plan, "gpu").total * 1e9 < 1.05
    four = memory.estimate(eight, memory.split(msgspec.structs.replace(rows, processes=4)), "gpu")
    assert four.weights < memory.estimate(eight, memory.split(rows), "gpu").weights
    assert four.optimizer == memory.estimate(eight, rows, "gpu").optimizer  # an adapter is not split
    full = msgspec.structs.replace(rows, method="full")
    whole, half = (memory.estimate(eight, plan, "gpu") for plan in (full, memory.split(full)))
    assert half.optimizer == whole.optimizer // 2 and half.gradients == whole.gradients // 2


def test_what_fits_where_and_what_it_costs(smol: shapes.Shape) -> None:
    table = rates.built_in()
    work = Work(1_000_000, 10_000)
    found = {gpu.name: devices.on(Device(gpu.name, gpu.name, "colab", gpu.usable_bytes), smol, PLAN, work, table)
             for gpu in table.gpus}  # fmt: skip
    assert all(
        one.fits == "yes" and one.seconds and one.at_most_s and one.seconds <= one.at_most_s for one in found.values()
    )
    assert found["H100 80GB"].tokens_s > found["T4"].tokens_s  # type: ignore[operator]
    assert "units, at most" in found["T4"].cost and "not known" in found["H100 80GB"].cost
    assert "scaled" in found["L4"].basis and all(gpu.usable_bytes < gpu.advertised_gb * 1024**3 for gpu in table.gpus)
    tight = msgspec.structs.replace(PLAN, tokens=200_000)
    assert devices.on(Device("x", "T4", "colab", 15 * 10**9), smol, tight, work, table).fits == "in parts"
    cpu = Device("this box's CPU", "CPU", "local", 16 * 10**9, 2)
    assert devices.on(cpu, smol, msgspec.structs.replace(PLAN, method="qlora"), work, table).fits == "no"
    small = msgspec.structs.replace(cpu, usable_bytes=100 * 10**6)
    assert devices.on(small, smol, PLAN, work, table).fits == "no"
    measured = devices.on(cpu, smol, PLAN, work, table, devices.Speed(400.0, 280.0, "measured"))
    assert measured.seconds == pytest.approx(1_005_000 / 400) and measured.cost == "no cost of its own"
    dora = msgspec.structs.replace(PLAN, method="dora")  # by transformers, which reads the row again for every token
    slow = devices.on(cpu, smol, dora, work, table, devices.Speed(400.0, 280.0, "measured"))
    assert slow.seconds == pytest.approx(1_012_000 / 400)


def checked(ctx: Context, folder: Path, **more: object) -> RunSpec:
    """A spec with a real dataset, as make_spec gives it."""
    data = folder / "data"
    data.mkdir()
    for split, count in (("train", 40), ("val", 4), ("test", 10)):
        (data / f"{split}.jsonl").write_text('{"text": "where is my card", "answer": "card_arrival"}\n' * count)
    info = {"name": "data", "task": "classify", "prompt": "Query: {text}\nIntent:", "labels": ["card_arrival"],
            "counts": {"train": 40, "val": 4, "test": 10}, "sha256": "0", "source": "", "seed": 0,
            "created_at": 0.0}  # fmt: skip
    (data / "dataset.json").write_text(json.dumps(info))
    config = TrainConfig(**more)  # type: ignore[arg-type]
    return msgspec.structs.replace(run("local"), data=str(data), model=str(folder / "model"), config=config)


async def test_an_estimate_without_a_tokenizer_says_so_and_is_kept(ctx: Context, tmp_path: Path) -> None:
    model(tmp_path / "model", LLAMA)
    spec = checked(ctx, tmp_path, epochs=2.0, batch_rows=8)
    made_one = await estimate.before_start(ctx, spec)
    assert made_one is not None and "not counted" in made_one.counted and made_one.steps == 10
    assert made_one.train_tokens == 2 * made_one.tokens and made_one.memory["total_bytes"] > 5 * 10**8
    assert made_one.devices[0].device == "this box's CPU" and any("not counted" in s for s in made_one.sentences)
    estimate.keep(tmp_path, made_one)
    assert estimate.kept(tmp_path) == made_one
    (tmp_path / "estimate.json").write_text("torn")
    assert estimate.kept(tmp_path) is None
    assert await estimate.before_start(ctx, msgspec.structs.replace(spec, model="org/name")) is None


async def test_what_surely_does_not_fit_is_refused_before_anything_is_made(ctx: Context, tmp_path: Path) -> None:
    model(tmp_path / "model", {**LLAMA, "hidden_size": 16384, "num_hidden_layers": 120, "intermediate_size": 53248})
    spec = checked(ctx, tmp_path)
    with pytest.raises(HybridError, match="does not fit into this box's CPU: at the least about"):
        await estimate.before_start(ctx, spec)


def two_h100s() -> Machine:
    return Machine(32, 10**11, 10**11, (Gpu("NVIDIA H100 80GB HBM3", 81_559 * 1024**2),) * 2, "", {})


async def test_a_model_over_several_gpus_is_told_of_each_and_split_where_the_trainer_splits_it(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def look() -> Machine:
        return two_h100s()

    monkeypatch.setattr("services.advisor.machine.look", look)
    model(tmp_path / "model", EIGHT)
    spec = checked(ctx, tmp_path)

    async def on(**more: object) -> tuple[estimate.Estimate, OnDevice]:
        config = msgspec.structs.replace(spec.config, **more)
        found = await estimate.of_run(ctx, msgspec.structs.replace(spec, config=config))
        return found, found.devices[0]

    made_one, here = await on()  # processes=0: both GPUs, as the trainer does
    assert (here.processes, here.split, here.fits) == (2, False, "yes")
    assert any("on each GPU, the model whole on each;" in words for words in made_one.sentences)
    made_one, here = await on(method="full")  # 16 bytes a weight are too many for one
    assert here.split and here.needed_bytes < here.usable_bytes < here.whole_bytes
    assert any("the model split over 2 (" in words for words in made_one.sentences)
    assert any("H100 80GB HBM3 (split over 2)" in words for words in made_one.sentences)
    made_one, here = await on(method="full", shard="off")
    assert not here.split and here.fits == "no" and here.fits_split
    assert any(words.startswith("Only split over 2 (shard=on) it would fit: this") for words in made_one.sentences)
    made_one, here = await on(method="qlora", shard="on")
    assert here.fits == "no" and any("can't be sharded: shard=off" in words for words in made_one.sentences)
    one_process = msgspec.structs.replace(spec.config, shard="on", processes=1)
    with pytest.raises(HybridError, match=r"^Sharding needs several processes\.$"):
        await estimate.before_start(ctx, msgspec.structs.replace(spec, config=one_process))
    both, _ = await on(processes=2, device="cpu")
    assert {d.cost for d in both.devices if d.target == "colab" and d.seconds} == {
        "the price of 2 of them is not known"
    }
    one, _ = await on(processes=1, device="cpu")
    assert both.devices[0].needed_bytes > 1.5 * one.devices[0].needed_bytes  # processes share a CPU's memory


def test_batches_are_those_that_the_trainer_makes(tmp_path: Path) -> None:
    """The same rows, budget and seed give the same batches, so steps and the largest batch are known exactly."""
    batches = pytest.importorskip("services.runtime.batches")
    chance = random.Random(1)
    counted = tuple((chance.choice([9, 14, 22, 90]), 3) for _ in range(1500))
    told = Tokens(sum(n for n, _ in counted), 0, 4500, 90, 0, 1500, "", counted)
    rows = [batches.Example((0,) * length, length - labels) for length, labels in counted]
    for most, size in ((300, 16), (2048, 64), (2048, sys.maxsize)):
        real = batches.epoch_batches(rows, epoch=0, seed=5, batch_rows=size, batch_tokens=most)
        found = estimate_tokens.batches(told, rows=size, most=most, seed=5)
        padded = [(len(b.examples), max(e.tokens for e in b.examples)) for b in real]
        assert found.count == len(real) and found.tokens == max(b.tokens for b in real)
        assert found.positions == max(n * longest for n, longest in padded)
        assert found.pairs == max(n * longest**2 for n, longest in padded)
        assert found.labels == max(b.labels for b in real) and found.sizes == len({b.tokens for b in real})


async def test_an_encoders_head_reads_the_text_alone_in_its_own_batches(ctx: Context, tmp_path: Path) -> None:
    """Without a tokenizer 1.4 a word: 4 words are 6 tokens, and 2 around them; the prompt's words are not read."""
    model(tmp_path / "model", MINILM)
    spec = checked(ctx, tmp_path, task="classify")
    made_one = await estimate.of_run(ctx, spec)
    assert (made_one.tokens, made_one.steps) == (40 * 8, 1)  # 64 rows a step, where a decoder has 16
    assert made_one.trained_parameters == shapes.read(tmp_path / "model").adapter_parameters(8) + 385
    other = tmp_path / "decoder"
    model(other / "model", LLAMA)
    assert (await estimate.of_run(ctx, checked(ctx, other, task="classify"))).steps == 3


def test_a_cpu_without_bf16_is_planned_in_fp32(smol: shapes.Shape, tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("flags\t\t: fpu sse2 avx512f avx512_bf16 amx_tile\n")
    assert machine.has_bf16(info)
    info.write_text("flags\t\t: fpu sse2 avx512f avx2\n")
    assert not machine.has_bf16(info) and not machine.has_bf16(tmp_path / "none")
    told = Tokens(100, 0, 10, 10, 0, 10, "", ((10, 1),) * 10)
    cpu, gpu = Device("this box's CPU", "CPU", "local", 10**10, 2), Device("T4", "T4", "colab", 10**10)
    for known, number in ((True, "bf16"), (False, "fp32")):
        planner = Planner(TrainConfig(), smol, told, 0, known, 0)
        assert planner.on(cpu).dtype == number and planner.on(gpu).dtype == "bf16"
    assert Planner(TrainConfig(dtype="bf16"), smol, told, 0, False, 0).on(cpu).dtype == "bf16"


async def test_a_months_ceiling_that_is_reached_refuses_what_costs(ctx: Context, tmp_path: Path) -> None:
    model(tmp_path / "model", LLAMA)
    made(ctx.workspace, "20261120-0000-aaaa", [event(1, NOW + 10**9, units=9, of="vm")])  # the clock says: now
    over = Context(with_month(ctx.workspace, units=5))
    assert costs.month(over.workspace).ceilings[0].verdict == "stop"
    spec = checked(ctx, tmp_path)
    assert await estimate.before_start(over, spec) is not None  # this box costs nothing
    with pytest.raises(HybridError, match="ceiling of 5 units is reached"):
        await estimate.before_start(over, msgspec.structs.replace(spec, target="colab"), "T4")
