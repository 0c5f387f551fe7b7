"""Hugging Face's caches.

Sources: huggingface_hub's "Environment variables" and "Understand caching" pages; datasets' "Cache management" page;
transformers' "Installation" page (cache setup, with the old variables) and its ``dynamic_module_utils`` (modules).
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

from services.storage.kinds import places
from services.storage.kinds.hub_items import list_hub
from services.storage.kinds.hub_layout import repo_name
from services.storage.kinds.rule import Box, Kind, Look, each_entry, known_entries, names


def hub_place(box: Box) -> list[Path]:
    """The hub's cache; the second variable is the old name, still read."""
    return [places.variable(box, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") or home(box) / "hub"]


def home(box: Box) -> Path:
    """``HF_HOME``."""
    return places.variable(box, "HF_HOME") or places.caches(box) / "huggingface"


def _xet(box: Box) -> list[Path]:
    return [places.variable(box, "HF_XET_CACHE") or home(box) / "xet"]


def _assets(box: Box) -> list[Path]:
    return [places.variable(box, "HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE") or home(box) / "assets"]


def _datasets(box: Box) -> list[Path]:
    return [places.variable(box, "HF_DATASETS_CACHE") or home(box) / "datasets"]


def _modules(box: Box) -> list[Path]:
    return [places.variable(box, "HF_MODULES_CACHE") or home(box) / "modules"]


def _list_datasets(look: Look) -> None:
    """Each dataset as it was built, and the files it was built from; locks lie beside them."""
    for place in look.places:
        for name in names(place):
            path = f"{place}/{name}"
            if os.path.isdir(path):  # noqa: PTH112
                downloads = name == "downloads"
                look.add(
                    name, path, suggested=downloads, risk="low" if downloads else None,
                    note="The files that datasets were built from." if downloads else "",
                )  # fmt: skip


def _transformers(box: Box) -> list[Path]:
    """Where transformers kept models before it used the hub's cache (until version 4.22)."""
    named = [places.variable(box, name) for name in ("TRANSFORMERS_CACHE", "PYTORCH_TRANSFORMERS_CACHE")]
    usual = [home(box) / "transformers", places.caches(box) / "torch" / "transformers"]
    return [path for path in [*named, *usual] if path]


def _list_transformers(look: Look) -> None:
    """One item a download: the file, its ``.json`` and its ``.lock``. A place in the hub's layout is listed as such."""
    for place in look.places:
        present = names(place)
        if any(repo_name(name) for name in present):
            list_hub(look)
            return
        parts: dict[str, list[str]] = defaultdict(list)
        for name in present:
            parts[name.removesuffix(".json").removesuffix(".lock")].append(f"{place}/{name}")
        for name, files in parts.items():
            look.add(name, *files)


KINDS: tuple[Kind, ...] = (
    Kind(
        "huggingface", "Hugging Face hub: models and datasets", hub_place, list_hub,
        "from_pretrained or `hf download` fetches them again; private ones need a sign-in.",
        command="hf cache prune", usual=True,
    ),
    Kind(
        "huggingface-xet", "Hugging Face hub: chunks of transfers", _xet, each_entry,
        "It only speeds up downloads; the hub fills it again.", risk="none", usual=True,
    ),
    Kind(
        "huggingface-assets", "Hugging Face hub: files that libraries made", _assets, each_entry,
        "The library that keeps them makes or downloads them again.",
    ),
    Kind(
        "huggingface-datasets", "Hugging Face datasets: built tables", _datasets, _list_datasets,
        "load_dataset builds them again, from the hub or from the files it was given.",
    ),
    Kind(
        "huggingface-modules", "Hugging Face: code that came with models and datasets", _modules,
        known_entries(
            transformers_modules="Of models loaded with trust_remote_code.",
            datasets_modules="Scripts that built datasets.",
            evaluate_modules="Scripts of metrics.",
        ),
        "It is copied again from the hub, or from the model's folder, when that is loaded.",
    ),
    Kind(
        "transformers", "transformers: models in the layout of old versions", _transformers, _list_transformers,
        "Only transformers before 4.22 reads them; later ones download anew into the hub's cache.",
    ),
)  # fmt: skip
