"""A real virtual environment with small wheels of the true names and layout, installed by real pip from a folder."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

LIBRARY = os.urandom(200_000)  # stands for a CUDA library; random, so that no file system stores it smaller


def build_wheel(
    folder: Path, name: str, version: str, files: dict[str, bytes | str], requires: Iterable[str] = (), more: str = ""
) -> Path:
    """A wheel by the specification, without building tools. ``more`` are further METADATA lines."""
    base = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}"
    metadata += "".join(f"Requires-Dist: {line}\n" for line in requires)
    content = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
    content[f"{base}.dist-info/METADATA"] = metadata.encode()
    content[f"{base}.dist-info/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    record = ""
    for path, data in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        record += f"{path},sha256={digest},{len(data)}\n"
    content[f"{base}.dist-info/RECORD"] = (record + f"{base}.dist-info/RECORD,,\n").encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{base}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    return wheel


def torch_files(cuda: str | None) -> dict[str, bytes | str]:
    files: dict[str, bytes | str] = {
        "torch/__init__.py": "from torch import version\n__version__ = version.__version__\n",
        "torch/version.py": f"from typing import Optional\n__version__ = '2.9.1'\ncuda: Optional[str] = {cuda!r}\n",
        "torch/lib/libtorch_cpu.so": LIBRARY[:1000],
        "functorch/__init__.py": "",
    }
    if cuda:
        files |= {"torch/lib/libtorch_cuda.so": LIBRARY, "torch/cuda_only.py": "x = 1\n"}
    else:
        files["torch/cpu_only/__init__.py"] = ""
    return files


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels: torch's two builds, what its CUDA build needs, and packages that need those."""
    folder = tmp_path_factory.mktemp("wheels")
    linux = 'platform_system == "Linux" or platform_system == "Darwin"'
    scripts = "[console_scripts]\ntorchrun = torch:version\n"
    build_wheel(
        folder, "torch", "2.9.1",
        torch_files("12.8") | {"torch-2.9.1.dist-info/entry_points.txt": scripts},
        [
            "smalldep", f"nvidia-cublas-cu12==12.8.4; {linux}", f"nvidia-cudnn-cu12==9.1; {linux}",
            f"triton==3.5.1; {linux}",
        ],
    )  # fmt: skip
    build_wheel(
        folder, "torch", "2.9.1+cpu",
        torch_files(None) | {"torch-2.9.1+cpu.dist-info/entry_points.txt": scripts}, ["smalldep"],
    )  # fmt: skip
    build_wheel(folder, "smalldep", "1.0", {"smalldep.py": ""})
    nvidia = {"nvidia/__init__.py": ""}
    build_wheel(folder, "nvidia-cublas-cu12", "12.8.4", {**nvidia, "nvidia/cublas/lib/libcublas.so.12": LIBRARY})
    build_wheel(
        folder,
        "nvidia-cudnn-cu12",
        "9.1",
        {**nvidia, "nvidia/cudnn/lib/libcudnn.so.9": LIBRARY},
        ["nvidia-cublas-cu12"],
    )
    build_wheel(folder, "nvidia-nccl-cu12", "2.27", {"nvidia/nccl/lib/libnccl.so.2": LIBRARY})
    build_wheel(folder, "triton", "3.5.1", {"triton/__init__.py": "", "triton/_C/libtriton.so": LIBRARY})
    build_wheel(folder, "bitsandbytes", "0.48", {"bitsandbytes/__init__.py": "import torch\n"}, ["torch"])
    build_wheel(folder, "trainer", "1.2", {"trainer/__init__.py": "import torch\n"}, ["torch>=2.9", "rates"])
    build_wheel(folder, "rates", "1.0", {"rates/__init__.py": ""})
    build_wheel(folder, "boosted", "3.0", {"boosted/__init__.py": ""}, ["nvidia-nccl-cu12"])
    return folder


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, wheels: Path) -> Path:
    """A virtual environment with torch's CUDA build and all that; tests take copies."""
    venv = tmp_path_factory.mktemp("template") / "venv"
    ours = Path(sysconfig.get_path("purelib"))
    pip = [*ours.glob("pip"), *ours.glob("pip-*.dist-info")]
    bare = ["--without-pip"] if pip else []  # copying ours takes a fraction of the time of ensurepip
    subprocess.run([sys.executable, "-m", "venv", *bare, venv], check=True, capture_output=True)
    for folder in pip:
        shutil.copytree(folder, next((venv / "lib").glob("python3*")) / "site-packages" / folder.name)
    command = [venv / "bin/python", "-m", "pip", "install", "-q", "torch===2.9.1", "bitsandbytes", "trainer", "boosted"]
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_CONFIG_FILE": os.devnull}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    for pattern in ("setuptools*", "pkg_resources", "_distutils_hack", "distutils-precedence.pth"):
        for path in (venv / "lib").glob(f"python3*/site-packages/{pattern}"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return venv


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home, and pip and uv that know the folder of wheels only."""
    home = tmp_path / "home"
    home.mkdir()
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "XDG_", "CONDA_", "PIPX_")) or name in ("VIRTUAL_ENV", "WORKON_HOME"):
            monkeypatch.delenv(name)
    for name, value in {
        "HOME": home, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": wheels, "PIP_CONFIG_FILE": os.devnull,
        "UV_OFFLINE": "1", "UV_FIND_LINKS": wheels, "UV_CACHE_DIR": tmp_path / "uv-cache", "UV_NO_CONFIG": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))


@pytest.fixture
def venv(template: Path, tmp_path: Path) -> Path:
    """A copy of the template, without pip, that a test may change."""
    copy = tmp_path / "venv"
    shutil.copytree(template, copy, symlinks=True, ignore=shutil.ignore_patterns("pip*"))
    return copy


@pytest.fixture
def venv_with_pip(template: Path, tmp_path: Path) -> Path:
    """The same with its pip, which takes longer to copy."""
    copy = tmp_path / "venv"
    shutil.copytree(template, copy, symlinks=True)
    return copy


@pytest.fixture
def make_wheel() -> Callable[..., Path]:
    return build_wheel


@pytest.fixture
def tree() -> Callable[[Path], dict[str, object]]:
    """Everything below a folder: modes, and what files hold."""

    def read(root: Path) -> dict[str, object]:
        return {
            str(path.relative_to(root)): (
                path.lstat().st_mode,
                str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder",
            )
            for path in root.rglob("*")
        }

    return read
