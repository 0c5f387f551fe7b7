"""Cleaning, undoing, emptying, and going on after a kill: each a few phases, journalled before they begin.

move      renaming into the batch          killed here: everything goes back
verify    comparing with the plan          killed here: compared again, then kept
trashed   nothing to do                    the batch lies in the trash
purge     deleting                         killed here: the deleting goes on, a yes was given
undo      bringing back                    killed here: the bringing back goes on
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from services import atomic
from services.errors import HybridError
from services.storage import paths
from services.storage.cleaning import history, system, trash, tree
from services.storage.cleaning.guards import Guards
from services.storage.cleaning.quarantine import Batch
from services.storage.cleaning.records import StoredPlan
from services.storage.cleaning.store import Note, Store, new_id
from services.storage.reclaim import Cleaned, Event, Held, Purged, Restored

Report = Callable[[str, int, int], None]
"""Called with what is being done, files done, files in all."""


def _no_report(_stage: str, _done: int, _total: int) -> None:
    return None


def _no_step(_: str) -> None:
    return None


class Cleaner:
    """Works on one workspace's batches; the caller holds ``store.lock()``.

    ``step`` is called with a name before each step that changes anything. Setting ``stop`` ends the work soon: what was
    moved goes back, what was being deleted stays in the trash from there on.
    """

    def __init__(
        self,
        store: Store,
        *,
        stop: threading.Event | None = None,
        report: Report = _no_report,
        step: Callable[[str], None] = _no_step,
    ) -> None:
        self._store = store
        self._stop = stop or threading.Event()
        self._report = report
        self._step = step

    # Cleaning

    def execute(self, stored: StoredPlan, *, now: bool) -> Cleaned:
        """Do what a kept plan says. ``now``: delete instead of keeping in the trash.

        Raises Refused or HybridError, with everything at its old place; Stopped likewise.
        """
        started = time.perf_counter()
        plan = stored.plan
        batch_id = new_id()
        guards = Guards(self._store.workspace)
        batch, places, where, todo = self._placed(stored, batch_id, guards)
        before = trash.free_bytes(set(places))
        note = Note(
            "move", at=time.time(), began=time.time(), now=now, scope=plan.scope, places=[*map(os.fsencode, places)],
            where=where, titles=tuple(line.title for line in plan.lines[:50]),
        )  # fmt: skip
        self._begin(batch_id, plan.id, note, batch.folders)
        try:
            moved = self._moved(batch_id, batch, todo)
            self._check_moved(batch, moved)
            self._write(batch_id, Note("purge" if now else "verify", rebuilt=[*batch.rebuilt], stamps=batch.stamps))
            self._sync(batch)
            if not now:
                self._verify(batch)
        except (tree.Stopped, OSError) as error:
            kept = self._roll_back(batch_id, batch, note)
            if isinstance(error, OSError):
                raise _failed(error, kept) from error
            raise
        if now:
            self._purge(batch, plan.files)
        left = self._finish(batch_id, note, batch, "freed" if now else "trashed", before)
        return Cleaned(
            plan=plan.id,
            batch=batch_id if left else "",
            scope=plan.scope,
            files=batch.files,
            freed_bytes=batch.freed,
            disk_freed_bytes=trash.free_bytes(set(places)) - before,
            seconds=time.perf_counter() - started,
            held=(*plan.held, *batch.held),
        )

    def _placed(
        self, stored: StoredPlan, batch_id: str, guards: Guards
    ) -> tuple[Batch, list[str], list[int], list[int]]:
        """The batch with a folder for each target; the trash folders; each target's; the targets that may go now."""
        finder = trash.Places(str(self._store.trash))
        places: list[str] = []
        where: list[int] = []
        reasons: dict[int, str] = {}
        for n, target in enumerate(stored.targets):
            path = target.text()
            reason = guards.path(path) or guards.user_of(target)
            place = finder.own
            try:
                place = place if reason else finder.of(path)
            except OSError as error:
                reason = f"There can be no trash on its file system: {error.strerror}."
            if reason:
                reasons[n] = reason
            if place not in places:
                places.append(place)
            where.append(places.index(place))
        folders = [f"{places[index]}/{batch_id}" for index in where]
        batch = self._batch(stored, folders)
        for n, reason in reasons.items():
            batch.hold(n, reason)
        return batch, places, where, [n for n in range(len(stored.targets)) if n not in reasons]

    def _batch(self, stored: StoredPlan, folders: list[str]) -> Batch:
        total = stored.plan.files
        return Batch(
            stored, folders, stop=self._stop, report=lambda done: self._report("clean", done, total), step=self._step
        )

    def _begin(self, batch_id: str, plan_id: str, note: Note, folders: list[str]) -> None:
        """From here on the batch exists. Raises HybridError when its journal can't be written: nothing was touched."""
        store = self._store
        try:
            self._step("begin")
            store.begin(batch_id, plan_id)
            try:
                self._write(batch_id, note)
            except OSError:
                (store.batches / f"{batch_id}.log").unlink(missing_ok=True)
                (store.batches / f"{batch_id}.plan").rename(store.plans / plan_id)
                raise
            for folder in sorted(set(folders)):
                os.mkdir(folder, 0o700)
        except OSError as error:
            self._remove_folders(folders)
            store.forget(batch_id)
            raise _failed(error) from error

    def _write(self, batch_id: str, note: Note) -> None:
        self._step(f"journal {note.phase}")
        self._store.with_room(lambda: self._store.journal(batch_id).write(note))

    def _moved(self, batch_id: str, batch: Batch, todo: list[int]) -> list[int]:
        moved = []
        for n in todo:
            if self._stop.is_set():
                raise tree.Stopped
            if batch.move(n, lambda: self._write(batch_id, Note("move", rebuilt=[*batch.rebuilt]))):
                moved.append(n)
        return moved

    def _check_moved(self, batch: Batch, moved: list[int]) -> None:
        """What was opened meanwhile, or has a file system mounted in it, goes back."""
        guards = Guards(self._store.workspace)
        for n in moved:
            place = f"{batch.folders[n]}/{n}"
            reason = guards.user_of(batch.targets[n], partial(batch.has, n))
            if mount := next((point for point in guards.mounts if system.below(point, place)), ""):
                reason = f"Something was mounted in it meanwhile, at {paths.shown(mount[len(place) :] or mount)}."
            if reason:
                batch.hold(n, reason)
                batch.held += batch.restore(n)

    def _sync(self, batch: Batch) -> None:
        for folder in set(batch.folders):
            atomic.sync_directory(Path(folder))

    def _verify(self, batch: Batch) -> None:
        for n in range(len(batch.targets)):
            if batch.lies_there(n):
                batch.verify(n)

    def _purge(self, batch: Batch, total: int) -> None:
        """Delete until done or stopped; what is then left lies in the trash."""
        self._report("delete", 0, total)
        with contextlib.suppress(tree.Stopped):
            for n in range(len(batch.targets)):
                if batch.lies_there(n):
                    batch.purge(n)

    def _roll_back(self, batch_id: str, batch: Batch, note: Note) -> list[Held]:
        """Put everything back; what could not go back. When even that can't be noted, the next action does it."""
        kept: list[Held] = []
        for n in reversed(range(len(batch.targets))):
            kept += batch.restore(n)
        with contextlib.suppress(OSError):
            self._settle(batch_id, note, batch)
        return kept

    # Ends

    def _finish(self, batch_id: str, note: Note, batch: Batch, what: str, before: int) -> bool:
        """Write the history, then end the batch or leave it in the trash. Whether anything of it is left there."""
        folders = set(batch.folders)
        freed = trash.free_bytes({os.path.dirname(f) for f in folders}) - before
        event = Event(
            at=note.began or time.time(),
            what=what,  # type: ignore[arg-type]
            scope=note.scope or "",
            bytes=batch.freed if what in ("freed", "purged") else batch.bytes,
            disk_freed_bytes=freed if what in ("freed", "purged") else 0,
            files=batch.files,
            batch=batch_id,
        )
        if batch.files or event.bytes:
            self.remember(event)
        return self._settle(batch_id, note, batch, whole=what == "trashed")

    def remember(self, event: Event) -> None:
        """Append to the history, once."""
        path = self._store.folder / "history.jsonl"
        self._step("history")
        if not history.has(path, event):
            self._store.with_room(lambda: history.append(path, event))

    def _settle(self, batch_id: str, note: Note, batch: Batch, *, whole: bool = False) -> bool:
        """End a batch of which nothing is left, or note that the rest lies in the trash. Whether anything is left."""
        left = [n for n in range(len(batch.targets)) if batch.lies_there(n)]
        if left:
            files, size = (batch.files, batch.bytes) if whole and not batch.held else self._measured(batch, left)
            self._write(batch_id, Note("trashed", files=files, size=size, partly=not whole))
            return True
        self._write(batch_id, Note("done"))
        self._remove_folders(batch.folders)
        self._store.forget(batch_id)
        return False

    @staticmethod
    def _measured(batch: Batch, left: list[int]) -> tuple[int, int]:
        """Files and bytes of what lies in the batch; a file with several names counts once."""
        files = blocks = 0
        seen: set[tuple[int, int]] = set()
        for n in left:
            with contextlib.suppress(tree.Unfit, OSError), batch.folder(n) as fd:
                row, dirs = tree.snapshot(fd, str(n))
                blocks += sum(d.blocks for d in dirs)
                for found in [row] if row is not None else [r for d in dirs for r in d.rows]:
                    files += 1
                    if found[6] == 1 or (found[1], found[2]) not in seen:
                        blocks += found[5]
                        seen.add((found[1], found[2]))
        return files, blocks * 512

    @staticmethod
    def _remove_folders(folders: list[str]) -> None:
        for folder in set(folders):
            with contextlib.suppress(OSError):
                os.rmdir(folder)

    # Batches in the trash

    def _opened(self, batch_id: str, note: Note) -> Batch:
        """Raises HybridError when its files are damaged or its disk is not mounted."""
        places = [os.fsdecode(place) for place in note.places or []]
        if missing := [place for place in places if not os.path.isdir(place)]:
            raise HybridError(
                f"The trash folder {paths.shown(missing[0])} of the clean-up {batch_id} can't be reached.",
                hint="Mount its disk again; until then what lies there is left alone.",
            )
        batch = self._batch(self._store.stored(batch_id), [f"{places[i]}/{batch_id}" for i in note.where or []])
        batch.rebuilt = set(note.rebuilt or [])
        batch.stamps = dict(note.stamps or {})
        return batch

    def undo(self, batch_id: str, note: Note) -> Restored:
        """Bring a batch back, over nothing. Raises HybridError when its journal can't be written."""
        batch = self._opened(batch_id, note)
        before = self._measured(batch, range(len(batch.targets)))  # type: ignore[arg-type]
        began = time.time()
        try:
            self._write(batch_id, Note("undo", began=began))
        except OSError as error:
            raise _failed(error) from error
        kept: list[Held] = []
        for n in reversed(range(len(batch.targets))):
            if self._stop.is_set():
                break  # the rest stays in the trash, whole
            kept += batch.restore(n)
            self._report("restore", len(batch.targets) - n, len(batch.targets))
        left = [n for n in range(len(batch.targets)) if batch.lies_there(n)]
        after = self._measured(batch, left) if left else (0, 0)
        files, size = before[0] - after[0], before[1] - after[1]
        if files or size:
            self.remember(Event(began, "restored", note.scope or "", size, 0, files, batch_id))
        self._settle(batch_id, note, batch)
        return Restored(batch_id, files, size, tuple(kept))

    def purge(self, batches: list[tuple[str, Note]]) -> Purged:
        """Delete batches for good; what the plan of one did not show goes back to its old place."""
        folders = {os.fsdecode(place) for _, note in batches for place in note.places or []}
        before = trash.free_bytes(folders)
        done: list[str] = []
        files = freed = 0
        notes: list[str] = []
        for batch_id, note in batches:
            if self._stop.is_set():
                break
            try:
                batch = self._purged(batch_id, note)
            except HybridError as error:  # the others go all the same
                notes.append(f"{error} {error.hint}".strip())
                continue
            done.append(batch_id)
            files += batch.files
            freed += batch.freed
            notes += [f"{held.path}: {held.reason}" for held in batch.held]
        return Purged(tuple(done), files, freed, trash.free_bytes(folders) - before, tuple(notes))

    def _purged(self, batch_id: str, note: Note) -> Batch:
        batch = self._opened(batch_id, note)
        folders = {os.path.dirname(f) for f in batch.folders}
        before = trash.free_bytes(folders)
        began = time.time()
        try:
            self._write(batch_id, Note("purge", began=began))
        except OSError as error:
            raise _failed(error) from error
        guards = Guards(self._store.workspace)
        self._report("delete", 0, note.files or 0)
        with contextlib.suppress(tree.Stopped):
            for n in range(len(batch.targets)):
                if not batch.lies_there(n):
                    continue
                place = f"{batch.folders[n]}/{n}"
                reason = guards.user_of(batch.targets[n], partial(batch.has, n))
                if any(system.below(point, place) for point in guards.mounts):
                    reason = "Something is mounted in it."
                if reason:
                    batch.hold(n, f"{reason} It stays in the trash.")
                else:
                    batch.purge(n)
        what = "freed" if note.now else "purged"
        self._finish(batch_id, Note("purge", at=note.at, began=began, scope=note.scope), batch, what, before)
        return batch

    # After a kill

    def recover(self) -> list[str]:
        """End what a killed clean-up left, in its own direction. One sentence for each; usually none."""
        said: list[str] = []
        for batch_id in reversed(self._store.ids()):
            try:
                self._end(batch_id, said)
            except HybridError as error:  # the others are ended all the same
                said.append(f"{error} {error.hint}".strip())
        return said

    def _end(self, batch_id: str, said: list[str]) -> None:
        log = self._store.batches / f"{batch_id}.log"
        note = self._store.journal(batch_id).read() if log.exists() else None
        if note is None:  # killed before anything was moved
            self._store.forget(batch_id)
        elif note.phase == "done":
            self._remove_folders([f"{os.fsdecode(place)}/{batch_id}" for place in note.places or []])
            self._store.forget(batch_id)
        elif note.phase != "trashed":
            said.append(self._recovered(batch_id, note))

    def _recovered(self, batch_id: str, note: Note) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(note.at or 0))
        batch = self._opened(batch_id, note)
        files = batch.files
        if note.phase == "verify":
            self._verify(batch)
            self._finish(batch_id, note, batch, "trashed", 0)
            return f"A clean-up of {when} had been interrupted; it was checked, and what it moved lies in the trash."
        if note.phase == "purge":
            purged = self._purged(batch_id, note)
            return f"Deleting that was interrupted ({when}) went on: {purged.files:,} files."
        for n in reversed(range(len(batch.targets))):
            files += len(batch.restore(n))
        self.remember(Event(note.began or 0, "recovered", note.scope or "", 0, 0, 0, batch_id))
        if self._settle(batch_id, note, batch):
            return f"A clean-up of {when} had been interrupted; what could not be put back lies in the trash."
        return f"A clean-up of {when} had been interrupted; everything it had moved was put back."


def _failed(error: OSError, kept: Sequence[Held] = ()) -> HybridError:
    """Why the clean-up can't keep its books, without which it does nothing; what of it is ``kept`` in the trash."""
    reasons = {
        errno.ENOSPC: "the disk is so full that not even its journal can be written",
        errno.EDQUOT: "your quota is so full that not even its journal can be written",
        errno.EROFS: "the workspace lies on a file system that is mounted read-only",
        errno.ENOENT: "another one has executed this plan",
    }
    reason = reasons.get(error.errno or 0, f"its journal can't be written ({error.strerror})")
    hint = "Make a little room by hand, then try again." if error.errno == errno.ENOSPC else ""
    if kept:
        hint += (
            f" {len(kept)} of its paths could not be put back and lie in the trash: {kept[0].path} ({kept[0].reason})"
        )
    return HybridError(f"Nothing was cleaned: {reason}.", hint=hint)
