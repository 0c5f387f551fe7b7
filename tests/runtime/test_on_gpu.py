"""Our own pass on a CUDA device against the same on the CPU in float32. Skipped where there is no such device."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from services.runtime import (  # noqa: E402
    checkpoint,
    loading,
    pointwise,
)
from services.runtime.attention import Attention, Packing  # noqa: E402
from services.runtime.batches import Example  # noqa: E402
from services.runtime.llama_learner import LlamaLearner  # noqa: E402
from services.runtime.lora import LoraConfig  # noqa: E402
from tests.runtime import support, tiny_model  # noqa: E402

pytestmark = [pytest.mark.models, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def gradients(folder: Path, rows: list[Example], device: str, dtype: torch.dtype) -> tuple[float, torch.Tensor]:
    """Loss and the adapter's gradient on ``device``."""
    shape = loading.llama_shape(loading.read_config(folder))
    assert shape is not None
    learner = LlamaLearner(folder, shape, torch.device(device), dtype)
    learner.attach(LoraConfig(8, 16.0), seed=0)
    (flat,) = learner.parameters()
    flat.data += torch.randn(flat.shape, generator=torch.Generator().manual_seed(5)).to(device) * 0.05
    learner.updated()
    for _ in range(3):  # computed, recorded, replayed
        flat.grad.zero_()
        loss = learner.learn(rows, 0.5)
    return loss.item(), flat.grad.cpu()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("lengths", [(9, 21, 4, 9, 150), (700, 700), (30, 33, 29, 33)])
@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float32, 2e-3), (torch.bfloat16, 1e-1), (torch.float16, 2e-2)], ids=str
)
def test_loss_and_gradients_are_those_of_the_cpu(
    tmp_path: Path, compiled: bool, lengths: tuple[int, ...], dtype: torch.dtype, allowed: float
) -> None:
    folder = tiny_model.write_llama(tmp_path / "model")
    pick = random.Random(0)
    rows = [Example(tuple(pick.randrange(3, 300) for _ in range(n)), n // 2) for n in lengths]
    loss, expected = gradients(folder, rows, "cpu", torch.float32)
    if compiled:
        assert pointwise.compile_all(torch.device("cuda")) == ""
    try:
        got_loss, got = gradients(folder, rows, "cuda", dtype)
    finally:
        pointwise.compile_none()
    assert got_loss == pytest.approx(loss, rel=allowed)
    assert (got - expected).norm() <= allowed * expected.norm()


@pytest.mark.parametrize("lengths", [(5, 70, 3, 1, 64, 20), (1,), (130, 7, 0, 0), (200, 256), (24,) * 600], ids=len)
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(6, 2, 32), (9, 3, 64), (4, 4, 128)])
def test_attention_of_short_rows_is_that_of_the_cpu(
    lengths: tuple[int, ...], heads: int, kv_heads: int, dim: int
) -> None:
    pytest.importorskip("triton")
    from services.runtime import kernels

    shape = SimpleNamespace(heads=heads, kv_heads=kv_heads, head_dim=dim)
    plain = Packing(tuple(n for n in lengths if n), torch.device("cpu"))
    packing = Packing(lengths, torch.device("cuda"))
    torch.manual_seed(0)
    angle = torch.outer(plain.positions.float(), 1e4 ** -(torch.arange(0, dim, 2) / dim)).repeat(1, 2)[:, None]
    cos, sin = angle.cos().bfloat16(), angle.sin().bfloat16()
    qkv = torch.randn(sum(lengths), (heads + 2 * kv_heads) * dim).bfloat16()
    slope = torch.randn(sum(lengths), heads * dim).bfloat16()

    def gradient(qkv: torch.Tensor, function: Any, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
        qkv.requires_grad_()
        out = function.apply(qkv, *rest)
        out.backward(slope.to(out))
        return out.detach().float().cpu(), qkv.grad.float().cpu()

    expected = gradient(qkv.float(), Attention, cos.float(), sin.float(), plain, shape)
    on_gpu = qkv.cuda(), kernels.ShortRows, cos.cuda(), sin.cuda(), packing.positions, packing.longest, shape
    got = gradient(*on_gpu)
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine - theirs).norm() <= 1e-2 * theirs.norm()
    again = gradient(qkv.cuda(), *on_gpu[1:])
    assert all(torch.equal(one, other) for one, other in zip(got, again, strict=True))


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_stopped_and_resumed_run_gives_the_same_losses(tmp_path: Path, dtype: str) -> None:
    model = tiny_model.write_llama(tmp_path / "model")
    data = support.write_dataset(tmp_path / "data", train=400)
    settings = {"dtype": dtype, "batch_rows": 0, "batch_tokens": 512, "epochs": 6, "lr": 0.01, "compile": "on"}
    settings["processes"] = 1  # in this process: with several GPUs each part would start a group of its own
    whole = support.write_run(tmp_path / "whole", model, data, **settings)
    code, events = support.train(whole)
    assert code == 0, events
    again = support.write_run(tmp_path / "again", model, data, **settings)
    (again / "plan.json").write_bytes((whole / "plan.json").read_bytes())
    (again / "control" / "cancel").touch()
    for _ in range(4):
        assert support.train(again)[0] == 130
    (again / "control" / "cancel").unlink()
    code, more = support.train(again)
    first, second = support.losses(events), support.losses(more)
    common = first.keys() & second.keys()
    assert code == 0 and common and {step: first[step] for step in common} == {step: second[step] for step in common}
    names = ("adapter.safetensors", "optimizer.safetensors")
    last = [checkpoint.steps(folder / "checkpoints")[-1] for folder in (whole, again)]
    assert all((last[0] / name).read_bytes() == (last[1] / name).read_bytes() for name in names)


@pytest.mark.parametrize("task", ["generate", "classify"])
def test_qlora_learns_and_opens_again(tmp_path: Path, task: str) -> None:
    pytest.importorskip("bitsandbytes")
    from services.runtime import evaluation

    model = tiny_model.write_llama(tmp_path / "model")
    data = support.write_dataset(tmp_path / "data")
    folder = support.write_run(
        tmp_path / "run", model, data, method="qlora", task=task, epochs=10, lr=0.02, processes=1
    )
    code, events = support.train(folder)
    assert code == 0, events
    (test,) = [e for e in events if e["ev"] == "metric" and e["split"] == "test"]
    assert test["accuracy"] >= 0.9
    again = evaluation.evaluate_dataset(str(model), folder / "output", data, dtype="fp32")
    assert again.accuracy >= 0.7  # on the base that was not rounded to 4 bits


def test_two_gpus_see_the_batches_of_one(tmp_path: Path) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    model = tiny_model.write_llama(tmp_path / "model")
    data = support.write_dataset(tmp_path / "data", train=400)
    curves = []
    for processes in (1, 0):
        settings = {"processes": processes, "max_steps": 12, "epochs": 9, "lr": 0.01, "batch_rows": 32}
        folder = support.write_run(tmp_path / str(processes), model, data, **settings)
        process, told = support.start(folder)
        with told:
            curves.append(support.losses([json.loads(line) for line in told]))
        assert process.wait(timeout=300) == 0, (folder / "log.txt").read_text()
    common = curves[0].keys() & curves[1].keys()
    assert 12 in common and all(curves[0][s] == pytest.approx(curves[1][s], rel=1e-3) for s in common)
