"""Each cache is looked for where its own tool puts it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from services.storage import kinds
from services.storage.kinds.rule import Box
from services.storage.reclaim import KindItems
from services.workspace import Workspace, open_workspace


def place_of(kind: str, home: Path, workspace: Workspace, variables: dict[str, str]) -> str:
    box = Box({"HOME": str(home), **variables}, home, workspace, threading.Event())
    rule = next(k for k in kinds.KINDS if k.name == kind)
    return " ".join(str(place) for place in rule.places(box))


@pytest.mark.parametrize(
    ("kind", "variables", "files", "place"),
    [
        ("pip", {}, {}, "~/.cache/pip"),
        ("pip", {"XDG_CACHE_HOME": "/x"}, {}, "/x/pip"),
        ("pip", {"XDG_CACHE_HOME": "not/absolute"}, {}, "~/.cache/pip"),
        ("pip", {"PIP_CACHE_DIR": "/p", "XDG_CACHE_HOME": "/x"}, {}, "/p"),
        ("pip", {}, {".config/pip/pip.conf": "[global]\ncache-dir = /conf\n"}, "/conf"),
        (
            "pip",
            {"PIP_CONFIG_FILE": "/dev/null"},
            {".config/pip/pip.conf": "[global]\ncache-dir = /c\n"},
            "~/.cache/pip",
        ),
        ("uv", {}, {}, "~/.cache/uv"),
        ("uv", {"UV_CACHE_DIR": "~/uv"}, {}, "~/uv"),
        ("uv", {}, {".config/uv/uv.toml": 'cache-dir = "/toml"\n'}, "/toml"),
        ("uv", {}, {".config/uv/uv.toml": "cache-dir = [torn"}, "~/.cache/uv"),
        ("huggingface", {}, {}, "~/.cache/huggingface/hub"),
        ("huggingface", {"XDG_CACHE_HOME": "/x"}, {}, "/x/huggingface/hub"),
        ("huggingface", {"HF_HOME": "/hf"}, {}, "/hf/hub"),
        ("huggingface", {"HF_HOME": "/hf", "HF_HUB_CACHE": "/hub"}, {}, "/hub"),
        ("huggingface-xet", {"HF_HOME": "/hf"}, {}, "/hf/xet"),
        ("torch", {}, {}, "~/.cache/torch/hub"),
        ("torch", {"TORCH_HOME": "/t"}, {}, "/t/hub"),
        ("npm", {}, {}, "~/.npm"),
        ("npm", {"NPM_CONFIG_CACHE": "/n"}, {}, "/n"),
        ("npm", {}, {".npmrc": "; mine\nregistry=https://r\ncache = ${HOME}/npm\n"}, "~/npm"),
    ],
)
def test_each_cache_is_where_its_tool_puts_it(
    home: Path, workspace: Workspace, kind: str, variables: dict[str, str], files: dict[str, str], place: str
) -> None:
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    assert place_of(kind, home, workspace, variables) == place.replace("~", str(home))


@pytest.mark.parametrize(
    ("tool", "kind"), [(["pip", "cache", "dir"], "pip"), (["npm", "config", "get", "cache"], "npm")]
)
def test_the_tools_themselves_agree(home: Path, workspace: Workspace, tool: list[str], kind: str) -> None:
    command = [sys.executable, "-m", *tool] if tool[0] == "pip" else tool
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=home).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"{tool[0]} does not run here")
    assert place_of(kind, home, workspace, {}) == said


@pytest.mark.parametrize(
    ("kind", "variables", "files", "place"),
    [
        ("triton", {}, {}, "~/.triton/cache"),
        ("triton", {"TRITON_HOME": "/t"}, {}, "/t/.triton/cache"),
        ("inductor", {"TORCHINDUCTOR_CACHE_DIR": "/i"}, {}, "/i"),
        ("torch-kernels", {"TORCH_HOME": "/t"}, {}, "/t/kernels"),
        ("huggingface-datasets", {"HF_HOME": "/hf"}, {}, "/hf/datasets"),
        ("huggingface-modules", {"HF_HOME": "/hf"}, {}, "/hf/modules"),
        ("huggingface-modules", {"HF_HOME": "/hf", "HF_MODULES_CACHE": "/m"}, {}, "/m"),
        ("poetry", {}, {".config/pypoetry/config.toml": 'cache-dir = "/p"\n'}, "/p/artifacts /p/cache"),
        ("pnpm", {"PNPM_HOME": "/p"}, {}, "/p/store ~/.cache/pnpm"),
        ("cargo", {"CARGO_HOME": "/c"}, {}, "/c/registry /c/git"),
        ("go-build", {}, {".config/go/env": "GOCACHE=/g\n"}, "/g"),
        ("go-modules", {"GOPATH": "/a:/b"}, {}, "/a/pkg/mod"),
        ("go-modules", {}, {}, "~/go/pkg/mod"),
        ("trash", {"XDG_DATA_HOME": "/d"}, {}, "/d/Trash"),
    ],
)
def test_the_others_too(
    home: Path, workspace: Workspace, kind: str, variables: dict[str, str], files: dict[str, str], place: str
) -> None:
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    assert place_of(kind, home, workspace, variables) == place.replace("~", str(home))


@pytest.mark.parametrize("place", ["", "..", "../work", "../tmp", "../work/.hybrid"])
def test_a_setting_cant_make_the_home_folder_a_cache(
    look: Callable[[str], KindItems], home: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (home / "../work/.hybrid/drive/Banking LLM").mkdir(parents=True)
    (home / "thesis.tex").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(home / place))
    kind = look("triton")
    assert not kind.items and not kind.exists and "a folder of its own" in kind.problem


def test_the_store_is_never_part_of_a_cache(
    home: Path, workspace: Workspace, look: Callable[..., KindItems], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = home / ".cache/torch_extensions"
    (cache / "build").mkdir(parents=True)
    (cache / "drive/Banking LLM/models").mkdir(parents=True)
    (workspace.root / "hybrid.toml").write_text(f'[store]\npath = "{cache}/drive"\n')
    assert [item.name for item in look("torch-extensions", open_workspace(workspace.root)).items] == ["build"]


def test_a_place_behind_a_link_is_named_as_it_is(home: Path, look: Callable[[str], KindItems]) -> None:
    (home / "big/pip/wheels").mkdir(parents=True)
    (home / ".cache").symlink_to("big")
    kind = look("pip")
    assert kind.paths == (str(home / "big/pip"),) and kind.items[0].paths == (str(home / "big/pip/wheels"),)
