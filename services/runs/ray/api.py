"""Ray's Jobs API over HTTP, so that this box needs no Ray of its own, nor one of the cluster's version.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/api.html
Token authentication: https://docs.ray.io/en/latest/ray-security/token-auth.html
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from services.errors import BadInput, HybridError

OVER = ("STOPPED", "SUCCEEDED", "FAILED")
_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=10)
_UPLOAD = aiohttp.ClientTimeout(total=3600, connect=10)


class Unreachable(HybridError):
    """The cluster does not answer, or its head is overloaded; trying again may help."""


def address(setting: str, environ: Mapping[str, str] = os.environ) -> str:
    """The dashboard's root address. Raises BadInput when none is set, or it is one that only Ray's own client takes."""
    found = setting or environ.get("RAY_API_SERVER_ADDRESS") or environ.get("RAY_ADDRESS") or ""
    if not found:
        raise BadInput("Which Ray cluster to use is not set.", hint='Set [ray] address = "http://HEAD:8265".')
    if not found.startswith(("http://", "https://")):
        raise BadInput(f"{found} is not the address of a Ray dashboard.", hint="It looks like http://HEAD:8265.")
    return found.rstrip("/")


def headers(environ: Mapping[str, str] = os.environ, home: Path | None = None) -> dict[str, str]:
    """What goes with each request: RAY_JOB_HEADERS (a JSON object), and Ray's token as it looks for it itself.

    RAY_AUTH_TOKEN, else the file RAY_AUTH_TOKEN_PATH, else ~/.ray/auth_token; a header named in RAY_JOB_HEADERS wins.
    Raises BadInput when one of them can't be read.
    """
    found: dict[str, str] = {}
    try:
        given = json.loads(environ.get("RAY_JOB_HEADERS") or "{}")
        found = {str(key): str(value) for key, value in given.items()}
    except (ValueError, AttributeError):
        raise BadInput("RAY_JOB_HEADERS is not a JSON object.", hint='It looks like {"Authorization": "…"}.') from None
    if any(key.lower() == "authorization" for key in found):
        return found
    token = environ.get("RAY_AUTH_TOKEN", "").strip() or _token_file(environ, home)
    return found | ({"Authorization": f"Bearer {token}"} if token else {})


def _token_file(environ: Mapping[str, str], home: Path | None) -> str:
    named = environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named).expanduser() if named else (home or Path.home()) / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        if named:
            raise BadInput(f"RAY_AUTH_TOKEN_PATH: {path} can't be read: {error.strerror}.") from None
        return ""


class Jobs:
    """One cluster's jobs. An async context manager. Every method raises Unreachable or HybridError."""

    def __init__(self, root: str, with_headers: Mapping[str, str]) -> None:
        self.root, self._headers = root, dict(with_headers)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Jobs:
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def version(self) -> str:
        """The cluster's version of Ray."""
        return str((await self._json("GET", "/api/version"))["ray_version"])

    async def upload(self, data: bytes) -> str:
        """Bring a zip file to the cluster, unless it is there; the URI to name it by."""
        name = f"_ray_pkg_{hashlib.sha256(data).hexdigest()[:16]}.zip"
        status, _ = await self._call("GET", f"/api/packages/gcs/{name}")
        if status == 404:
            await self._json("PUT", f"/api/packages/gcs/{name}", data=data, timeout=_UPLOAD)
        return f"gcs://{name}"

    async def submit(self, id: str, entrypoint: str, runtime_env: dict[str, Any], about: dict[str, str]) -> None:
        """Start the job ``id``; nothing when there is one of that id already (a repeated call, a lost answer)."""
        body = {"submission_id": id, "entrypoint": entrypoint, "runtime_env": runtime_env, "metadata": about}
        status, text = await self._call("POST", "/api/jobs/", json=body)
        if status != 200 and await self.info(id) is None:
            raise HybridError(f"The cluster did not take the job: {_last_line(text)}", hint="Its dashboard tells more.")

    async def info(self, id: str) -> dict[str, Any] | None:
        """What the cluster knows of the job; None when it knows none of that id."""
        status, text = await self._call("GET", f"/api/jobs/{id}")
        if status == 404:
            return None
        return self._decode("GET", status, text)

    async def logs(self, id: str) -> str:
        """All that the job has printed."""
        return str((await self._json("GET", f"/api/jobs/{id}/logs"))["logs"])

    async def tail(self, id: str) -> AsyncIterator[str]:
        """What the job prints, from its beginning and as it comes. It may break off at any time: then call again."""
        assert self._session is not None
        try:
            async with self._session.ws_connect(f"{self.root}/api/jobs/{id}/logs/tail", heartbeat=30) as socket:
                async for message in socket:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        yield message.data
        except (aiohttp.ClientError, TimeoutError, OSError):
            return

    async def stop(self, id: str) -> None:
        """Ask the job to stop (SIGTERM, then SIGKILL after its RAY_JOB_STOP_WAIT_TIME_S)."""
        await self._json("POST", f"/api/jobs/{id}/stop")

    async def delete(self, id: str) -> None:
        """Forget a job that is over; its log stays on the cluster."""
        await self._call("DELETE", f"/api/jobs/{id}")

    async def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        status, text = await self._call(method, path, **more)
        return self._decode(method, status, text)

    def _decode(self, method: str, status: int, text: str) -> dict[str, Any]:
        if status != 200:
            raise Unreachable(f"Ray at {self.root} answered {status} to {method}: {_last_line(text)}")
        try:
            found = json.loads(text or "{}")
        except ValueError:
            raise HybridError(
                f"What answers at {self.root} is not Ray's dashboard.", hint="Look at [ray] address."
            ) from None
        return found if isinstance(found, dict) else {}

    async def _call(self, method: str, path: str, **more: Any) -> tuple[int, str]:
        assert self._session is not None
        try:
            async with self._session.request(method, self.root + path, allow_redirects=False, **more) as answer:
                text = await answer.text()
                status = answer.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unreachable(
                f"Ray at {self.root} does not answer: {error or type(error).__name__}.", hint=_UP
            ) from None
        if status in (401, 403):
            raise HybridError(f"Ray at {self.root} refuses the token ({status}: {_last_line(text)}).", hint=_TOKEN)
        return status, text


_UP = "Is the cluster up, and its dashboard reachable from here (port 8265; through ssh -L if need be)?"
_TOKEN = "Put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token (ray get-auth-token on its head shows it)."


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
