"""Single questions to Google Drive, about what docs/unverified.md says was taken from documents only.

Each is asked in a folder of its own, with requests as the program sends them. A function's first line is the question,
the rest of its text what the program assumes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable

import msgspec

from services.drive.api import wire
from services.drive.api.client import DriveClient
from services.drive.api.http import Answer
from services.drive.api.sending import query
from services.drive.api.types import DriveFile
from tests.drive.live.report import NotSeen, Other

KIB, MIB = 1 << 10, 1 << 20
_PATIENCE = 90.0  # seconds for a listing or the changes feed to show something
_ANY = tuple(n for n in range(200, 600) if n != 401)
_ALL = {"supportsAllDrives": "true"}


class Place(msgspec.Struct, frozen=True):
    """Where to ask: a folder that is ours, the scope that the account was given, My Drive or a shared drive's id."""

    client: DriveClient
    folder: str
    scope: str
    shared_drive: str


Question = Callable[[Place], Awaitable[str]]


async def bare(place: Place, method: str, path: str, **more: object) -> Answer:
    """One request, its answer as it comes."""
    return await place.client._http.once(method, path, what="asking", units=50, ok=_ANY, **more)  # type: ignore[arg-type]


async def new_id(place: Place) -> str:
    return (await place.client.new_ids())[0]


async def held(place: Place, id: str) -> DriveFile:
    file = await place.client.get(id)
    if file is None:
        raise Other(f"the file {id}, made just now, is not found by its id")
    return file


async def opened(place: Place, id: str, size: int) -> Answer:
    """An upload session for a new file."""
    metadata = {"id": id, "name": f"session {id}", "parents": [place.folder]}
    headers = {"Content-Type": "application/json", "X-Upload-Content-Length": str(size)}
    return await bare(
        place, "POST", wire.upload_path(), params=query("resumable"), headers=headers,
        body=msgspec.json.encode(metadata),
    )  # fmt: skip


async def put(place: Place, address: str, data: bytes, span: str) -> Answer:
    return await bare(place, "PUT", address, headers={"Content-Range": f"bytes {span}"}, body=data)


async def root_by_id(place: Place) -> str:
    """My Drive's root looked at with the scope drive.file

    404: the program never asks for it, and finds its folder by what it marked.
    """
    if place.scope != "drive.file" or place.shared_drive:
        raise NotSeen("the sign-in has another scope, or the store is on a shared drive")
    status = (await bare(place, "GET", wire.file_path("root"), params={"fields": "id", **_ALL})).status
    if status != 404:
        raise Other(f"status {status}")
    return "status 404"


async def put_if_absent(place: Place) -> str:
    """Two writers create one id at the same moment

    Exactly one succeeds, the other one is answered 409: the registry's log rests on it.
    """
    id = await new_id(place)
    won = await asyncio.gather(*(place.client.create("slot", place.folder, d, id=id) for d in (b"one", b"two")))
    content = await place.client.read(id)
    if sorted(won) != [False, True] or content != (b"one" if won[0] else b"two"):
        raise Other(f"told {won}, and the file holds {content!r}")
    metadata = {"id": id, "name": "slot", "parents": [place.folder]}
    again = await bare(
        place, "POST", wire.FILES_PATH, params={"fields": "id", **_ALL}, headers={"Content-Type": "application/json"},
        body=msgspec.json.encode(metadata),
    )  # fmt: skip
    if again.status != 409:
        raise Other(f"one won, but a third try was answered {again.status}")
    return "one won, the other one was refused; a third try got 409"


async def deleted_id(place: Place) -> str:
    """A file is deleted for good and its id used again

    409: an id stays taken, so a record of the log can't be replaced by deleting it.
    """
    id = await new_id(place)
    await place.client.create("gone", place.folder, b"1", id=id)
    await place.client.delete(id)
    if await place.client.create("gone", place.folder, b"2", id=id):
        raise Other("the id could be used again")
    return "refused"


async def taken_id_in_a_session(place: Place) -> str:
    """An upload session for a taken id: refused when it begins, or when it ends?

    Either will do; the program takes both for the same answer.
    """
    id = await new_id(place)
    await place.client.create("taken", place.folder, b"1", id=id)
    begun = await opened(place, id, 4)
    if begun.status == 409:
        return "409 when it begins"
    ended = await put(place, begun.headers["Location"], b"1234", "0-3/4")
    if ended.status != 409:
        raise Other(f"begun with {begun.status}, ended with {ended.status}")
    return f"{begun.status} when it begins, 409 when it ends"


async def twins(place: Place) -> str:
    """Two files of one name in one folder

    Allowed: the program finds both, says so, and never guesses which is meant.
    """
    for data in (b"1", b"2"):
        await place.client.create("twin", place.folder, data)
    await _until(lambda: _named(place, "twin", 2), "two files of the name")
    return "both are there"


async def letter_case(place: Place) -> str:
    """A search for name = 'CASE' where a file is named 'case'

    Found: names compare without case in a search; the program compares again itself.
    """
    await place.client.create("case", place.folder, b"1")
    await _until(lambda: _named(place, "case", 1), "the file by its own name")
    found = await place.client.children(place.folder, name="CASE")
    if not found:
        raise Other("not found: a search minds the case")
    return "found"


