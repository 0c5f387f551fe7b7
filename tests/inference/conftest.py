"""Tiny real models, adapters and workers for the inference tests."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from services.inference.types import Subject

LABELS = ("card_arrival", "card", "lost_or_stolen_card", "exchange_rate", "top_up_failed")
PROMPT = "Query: {text}\nIntent:"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose answers can be very long, so that there is time to stop one."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # these models are so small that waiting for a second thread takes longer
    from tests.runtime.tiny_model import write_llama

    folder = write_llama(tmp_path_factory.mktemp("tiny") / "tiny-llama", seed=1)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 60_000}))
    return folder


@pytest.fixture(scope="session")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LoRA adapter for ``tiny``, strong enough to change every answer, with the metadata of a classifier."""
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    folder.mkdir()
    generator = torch.Generator().manual_seed(7)
    shapes = {"self_attn.q_proj": (48, 48), "self_attn.v_proj": (16, 48), "mlp.down_proj": (48, 96)}
    tensors = {}
    for layer in range(2):
        for name, (rows, columns) in shapes.items():
            prefix = f"base_model.model.model.layers.{layer}.{name}."
            tensors[prefix + "lora_A.weight"] = torch.randn(4, columns, generator=generator) / columns**0.5
            tensors[prefix + "lora_B.weight"] = torch.randn(rows, 4, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(tiny),
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    about = {"base_model": "tiny", "model_path": str(tiny), "prompt": PROMPT, "labels": list(LABELS)}
    (folder / "metadata.json").write_text(json.dumps(about))
    return folder


@pytest.fixture
def base(tiny: Path) -> Subject:
    return Subject("base", str(tiny))


@pytest.fixture
def adapted(tiny: Path, adapter: Path) -> Subject:
    return Subject("run:x", str(tiny), str(adapter), PROMPT, LABELS)
