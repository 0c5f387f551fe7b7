"""Our own pass on a CUDA device against the same on the CPU in float32. Skipped where there is no such device."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from services.runtime import loading, pointwise  # noqa: E402
from services.runtime.batches import Example  # noqa: E402
from services.runtime.llama_learner import LlamaLearner  # noqa: E402
from services.runtime.lora import LoraConfig  # noqa: E402
from tests.runtime import tiny_model  # noqa: E402

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
