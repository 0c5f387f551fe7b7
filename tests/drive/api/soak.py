"""Many transfers, faults of every kind, and ``kill -9`` of the client at random: ``python -m tests.drive.api.soak``.

Half of the transfers go up (a quarter of these replace a file), half come down. The server strikes at random, from a
seed; the client process is killed and started anew until all is done. At the end the faults are lifted and both sides
compared by sha256. Bytes are counted by the server, bodies only. What a killed client had under way counts as sent,
also the megabytes a line that lay in the kernel's buffers and that no client ever saw: the share of bytes sent twice
errs on the high side, the more so the busier the machine is.

A transfer that Drive refused for good (full storage, corruption every time) is started again by the driver, as a
person would, and counted.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from services.drive.api.client import DriveClient
from services.drive.api.http import Retry
from services.drive.api.pacing import Bucket, Pace
from services.errors import HybridError
from tests.drive_bed.serve import CHECKOUT, Account, DriveServer, running

KB, MB = 1 << 10, 1 << 20
AT_ONCE = 8
UP, DOWN = "/upload/", "alt=media"

STATUSES: list[dict[str, Any]] = [
    {"status": 500, "reason": "internalError"},
    {"status": 503, "reason": "backendError", "retry_after": 0},
    {"status": 429, "reason": "rateLimitExceeded"},
    {"status": 403, "reason": "rateLimitExceeded"},
    {"status": 403, "reason": "userRateLimitExceeded"},
    {"status": 401, "reason": "authError"},
]
# A status in answer to a body makes all of it travel twice, whatever a client does, so there these are rarer.
PLAIN: list[dict[str, Any]] = [
    *({**fault, "probability": 0.02} for fault in STATUSES),
    {"latency": 0.2, "probability": 0.02},
    {"lose_reply": True, "probability": 0.02},
    {"drop_response_at": 40, "probability": 0.01},
    {"truncate_at": 30, "probability": 0.01},
]
BODIES: list[dict[str, Any]] = [
    *({**fault, "probability": 0.003} for fault in STATUSES),
    {"drop_response_at": 40, "probability": 0.005},
    {"truncate_at": 30, "probability": 0.005},
]
UPLOADS: list[dict[str, Any]] = [
    *({"drop_request_at": at, "reset": at % 2 == 1, "probability": 0.005} for at in (0, 3001, 90_000, 700_001)),
    {"lose_reply": True, "probability": 0.02},
    {"corrupt_stored": 1234, "probability": 0.002},
    {"rate": 4 * MB, "probability": 0.005},
    {"status": 403, "reason": "storageQuotaExceeded", "probability": 0.001},
]
SESSIONS: list[dict[str, Any]] = [
    {"forget_session": True, "probability": 0.002},
    {"commit_at_most": 600 * KB, "probability": 0.02},
]
DOWNLOADS: list[dict[str, Any]] = [
    *({**fault, "probability": 0.01} for fault in STATUSES),
    *({"drop_response_at": at, "reset": at % 2 == 1, "probability": 0.01} for at in (0, 5001, 90_000, 700_001)),
    {"truncate_at": 50_000, "probability": 0.005},
    {"corrupt_at": 2345, "probability": 0.002},
    {"rate": 4 * MB, "probability": 0.005},
    {"status": 403, "reason": "downloadQuotaExceeded", "probability": 0.001},
]


class Job(msgspec.Struct, frozen=True):
    """One transfer: ``id`` of the file on Drive that is fetched or replaced, "" for a new one."""

    number: int
    up: bool
    name: str
    size: int
    id: str = ""


class Work(msgspec.Struct, frozen=True):
    """What the client process is given."""

    url: str
    place: str
    folder: str
    jobs: list[Job]


class Summary(msgspec.Struct, frozen=True):
    """How it went. Bytes; ``failures`` are transfers that ended in an error and were started again."""

    transfers: int
    payload: int
    carried: int
    faults: int
    kills: int
    failures: int
    retries: int
    different: list[str]
    duplicates: list[str]
    strays: list[str]
    seconds: float

    @property
    def twice(self) -> float:
        """Share of bytes that travelled more than once."""
        return self.carried / self.payload - 1

    def text(self) -> str:
        """For a person."""
        mb = 1e6
        return "\n".join(
            (
                f"transfers            {self.transfers}, {self.payload / mb:,.0f} MB, in {self.seconds:.0f} s",
                f"faults that struck   {self.faults}",
                f"kill -9              {self.kills}",
                f"started again        {self.failures} (refused for good: full storage, quota of downloads)",
                f"requests repeated    {self.retries} (by processes that were not killed)",
                f"different by sha256  {len(self.different)} {self.different[:5] or ''}",
                f"duplicates           {len(self.duplicates)} {self.duplicates[:5] or ''}",
                f"left over            {len(self.strays)} {self.strays[:5] or ''}",
                f"bytes sent twice     {(self.carried - self.payload) / mb:,.1f} MB, {self.twice:.2%}",
            )
        )


# the client process


async def work(told: Work) -> None:
    """Do what is not done yet; a line in ``done`` for each transfer that ended well."""
    server = DriveServer(told.url, Path(told.place))
    account = server.account()
    place = Path(told.place)
    with (place / "done").open("a", buffering=1) as done, (place / "failed").open("a", buffering=1) as failed:
        finished = {int(line) for line in (place / "done").read_text().split()}
        todo = iter([job for job in told.jobs if job.number not in finished])
        boundless = Pace(Bucket(1e12, 1e9), Bucket(1e12, 1e9))
        retry = Retry(first=0.02, most=0.5, tries=12, stall=10)
        async with DriveClient(
            server.tokens(account), server.settings(account), place / "state", retry=retry, pace=boundless
        ) as client:

            async def line() -> None:
                for job in todo:
                    while True:
                        try:
                            await transfer(client, job, place, told.folder)
                            break
                        except HybridError as error:
                            failed.write(f"{job.number} {type(error).__name__}: {error}\n")
                    done.write(f"{job.number}\n")

            await asyncio.gather(*(line() for _ in range(AT_ONCE)))
            (place / "retries").write_text(str(client.stats.retries))


async def transfer(client: DriveClient, job: Job, place: Path, folder: str) -> None:
    """One transfer, as the program does it."""
    if job.up:
        await client.upload(place / "up" / job.name, job.name, folder, lambda n: None, replace=job.id)
        return
    file = await client.get(job.id)
    if file is None:
        raise HybridError(f"{job.name} is not there")
    await client.download(file, place / "down" / job.name, lambda n: None)


# the driver


def size_of(dice: random.Random) -> int:
    """Mostly small files, some of a few megabytes, few of many."""
    kind = dice.random()
    if kind < 0.7:
        return dice.randrange(0, 300 * KB)
    if kind < 0.97:
        return dice.randrange(300 * KB, 6 * MB)
    return dice.randrange(6 * MB, 40 * MB)


def prepare(server: DriveServer, account: Account, place: Path, transfers: int, dice: random.Random) -> Work:
    """The files on both sides."""
    folder = account.put("soak")
    (place / "up").mkdir()
    (place / "made").mkdir()
    jobs: list[Job] = []
    for number in range(transfers):
        up, size, name = number % 2 == 0, size_of(dice), f"file{number:05d}.bin"
        local = place / ("up" if up else "made") / name
        local.write_bytes(dice.randbytes(size))
        id = ""
        if not up or number % 8 == 0:
            about = {"path": str(local)} if not up else {"text": "old"}
            made = server.call("put", email=account.email, client=account.client, name=name, parent=folder, **about)
            id = made["id"]
        jobs.append(Job(number, up, name, size, id))
    dice.shuffle(jobs)
    return Work(server.url, str(place), folder, jobs)


def strike(server: DriveServer, seed: int) -> list[int]:
    """Put all faults in force, for ever."""
    bodies = "uploadType=multipart|upload_id="
    plain = "^/drive/v3/(?!.*alt=media)|uploadType=resumable(?!.*upload_id)"
    rules = [(plain, PLAIN), (bodies, BODIES), (UP, UPLOADS), ("upload_id=", SESSIONS), (DOWN, DOWNLOADS)]
    return [
        server.fault(path=path, times=0, seed=seed * 1000 + index * 100 + place, **fault)
        for index, (path, faults) in enumerate(rules)
        for place, fault in enumerate(faults)
    ]


def drive(told: Work, kills: int, dice: random.Random) -> int:
    """Run clients until all is done, killing them now and then; how many were killed."""
    place = Path(told.place)
    (place / "done").touch()
    given = place / "work.json"
    given.write_bytes(msgspec.json.encode(told))
    marks = sorted(dice.sample(range(len(told.jobs) - 1), kills))
    killed = 0
    while True:
        child = subprocess.Popen([sys.executable, "-m", "tests.drive.api.soak", "--work", str(given)], cwd=CHECKOUT)
        while child.poll() is None:
            time.sleep(0.01)
            if killed < kills and len((place / "done").read_bytes().splitlines()) > marks[killed]:
                time.sleep(dice.random() * 0.2)
                child.send_signal(signal.SIGKILL)
                child.wait()
                killed += 1
        if child.returncode == 0:
            return killed
        if child.returncode != -signal.SIGKILL:
            raise SystemExit(f"the client process ended with {child.returncode}")


def compare(server: DriveServer, told: Work) -> tuple[list[str], list[str], list[str]]:
    """Names that differ by sha256, names that are there twice, and what should not be there at all."""
    place = Path(told.place)
    held: dict[str, list[Path]] = {}
    for one in server.files:
        if one.parents == (told.folder,) and not one.trashed:
            held.setdefault(one.name, []).append(Path(one.path))
    different = []
    for job in told.jobs:
        local = place / ("up" if job.up else "down") / job.name
        there = held.get(job.name, [])
        if not there or not local.exists() or digest(local) != digest(there[0]):
            different.append(job.name)
    names = {job.name for job in told.jobs}
    down = {path.name for path in (place / "down").iterdir()}
    strays = sorted((held.keys() - names) | (down - {job.name for job in told.jobs if not job.up}))
    return different, sorted(name for name, paths in held.items() if len(paths) > 1), strays


def digest(path: Path) -> str:
    """The sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def carried(server: DriveServer) -> int:
    """Bytes of files that travelled, as the server counts them."""
    up = sum(one.bytes_in for one in server.requests if UP in one.path)
    return up + sum(one.bytes_out for one in server.requests if DOWN in one.query and one.status in (200, 206))


