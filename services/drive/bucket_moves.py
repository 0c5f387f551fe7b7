"""Moving in a bucket, where there are no folders and nothing can be renamed: objects are copied, then deleted.

A folder's move is made of many requests and may be cut off between any two of them, or be made by two processes at
once. The order keeps that harmless. Files are copied first and the manifest last, so a folder whose manifest is at the
new place is complete there; the old place loses its manifest last, so what is left of it can still be recognised.
Whoever comes next finishes the move. Until then both places may exist: readers that compare the manifest's digest, as
the registry does, take the new place once its manifest is there, and the old one before.
"""

from __future__ import annotations

import asyncio

from services.drive.bucket_objects import Found, Objects

MANIFEST = "manifest.json"
_SMALL = 8 << 20


async def move(objects: Objects, key: str, to: str) -> bool:
    """Move an object or a folder. False when ``key`` is not there or ``to`` holds something else."""
    single = await objects.head(key)
    if single is not None:
        return await _move_one(objects, single, to)
    source = {f.key.removeprefix(f"{key}/"): f for f in await objects.below(key)}
    if not source or await objects.head(to) is not None:
        return False
    target = {f.key.removeprefix(f"{to}/"): f for f in await objects.below(to)}
    if MANIFEST in target and MANIFEST in source:
        if not await _same(objects, source[MANIFEST], target[MANIFEST]):
            return False
    elif not await _is_begun_copy(objects, source, target):
        return False
    else:
        for batch in (set(source) - {MANIFEST}, set(source) & {MANIFEST}):
            copied = await asyncio.gather(*(objects.copy(source[name], f"{to}/{name}") for name in sorted(batch)))
            if not all(copied):  # another process finished the move meanwhile
                break
        if not all(copied) and not await _complete(objects, source, to):
            return False
    await objects.delete([f.key for name, f in source.items() if name != MANIFEST])
    await objects.delete([f.key for name, f in source.items() if name == MANIFEST])
    return True


async def _move_one(objects: Objects, found: Found, to: str) -> bool:
    if await objects.below(to):
        return False
    if found.size <= _SMALL:
        data = await objects.read(found.key)
        if data is None or await objects.put(to, data, found.sha256, new=True) is None:
            return False
    elif await objects.head(to) is not None or not await objects.copy(found, to):
        return False
    await objects.delete([found.key])
    return True


async def _is_begun_copy(objects: Objects, source: dict[str, Found], target: dict[str, Found]) -> bool:
    """Whether all that lies at the new place was copied there from the old one by a move that was cut off."""
    if not target.keys() <= source.keys():
        return False
    return all([await _same(objects, source[name], there) for name, there in target.items()])


async def _same(objects: Objects, one: Found, other: Found) -> bool:
    """Whether two objects hold the same bytes, as their tags, declared checksums or small contents tell."""
    if one.size != other.size:
        return False
    if one.etag and one.etag == other.etag:
        return True
    declared = await objects.heads([one, other])
    if len(declared) == 2 and all(f.sha256 for f in declared):
        return declared[0].sha256 == declared[1].sha256
    if one.size > _SMALL:
        return False
    data = await objects.read(one.key)
    return data is not None and data == await objects.read(other.key)


async def _complete(objects: Objects, source: dict[str, Found], to: str) -> bool:
    there = {f.key.removeprefix(f"{to}/"): f.size for f in await objects.below(to)}
    return all(there.get(name) == f.size for name, f in source.items())


async def throw_away(objects: Objects, keys: list[str], place: str) -> None:
    """Move objects below ``place``, copying all before the first is deleted. Those gone are left out."""
    found = [f for f in await asyncio.gather(*(objects.head(key) for key in keys)) if f is not None]
    copied = await asyncio.gather(*(objects.copy(f, f"{place}/{f.key}") for f in found))
    await objects.delete([f.key for f, done in zip(found, copied, strict=True) if done])
