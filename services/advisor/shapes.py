"""What a model folder holds, read from ``config.json`` and the headers of its safetensors files. No torch."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import msgspec

from services.errors import BadInput

_HEADER_LIMIT = 100_000_000  # bytes; a longer header is no header
_BIDIRECTIONAL = ("MaskedLM", "ForPreTraining", "EncoderModel")


class Shape(msgspec.Struct, frozen=True):
    """Dimensions of a transformer. ``linears`` are the (inputs, outputs) of every matrix an adapter is put on.

    ``parameters`` counts all of them, ``embedding`` those of the token embedding alone, ``vocab`` the logits a
    position has (0 for an encoder, which writes none). ``own``: our own forward pass computes it.
    ``counted`` says where the numbers come from: "header" (exact) or "config" (from the dimensions).
    """

    parameters: int
    embedding: int
    linears: tuple[tuple[int, int], ...]
    width: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    own: bool
    encoder: bool
    counted: str
    stored_bytes: int = 0

    def adapter_parameters(self, rank: int, *, dora: bool = False) -> int:
        """Parameters of a LoRA adapter of ``rank`` on all linear layers; DoRA has one more for each output."""
        return sum(rank * (i + o) + (o if dora else 0) for i, o in self.linears)

    @property
    def linear_parameters(self) -> int:
        """Parameters of the matrices that an adapter is put on."""
        return sum(i * o for i, o in self.linears)


def read(folder: Path) -> Shape:
    """The shape of the model in ``folder``. Raises BadInput when config.json is missing or of no transformer."""
    config = _config(folder)
    tensors, stored = _tensors(folder)
    sizes = _dimensions(folder, config)
    names = [str(name) for name in config.get("architectures") or []]
    encoder = any(part in name for name in names for part in _BIDIRECTIONAL) or not _vocabulary_head(config)
    linears = _linears(tensors) if tensors else _llama_linears(sizes)
    embedding = sizes["vocab"] * sizes["width"]
    if tensors:
        parameters, counted = sum(math.prod(shape) for shape in tensors.values()), "header"
    else:
        tied = bool(config.get("tie_word_embeddings", False))
        parameters, counted = sum(i * o for i, o in linears) + embedding * (1 if tied or encoder else 2), "config"
    return Shape(
        parameters=parameters,
        embedding=embedding,
        linears=tuple(linears),
        own=config.get("model_type") in ("llama", "mistral") and not encoder and not config.get("quantization_config"),
        encoder=encoder,
        counted=counted,
        stored_bytes=stored,
        **{**sizes, "vocab": 0 if encoder else sizes["vocab"]},
    )


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{folder} has no config.json: it is no model folder.", hint="Name another folder.") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} can't be read: {error}.", hint="Fetch the model again.") from None
    if not isinstance(config, dict):
        raise BadInput(f"{path} is no model's description.", hint="Fetch the model again.")
    inner = config.get("text_config")
    return config | inner if isinstance(inner, dict) else config


def _dimensions(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    def first(*names: str, otherwise: int | None = None) -> int:
        for name in names:
            value = config.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
        if otherwise is None:
            raise BadInput(f"{folder / 'config.json'} names no {names[0]}.", hint="An estimate needs a transformer's.")
        return otherwise

    width, heads = first("hidden_size", "n_embd", "d_model", "dim"), first("num_attention_heads", "n_head", "n_heads")
    return {
        "width": width,
        "layers": first("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
        "inner": first("intermediate_size", "n_inner", "hidden_dim", "ffn_dim", otherwise=4 * width),
        "heads": heads,
        "kv_heads": first("num_key_value_heads", otherwise=heads),
        "head_dim": first("head_dim", otherwise=width // heads),
        "vocab": first("vocab_size"),
    }


def _vocabulary_head(config: dict[str, Any]) -> bool:
    names = [str(name) for name in config.get("architectures") or []]
    return not names or any("CausalLM" in name or "LMHead" in name or "Conditional" in name for name in names)


def _tensors(folder: Path) -> tuple[dict[str, tuple[int, ...]], int]:
    """Tensor name → dimensions, from every safetensors header of ``folder``; and the bytes of the tensors."""
    found: dict[str, tuple[int, ...]] = {}
    stored = 0
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                if length > _HEADER_LIMIT:
                    raise ValueError("its header is too long")
                header = json.loads(file.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    found[name] = tuple(int(n) for n in entry["shape"])
                    stored += int(entry["data_offsets"][1]) - int(entry["data_offsets"][0])
        except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error) as error:
            raise BadInput(f"{path} can't be read: {error}.", hint="Fetch the model again.") from None
    return found, stored


def _linears(tensors: dict[str, tuple[int, ...]]) -> list[tuple[int, int]]:
    """(inputs, outputs) of the matrices inside the layers: named with a layer's number, two-dimensional."""
    return [
        (shape[1], shape[0])
        for name, shape in tensors.items()
        if len(shape) == 2 and name.endswith(".weight") and any(part.isdigit() for part in name.split("."))
    ]


def _llama_linears(sizes: dict[str, int]) -> list[tuple[int, int]]:
    width, inner = sizes["width"], sizes["inner"]
    query, key = sizes["heads"] * sizes["head_dim"], sizes["kv_heads"] * sizes["head_dim"]
    layer = [(width, query), (width, key), (width, key), (query, width), (width, inner), (width, inner), (inner, width)]
    return layer * sizes["layers"]
