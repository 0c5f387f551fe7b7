"""Objects of a bucket, through obstore, with its errors turned into sentences.

obstore speaks S3, Google Cloud Storage and Azure; see https://developmentseed.org/obstore/. It takes credentials from
the environment and from the machine's own identity, and retries what is worth retrying.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from services.errors import BadInput, HybridError, StoreUnreachable

SCHEMES = ("s3", "gs", "az", "file")
_INSTALL = "pip install 'hybrid-tui[bucket]' brings it."
_AT_ONCE = 16
_COPY_MOST = 5 * 1000**3  # S3 copies no more than 5 GiB in one request
_CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION, or give the machine a role.",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS, or run: gcloud auth application-default login",
    "az": "Set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_SAS_TOKEN).",
    "file": "Change the folder's permissions.",
}


class Found(msgspec.Struct, frozen=True):
    """An object: key below the root, bytes, Unix time, entity tag; ``sha256`` (hex) as it was declared by its writer,
    "" when it was not or was not asked for."""

    key: str
    size: int
    modified: float
    etag: str
    sha256: str = ""


class Objects:
    """The objects below ``root`` in the bucket that ``url`` names. Nothing is opened before the first call.

    ``patience`` is how many seconds a failing request is tried again.
    """

    def __init__(self, url: str, root: str, *, patience: float = 20) -> None:
        self.scheme = urlsplit(url).scheme
        if self.scheme not in SCHEMES or not (urlsplit(url).netloc or urlsplit(url).path.strip("/")):
            raise BadInput(
                f"{url!r} is not the address of a bucket.", hint="Use s3://NAME/PREFIX, gs://…, az://… or file:///…."
            )
        self.url = url.rstrip("/")
        self.root = root
        self._patience = patience
        self._store: Any = None
        self._most = asyncio.Semaphore(_AT_ONCE)

    def shown(self, key: str) -> str:
        """How a person finds ``key``."""
        return f"{self.url}/{self.root}/{key}" if key else f"{self.url}/{self.root}"

    async def head(self, key: str) -> Found | None:
        """One object with its declared sha256, None when there is none."""
        async with self._most:
            with self._sentences(key):
                try:
                    got = await self._open().get_async(self._key(key), options={"head": True})
                except FileNotFoundError as error:
                    self._absent(error)
                    return None
                return self._found(got.meta, got.attributes.get("sha256", ""))

    async def heads(self, found: Sequence[Found]) -> list[Found]:
        """The same objects with their declared sha256; those that have gone are left out."""
        return [f for f in await asyncio.gather(*(self.head(f.key) for f in found)) if f is not None]

    async def read(self, key: str) -> bytes | None:
        """A small object's bytes, None when there is none."""
        async with self._most:
            with self._sentences(key):
                try:
                    got = await self._open().get_async(self._key(key))
                    return bytes(await got.bytes_async())
                except FileNotFoundError as error:
                    self._absent(error)
                    return None

    async def read_range(self, key: str, start: int, end: int, etag: str) -> memoryview:
        """Bytes ``start`` to ``end`` (not included) of the object as it was when it had ``etag``."""
        with self._sentences(key):
            from obstore.exceptions import PreconditionError

            options = {"range": (start, end), **({"if_match": etag} if etag else {})}
            try:
                got = await self._open().get_async(self._key(key), options=options)
                data = memoryview(await got.bytes_async())
            except (PreconditionError, FileNotFoundError) as error:
                raise HybridError(f"{self.shown(key)} changed while it was fetched.", hint="Try again.") from error
        if len(data) != end - start:
            raise StoreUnreachable(f"{self.shown(key)} came short: {len(data)} of {end - start} bytes.")
        return data

    async def stream(self, key: str) -> AsyncIterator[memoryview]:
        """All bytes of an object in blocks. Raises HybridError when it is gone."""
        with self._sentences(key):
            got = await self._open().get_async(self._key(key))
            async for block in got.stream(min_chunk_size=1 << 20):
                yield memoryview(block)

    async def put(self, key: str, data: bytes, sha256: str, *, new: bool) -> str | None:
        """Write an object whole. Its entity tag; None when ``new`` and there is one already, which stays as it is."""
        with self._sentences(key):
            from obstore.exceptions import AlreadyExistsError

            mode = "create" if new else "overwrite"
            try:
                done = await self._open().put_async(
                    self._key(key), data, mode=mode, attributes=self._attributes(sha256), use_multipart=False
                )
            except AlreadyExistsError:
                return None
            return str(done["e_tag"] or "")

    async def put_stream(self, key: str, blocks: AsyncIterator[bytes], sha256: str, part: int, at_once: int) -> str:
        """Write an object in parts of ``part`` bytes; it appears whole when the last is there. Returns its entity tag.

        An exception out of ``blocks`` ends it with nothing written.
        """
        with self._sentences(key):
            done = await self._open().put_async(
                self._key(key), blocks, attributes=self._attributes(sha256), use_multipart=True,
                chunk_size=part, max_concurrency=at_once,
            )  # fmt: skip
            return str(done["e_tag"] or "")

    async def copy(self, found: Found, to: str) -> bool:
        """Copy an object inside the bucket, its declared sha256 too. False when it is gone."""
        with self._sentences(found.key):
            try:
                if self.scheme == "s3" and found.size > _COPY_MOST:
                    await self._copy_through(found, to)
                else:
                    await self._open().copy_async(self._key(found.key), self._key(to))
            except FileNotFoundError as error:
                self._absent(error)
                return False
            return True

    async def _copy_through(self, found: Found, to: str) -> None:
        """Through this machine, for what the service won't copy in one request."""
        got = await self._open().get_async(self._key(found.key), options={"if_match": found.etag})
        part = max(8 << 20, -(-found.size // 9000))
        await self._open().put_async(
            self._key(to), got, attributes=self._attributes(got.attributes.get("sha256", "")), use_multipart=True,
            chunk_size=part, max_concurrency=4,
        )  # fmt: skip

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects for good; those that are gone are fine."""

        async def one(key: str) -> None:
            async with self._most:
                with contextlib.suppress(FileNotFoundError):
                    await self._open().delete_async(self._key(key))

        if not keys:
            return
        with self._sentences(keys[0]):
            if self.scheme == "s3":  # a thousand in one request, and absent ones are no error there
                await self._open().delete_async([self._key(key) for key in keys])
            else:
                await asyncio.gather(*(one(key) for key in keys))

    async def below(self, folder: str) -> list[Found]:
        """Every object below ``folder``, at any depth, by key; without the declared sha256."""
        with self._sentences(folder):
            found: list[Found] = []
            async for batch in self._open().list_async(self._key(folder) if folder else self.root, chunk_size=1000):
                found += [self._found(meta) for meta in batch]
            return sorted(found, key=lambda f: f.key)

    async def children(self, folder: str) -> tuple[list[str], list[Found]]:
        """The keys of the folders in ``folder`` and its objects."""
        with self._sentences(folder):
            got = await self._open().list_with_delimiter_async(self._key(folder) if folder else self.root)
            folders = [self._below_root(prefix.rstrip("/")) for prefix in got["common_prefixes"]]
            return folders, [self._found(meta) for meta in got["objects"]]

    def _key(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _below_root(self, path: str) -> str:
        return path.removeprefix(self.root + "/")

    def _found(self, meta: Any, sha256: str = "") -> Found:
        return Found(
            self._below_root(meta["path"]), meta["size"], meta["last_modified"].timestamp(), meta["e_tag"] or "", sha256
        )

    def _attributes(self, sha256: str) -> dict[str, str] | None:
        return {"sha256": sha256} if sha256 and self.scheme != "file" else None  # files on a disk have none

    def _open(self) -> Any:
        if self._store is None:
            try:
                from obstore.store import from_url
            except ImportError as error:
                raise HybridError("A bucket as the store needs the package obstore.", hint=_INSTALL) from error
            _leave_gently()
            if self.scheme == "file":
                self._store = from_url(f"file://{_folder(self.url)}")
            else:
                plain = any(os.environ.get(v, "").startswith("http://") for v in _ENDPOINTS)
                self._store = from_url(
                    self.url,
                    client_options={"timeout": "10m", "read_timeout": "1m", "allow_http": plain},
                    retry_config={
                        "max_retries": 10,
                        "retry_timeout": timedelta(seconds=self._patience),
                        "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=5)},
                    },
                )
        return self._store

    def _absent(self, error: FileNotFoundError) -> None:
        """An object that is not there is an answer; a bucket that is not there is none."""
        if _NO_BUCKET.search(str(error)):
            raise self._no_bucket() from error

    def _no_bucket(self) -> StoreUnreachable:
        return StoreUnreachable(f"There is no bucket at {self.url}.", hint="Make it, or mend [store] url.")

    @contextlib.contextmanager
    def _sentences(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            self._absent(error)
            raise HybridError(f"{self.shown(key)} is gone.") from error
        except HybridError:
            raise
        except Exception as error:
            if not type(error).__module__.startswith("obstore"):
                raise
            raise self._translated(key, error) from error

    def _translated(self, key: str, error: Exception) -> HybridError:
        kind, text = type(error).__name__, str(error)
        refused = kind in ("PermissionDeniedError", "UnauthenticatedError")
        if _NO_BUCKET.search(text):
            return self._no_bucket()
        if refused or _NO_CREDENTIALS.search(text):
            what = "refuses these credentials" if refused else "needs credentials, and none were found"
            return StoreUnreachable(f"{self.url} {what}.", hint=_CREDENTIALS[self.scheme])
        if _FULL.search(text):
            return HybridError(f"There is no room left at {self.url}.", hint="Free some space, then try again.")
        if self.scheme == "file":
            return StoreUnreachable(f"The store can't be used at {self.shown(key)}: {_reason(text)}.")
        if _NO_ANSWER.search(text):
            elsewhere = [v for v in _ENDPOINTS if os.environ.get(v)]
            hint = f"Check the network{f' and {elsewhere[0]}' if elsewhere else ''}, then try again."
            return StoreUnreachable(f"{self.url} does not answer: {_reason(text)}.", hint=hint)
        return HybridError(f"{self.shown(key)}: {_reason(text)}.")


@functools.cache
def _leave_gently() -> None:
    """At the interpreter's end, give obstore's threads a moment without us.

    One of them has just told our loop of the last answer and is about to take Python's lock again. If the main thread
    keeps it until the interpreter is being taken down, that thread aborts the process and its exit code is lost.
    """
    atexit.register(time.sleep, 0.05)


_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist|Unable to canonicalize")
_NO_CREDENTIALS = re.compile(
    r"169\.254\.169\.254|metadata\.google\.internal|Account must be specified|Missing(Credential|AccessKey|Secret)"
)
_FULL = re.compile(r"No space left|Disk quota|status code: 507")
_NO_ANSWER = re.compile(r"HTTP error|non-2xx status code: 5\d\d|Timeout|kind: (Connect|Request|Timeout)")


def _folder(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _reason(text: str) -> str:
    """The telling part of obstore's message, without addresses: an Azure address can carry a secret."""
    first = text.split("\n", 1)[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    status = re.search(r"status code: (\d+ [\w ]+)", first)
    if code or status:
        return " ".join(m[1] for m in (status, code) if m).strip()
    last = re.split(r"\s+-\s", first)[-1]
    return re.sub(r"https?://\S+", "…", last).strip().rstrip(".")[:160] or "no reason given"
