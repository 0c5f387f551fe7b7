"""Estimates: parameters from real headers, memory that grows with what is kept, what fits where, what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.advisor import devices, memory, rates, shapes
from services.advisor.devices import Device, Work
from services.advisor.memory import Plan
from services.context import Context
from services.errors import BadInput, HybridError
from services.runs import costs, estimate
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

    assert total(checkpointing=True) <= total() <= total(tokens=tokens + 64) <= total(tokens=tokens + 64, dtype="fp32")
    assert total() <= total(rank=rank + 1)
    parts = memory.estimate(smol, plan, place)
    assert parts.total == sum(msgspec.structs.asdict(parts).values())


def test_real_runs_were_within_the_stated_error(smol: shapes.Shape) -> None:
    """Peak memory of the trainer's process on a CPU, SmolLM2-135M, r=8, bf16, as docs/costs.md lists it."""
    measured = {
        ("lora", 2048, 60, 400): 2_071_891_968,
        ("lora", 1024, 512, 1000): 1_659_260_928,
        ("full", 512, 40, 110): 5_339_029_504,
    }
    for (method, tokens, row, labels), actual in measured.items():
        found = memory.estimate(smol, Plan(method, "bf16", 8, tokens, row, labels), "cpu").total  # type: ignore[arg-type]
        assert 0.9 < actual / found < 1.1, (method, tokens, actual / found)


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


async def test_a_months_ceiling_that_is_reached_refuses_what_costs(ctx: Context, tmp_path: Path) -> None:
    model(tmp_path / "model", LLAMA)
    made(ctx.workspace, "20261120-0000-aaaa", [event(1, NOW + 10**9, units=9, of="vm")])  # the clock says: now
    over = Context(with_month(ctx.workspace, units=5))
    assert costs.month(over.workspace).ceilings[0].verdict == "stop"
    spec = checked(ctx, tmp_path)
    assert await estimate.before_start(over, spec) is not None  # this box costs nothing
    with pytest.raises(HybridError, match="ceiling of 5 units is reached"):
        await estimate.before_start(over, msgspec.structs.replace(spec, target="colab"), "T4")
