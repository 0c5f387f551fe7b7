"""Hugging Face ids: what lies in the local cache, and whether the hub can be asked. Without any hub library."""

from __future__ import annotations

import contextlib
import os
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal

_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TRUE = {"1", "on", "yes", "true"}

Answer = Literal["there", "missing", "private", "unreachable", "offline"]


def is_id(label: str) -> bool:
    """True when ``label`` can be a Hugging Face id ("gpt2", "org/name")."""
    return len(label) <= 96 and _ID.fullmatch(label) is not None and "--" not in label and ".." not in label


def cache_folder() -> Path:
    """The hub's cache on this machine: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub."""
    own = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if own:
        return Path(own).expanduser()
    home = os.environ.get("HF_HOME")
    if not home:
        home = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(home).expanduser() / "hub"


def cached(label: str) -> Path | None:
    """The snapshot of ``label`` in the local cache that holds a whole model, main's first; None if there is none."""
    repository = cache_folder() / f"models--{label.replace('/', '--')}"
    snapshots = repository / "snapshots"
    if not snapshots.is_dir():
        return None
    candidates = sorted(snapshots.iterdir(), key=lambda p: p.stat().st_mtime, reverse=True)
    with contextlib.suppress(OSError):  # what was downloaded by revision only has no "main" here
        candidates.insert(0, snapshots / (repository / "refs" / "main").read_text(encoding="utf-8").strip())
    return next((folder for folder in candidates if holds_model(folder)), None)


def holds_model(folder: Path) -> bool:
    """True when ``folder`` has a config and weights that transformers can load."""
    has_config = (folder / "config.json").is_file()
    return has_config and any(any(folder.glob(p)) for p in ("*.safetensors", "pytorch_model*.bin"))


def ask(label: str, timeout: float = 4.0) -> Answer:
    """Ask the hub (HF_ENDPOINT) whether ``label`` exists; blocks up to ``timeout`` seconds. Honours HF_HUB_OFFLINE."""
    if any(os.environ.get(name, "").lower() in _TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
        return "offline"
    request = urllib.request.Request(f"{endpoint()}/api/models/{label}", headers={"User-Agent": "hybrid-tui"})
    try:
        with urllib.request.urlopen(request, timeout=timeout):
            return "there"
    except urllib.error.HTTPError as error:
        # The hub answers 401 both for what is private and for what does not exist.
        return {401: "private", 403: "private", 404: "missing"}.get(error.code, "unreachable")  # type: ignore[return-value]
    except (OSError, ValueError):
        return "unreachable"


def endpoint() -> str:
    """The hub's address."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