async def listing_delay(place: Place) -> str:
    """How long until a listing shows a new file

    Seconds at most; nothing is decided by a listing that does not show something.
    """
    delays = []
    for n in range(3):
        name = f"late {n}"
        await place.client.create(name, place.folder, b"1")
        delays.append(await _until(lambda name=name: _named(place, name, 1), "the file in a listing"))  # type: ignore[misc]
    return "shown after " + ", ".join(f"{delay:.1f} s" for delay in delays)


async def changes_delay(place: Place) -> str:
    """How long until the changes feed tells of a new file

    Seconds, at most minutes; what this box remembers is asked for again by id before it is relied on.
    """
    token = await place.client.changes_start()
    id = await new_id(place)
    await place.client.create("told", place.folder, b"1", id=id)

    async def told() -> bool:
        changes, _ = await place.client.changes(token)
        return any(change.id == id for change in changes)

    return f"told after {await _until(told, 'the change'):.1f} s"


async def properties(place: Place) -> str:
    """Properties whose keys hold ':', '#', '/' and '.', set one by one and searched for

    Those not named stay, and each can be searched for: the store's layout is kept in them.
    """
    made = await place.client.create_folder("marked", place.folder, properties={"a:b#c/d.e": "1"})
    changed = await place.client.change(made.id, properties={"x:y#0/z": "2"})
    if changed.properties != {"a:b#c/d.e": "1", "x:y#0/z": "2"}:
        raise Other(f"the folder has {changed.properties}")

    async def found() -> bool:
        return bool(await place.client.children(place.folder, properties={"a:b#c/d.e": "1"}))

    return f"merged, and found after {await _until(found, 'the folder by its property'):.1f} s"


async def checksums(place: Place) -> str:
    """sha256Checksum in the answer that ends an upload, of one request and of a session

    There; where it is missing the program asks once more, then takes md5.
    """
    id = await new_id(place)
    begun = await opened(place, id, 4)
    ended = wire.decode((await put(place, begun.headers["Location"], b"1234", "0-3/4")).body, wire.File).file()
    small = await place.client.replace(id, b"12345")
    lacking = [name for name, file in (("session", ended), ("one request", small)) if not file.sha256]
    if lacking:
        later = await held(place, id)
        raise Other(f"missing after: {', '.join(lacking)}; asked again: {'there' if later.sha256 else 'missing'}")
    return "there after both"


async def session_answers(place: Place) -> str:
    """A session with a gap in its bytes, and one that was cancelled

    The gap is refused with 503 and nothing of it is kept; a cancelled session answers 404 or 410.
    """
    address = (await opened(place, await new_id(place), MIB)).headers["Location"]
    data = os.urandom(256 * KIB)
    kept = await put(place, address, data, f"0-{256 * KIB - 1}/{MIB}")
    gap = await put(place, address, data, f"{512 * KIB}-{768 * KIB - 1}/{MIB}")
    after = await put(place, address, b"", f"*/{MIB}")
    cancelled = await bare(place, "DELETE", address)
    gone = await put(place, address, b"", f"*/{MIB}")
    told = (
        f"chunk {kept.status}, gap {gap.status}, then Range {after.headers.get('Range', 'none')}; "
        f"cancelling {cancelled.status}, then {gone.status}"
    )
    if (kept.status, after.status, after.headers.get("Range")) != (308, 308, f"bytes=0-{256 * KIB - 1}"):
        raise Other(told)
    if gap.status < 400 or gone.status not in (404, 410):
        raise Other(told)
    return told


async def etag(place: Place) -> str:
    """Whether a download carries an ETag

    None: that a file was not replaced between two ranges shows in the checksum of the whole.
    """
    id = await new_id(place)
    await place.client.create("ranges", place.folder, b"0123456789", id=id)
    media = {"alt": "media", **_ALL}
    answer = await bare(place, "GET", wire.file_path(id), params=media, headers={"Range": "bytes=2-4"})
    if (answer.status, answer.body) != (206, b"234"):
        raise Other(f"bytes 2 to 4 were answered {answer.status} {answer.body!r}")
    if "ETag" in answer.headers:
        raise Other("there is one")
    return f"none; {answer.headers.get('Content-Range')}"


QUESTIONS: tuple[Question, ...] = (
    root_by_id, put_if_absent, deleted_id, taken_id_in_a_session, twins, letter_case, listing_delay, changes_delay,
    properties, checksums, session_answers, etag,
)  # fmt: skip


async def _named(place: Place, name: str, count: int) -> bool:
    return len([f for f in await place.client.children(place.folder, name=name) if f.name == name]) == count


async def _until(condition: Callable[[], Awaitable[bool]], what: str) -> float:
    """Seconds until it holds."""
    begun = time.monotonic()
    while not await condition():
        if time.monotonic() - begun > _PATIENCE:
            raise Other(f"{what}: not within {_PATIENCE:.0f} s")
        await asyncio.sleep(0.5)
    return time.monotonic() - begun
