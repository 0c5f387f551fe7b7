"""JavaScript's packagers: npm, yarn, pnpm.

Sources: npm's "config" and "cache" pages; yarn's "cache" page (classic) and "Configuration" page (``globalFolder``);
pnpm's "Settings" page (``storeDir``, ``cacheDir``).
"""

from __future__ import annotations

from pathlib import Path

from services.storage.kinds import places
from services.storage.kinds.rule import Box, Kind, each_entry, known_entries, whole_place


def _npm(box: Box) -> list[Path]:
    if value := _npm_variable(box, "cache"):
        return [places.path(value, box)]
    file = _npm_variable(box, "userconfig")
    value = places.ini(places.path(file, box) if file else box.home / ".npmrc", "cache")
    return [places.path(value.replace("${HOME}", str(box.home)), box) if value else box.home / ".npm"]


def _npm_variable(box: Box, key: str) -> str:
    return next((v for k, v in box.environ.items() if k.lower() == f"npm_config_{key}" and v), "")


def _yarn(box: Box) -> list[Path]:
    classic = places.variable(box, "YARN_CACHE_FOLDER") or places.caches(box) / "yarn"
    berry = places.variable(box, "YARN_GLOBAL_FOLDER") or box.home / ".yarn" / "berry"
    return [classic, berry / "cache"]


def _pnpm(box: Box) -> list[Path]:
    value = _npm_variable(box, "store_dir") or places.ini(places.config(box) / "pnpm" / "rc", "store-dir")
    value = value or places.ini(box.home / ".npmrc", "store-dir")
    if value:
        store = places.path(value, box)
    else:
        store = (places.variable(box, "PNPM_HOME") or places.data(box) / "pnpm") / "store"
    return [store, places.caches(box) / "pnpm"]


KINDS: tuple[Kind, ...] = (
    Kind(
        "npm", "npm: packages, npx tools and logs", _npm,
        known_entries(
            _cacache="Packages as they were downloaded.", _npx="Tools that npx ran.", _logs="Logs of npm's last runs.",
            _prebuilds="Compiled parts of packages.",
        ),
        "npm downloads them again at the next install.", command="npm cache clean --force", usual=True,
    ),
    Kind(
        "yarn", "yarn: packages", _yarn, each_entry, "yarn downloads them again at the next install.",
        command="yarn cache clean",
    ),
    Kind(
        "pnpm", "pnpm: the store that projects share by hard links", _pnpm, whole_place,
        "pnpm downloads them again at the next install; what projects use stays with them.",
        command="pnpm store prune",
    ),
)  # fmt: skip
