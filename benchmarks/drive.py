"""Our Drive client against google-api-python-client and rclone, on loopback, in one run.

``python -m benchmarks.drive [--gb 1] [--files 200] [--listed 10000] [--rounds 3] [--in DIR] [--only large,small,list]``

The server (``tests.drive_server``) has a process of its own, and every client too. Ours and Google's speak plain HTTP;
rclone comes over TLS, for it knows no other way, through HTTPS_PROXY. Floors of the large file: md5, sha256 and cp of
the same file, read from the page cache as the clients read it. The server knows the large file's checksums beforehand
(Google's machines compute them, not yours) and compares every byte with it. Methods take turns, and the best of each
one's rounds counts: what other programs do to the machine only ever adds. Ours verifies and flushes what it fetched;
Google's does neither, so it is also timed with a sha256 of the file afterwards ("checked"), still without the flush.
The processor's seconds are those of the client alone.
Memory (at most 64 MiB for ours) is the most a process ever held above what it held after its first small request.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.drive_bed.serve import CHECKOUT, Account, DriveServer, running

MB = 1 << 20
CHUNKS = (8 * MB, 32 * MB, 100 * MB, 256 * MB)  # of google-api-python-client, whose default is 100 MiB
RCLONE = shutil.which("rclone", path=str(Path(sys.executable).parent)) or shutil.which("rclone")


def best(call: Callable[[], float], rounds: int) -> float:
    """Of so many calls."""
    return min(call() for _ in range(rounds))


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def client(which: str, server: DriveServer, account: Account, **told: Any) -> dict[str, float]:
    """Run one client process; what it measured."""
    about = {"url": server.url, "refresh": account.refresh_token, "id_": account.client, "secret": account.secret}
    command = [sys.executable, "-m", "benchmarks.drive_clients", which, json.dumps({**about, **told})]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{which}: {done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def row(name: str, seconds: float, text: str = "") -> None:
    """One line of the table."""
    print(f"  {name:<54}{seconds:>9.3f} s   {text}", flush=True)


# one large file


def large(server: DriveServer, account: Account, place: Path, size: int, rounds: int) -> None:
    """Up and down, with floors."""
    local = place / "large.bin"
    with local.open("wb") as file:
        for _ in range(size // MB):
            file.write(os.urandom(MB))
    server.call("know", path=str(local))
    print(f"one file of {size / MB:,.0f} MiB, best of {rounds}")
    floors = {
        "md5": best(lambda: timed(lambda: digest(local, "md5")), rounds),
        "sha256": best(lambda: timed(lambda: digest(local, "sha256")), rounds),
        "cp": best(lambda: timed(lambda: subprocess.run(["cp", local, place / "copy"], check=True)), rounds),
    }
    (place / "copy").unlink()
    for name, seconds in floors.items():
        row(f"floor: {name}", seconds, f"{size / seconds / 1e6:,.0f} MB/s")
    for what, bound in (("up", 1.8), ("down", 1.3)):
        compare_large(server, account, local, what, bound, floors["md5"], rounds)
    local.unlink()


def compare_large(
    server: DriveServer, account: Account, local: Path, what: str, bound: float, floor: float, rounds: int
) -> None:
    """One direction: ours against Google's with the chunk size that does best."""
    id = client("ours", server, account, work="up", paths=[str(local)])["id"] if what == "down" else ""

    def once(which: str, **more: Any) -> dict[str, float]:
        target = local.with_name(f"{which}.down")
        told = client(which, server, account, work=what, paths=[str(local)], id=id, target=str(target), **more)
        target.unlink(missing_ok=True)
        if what == "up":
            server.call("remove", id=told["id"])
        return told

    chunk = min(CHUNKS, key=lambda chunk: once("google", chunk=chunk)["seconds"])
    told: dict[str, list[dict[str, float]]] = {"ours": [], "chunks": [], "whole": []} | (
        {"checked": []} if what == "down" else {}
    )
    for _ in range(rounds):
        told["ours"].append(once("ours"))
        told["chunks"].append(once("google", chunk=chunk))
        told["whole"].append(once("google", chunk=-1))
        if what == "down":
            told["checked"].append(once("google", chunk=chunk, check=True))
    seconds = {name: min(one["seconds"] for one in all) for name, all in told.items()}
    spent = {name: cost(all) for name, all in told.items()}
    mine = seconds["ours"]
    row(f"{what}: ours", mine, f"{mine / floor:.2f} x md5 (at most 1.8), {spent['ours']}")
    words = {"chunks": f"chunks of {chunk // MB} MiB", "whole": "one request", "checked": "the same chunks, checked"}
    for name in list(told)[1:]:
        ratio = f"{seconds[name] / mine:.2f} x ours (at least {bound}), {spent[name]}"
        row(f"{what}: google-api-python-client, {words[name]}", seconds[name], ratio)


def cost(all: list[dict[str, float]]) -> str:
    """What else a client's runs took, in words."""
    memory, cpu = max(one["memory"] for one in all), min(one["cpu"] for one in all)
    return f"{memory / MB:.0f} MiB above idle, {cpu:.2f} s of processor"


