"""Making a machine of Colab ready for a run: packages, Google Drive, the code, the data and the model."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from services.errors import HybridError
from services.runs.colab import cell, parcel
from services.runs.colab.cli import Cli, kill
from services.runs.colab.driver import MARK
from services.runs.colab.ends import check_cancelled
from services.runs.emit import Emitter
from services.runs.remote import Remote
from services.runs.types import RunSpec
from services.settings import Colab

# What the trainer takes beside torch, which Colab has: as in pyproject's extra "models" (a test holds them together).
PACKAGES = (
    "msgspec>=0.20", "torch", "transformers>=5.20,<6", "peft>=0.21,<0.22", "accelerate>=1.15", "safetensors>=0.8",
)  # fmt: skip
CONSENT_S = 600.0  # the machine bills while it waits
_PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_LINK = re.compile(r"https?://\S+")


class Equipper:
    """Equips machines for the run in ``run_dir``. Emits what it does; raises Cancelled when the run is cancelled."""

    def __init__(self, run_dir: Path, spec: RunSpec, settings: Colab, cli: Cli, emit: Emitter) -> None:
        self.run_dir, self.spec, self.settings, self.cli, self.emit = run_dir, spec, settings, cli, emit

    async def look(self, name: str) -> dict[str, Any]:
        """Make the run's folder there; what the machine is and has. Raises CliError."""
        names = tuple(_requirement(word).name for word in self._packages())
        found: dict[str, Any] = json.loads(await self.cli.execute(name, cell.look(self.spec.id, names), MARK))
        return found

    async def install(self, name: str, found: dict[str, Any]) -> None:
        """Install the packages that the machine lacks, and look whether they are there."""
        missing = self._missing(found["versions"])
        if not missing:
            return
        check_cancelled(self.emit)
        self.emit.phase("provisioning", f"installing {', '.join(missing)}")
        said = await self.cli.install(name, missing)
        found = await self.look(name)
        if missing := self._missing(found["versions"]):
            print(said)  # to log.txt
            raise HybridError(
                f"{', '.join(missing)} can't be installed on the machine.", hint="log.txt has what pip said."
            )

    def _packages(self) -> tuple[str, ...]:
        return self.settings.packages or PACKAGES

    def _missing(self, versions: dict[str, str | None]) -> list[str]:
        wanted = [(word, _requirement(word)) for word in self._packages()]
        return [word for word, r in wanted if not ((v := versions.get(r.name)) and r.specifier.contains(v, True))]

    async def mount(self, name: str) -> None:
        """Mount Google Drive; where Google wants a consent, show its link and wait for ``train.consent``."""
        self.emit.phase("provisioning", "mounting Google Drive")
        child = await self.cli.mount(name)
        assert child.stdout is not None and child.stdin is not None
        said: list[str] = []
        until = time.monotonic() + CONSENT_S
        reading = asyncio.ensure_future(child.stdout.readline())
        try:
            while time.monotonic() < until:
                await asyncio.wait({reading}, timeout=0.2)
                check_cancelled(self.emit)
                if self.emit.asked("consent"):
                    child.stdin.write(b"\n")
                    self.emit.phase("provisioning", "mounting Google Drive, as you agreed")
                if not reading.done():
                    continue
                line = reading.result().decode("utf-8", "replace")
                if not line:
                    break
                said.append(line.strip())
                if "ounted at" in line:
                    self.cli.leave(child)
                    return
                if (link := _LINK.search(line)) and "REQUIRED" in "".join(said):
                    self.emit.phase("provisioning", "Google Drive waits for your consent", wants=link[0])
                reading = asyncio.ensure_future(child.stdout.readline())
        except BaseException:
            kill(child)
            await child.wait()
            raise
        finally:
            reading.cancel()
        kill(child)
        await child.wait()
        why = next((line for line in reversed(said) if line), "no consent came within 10 minutes")
        raise HybridError(f"Google Drive can't be mounted: {why.rstrip('.')}.", hint="Or run without it.")

    async def bring(self, remote: Remote, allowed: float, words: str) -> list[dict[str, Any]]:
        """Bring code, data, model and secrets, as parts; ``allowed`` seconds (0: any) and ``words`` are its budget."""
        outgoing = self.run_dir / "outgoing"
        try:
            spec, config = self._spec_there(remote, allowed, words)
            parts = await asyncio.to_thread(self._pack, spec, config, outgoing)
            total = sum(part["bytes"] for part in parts)
            for index, part in enumerate(parts):
                check_cancelled(self.emit)
                done = f"{index + 1} of {len(parts)}" if len(parts) > 1 else "all"
                self.emit.phase("provisioning", f"bringing code, data and model, {total / 1e6:.1f} MB ({done})")
                await self.cli.upload(remote.name, outgoing / part["name"], self.there(f"in/{part['name']}"))
            secrets = {name: os.environ[name] for name in self.spec.env_names if name in os.environ}
            if secrets:
                path = outgoing / "secrets.json"
                path.touch(mode=0o600)
                path.write_bytes(msgspec.json.encode(secrets))
                await self.cli.upload(remote.name, path, self.there("in/secrets.json"))
        finally:
            await asyncio.to_thread(shutil.rmtree, outgoing, True)
        return parts

    def there(self, name: str) -> str:
        """A path for the CLI's transfers: without the leading slash."""
        return f"{cell.folder(self.spec.id)}/{name}".lstrip("/")

    def _pack(self, spec: RunSpec, config: dict[str, Any], outgoing: Path) -> list[dict[str, Any]]:
        """Everything the machine needs, as one parcel."""
        staged = self.run_dir / "outgoing.files"
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir()
        try:
            (staged / "spec.json").write_bytes(msgspec.json.encode(spec))
            (staged / "driver.json").write_text(json.dumps(config), encoding="utf-8")
            entries = [(staged / "spec.json", "spec.json"), (staged / "driver.json", "driver.json")]
            entries += [(path, f"code/{name}") for path, name in code_files()]
            entries += [(Path(self.spec.data), "data")] if Path(self.spec.data).is_dir() else []
            entries += [(Path(self.spec.model), "model")] if Path(self.spec.model).is_dir() else []
            last = last_checkpoint(self.run_dir)
            entries += [(last, f"checkpoints/{last.name}")] if last else []
            return parcel.pack(outgoing, entries)
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _spec_there(self, remote: Remote, allowed: float, words: str) -> tuple[RunSpec, dict[str, Any]]:
        """The spec as the machine's supervisor reads it, and its driver's settings."""
        there = cell.folder(self.spec.id)
        command = tuple(word.replace("{run}", there) for word in self.spec.remote)
        spec = msgspec.structs.replace(
            self.spec, target="local", command=command, cwd=f"{there}/code", remote=(), options={},
            model=f"{there}/model" if Path(self.spec.model).is_dir() else self.spec.model,
            data=f"{there}/data" if Path(self.spec.data).is_dir() else self.spec.data,
            max_seconds=allowed, max_cost=0.0, budget=words, grace_s=float(self.spec.options.get("grace_s", 60.0)),
        )  # fmt: skip
        return spec, self._driver_config(remote, allowed)

    def _driver_config(self, remote: Remote, allowed: float) -> dict[str, Any]:
        drive = f"/content/drive/MyDrive/hybrid-runs/{self.spec.id}" if self.spec.options.get("mount_drive") else ""
        options = self.spec.options
        return {
            "number": remote.number, "max_seconds": allowed, "grace_s": float(options.get("grace_s", 60.0)),
            "idle_s": float(options.get("idle_s", self.settings.idle_minutes * 60)),
            "beat_s": float(options.get("beat_s", 10.0)), "drive": drive,
        }  # fmt: skip


def code_files() -> Iterator[tuple[Path, str]]:
    """Every file of this package that the machine needs, with its name there; also from an installed package."""
    for path in sorted((_PACKAGE_ROOT / "services").rglob("*")):
        if path.is_file() and path.suffix in (".py", ".toml", ".typed"):
            yield path, path.relative_to(_PACKAGE_ROOT).as_posix()


def last_checkpoint(run_dir: Path) -> Path | None:
    """The newest checkpoint that is here."""
    found = [p for p in (run_dir / "checkpoints").glob("step-*") if p.name[5:].isdigit()]
    return max(found, key=lambda path: int(path.name[5:]), default=None)


def _requirement(word: str) -> Any:
    from packaging.requirements import Requirement

    return Requirement(word)
