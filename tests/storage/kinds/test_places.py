"""Each cache is looked for where its own tool puts it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from services.storage import kinds
from services.storage.kinds.rule import Box
from services.workspace import Workspace


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