def digest(path: Path, name: str) -> str:
    """A file's digest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, name).hexdigest()


# many small files


def small(server: DriveServer, account: Account, place: Path, count: int, rounds: int) -> None:
    """Up and down: files of 100 kB."""
    up = place / "small"
    up.mkdir()
    for number in range(count):
        (up / f"file{number:04d}.bin").write_bytes(os.urandom(100_000))
    print(f"{count} files of 100 kB, best of {rounds}")
    paths = [str(path) for path in sorted(up.iterdir())]
    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds):
        for which in ("ours", "google"):
            folder = account.put(f"{which}{number}")
            told = client(which, server, account, work="up", paths=paths, folder=folder)
            seconds.setdefault((which, "up"), []).append(told["seconds"])
            target = place / f"{which}-down"
            told = client(which, server, account, work="down-all", folder=folder, target=str(target))
            seconds.setdefault((which, "down"), []).append(told["seconds"])
            same(up, target)
        if RCLONE:
            for what, taken in rclone(server, account, place, up, f"rclone{number}").items():
                seconds.setdefault(("rclone", what), []).append(taken)
    for what in ("up", "down"):
        mine = min(seconds["ours", what])
        row(f"{what}: ours", mine)
        for which, name, bound in (("google", "google-api-python-client", 4), ("rclone", "rclone, defaults, TLS", 10)):
            if (which, what) in seconds:
                theirs = min(seconds[which, what])
                row(f"{what}: {name}", theirs, f"{theirs / mine:.1f} x ours (at least {bound})")


def same(one: Path, other: Path) -> None:
    """Both folders hold the same; the second one is removed."""
    for path in one.iterdir():
        if path.read_bytes() != (other / path.name).read_bytes():
            raise SystemExit(f"{path.name} differs")
    shutil.rmtree(other)


def rclone(server: DriveServer, account: Account, place: Path, up: Path, name: str) -> dict[str, float]:
    """rclone's copy there and back, as its own users run it."""
    from tests.drive_bed import authority

    ca = authority.make(server.folder)
    expired = {"access_token": "none", "refresh_token": account.refresh_token, "expiry": "2020-01-01T00:00:00Z"}
    config = place / "rclone.conf"
    config.write_text(
        f"[gd]\ntype = drive\nscope = drive.file\nclient_id = {account.client}\n"
        f"client_secret = {account.secret}\ntoken = {json.dumps(expired)}\n"
    )
    base = [str(RCLONE), "--config", str(config), "--ca-cert", str(ca), "copy"]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environment["HTTPS_PROXY"] = server.url
    target = place / "rclone-down"

    def copy(source: str, to: str) -> float:
        command = [*base, source, to]
        done: list[subprocess.CompletedProcess[str]] = []
        seconds = timed(lambda: done.append(subprocess.run(command, env=environment, capture_output=True, text=True)))
        if done[0].returncode:
            raise SystemExit(f"rclone: {done[0].stderr}")
        return seconds

    taken = {"up": copy(str(up), f"gd:{name}"), "down": copy(f"gd:{name}", str(target))}
    same(up, target)
    return taken


# a long listing


def listing(server: DriveServer, account: Account, count: int, rounds: int) -> None:
    """Ours against the same requests sent by a client that only looks for the next page's token."""
    folder = account.put("long")
    for number in range(count):
        account.put(f"file{number:05d}.bin", b"x", parent=folder)
    print(f"a folder of {count:,} files, best of {rounds}")
    pairs = []
    for _ in range(rounds):
        told = client("ours", server, account, work="list", folder=folder)
        if told["count"] != count:
            raise SystemExit(f"{told['count']} files listed of {count}")
        pairs.append((told["seconds"], timed(lambda: pages(server, account, folder))))
    ours, alone = (min(side) for side in zip(*pairs, strict=True))
    row("the server alone", alone)
    row("ours", ours, f"{ours / alone:.2f} x the server alone (at most 1.2)")


def pages(server: DriveServer, account: Account, folder: str) -> None:
    """All pages as bytes, one after the other."""
    from services.drive.api import wire

    line = http.client.HTTPConnection(urllib.parse.urlsplit(server.url).netloc)
    query = {
        "q": f"'{folder}' in parents and trashed = false",
        "fields": wire.FILES,
        "pageSize": "1000",
        "spaces": "drive",
        "supportsAllDrives": "true",
        "includeItemsFromAllDrives": "true",
    }
    headers = {"Authorization": f"Bearer {account.access_token()}"}
    while True:
        line.request("GET", "/drive/v3/files?" + urllib.parse.urlencode(query), headers=headers)
        found = re.search(rb'"nextPageToken":\s*"([^"]+)"', line.getresponse().read())
        if found is None:
            return
        query["pageToken"] = found.group(1).decode()


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=1.0, help="size of the large file in GiB")
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--listed", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in", dest="place", type=Path, help="a folder for the files (a temporary one)")
    parser.add_argument("--only", default="large,small,list")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="drive-", dir=told.place) as folder:
        place = Path(folder)
        with running(place / "server") as server:
            account = server.account(limit=None)
            print(f"{os.cpu_count()} processors, {os.getloadavg()[0]:.1f} busy at the start; ratios are what counts")
            if "large" in told.only:
                large(server, account, place, int(told.gb * 1024) * MB, told.rounds)
            if "small" in told.only:
                small(server, account, place, told.files, told.rounds)
            if "list" in told.only:
                listing(server, account, told.listed, told.rounds)


if __name__ == "__main__":
    main()
