"""Brings checkpoints and the result of a run from the store here: whole and verified, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from services.drive.errors import Corrupted
from services.drive.store import Store, Wanted
from services.errors import HybridError
from services.runs.emit import Emitter
from services.runs.events import Follower
from services.runs.notebook import layout


class Fetcher:
    """Fetches for the run in ``run_dir`` what lies below ``top`` in the store, and tells of each checkpoint once."""

    def __init__(self, store: Store, top: str, run_dir: Path, emit: Emitter) -> None:
        self._store, self._top, self._run_dir, self._emit = store, top, run_dir, emit
        self._told = {
            str(event.data.get("of")) for event in Follower(run_dir).all() if event.ev == "ckpt" and "of" in event.data
        }
        self._here: dict[str, str] = {}  # folder in the store → folder here

    async def checkpoints(self) -> None:
        """Fetch what is new; drop here what the trainer has thinned out there."""
        folder = f"{self._top}/{layout.CHECKPOINTS}"
        names = sorted(e.name for e in await self._store.list(folder) if not e.folder and e.name.endswith(".json"))
        for name in names:
            key = name.removesuffix(".json")
            if key in self._told and key in self._here:
                continue
            told = _manifest(await self._store.read(f"{folder}/{name}"))
            if told is None:
                continue
            target = self._run_dir / "checkpoints" / str(told["folder"])
            if key in self._told and target.is_dir():
                self._here[key] = target.name
            elif await self._folder(f"{folder}/{key}", told, target):
                self._here[key] = target.name
                if key not in self._told:
                    self._told.add(key)
                    self._emit.relay(
                        "ckpt",
                        {
                            "path": f"checkpoints/{target.name}",
                            "step": told.get("step"),
                            "of": key,
                            "bytes": sum(known["size"] for known in told["files"].values()),
                            "sha256": told.get("sha256"),
                        },
                        "",
                    )
        self._prune({name.removesuffix(".json") for name in names})

    async def output(self, number: int) -> bool:
        """Fetch the finished adapter of the start ``number``; False while it is not whole in the store."""
        name = layout.output_name(number)
        told = _manifest(await self._store.read(f"{self._top}/{name}.json"))
        if told is None:
            return False
        return await self._folder(f"{self._top}/{name}", told, self._run_dir / "output")

    async def _folder(self, source: str, told: dict[str, Any], target: Path) -> bool:
        """Fetch a folder beside its place, then rename it there; False when its files have not all come."""
        new = target.with_name(f".{target.name}.new")
        wanted = [
            Wanted(path, str(new / path), int(known["size"]), str(known["sha256"]))
            for path, known in told["files"].items()
        ]
        for one in wanted:
            Path(one.local).parent.mkdir(parents=True, exist_ok=True)
        try:
            await self._store.get_files(wanted, source, lambda *_: None)
        except Corrupted:
            shutil.rmtree(new, ignore_errors=True)
            return False
        except HybridError:
            if not {w.path for w in wanted} <= {f.path for f in await self._store.files(source)}:
                return False  # not all there yet
            raise
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)
        return True

    def _prune(self, there: set[str]) -> None:
        kept = {self._here[key] for key in there if key in self._here}
        for key in [key for key in self._here if key not in there]:
            gone = self._here.pop(key)
            if kept and gone not in kept:
                shutil.rmtree(self._run_dir / "checkpoints" / gone, ignore_errors=True)


def _manifest(data: bytes | None) -> dict[str, Any] | None:
    try:
        told = json.loads(data or b"")
        return told if isinstance(told["files"], dict) and told["folder"] else None
    except (ValueError, KeyError, TypeError):
        return None
