"""Python's packagers: pip, uv, poetry, conda and mamba.

Sources: pip's "Caching" and "Configuration" pages; uv's "Settings" reference and "Caching" page (buckets carry their
format's version, and uv holds ``.lock`` of the cache shared while it works); poetry's "Configuration" page; conda's
"Using custom locations for environment and package cache" page.
"""

from __future__ import annotations

import os
from pathlib import Path

from services.storage.kinds import places
from services.storage.kinds.rule import Box, Kind, each_entry


def _pip(box: Box) -> list[Path]:
    if own := places.variable(box, "PIP_CACHE_DIR"):
        return [own]
    file = box.environ.get("PIP_CONFIG_FILE")
    # The first that sets it wins. A file that the variable names takes the place of the user's own.
    user = [places.config(box) / "pip" / "pip.conf", box.home / ".pip" / "pip.conf"]
    files = [*([Path(file)] if file and Path(file).exists() else user), Path("/etc/pip.conf")]
    for candidate in files if file != os.devnull else []:
        if value := places.ini(candidate, "cache-dir", sections=("install", "global")):
            return [places.path(value, box)]
    return [places.caches(box) / "pip"]


def _uv(box: Box) -> list[Path]:
    if own := places.variable(box, "UV_CACHE_DIR"):
        return [own]
    value = places.toml(Path(box.environ.get("UV_CONFIG_FILE") or places.config(box) / "uv" / "uv.toml"), "cache-dir")
    return [places.path(value, box) if value else places.caches(box) / "uv"]


KINDS: tuple[Kind, ...] = (
    Kind(
        "pip", "pip: downloaded and built wheels", _pip, each_entry,
        "pip downloads or builds them again at the next install.", usual=True,
    ),
    Kind(
        "uv", "uv: wheels, sources and Python builds", _uv, each_entry,
        "uv downloads them again at the next sync or install.", usual=True, command="uv cache prune",
    ),
)  # fmt: skip
