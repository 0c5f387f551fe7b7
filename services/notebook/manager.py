"""``GoogleDriveManager``: models and their metadata from a notebook, on top of the registry."""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from services import atomic, formats, workspace
from services.context import Context, Plan
from services.drive.errors import Corrupted
from services.drive.folder import FolderStore
from services.drive.open import open_store
from services.drive.store import Store, Wanted, parts
from services.errors import HybridError, Refused
from services.notebook import bridge, colab
from services.notebook.progress import Line
from services.notebook.staging import mirrored, plain
from services.registry import manifest
from services.registry.actions import AddParams, ListParams, add, list_versions
from services.registry.records import Added
from services.registry.registry import Registry, find_version, split_reference
from services.workspace import Workspace

METADATA = "docs/metadata"


class GoogleDriveManager:
    """Models in the team's store: versions that never change, found by number or alias, verified when downloaded.

    ``init_drive_manager()`` makes one in a notebook; ``GoogleDriveManager("path/to/project")`` makes one for the store
    that the project's hybrid.toml names. The calls are synchronous and work inside a running loop (Jupyter). They raise
    BadInput for what can't be used, StoreUnreachable when the store does not answer, HybridError for the rest.

        drive.upload_model("outputs/adapter", "banking", {"metrics": {"accuracy": 0.91}})     # 1
        drive.download_model("banking", "models/banking", version="deployed")
        drive.list_models()[0]["metrics"]
    """

    def __init__(self, project: str | Path | Workspace = ".", *, mountpoint: Path | None = None) -> None:
        self._workspace = project if isinstance(project, Workspace) else workspace.open_workspace(Path(project))
        self._mountpoint = mountpoint

    def upload_model(self, local_dir: str | Path, name: str, metadata: dict[str, Any] | None = None) -> int:
        """Add the folder ``local_dir`` as the next version of the model ``name`` and return its number.

        ``metadata`` goes into the version's metadata.json, over what the folder's own says; ``base_model``,
        ``training_date`` and ``metrics`` in it are shown by the registry. The folder itself is not changed. Every file
        is compared by sha256 after the copy; interrupted before the end, nothing was added.

            number = drive.upload_model("outputs/adapter", "banking", {"base_model": "smollm2-135m-instruct"})
        """
        version = bridge.call(self._upload(Path(local_dir).expanduser().absolute(), name, metadata))
        if waiting := self.unsettled():
            print(f"{len(waiting)} files are on their way to Drive; flush() waits for them.")
        return version

    def download_model(self, name: str, local_dir: str | Path, version: int | str | None = None) -> Path:
        """Fetch a version into ``local_dir`` and return that path: every file compared with the manifest's sha256.

        ``version`` is a number, an alias ("deployed", "candidate") or None for the latest; "banking@2" as ``name`` says
        it too. Files that are there and right are not fetched again, and a download that was cut off goes on where it
        was. Other files in ``local_dir`` are left alone.

            folder = drive.download_model("banking", "models/banking", version="deployed")
        """
        return bridge.call(self._download(name, Path(local_dir).expanduser().absolute(), version))

    def list_models(self) -> list[dict[str, Any]]:
        """Every version as a dict, by model and from the newest down: ``model``, ``version``, ``id`` ("banking@2"),
        ``aliases``, ``status``, ``metrics``, ``base_model``, ``training_date``, ``size_bytes``, ``path``, ``note``, ….

            [m["id"] for m in drive.list_models() if "deployed" in m["aliases"]]
        """
        listing = bridge.call(list_versions(Context(self._workspace), ListParams()))
        for problem in listing.problems:
            print(problem)
        return [msgspec.json.decode(msgspec.json.encode(v)) for v in listing.versions]

    def save_metadata(self, name: str, metadata: dict[str, Any]) -> None:
        """Keep ``metadata`` beside a model ("banking") or one of its versions ("banking@2"): notes that may change,
        unlike the metadata.json inside a version. What was saved before is replaced whole; of two at once the last one
        stays.

            drive.save_metadata("banking@2", {"reviewed_by": "Ana", "ok": True})
        """
        data = plain(metadata)
        bridge.call(self._save(name, data))

    def load_metadata(self, name: str) -> dict[str, Any]:
        """What ``save_metadata`` kept for ``name``; if nothing, the metadata.json of that version ("banking@2", or the
        latest of "banking"). Raises BadInput when there is neither.

            drive.load_metadata("banking")["metrics"]
        """
        return bridge.call(self._load(name))

    def unsettled(self) -> list[str]:
        """Files written to a mounted Drive that are not known to have got there; [] where the store is no mount."""
        store = self._store()
        return sorted(bridge.call(store.unsettled())) if isinstance(store, FolderStore) else []

    def flush(self) -> tuple[str, ...]:
        """In Colab: wait until all that was written has got to Drive, and mount it again. Returns the paths that are
        not there afterwards as they were written ((), if all is well); elsewhere there is nothing to wait for.

        ``sync`` is not enough: it hands the bytes to the mount's program, which sends them when it likes.
        """
        store = self._store()
        if not isinstance(store, FolderStore) or store.mount is None:
            return ()
        if self._mountpoint is None:
            raise Refused(
                f"{store.mount.what} can't be flushed from here.", hint="Wait until its own program says it is done."
            )
        colab.flush(self._mountpoint)
        missing = bridge.call(store.flushed())
        for path in missing:
            print(f"Not on Drive as it was written: {path}")
        return missing

    def _store(self) -> Store:
        return open_store(self._workspace)

    async def _upload(self, folder: Path, name: str, metadata: dict[str, Any] | None) -> int:
        with Line(f"{name} up") as line, tempfile.TemporaryDirectory(prefix="hybrid-tui-") as staged:
            if metadata is not None:
                folder = await asyncio.to_thread(mirrored, folder, Path(staged), metadata)
            added = await add(Context(self._workspace, report=line.report), AddParams(model=name, path=str(folder)))
        assert not isinstance(added, Plan)  # only a dry run is answered by a plan
        for warning in added.warnings:
            print(warning)
        print(f"{added.id} added: {added.files} files, {formats.size(added.size_bytes)}, in {added.path}")
        return added.version

    async def _find(self, registry: Registry, name: str, version: int | str | None) -> tuple[Added, str]:
        """The version that is meant, and its folder in the store."""
        model, wanted = split_reference(name, "" if version is None else version)
        state, _ = await registry.read()
        number = find_version(state, model, wanted or "latest")
        added = state.models[model][number - 1].added
        [place] = await registry.places([added])
        return added, place

    async def _download(self, name: str, local: Path, version: int | str | None) -> Path:
        registry = Registry(self._store())
        added, place = await self._find(registry, name, version)
        id = f"{added.model}@{added.version}"
        data = await registry.store.read(f"{place}/{manifest.NAME}")
        if data is None or manifest.digest(data) != added.digest:
            raise Corrupted(
                f"{registry.store.local(place)} is not {id} as it was added.",
                hint="Bring it back from the store's trash, or take another version.",
            )
        files = manifest.read(data).files
        wanted = [Wanted(f.path, str(local.joinpath(*parts(f.path))), f.size, f.sha256) for f in files]
        total = sum(f.size for f in files)
        with Line(f"{id} down") as line:
            await registry.store.get_files(wanted, place, lambda n, _: line.add(n, total))
            await asyncio.to_thread(atomic.write_bytes, local / manifest.NAME, data)
        print(f"{id} is in {local}: {len(files)} files, {formats.size(total)}, each as its sha256 says.")
        return local

    async def _save(self, name: str, data: bytes) -> None:
        await self._store().write(await self._kept_at(name), data)

    async def _load(self, name: str) -> dict[str, Any]:
        store = self._store()
        data = await store.read(await self._kept_at(name))
        if data is None:
            added, place = await self._find(Registry(store), name, None)
            data = await store.read(f"{place}/metadata.json")
            if data is None:
                id = f"{added.model}@{added.version}"
                raise HybridError(f"{id} has lost its metadata.json.", hint="Bring it back from the store's trash.")
        try:
            found = json.loads(data)
        except ValueError as error:
            raise HybridError(f"The metadata of {name} is not valid JSON ({error}).") from None
        if not isinstance(found, dict):
            raise HybridError(f"The metadata of {name} is not a JSON object.")
        return found

    async def _kept_at(self, name: str) -> str:
        """Where ``save_metadata`` keeps it: by the version's number, whatever alias was given."""
        model, wanted = split_reference(name)
        if not wanted:
            return f"{METADATA}/{model}.json"
        state, _ = await Registry(self._store()).read()
        return f"{METADATA}/{model}@{find_version(state, model, wanted)}.json"

    def __repr__(self) -> str:
        store = self._store()
        return f"GoogleDriveManager({store.label}: {store.local('docs').removesuffix('/docs')})"
