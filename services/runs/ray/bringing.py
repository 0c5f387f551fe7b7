"""Brings files that the head of the cluster keeps to this box, by small jobs that print them: whole and verified."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import shlex
import shutil
import time
from pathlib import Path
from typing import Any

from services.errors import HybridError
from services.runs.ray.api import OVER, Jobs
from services.runs.ray.deliver import DONE, PIECE

PIECE_BYTES = 4 << 20
_JOB_BYTES = 24 << 20  # a job's whole log comes as one answer
_POLL_S = 0.5
_WAIT_S = 300.0
_TRIES = 3


class Bringer:
    """Files below ``place`` on the head, for the run ``run``. ``env`` is the runtime environment with our code."""

    def __init__(self, jobs: Jobs, run: str, place: str, env: dict[str, Any]) -> None:
        self._jobs, self._run, self._place, self._env = jobs, run, place, env

    async def folder(self, told: dict[str, Any], target: Path) -> None:
        """Bring the folder that ``told`` (its manifest, with its ``name``) describes; it appears whole.

        Raises HybridError when it can't be had, or is not what it was.
        """
        paths = {f"{told['name']}/{path}": about for path, about in told["files"].items()}
        data = await self.files(paths)
        new = target.with_name(f".{target.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        for path in told["files"]:
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes(data[f"{told['name']}/{path}"])
        shutil.rmtree(target, ignore_errors=True)
        new.rename(target)

    async def files(self, wanted: dict[str, dict[str, Any]]) -> dict[str, bytes]:
        """The bytes of files by path; each of the size and sha256 that ``wanted`` says."""
        pieces = [
            (path, offset, min(PIECE_BYTES, about["size"] - offset))
            for path, about in wanted.items()
            for offset in range(0, about["size"], PIECE_BYTES)
        ]
        found: dict[tuple[str, int], bytes] = {}
        while pieces:
            batch: list[tuple[str, int, int]] = []
            size = 0
            while pieces and (not batch or size + pieces[0][2] <= _JOB_BYTES):
                batch.append(pieces.pop(0))
                size += batch[-1][2]
            found |= await self._get(batch)
        whole = {
            path: b"".join(found[path, at] for at in range(0, about["size"], PIECE_BYTES))
            for path, about in wanted.items()
        }
        for path, about in wanted.items():
            if hashlib.sha256(whole[path]).hexdigest() != about["sha256"]:
                raise HybridError(
                    f"{path} did not come from the cluster as it was made.", hint="train.resume fetches it."
                )
        return whole

    async def events(self, number: int) -> list[dict[str, Any]]:
        """The events' file of a start, as the head keeps it."""
        text = await self.ask("get", json.dumps([[f"events-n{number}.jsonl", 0, 1 << 30]]))
        data = b"".join(_pieces(text).values())
        return [json.loads(line) for line in data.splitlines()]

    async def _get(self, batch: list[tuple[str, int, int]]) -> dict[tuple[str, int], bytes]:
        missing = batch
        found: dict[tuple[str, int], bytes] = {}
        for _ in range(_TRIES):
            found |= _pieces(await self.ask("get", json.dumps(missing)))
            missing = [one for one in batch if len(found.get(one[:2], b"")) != one[2]]
            if not missing:
                return found
        raise HybridError(
            f"{missing[0][0]} can't be had from the cluster's head.", hint="Is its disk the one of the run?"
        )

    async def ask(self, verb: str, words: str = "") -> str:
        """Run a small job and return what it printed. Raises HybridError when it does not end in order.

        Its last line counts, not the job's status: Ray has been seen to call a job FAILED that had ended with code 0.
        """
        for _ in range(_TRIES):
            text = await self._job(verb, words)
            if text.rstrip().endswith(DONE):
                return text
        last = [line for line in text.splitlines() if line.strip()][-1:] or ["the job printed nothing"]
        raise HybridError(f"The cluster could not deliver files: {last[0][:300]}")

    async def _job(self, verb: str, words: str) -> str:
        id = f"{self._run}-ask-{secrets.token_hex(4)}"
        command = ["exec", "python", "-m", "services.runs.ray.deliver", self._place, verb, *([words] if words else [])]
        await self._jobs.submit(id, shlex.join(command), self._env, {"hybrid": self._run})
        until = time.monotonic() + _WAIT_S
        while True:
            info = await self._jobs.info(id)
            if info is None or info["status"] in OVER or time.monotonic() > until:
                break
            await asyncio.sleep(_POLL_S)
        text = await self._jobs.logs(id)
        await self._jobs.delete(id)
        return text


def _pieces(text: str) -> dict[tuple[str, int], bytes]:
    found = {}
    for line in text.splitlines():
        if line.startswith(PIECE):
            head, _, data = line.removeprefix(PIECE).rpartition(" ")
            path, _, offset = head.rpartition(" ")
            found[json.loads(path), int(offset)] = base64.b64decode(data)
    return found
