"""Opening a model folder: its shape, its weights, and the device, precision and threads to use them with.

A model folder is what Hugging Face's tools write: ``config.json``, one or several ``*.safetensors``, a tokenizer.
torch is imported inside the functions that need it, so that a bad folder is refused before two seconds of imports.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.errors import BadInput, HybridError

if TYPE_CHECKING:
    import torch

ENCODERS = frozenset({"bert", "roberta", "distilbert", "electra", "mpnet", "xlm-roberta", "modernbert", "deberta-v2"})
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "tokenizer.model", "*.txt")


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding. ``kind`` "default", "linear" or "llama3"; the rest are that kind's parameters."""

    theta: float = 10_000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192


@dataclass(frozen=True)
class LlamaShape:
    """Dimensions of a model of the Llama family. ``width`` is the hidden size; all counts, no bytes."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    eps: float
    rope: Rope
    tied: bool
    max_positions: int


def local_folder(model: str) -> Path:
    """The folder of ``model``: a local path, or a Hugging Face id (downloaded into its cache when not there yet).

    Raises BadInput when it is neither, or the hub can't be reached.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".gguf" or path.is_file():
        raise BadInput(
            f"{model} is a file; the runtime trains and runs model folders.",
            hint="Convert it first: hybrid-tui --run model.get source=FILE.gguf",
        )
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise BadInput(f"There is no model folder {model}.", hint="hybrid-tui --run model.list shows what is there.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(HUB_FILES)))
    except Exception as error:  # the hub's client raises many kinds, from requests' to its own
        raise BadInput(
            f"The model {model} is neither a local folder nor to be had from the Hugging Face hub "
            f"({_first_line(error)}).",
            hint="Check the name and the network, or give a local folder.",
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of ``folder``. Raises BadInput when it is missing or not a model's."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{folder} has no config.json: it is no model folder.", hint="Name another folder.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} can't be read: {_first_line(error)}.", hint="Fetch the model again.") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise BadInput(f"{path} names no model_type.", hint="Fetch the model again.")
    return config


def _rope(config: dict[str, Any]) -> Rope | None:
    """The rotary parameters, as transformers 5 (rope_parameters) or 4 (rope_theta, rope_scaling) write them."""
    raw = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(raw, dict) or any(isinstance(v, dict) for v in raw.values()):
        return None  # one set of parameters a layer type: not this family
    kind = raw.get("rope_type", raw.get("type", "default"))
    if kind not in ("default", "linear", "llama3") or config.get("partial_rotary_factor", 1.0) != 1.0:
        return None
    positions = raw.get("original_max_position_embeddings", config.get("max_position_embeddings", 8192))
    return Rope(
        theta=float(raw.get("rope_theta", config.get("rope_theta", 10_000.0))),
        kind=kind,
        factor=float(raw.get("factor", 1.0)),
        low_freq_factor=float(raw.get("low_freq_factor", 1.0)),
        high_freq_factor=float(raw.get("high_freq_factor", 4.0)),
        original_positions=int(positions),
    )


def llama_shape(config: dict[str, Any]) -> LlamaShape | None:
    """The shape of a model that our own forward pass computes exactly, or None for any other architecture."""
    rope = _rope(config)
    if (
        config["model_type"] not in ("llama", "mistral")
        or rope is None
        or config.get("hidden_act", "silu") != "silu"
        or config.get("attention_bias")
        or config.get("mlp_bias")
        or config.get("sliding_window")
        or config.get("quantization_config")
    ):
        return None
    heads = int(config["num_attention_heads"])
    return LlamaShape(
        width=int(config["hidden_size"]),
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or config["hidden_size"] // heads),
        inner=int(config["intermediate_size"]),
        vocab=int(config["vocab_size"]),
        eps=float(config["rms_norm_eps"]),
        rope=rope,
        tied=bool(config.get("tie_word_embeddings", False)),
        max_positions=int(config.get("max_position_embeddings", 2048)),
    )


def is_encoder(config: dict[str, Any]) -> bool:
    """Whether the model reads in both directions (BERT and its like) and can't write."""
    names = [str(name) for name in config.get("architectures") or []]
    bidirectional = any(part in name for name in names for part in ("MaskedLM", "ForPreTraining", "EncoderModel"))
    return bidirectional or config["model_type"] in ENCODERS


def is_llama_family(config: dict[str, Any]) -> bool:
    """Whether ``llama_shape`` knows the model; if not, transformers runs it."""
    return llama_shape(config) is not None


def rope_frequencies(shape: LlamaShape) -> torch.Tensor:
    """Angular frequency of each pair of a head's dimensions: (head_dim / 2,) float32, on the CPU.

    "llama3" follows the Llama 3.1 release: low frequencies divided by ``factor``, high ones kept, smooth between.
    """
    import torch

    rope = shape.rope
    exponent = torch.arange(0, shape.head_dim, 2, dtype=torch.int64).float() / shape.head_dim
    frequencies = 1.0 / (rope.theta**exponent)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        wavelength = 2 * math.pi / frequencies
        span = rope.high_freq_factor - rope.low_freq_factor
        smooth = ((rope.original_positions / wavelength - rope.low_freq_factor) / span).clamp(0, 1)
        return frequencies * (smooth + (1 - smooth) / rope.factor)
    return frequencies


def rope_table(shape: LlamaShape, length: int, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine for positions 0 … length - 1, each (length, head_dim) float32, halves repeated."""
    import torch

    angle = torch.outer(torch.arange(length).float(), rope_frequencies(shape))
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos().to(device), angle.sin().to(device)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of ``folder``. Raises BadInput when there are none or one is missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            raise BadInput(f"{folder} lacks its weights {file.name}.", hint="Fetch the model again.")
    return files


def read_weights(
    folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu", prefix: str = ""
) -> dict[str, torch.Tensor]:
    """Every tensor of the folder whose name starts with ``prefix``, as ``dtype`` on ``device``.

    Raises HybridError naming the file when it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    weights: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="pt", device=str(device)) as opened:
                for name in opened.keys():  # noqa: SIM118 - safe_open is no mapping
                    if name.startswith(prefix):
                        tensor = opened.get_tensor(name)
                        weights[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        except (SafetensorError, OSError) as error:
            raise HybridError(f"{file} is damaged: {_first_line(error)}.", hint="Fetch the model again.") from error
    return weights


def choose_device(name: str = "auto") -> torch.device:
    """The device called ``name``; "auto": this process's CUDA device, else Apple's GPU, else the CPU.

    Raises BadInput when there is no such device.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, found in there.items() if found)
    if not there[name]:
        raise BadInput(f"This machine has no {name} device that torch can use.", hint="Choose device=auto.")
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device(name)


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 products run in hardware there (elsewhere they are slower than fp32)."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16"))


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """What ``name`` means; "auto": bf16 where the hardware has it, else fp16 on CUDA, else fp32."""
    import torch

    if name == "auto":
        slow = "fp16" if device.type == "cuda" else "fp32"
        name = "bf16" if has_native_bf16(device) else slow
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[name]


def use_threads(count: int = 0) -> int:
    """Let torch use ``count`` threads, or every core this process may run on (0). Returns the number."""
    import torch

    threads = count or len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    return threads


def parameter_count(weights: Iterable[torch.Tensor]) -> int:
    """How many numbers the tensors hold."""
    return sum(w.numel() for w in weights)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
