"""Python's packagers: pip, uv, poetry, conda and mamba.

Sources: pip's "Caching" and "Configuration" pages; uv's "Settings" reference and "Caching" page (buckets carry the
version of their format; uv holds ``.lock`` of the cache, shared, while it works); poetry's "Configuration" page;
conda's "Using custom locations for environment and package cache" page and its "clean" command.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from services.storage.kinds import places
from services.storage.kinds.locks import is_locked
from services.storage.kinds.rule import Box, Kind, Look, known_entries, names, whole_place

_BUCKET = re.compile(r"([a-z-]+)-v(\d+)")
_PACKAGES = frozenset({"archive", "wheels", "sdists", "built-wheels", "builds", "environments"})
_LOOK_UPS = frozenset({"simple", "flat-index", "interpreter", "git", "python"})
_CONDA_ARCHIVE = re.compile(r"(.+)\.(?:conda|tar\.bz2)")


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
    file = Path(box.environ.get("UV_CONFIG_FILE") or places.config(box) / "uv" / "uv.toml")
    value = places.toml(file, "cache-dir")
    return [places.path(value, box) if value else places.caches(box) / "uv"]


def _list_uv(look: Look) -> None:
    """Buckets whose entries point into each other go together; those of formats that this uv has left go alone."""
    for place in look.places:
        used_by = ("uv",) if is_locked(f"{place}/.lock", shared_too=True) else ()
        versions: dict[str, list[int]] = defaultdict(list)
        for name in names(place):
            if match := _BUCKET.fullmatch(name):
                versions[match[1]].append(int(match[2]))
        packages, old = [], []
        for bucket, found in sorted(versions.items()):
            paths = [f"{place}/{bucket}-v{version}" for version in sorted(found)]
            if bucket in _PACKAGES:
                packages += paths
            elif bucket in _LOOK_UPS:
                old += paths[:-1]
                look.add(bucket, paths[-1], risk="none", used_by=used_by, restore="uv looks it up again.")
        if packages:
            look.add(
                "packages", *packages, used_by=used_by,
                note="What environments use by hard links stays on the disk with them; environments made with "
                "link-mode=symlink would break.",
            )  # fmt: skip
        if old:
            look.add("old formats", *old, risk="none", used_by=used_by, note="Of earlier versions of uv.")
        if temporary := [f"{place}/{name}" for name in names(place) if name.startswith(".tmp")]:
            look.add(
                "unfinished", *temporary, risk="none", used_by=used_by, note="Left by installs that were broken off."
            )


def _poetry(box: Box) -> list[Path]:
    folder = places.variable(box, "POETRY_CACHE_DIR")
    if folder is None:
        own = places.variable(box, "POETRY_CONFIG_DIR") or places.config(box) / "pypoetry"
        value = places.toml(own / "config.toml", "cache-dir")
        folder = places.path(value, box) if value else places.caches(box) / "pypoetry"
    return [folder / "artifacts", folder / "cache"]  # not virtualenvs, which lies beside them


def _conda(box: Box) -> list[Path]:
    """Package caches that the environment and ``~/.condarc`` name, and those of the usual installations."""
    named = [places.path(p.strip(), box) for p in box.environ.get("CONDA_PKGS_DIRS", "").split(",") if p.strip()]
    named += [places.path(value, box) for value in _yaml_list(box.home / ".condarc", "pkgs_dirs")]
    roots = [places.variable(box, "MAMBA_ROOT_PREFIX")]
    if program := places.variable(box, "CONDA_EXE", "MAMBA_EXE"):
        roots.append(program.parent.parent)
    roots += [box.home / name for name in ("miniconda3", "anaconda3", "miniforge3", "mambaforge", "micromamba")]
    roots += [box.home / ".local/share/mamba", Path("/opt/conda")]
    usual = [root / "pkgs" for root in roots if root] + [box.home / ".conda" / "pkgs"]
    return list(dict.fromkeys([*named, *usual]))


def _yaml_list(file: Path, key: str) -> list[str]:
    """The items of a plain YAML list of texts, as ``conda config`` writes it."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    found: list[str] = []
    inside = False
    for line in lines:
        text = line.split(" #")[0].strip()
        if inside and text.startswith("- "):
            found.append(text[2:].strip().strip("\"'"))
        elif text:
            inside = text == f"{key}:"
    return found


def _list_conda(look: Look) -> None:
    """Archives together; each unpacked package, suggested if no environment shares its files."""
    for place in look.places:
        present = names(place)
        where = "/".join(Path(place).parts[-2:])
        if archives := [f"{place}/{name}" for name in present if _CONDA_ARCHIVE.fullmatch(name)]:
            look.add(f"{where} archives", *archives, note="Packages as they were downloaded; they are unpacked beside.")
        if "cache" in present:
            look.add(f"{where}/cache", f"{place}/cache", risk="none", restore="conda asks its channels again.")
        for name in present:
            path = f"{place}/{name}"
            if os.path.isfile(f"{path}/info/index.json"):  # noqa: PTH113
                tally = look.measure(path)
                shared = tally.freed_bytes * 2 < tally.bytes
                look.add(
                    f"{where}/{name}", path, tally=tally, suggested=not shared,
                    note="Environments share its files: little is freed." if shared else "",
                )  # fmt: skip


KINDS: tuple[Kind, ...] = (
    Kind(
        "pip", "pip: downloaded and built wheels", _pip,
        known_entries(
            http="Pages and packages as they were downloaded.",
            http_v2="Pages and packages as they were downloaded.",
            wheels="Wheels that were built here from sources.",
            selfcheck="When pip last looked for a newer pip.",
        ),
        "pip downloads or builds them again at the next install.", command="pip cache purge", usual=True,
    ),
    Kind(
        "uv", "uv: wheels, sources and Python builds", _uv, _list_uv,
        "uv downloads them again at the next sync or install.", command="uv cache prune", usual=True,
    ),
    Kind(
        "conda", "conda, mamba: packages", _conda, _list_conda,
        "conda downloads them again at the next install.", command="conda clean --all",
    ),
    Kind(
        "poetry", "poetry: packages and index pages", _poetry, whole_place,
        "poetry downloads them again at the next install.", command="poetry cache clear --all .",
    ),
)  # fmt: skip
