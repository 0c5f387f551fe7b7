"""JavaScript's packagers. Sources: npm's "config" page."""

from __future__ import annotations

from pathlib import Path

from services.storage.kinds import places
from services.storage.kinds.rule import Box, Kind, each_entry


def _npm(box: Box) -> list[Path]:
    for variable, value in box.environ.items():
        if variable.lower() == "npm_config_cache" and value:
            return [places.path(value, box)]
    file = next((v for k, v in box.environ.items() if k.lower() == "npm_config_userconfig" and v), "")
    value = places.ini(places.path(file, box) if file else box.home / ".npmrc", "cache")
    return [places.path(value.replace("${HOME}", str(box.home)), box) if value else box.home / ".npm"]


KINDS: tuple[Kind, ...] = (
    Kind(
        "npm", "npm: packages, npx tools and logs", _npm, each_entry,
        "npm downloads them again at the next install.", usual=True,
    ),
)  # fmt: skip
