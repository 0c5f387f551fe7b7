"""Random trees and clean-ups while all changes under them: ``python -m tests.storage.cleaning.fuzz --rounds 10000``.

Before any step of a clean-up, files appear in the trees, vanish, are changed, swapped for symbolic links, moved in from
outside, hard-linked and re-created, at their old place and in the trash; some clean-ups are killed. Each content is
unique, so that one can be told from another wherever it ends up. What must hold, whatever happens:

- what lies outside the plan is, to the byte and the second, where the attacker left it;
- whatever appeared or was changed in a tree exists, at its old place or in a batch that the trash lists;
- nothing is lost at all unless it was to be freed at once;
- an undo without disturbance is identical: content, permissions, times, links.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from services import workspace as workspaces
from services.errors import HybridError
from services.storage.cleaning import quarantine
from services.storage.cleaning.store import Store
from services.storage.cleaning.work import Cleaner
from tests.storage.cleaning.beds import Print, batches, fingerprint, grow, plan_of, undo_all


class Killed(BaseException):
    """Stands for kill -9: no code of ours catches it."""


class Round:
    """One tree, one clean-up, one attacker, all from ``seed``."""

    def __init__(self, base: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.base = base
        self.workspace = workspaces.init(base / "work")
        self.store = Store(self.workspace)
        self.data = base / "data"
        self.outside = base / "outside"
        self.count = 0
        self.planned: set[bytes] = set()
        self.protected: set[bytes] = set()
        self.now = self.rng.random() < 0.5
        self.hostile = self.rng.random() < 0.7
        self.kill_at = self.rng.randrange(1, 30) if self.rng.random() < 0.4 else 0
        self.steps = 0
        self.attacks = 0
        self.killed = False
        self.overwritten: set[bytes] = set()
        self.lossy = False

    def token(self) -> bytes:
        self.count += 1
        return b"<%d>" % self.count

    def run(self) -> None:
        self._prepare()
        stored = plan_of(self.workspace, self.tops, self.data)
        assert len(stored.targets) == len(self.tops), stored.plan.held
        if self.hostile and self.rng.random() < 0.5:
            self._attack()
        try:
            self._execute(stored.plan.id)
        except Killed:
            self.killed = True
            self._recover()
        self._check_after()
        self._check_undo()

    def _prepare(self) -> None:
        def protect() -> bytes:
            token = self.token()
            self.protected.add(token)
            return token

        def plan() -> bytes:
            token = self.token()
            self.planned.add(token)
            return token

        self.tops = []
        for number in range(self.rng.randrange(1, 4)):
            top = self.data / f"group{number}" / "tree"
            if self.rng.random() < 0.15:
                top.parent.mkdir(parents=True)
                top.write_bytes(plan())
            else:
                grow(top, self.rng, plan, entries=self.rng.randrange(0, 25))
            (top.parent / "neighbour").write_bytes(protect())
            self.tops.append(top)
        grow(self.outside, self.rng, protect, entries=8)
        for link in range(self.rng.randrange(3)):  # a planned file with a name outside, which keeps it
            if files := [p for p in self._entries() if p.is_file() and not p.is_symlink()]:
                os.link(self.rng.choice(files), self.base / f"link{link}")
        self.before = fingerprint(self.data)
        self.outside_before = fingerprint(self.outside)

    def _execute(self, plan: str) -> None:
        with self.store.lock():
            self.stored = self.store.plan(plan)
            try:
                # Between two threads the attacker would meet the instant between a look and its unlink
                with mock.patch.object(quarantine, "AT_TWO", quarantine.AT_TWO if self.hostile else 1):
                    self.done = Cleaner(self.store, step=self._step).execute(self.stored, now=self.now)
            except HybridError as error:
                raise AssertionError(f"refused: {error}") from error

    def _recover(self) -> None:
        """As the next action would, itself killed at times."""
        while True:
            self.kill_at = self.steps + self.rng.randrange(1, 20) if self.rng.random() < 0.3 else 0
            try:
                with self.store.lock():
                    Cleaner(self.store, step=self._step).recover()
                return
            except Killed:
                continue

    def _step(self, _name: str) -> None:
        self.steps += 1
        if self.hostile and self.rng.random() < 0.2:
            self._attack()
        if self.steps == self.kill_at:
            raise Killed

    # The attacker

    def _entries(self) -> list[Path]:
        """Everything in the trees, wherever they lie now."""
        tops = [top for top in self.tops if os.path.lexists(top)]
        tops += [p for folder in (self.base / "work/.hybrid/trash").glob("*") for p in folder.iterdir()]
        found = []
        for top in tops:
            found.append(top)
            for here, folders, files in () if top.is_symlink() else os.walk(top):
                found += [Path(here, name) for name in [*folders, *files]]
        return found

    def _attack(self) -> None:
        entries = self._entries()
        moves = [
            self._appear, self._appear, self._change, self._swap_file, self._swap_folder, self._vanish, self._move_in,
            self._link_in, self._link_out, self._recreate, self._replace,
        ]  # fmt: skip
        self.attacks += 1
        self.rng.choice(moves)(entries)

    def _protect(self) -> bytes:
        token = self.token()
        self.protected.add(token)
        return token

    def _pick(self, entries: list[Path], kind: int) -> Path | None:
        chosen = [p for p in entries if stat.S_IFMT(os.lstat(p).st_mode) == kind]
        return self.rng.choice(chosen) if chosen else None

    def _fresh(self, entries: list[Path]) -> Path | None:
        folder = self._pick(entries, stat.S_IFDIR)
        return folder / f"new{self.token().decode()}" if folder else None

    def _appear(self, entries: list[Path]) -> None:
        if (path := self._fresh(entries)) is None:
            return
        if self.rng.random() < 0.3:
            path.mkdir()
            path = path / "inner"
        path.write_bytes(self._protect())

    def _change(self, entries: list[Path]) -> None:
        path = self._pick(entries, stat.S_IFREG)
        if path is not None and path.stat().st_nlink == 1:  # else a file outside would be changed by the attacker
            self._lose(path)
            path.write_bytes(self._protect() + b"changed")
            os.utime(path, ns=(1, self.count))

    def _lose(self, path: Path) -> None:
        """The attacker itself removes what lies there: that may be gone afterwards."""
        self.lossy = True
        if not path.is_symlink() and path.is_file():
            self.overwritten.add(path.read_bytes()[:40].split(b">")[0] + b">")

    def _swap_file(self, entries: list[Path]) -> None:
        if (path := self._pick(entries, stat.S_IFREG)) is not None:
            self._lose(path)
            path.unlink()
            path.symlink_to(self.rng.choice(list(self.outside.iterdir()) or [self.outside]))

    def _swap_folder(self, entries: list[Path]) -> None:
        path = self._pick(entries, stat.S_IFDIR)
        if path is not None and "trash" not in path.parts[-3:]:
            path.rename(self.base / f"stolen{self.count}{self.steps}")
            path.symlink_to(self.outside)

    def _vanish(self, entries: list[Path]) -> None:
        if (path := self._pick(entries, stat.S_IFREG)) is not None:
            self._lose(path)
            path.unlink()

    def _move_in(self, entries: list[Path]) -> None:
        if (path := self._fresh(entries)) is not None:
            source = self.base / f"source{self.count}{self.steps}"
            source.write_bytes(self._protect())
            source.rename(path)

    def _replace(self, entries: list[Path]) -> None:
        """An older file with the same name and size moved over a planned one."""
        if (path := self._pick(entries, stat.S_IFREG)) is not None:
            status = path.stat()
            self._lose(path)
            source = self.base / f"source{self.count}{self.steps}"
            source.write_bytes(self._protect())
            os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
            source.rename(path)

    def _link_in(self, entries: list[Path]) -> None:
        outside = [p for p in self.outside.rglob("*") if p.is_file() and not p.is_symlink()]
        if outside and (path := self._fresh(entries)) is not None:
            os.link(self.rng.choice(outside), path)

    def _link_out(self, entries: list[Path]) -> None:
        if (path := self._pick(entries, stat.S_IFREG)) is not None:
            os.link(path, self.base / f"kept{self.count}{self.steps}")

    def _recreate(self, _: list[Path]) -> None:
        """Something else at the old place."""
        top = self.rng.choice(self.tops)
        if os.path.lexists(top) or not top.parent.is_dir():
            return
        if self.rng.random() < 0.5:
            top.mkdir()
            top = top / "inner"
        top.write_bytes(self._protect())

    # What must hold

    def _contents(self, *, trash: bool) -> set[bytes]:
        found = set()
        for here, folders, files in os.walk(self.base):
            if not trash and Path(here) == self.base / "work/.hybrid":
                folders.remove("trash")
            for name in files:
                path = Path(here, name)
                if not path.is_symlink() and path.is_file():
                    with path.open("rb") as file:
                        text = file.read(40)
                    found.add(text.split(b">")[0] + b">")
        return found

    def _check_after(self) -> None:
        for batch, note in batches(self.workspace):
            assert note.phase == "trashed", (batch, note)
        self._check_outside()
        there = self._contents(trash=True)
        self.gone_by_attack = self._attacked(there)
        for token in self.protected - self.gone_by_attack:
            assert token in there, f"lost {token!r}"
        if not self.now and not self.lossy:
            assert self.planned <= there, f"lost {self.planned - there}"
        if not self.hostile and not self.killed:
            assert not self.done.held, self.done.held
            assert not any(map(os.path.lexists, self.tops))
            assert self.done.files == self.stored.plan.files
            assert bool(batches(self.workspace)) == (not self.now)

    def _check_outside(self) -> None:
        now: Print = fingerprint(self.outside)
        if now != self.outside_before:
            raise AssertionError(f"outside was touched: {set(now.items()) ^ set(self.outside_before.items())}")
        for top in self.tops:
            assert (top.parent / "neighbour").is_file()

    def _attacked(self, there: set[bytes]) -> set[bytes]:
        """Protected contents that a later attack removed itself; told by a log of what it overwrote."""
        return {t for t in self.protected if t not in there and t in self.overwritten}

    def _check_undo(self) -> None:
        kept = undo_all(self.workspace)
        if not self.hostile and not self.now:
            assert not kept, kept
            assert fingerprint(self.data, folder_times=not self.killed) == _timeless(self.before, self.killed)
        self._check_outside()
        there = self._contents(trash=True)
        for token in self.protected - self._attacked(there):
            assert token in there, f"lost {token!r} by the undo"
        if not kept:
            assert not batches(self.workspace), "an empty batch is left"


def _timeless(prints: Print, timeless: bool) -> Print:
    if not timeless:
        return prints
    return {k: (v[0], 0, *v[2:]) if stat.S_ISDIR(v[0]) else v for k, v in prints.items()}  # type: ignore[call-overload]


def run(rounds: int, first: int = 0, place: str | None = None) -> dict[str, int]:
    """``rounds`` rounds from seed ``first``; raises with the seed in the message. Counts of what happened."""
    counts = {"rounds": 0, "attacks": 0, "kills": 0, "steps": 0}
    home = Path(tempfile.mkdtemp(prefix="fuzz-", dir=place))
    try:
        for seed in range(first, first + rounds):
            base = home / str(seed)
            base.mkdir()
            one = Round(base, seed)
            try:
                one.run()
            except BaseException as error:
                raise AssertionError(f"seed {seed}: {error}") from error
            shutil.rmtree(base)
            counts["rounds"] += 1
            counts["attacks"] += one.attacks
            counts["kills"] += one.killed
            counts["steps"] += one.steps
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--in", dest="place", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    args = parser.parse_args()
    started = time.perf_counter()
    counts = run(args.rounds, args.first, args.place)
    print(", ".join(f"{count:,} {name}" for name, count in counts.items()), f"in {time.perf_counter() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
