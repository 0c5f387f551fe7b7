"""Is a local folder what lies in the store? Every file by checksum, as far as anybody knows one."""

from __future__ import annotations

import asyncio
from pathlib import Path

from services.drive.store import Store, Stored
from services.transfers import plan
from services.transfers.local import LocalFile
from services.transfers.manifest import MANIFEST, local_manifest, stored_manifest
from services.transfers.plan import Told
from services.transfers.types import By, Verified

_MOST = 200  # names of one kind that a result holds


async def verify(store: Store, local: Path, folder: str, only: str, told: Told) -> Verified:
    """Compare ``local`` with the store's ``folder``. A plain folder's bytes are read, on both sides.

    manifest.json, when there is one, must agree as well: with the local bytes, and with the store's own checksums.
    """
    found = await plan.compare(store, "pull", local, folder, only, told)
    there = {p.plan.path: p.there for p in found.pairs if p.there}
    entries = await asyncio.to_thread(local_manifest, local)
    expected = {**await stored_manifest(store, folder, there), **{path: e.sha256 for path, e in entries.items()}}
    by: dict[By, int] = {"sha256": 0, "md5": 0, "size": 0}
    changed = [p.plan.path for p in found.of("changed")]
    problems: list[str] = []
    good = 0
    for pair in found.of("same"):
        assert pair.here and pair.there
        how, same = pair.plan.by, True
        if store.kind == "folder" and not pair.there.sha256:
            same, how = await _read_both(store, folder, pair.here, pair.there, told), "sha256"
        by[how] += 1
        if not same:
            changed.append(pair.plan.path)
            continue
        good += pair.plan.bytes
        problems += await _against_manifest(pair.here, pair.there, expected.get(pair.plan.path, ""), told)
    problems += [f"{p.plan.path!r} in the store can't be fetched: {p.plan.why}." for p in found.of("skipped")]
    missing = [p.plan.path for p in found.of("new")]
    lost = sorted(expected.keys() - there.keys() - ({*expected} - {only} if only else set()))
    problems += [f"{path!r} is in {MANIFEST} and not in the store." for path in lost]
    return Verified(
        local=str(local), store=store.local(folder), ok=not (missing or changed or problems),
        files=len(found.of("same")), bytes=good, by_sha256=by["sha256"], by_md5=by["md5"], by_size=by["size"],
        manifest=_manifest_words(len(expected), bool(problems or changed or missing)),
        missing=tuple(missing[:_MOST]), changed=tuple(changed[:_MOST]),
        extra=tuple(p.plan.path for p in found.of("extra"))[:_MOST], problems=tuple(problems[:_MOST]),
    )  # fmt: skip


def _manifest_words(entries: int, trouble: bool) -> str:
    return "none" if not entries else "differs" if trouble else f"agrees, {plan.files(entries)}"


async def _read_both(store: Store, folder: str, here: LocalFile, there: Stored, told: Told) -> bool:
    place = store.local(f"{folder}/{there.path}")
    return await plan.summed(here.local, "sha256", told) == await plan.summed(place, "sha256", told)


async def _against_manifest(here: LocalFile, there: Stored, wanted: str, told: Told) -> list[str]:
    """What manifest.json says against the bytes here and the store's own checksum."""
    if not wanted:
        return []
    if there.sha256 and there.sha256 != wanted:
        return [f"{here.path!r} in the store is not what {MANIFEST} says."]
    if not there.sha256 and await plan.summed(here.local, "sha256", told) != wanted:
        return [f"{here.path!r} here is not what {MANIFEST} says."]
    return []
