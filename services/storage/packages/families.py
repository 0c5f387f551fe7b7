"""The one table of packages made for NVIDIA GPUs: what to do with each without such a GPU, and what then breaks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.storage.packages.records import normal
from services.storage.packages.types import Step


@dataclass(frozen=True)
class Family:
    """Names (a pattern over the normalised name) that are treated alike.

    ``replacement`` is the CPU package to install at the same version, "" for none. ``by_build``: both builds have
    one name, as torch's do, so whether an installed one is for CUDA must be told from its files.
    """

    pattern: str
    step: Step
    breaks: str = ""
    replacement: str = ""
    reason: str = ""
    by_build: bool = False


_ATTENTION = 'Its attention kernels run on an NVIDIA GPU only; ask for attn_implementation="sdpa" instead.'
_QUANT = "Loading weights quantised by it."

FAMILIES = (
    Family("torch|torchvision|torchaudio", "swap", "Anything on device \"cuda\", which this box has not.",
           reason="The CPU build is the same version without its CUDA libraries.", by_build=True),
    Family("nvidia-ml-py|pynvml|gpustat|nvitop", "keep",
           reason="It only asks the driver, takes next to nothing, and others import it."),
    Family("nvidia-.*|cuda-(toolkit|bindings|pathfinder|python|core|cccl|tile)|cuda-python", "remove",
           reason="CUDA libraries that torch's CPU build does not ask for."),
    Family("triton|pytorch-triton|triton-nightly", "remove", "torch.compile for a GPU; on the CPU it uses C++.",
           reason="It compiles kernels for GPUs."),
    Family("torch-tensorrt|tensorrt.*", "remove", "TensorRT engines.", reason="TensorRT needs an NVIDIA GPU."),
    Family("bitsandbytes(-cuda.*)?", "remove", "load_in_4bit and load_in_8bit (QLoRA).",
           reason="Its kernels are CUDA libraries, a few of which it also has for the CPU."),
    Family("flash-attn(-.*)?|flashinfer.*|sageattention|xformers|ring-flash-attn", "remove", _ATTENTION,
           reason="Attention kernels for NVIDIA GPUs."),
    Family("deepspeed|fairscale|apex|transformer-engine.*|megatron.*|nvidia-modelopt", "remove",
           "Trainers that are set to use it.", reason="It spreads training over NVIDIA GPUs."),
    Family("vllm(-.*)?|sglang|sgl-kernel|lmdeploy|tensorrt-llm|exllamav[23]", "remove",
           "Serving with it; llama.cpp serves GGUF files on a CPU.", reason="A server for NVIDIA GPUs."),
    Family("auto-gptq|gptqmodel|autoawq(-kernels)?|eetq|hqq-kernels|aqlm", "remove", _QUANT,
           reason="Kernels for quantised weights on NVIDIA GPUs."),
    Family("mamba-ssm|causal-conv1d|liger-kernel|unsloth(-zoo)?|cut-cross-entropy|flash-linear-attention|fla-core",
           "remove", "The fast kernels of the models that use it.", reason="Kernels for NVIDIA GPUs."),
    Family(r"cupy-cuda\d+x?|cupy|pycuda|numba-cuda|cuda-quantum.*|cudaq", "remove",
           "Code that imports it; numpy has cupy's interface.", reason="It needs the NVIDIA driver to import."),
    Family(r"(cudf|cuml|cugraph|cuspatial|cuxfilter|cucim|dask-cudf|dask-cuda|rmm|raft-dask|pylibraft|pylibcudf|"
           r"libcudf|libcuml|libraft|librmm|libcugraph|libcuvs|cuvs|libkvikio|kvikio|ucx-py|ucxx|libucxx?|rapids.*)"
           r"(-cu\d+)?", "remove", "Data frames and estimators of RAPIDS.", reason="RAPIDS needs an NVIDIA GPU."),
    Family(r"jax-cuda\d+-(plugin|pjrt)|jax-cuda-.*", "remove", reason="jax runs on the CPU with jaxlib alone."),
    Family("onnxruntime-gpu", "swap", "The CUDA and TensorRT execution providers.", "onnxruntime",
           "onnxruntime is the same version for the CPU."),
    Family("tensorflow-gpu", "swap", "Its GPU devices.", "tensorflow-cpu", "tensorflow-cpu is the same version."),
    Family(r"faiss-gpu(-cu\d+)?", "swap", "Indexes on the GPU.", "faiss-cpu", "faiss-cpu is the same for the CPU."),
    Family("paddlepaddle-gpu", "swap", "Its GPU devices.", "paddlepaddle", "paddlepaddle is the same for the CPU."),
    Family(r"mxnet-cu\d+|dgl-cu\d+|spconv-cu\d+|nvtx-plugins.*|kaolin|tiny-cuda-nn|nerfacc", "remove",
           "Code that imports it.", reason="It is built for CUDA."),
)  # fmt: skip

_COMPILED = tuple((re.compile(family.pattern), family) for family in FAMILIES)


def family(name: str) -> Family | None:
    """The family of a package by its name, None for one that is not made for NVIDIA GPUs."""
    key = normal(name)
    return next((found for pattern, found in _COMPILED if pattern.fullmatch(key)), None)


def cuda_local(version: str) -> str:
    """The CUDA version in a version's local part: "2.9.1+cu128" gives "12.8", "" when it has none."""
    match = re.search(r"\+(?:.*\.)?cu(\d+)(\d)(?!\d)", version)
    return f"{match[1]}.{match[2]}" if match else ""


def public(version: str) -> str:
    """A version without its local part ("2.9.1+cu128" → "2.9.1")."""
    return version.partition("+")[0]
