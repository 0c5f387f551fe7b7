"""A box as it looks after a month of work, made from a seed: caches, a virtual environment with CUDA packages, logs.

    python -m tests.storage.bloated_box DIR [--mb 2000]

makes ``DIR/home`` and ``DIR/work`` (a workspace). The layouts are the tools' own; the contents are noise of the wanted
size, really on the disk. Then: ``HOME=DIR/home hybrid-tui --workspace DIR/work``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import time
from pathlib import Path

DAY = 86400.0
MB = 1_000_000

# What the CUDA build of torch brings, and its share of the environment's bytes.
CUDA = {
    "torch": ("2.9.1", ("torch/lib/libtorch_cuda.so", "torch/lib/libtorch_cpu.so"), 0.36),
    "nvidia-cudnn-cu12": ("9.10.2.21", ("nvidia/cudnn/lib/libcudnn_engines_precompiled.so.9",), 0.2),
    "nvidia-cublas-cu12": ("12.8.4.1", ("nvidia/cublas/lib/libcublasLt.so.12",), 0.2),
    "nvidia-nccl-cu12": ("2.27.5", ("nvidia/nccl/lib/libnccl.so.2",), 0.1),
    "triton": ("3.5.1", ("triton/_C/libtriton.so",), 0.14),
}  # fmt: skip


class Maker:
    """Writes files of noise, the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self._block = self.rng.randbytes(1 << 20)

    def noise(self, path: Path, size: int, *, days_old: float = 0) -> Path:
        """A file of ``size`` bytes, last used so many days ago."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(self.rng.randbytes(16))
            left = size - 16
            while left > 0:
                left -= file.write(self._block[:left])
        return aged(path, days_old)

    def text(self, path: Path, text: str, *, days_old: float = 0) -> Path:
        """A small file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return aged(path, days_old)


def aged(path: Path, days: float) -> Path:
    """``path`` with its times set back."""
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def hub_repo(make: Maker, hub: Path, name: str, sizes: list[int], *, days_old: float) -> None:
    """A model in the Hugging Face cache: the newest revision is ``main``, the others are detached."""
    repo = hub / f"models--{name.replace('/', '--')}"
    config = json.dumps({"model_type": "llama", "_name": name})
    shared = hashlib.sha1(config.encode()).hexdigest()
    make.text(repo / "blobs" / shared, config, days_old=days_old)
    for number, size in enumerate(sizes):
        revision = hashlib.sha1(f"{name}{number}".encode()).hexdigest()
        blob = hashlib.sha256(f"{name}{number}".encode()).hexdigest()
        make.noise(repo / "blobs" / blob, size, days_old=days_old)
        snapshot = repo / "snapshots" / revision
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to(f"../../blobs/{blob}")
        (snapshot / "config.json").symlink_to(f"../../blobs/{shared}")
    make.text(repo / "refs" / "main", revision)


def virtual_environment(make: Maker, folder: Path, total: int) -> None:
    """An environment whose packages have their true names, layouts and RECORDs, and nothing that runs."""
    make.text(folder / "pyvenv.cfg", "home = /usr/bin\nversion = 3.11.7\ninclude-system-site-packages = false\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to("/usr/bin/python3")
    site = folder / "lib" / "python3.11" / "site-packages"
    for name, (version, files, share) in CUDA.items():
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {other}=={CUDA[other][0]}\n" for other in CUDA if name == "torch" != other)
        made = [make.noise(site / file, int(total * share / len(files)), days_old=20) for file in files]
        made.append(make.text(info / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"))
        made.append(make.text(info / "INSTALLER", "pip\n"))
        if name == "torch":
            made.append(make.text(site / "torch" / "version.py", f"__version__ = '{version}+cu128'\ncuda = '12.8'\n"))
        rows = [f"{path.relative_to(site)},,{path.stat().st_size}" for path in made]
        make.text(info / "RECORD", "\n".join([*rows, f"{info.name}/RECORD,,"]) + "\n")


def make_box(folder: Path, total: int, seed: int = 0) -> tuple[Path, Path]:
    """Fill ``folder`` with about ``total`` bytes; the home folder and the workspace."""
    make = Maker(seed)
    home, work = folder / "home", folder / "work"
    cache = home / ".cache"
    hub = cache / "huggingface" / "hub"
    hub_repo(make, hub, "HuggingFaceTB/SmolLM2-135M", [int(total * 0.06)] * 3, days_old=3)
    hub_repo(make, hub, "TinyLlama/TinyLlama-1.1B", [int(total * 0.12)], days_old=60)
    make.noise(hub / "models--Qwen--Qwen2.5-0.5B" / "blobs" / ("a" * 64 + ".incomplete"), int(total * 0.03), days_old=9)
    (hub / "models--Qwen--Qwen2.5-0.5B" / "snapshots").mkdir()
    (hub / "models--Qwen--Qwen2.5-0.5B" / "refs").mkdir()
    for number in range(40):
        name = hashlib.sha256(str(number).encode()).hexdigest()[:56]
        body = cache / "pip" / "http-v2" / "/".join(name[:5]) / f"{name}.body"
        make.noise(body, int(total * 0.12 / 40), days_old=number)
        make.noise(body.with_suffix(""), 2000, days_old=number)
    make.text(cache / "uv" / "CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n")
    for number in range(20):
        make.noise(cache / "uv" / "archive-v0" / f"id{number:018}" / "lib.so", int(total * 0.06 / 20), days_old=number)
    make.noise(cache / "torch" / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth", int(total * 0.03), days_old=120)
    for number in range(10):
        sha = hashlib.sha512(str(number).encode()).hexdigest()
        path = home / ".npm" / "_cacache" / "content-v2" / "sha512" / sha[:2] / sha[2:4] / sha[4:]
        make.noise(path, int(total * 0.02 / 10), days_old=40)
    make.noise(work / "logs" / "training.log", int(total * 0.06), days_old=30)
    make.noise(work / "outputs" / "notebook.log", int(total * 0.02), days_old=25)
    for number in range(30):
        make.noise(work / "src" / "__pycache__" / f"module{number}.cpython-311.pyc", 20_000)
    make.text(work / "src" / "train.py", "print('hello')\n")
    make.text(work / "hybrid.toml", '[cleaning]\nkeep = ["apt:*", "inductor:*"]  # the machine\'s own\n')
    virtual_environment(make, work / ".venv", int(total * 0.36))
    return home, work


def main() -> None:
    """Make it and say how to open it."""
    parser = argparse.ArgumentParser(description="Make a bloated box to try the storage screen on.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mb", type=int, default=2000, help="its size, in MB")
    options = parser.parse_args()
    home, work = make_box(options.folder.absolute(), options.mb * MB)
    print(f"HOME={home} hybrid-tui --workspace {work}")


if __name__ == "__main__":
    main()
