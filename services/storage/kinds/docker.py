"""Docker, as its own command line tells it, if that answers within a second.

Nothing of it is removed by path: its items have none, and are cleaned with the command they name. Volumes hold people's
data; they are reported, and are never an item. Sources: the reference of ``docker system df`` and ``docker images``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

from services import formats
from services.storage.kinds.measure import Tally
from services.storage.kinds.rule import Box, Kind, Look

SECONDS = 1.0
_SIZE = re.compile(r"([\d.]+)\s*([kMGTP]?)B")
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}


def is_there(box: Box) -> bool:
    """Whether there is a docker command, and an engine it could speak to: without one, asking is not worth the wait."""
    if not shutil.which("docker", path=box.environ.get("PATH")):
        return False
    sockets = ("/var/run/docker.sock", str(box.home / ".docker/run/docker.sock"))
    return bool(box.environ.get("DOCKER_HOST")) or any(map(os.path.exists, sockets))


def list_docker(look: Look) -> None:
    """Dangling images and the build cache as items without paths; the volumes in the kind's problem line."""
    usage = {row.get("Type"): row for row in _ask(look, "system", "df", "--format", "{{json .}}")}
    if not usage:
        return
    dangling = _ask(look, "images", "--filter", "dangling=true", "--format", "{{json .}}")
    _add(look, "dangling images", sum(size_of(row.get("Size")) for row in dangling), len(dangling), "image prune")
    build = usage.get("Build Cache", {})
    _add(look, "build cache", size_of(build.get("Reclaimable")), _count(build), "builder prune")
    volumes = usage.get("Local Volumes", {})
    if size := size_of(volumes.get("Size")):
        count = _count(volumes)
        look.problem = (
            f"{count} volume{'s' * (count != 1)} of {formats.size(size)} {'are' if count != 1 else 'is'} left alone: "
            "volumes may hold data that exists nowhere else."
        )


def _add(look: Look, name: str, size: int, count: int, command: str) -> None:
    if not size and not count:
        return
    tally = Tally()
    tally.single, tally.files = -(-size // 512), count
    look.add(name, tally=tally, suggested=False, note=f"docker {command} removes it.")


def _ask(look: Look, *words: str) -> list[dict[str, Any]]:
    """The JSON lines that docker prints; nothing, and the reason as the kind's problem, when it does not answer."""
    try:
        out = subprocess.run(
            ["docker", *words], capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        look.problem = f"Docker did not answer within {SECONDS:.0f} s."
        return []
    except OSError as error:
        look.problem = f"Docker could not be asked: {error.strerror}."
        return []
    if out.returncode:
        look.problem = f"Docker could not be asked: {(out.stderr.strip().splitlines() or ['it failed'])[-1]}"
        return []
    rows = []
    for line in out.stdout.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _count(row: dict[str, Any]) -> int:
    text = str(row.get("TotalCount", ""))
    return int(text) if text.isdigit() else 0


def size_of(text: object) -> int:
    """Bytes of what docker writes as "16.43MB" or "11.63MB (70%)"; 0 for what is no size."""
    match = _SIZE.match(str(text))
    return round(float(match[1]) * _UNITS[match[2]]) if match else 0


KINDS: tuple[Kind, ...] = (
    Kind(
        "docker", "Docker: dangling images, build cache", lambda _: (), list_docker,
        "Docker builds or pulls them again.", budgeted=False, whole=False, command="docker system prune",
        exists=is_there,
    ),
)  # fmt: skip
