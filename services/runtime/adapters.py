"""Reading a PEFT adapter folder into plain low-rank pairs that can be merged into weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.errors import BadInput, HybridError

if TYPE_CHECKING:
    import torch

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
HEAD = "head.safetensors"  # a classification head, beside an adapter or a fully trained body
LINEAR_LAYERS = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Pair:
    """One adapted matrix: its delta is ``scale`` · B A, with A (r, in) and B (out, r) in float32."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json``. Raises BadInput when the folder holds no readable PEFT adapter."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{folder} is no adapter: it has no {CONFIG}.", hint="Give a run's output folder.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} can't be read: {error}.", hint="Train or fetch the adapter again.") from error
    if not isinstance(config, dict) or "peft_type" not in config:
        raise BadInput(f"{path} is not PEFT's: it names no peft_type.", hint="Train or fetch the adapter again.")
    return config


def is_plain_lora(config: dict[str, Any]) -> bool:
    """Whether W + scale · B A on the usual linear layers is all: no DoRA, no trained biases, no whole modules."""
    targets = config.get("target_modules")
    return (
        config.get("peft_type") == "LORA"
        and isinstance(targets, list)
        and LINEAR_LAYERS.issuperset(targets)
        and config.get("bias", "none") == "none"
        and not any(
            config.get(key)
            for key in ("use_dora", "modules_to_save", "fan_in_fan_out", "lora_bias", "trainable_token_indices")
        )
    )


def read_pairs(folder: Path, config: dict[str, Any]) -> dict[str, Pair]:
    """Module path ("model.layers.0.self_attn.q_proj") → its pair, for a plain LoRA adapter.

    The scale is alpha / r, or alpha / √r with ``use_rslora``; ``rank_pattern`` shows in the shapes, and
    ``alpha_pattern`` is matched as PEFT does: the key is the path, or its end after a dot.
    Raises HybridError naming the file when it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / WEIGHTS
    try:
        tensors = load_file(file)
    except FileNotFoundError:
        raise HybridError(f"{folder} lacks its weights {WEIGHTS}.", hint="Train or fetch the adapter again.") from None
    except (SafetensorError, OSError) as error:
        raise HybridError(f"{file} is damaged: {error}.", hint="Train or fetch the adapter again.") from error
    pairs: dict[str, Pair] = {}
    for name, a in tensors.items():
        path, found, _ = name.partition(".lora_A")
        if not found:
            continue
        b = tensors.get(name.replace(".lora_A", ".lora_B"))
        if b is None or a.ndim != 2 or b.ndim != 2 or a.shape[0] != b.shape[1]:
            raise HybridError(f"{file} is damaged: {name} has no fitting lora_B.", hint="Fetch the adapter again.")
        path = path.removeprefix(_PREFIX)
        rank = a.shape[0]
        alpha = _alpha(path, config)
        pairs[path] = Pair(a.float(), b.float(), alpha / (rank**0.5 if config.get("use_rslora") else rank))
    if not pairs:
        raise HybridError(f"{file} holds no LoRA weights.", hint="Train or fetch the adapter again.")
    return pairs


def _alpha(path: str, config: dict[str, Any]) -> float:
    for key, value in (config.get("alpha_pattern") or {}).items():
        if path == key or path.endswith("." + key):
            return float(value)
    return float(config["lora_alpha"])
