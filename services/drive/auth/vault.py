"""Where a sign-in is kept: the system's keyring when there is a real one, else a file only its owner can read.

Everything here blocks (a keyring may ask the user to unlock it) and is called in a thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from services import atomic

_SERVICE = "hybrid-tui"
_LOCK_SECONDS = 20.0


class Grant(msgspec.Struct, frozen=True):
    """What the user gave: ``scope`` as Google answered it, ``obtained`` and ``expires`` in Unix seconds."""

    client_id: str
    scope: str
    refresh_token: str
    access_token: str = ""
    obtained: float = 0.0
    expires: float = 0.0

    def __repr__(self) -> str:  # never the tokens
        return f"Grant(scope={self.scope!r}, expires={self.expires!r})"


def config_folder() -> Path:
    """``~/.config/hybrid-tui`` (XDG_CONFIG_HOME is honoured): outside every workspace, so that none carries it away."""
    from platformdirs import user_config_path

    return user_config_path("hybrid-tui", appauthor=False)


class Vault:
    """The place of one OAuth client's grant. Two clients do not overwrite each other's."""

    def __init__(self, client_id: str, folder: Path | None = None) -> None:
        self.name = f"google-{hashlib.sha256(client_id.encode()).hexdigest()[:12]}"
        self.folder = folder or config_folder()
        self.path = self.folder / f"{self.name}.json"
        self.pending = self.folder / f"{self.name}.pending"

    def read(self) -> Grant | None:
        """The grant, None when there is none or it can't be made sense of. A file others could read is closed first."""
        text = self._read_file() or self._read_keyring()
        try:
            return msgspec.json.decode(text, type=Grant) if text else None
        except msgspec.DecodeError:
            return None

    def write(self, grant: Grant) -> str:
        """Keep ``grant``; returns where, in words. Raises OSError when neither keyring nor file takes it."""
        data = msgspec.json.encode(grant)
        ring = real_keyring()
        if ring is not None:
            try:
                ring.set_password(_SERVICE, self.name, data.decode())
            except Exception:  # any backend, any trouble: locked, no bus, too long
                ring = None
        if ring is not None:
            self.path.unlink(missing_ok=True)
            return self.place()
        self.make_folder()
        atomic.write_bytes(self.path, data, mode=0o600)
        return self.place()

    def remove(self) -> None:
        """Forget the grant, wherever it is, and what a killed writer may have left of it. Raises OSError."""
        ring = real_keyring()
        if ring is not None:
            with contextlib.suppress(Exception):  # keyring's own error when there is no such entry
                ring.delete_password(_SERVICE, self.name)
        self.path.unlink(missing_ok=True)
        self.pending.unlink(missing_ok=True)
        for left in self.folder.glob(f".{self.name}.*.tmp"):
            left.unlink(missing_ok=True)

    def place(self) -> str:
        """Where the grant is, in words."""
        ring = None if self.path.exists() else real_keyring()
        return str(self.path) if ring is None else f"keyring ({ring.name})"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held while the grant is renewed, so that two processes do not both do it.

        Who waits longer than 20 s (the other was stopped) goes on without: writes are atomic, so nothing breaks.
        """
        try:
            self.make_folder()
            fd = os.open(self.folder / f"{self.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # a home that can't be written: there is nothing to write either
            yield
            return
        try:
            _flock(fd)
            yield
        finally:
            os.close(fd)

    def make_folder(self) -> None:
        """Create the folder, closed to others. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_mode & 0o077:
            self.folder.chmod(0o700)

    def _read_file(self) -> str:
        try:
            if self.path.stat().st_mode & 0o077:
                with contextlib.suppress(OSError):  # somebody else's file, or a home that can't be written
                    self.path.chmod(0o600)
            return self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    def _read_keyring(self) -> str:
        ring = real_keyring()
        if ring is None:
            return ""
        try:
            return ring.get_password(_SERVICE, self.name) or ""
        except Exception:  # locked or gone: as if there were no grant, and signing in mends it
            return ""


def real_keyring() -> Any:
    """The keyring's backend when the package ``keyring`` is installed and has one worth the name, else None.

    Backends that keep nothing, or keep it in plain text, have a priority below 1:
    https://keyring.readthedocs.io/en/latest/
    """
    if importlib.util.find_spec("keyring") is None:
        return None
    try:
        import keyring

        backend: Any = keyring.get_keyring()
        return backend if float(backend.priority) >= 1 else None
    except Exception:  # a broken set-up of the desktop's bus must not keep anyone from signing in
        return None


def _flock(fd: int) -> None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:  # a file system without locks
            return