def soak(place: Path, transfers: int, kills: int, seed: int) -> Summary:
    """The whole of it."""
    dice = random.Random(seed)
    with running(place / "server") as server:
        account = server.account(limit=None)
        told = prepare(server, account, place, transfers, dice)
        rules = strike(server, seed)
        begun = time.monotonic()
        killed = drive(told, kills, dice)
        seconds = time.monotonic() - begun
        struck = sum(server.hits(rule) for rule in rules)
        server.clear()
        different, duplicates, strays = compare(server, told)
        failed = (place / "failed").read_text().splitlines()
        return Summary(
            transfers=transfers,
            payload=sum(job.size for job in told.jobs),
            carried=carried(server),
            faults=struck,
            kills=killed,
            failures=len(failed),
            retries=int((place / "retries").read_text()),
            different=different,
            duplicates=duplicates,
            strays=strays,
            seconds=seconds,
        )


def main() -> int:
    """Exit code 0 when nothing is wrong and at most 5 % were sent twice."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transfers", type=int, default=2000)
    parser.add_argument("--kills", type=int, help="how often the client is killed (one for eighty transfers)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--in", dest="place", type=Path, help="a folder for the files (a temporary one)")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.work:
        asyncio.run(work(msgspec.json.decode(told.work.read_bytes(), type=Work)))
        return 0
    kills = told.transfers // 80 if told.kills is None else told.kills
    with tempfile.TemporaryDirectory(prefix="soak-", dir=told.place) as place:
        summary = soak(Path(place), told.transfers, kills, told.seed)
    print(summary.text())
    wrong = summary.different or summary.duplicates or summary.strays or summary.twice > 0.05
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
