"""Where the grant is kept: modes, leftovers, the keyring, the lock."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from services.drive.auth.vault import Grant, Vault, real_keyring

GRANT = Grant("me", "https://www.googleapis.com/auth/drive.file", "1//refresh", "ya29.access", 1.0, 2.0)

KEYRING = """
import json, os, pathlib
PATH = pathlib.Path(os.environ["FAKE_KEYRING"])
class Ring:
    name = "test keyring"
    priority = float(os.environ.get("FAKE_PRIORITY", "5"))
    def _all(self):
        return json.loads(PATH.read_text()) if PATH.exists() else {}
    def get_password(self, service, user):
        return self._all().get(service + "/" + user)
    def set_password(self, service, user, password):
        if "FAKE_LOCKED" in os.environ:
            raise RuntimeError("locked: " + password)
        PATH.write_text(json.dumps(self._all() | {service + "/" + user: password}))
    def delete_password(self, service, user):
        entries = self._all()
        del entries[service + "/" + user]
        PATH.write_text(json.dumps(entries))
def get_keyring():
    return Ring()
"""


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package ``keyring`` whose backend writes to the file that is returned."""
    (tmp_path / "packages" / "keyring").mkdir(parents=True)
    (tmp_path / "packages" / "keyring" / "__init__.py").write_text(KEYRING)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("FAKE_KEYRING", str(tmp_path / "ring.json"))
    monkeypatch.delitem(__import__("sys").modules, "keyring", raising=False)
    yield tmp_path / "ring.json"  # type: ignore[misc]
    __import__("sys").modules.pop("keyring", None)


def test_file_and_folder_are_closed_to_others_whatever_the_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        vault = Vault("me")
        vault.write(GRANT)
    finally:
        os.umask(before)
    assert vault.folder == home / ".config" / "hybrid-tui"
    assert mode(vault.path) == 0o600 and mode(vault.folder) == 0o700
    assert vault.read() == GRANT and vault.place() == str(vault.path)


def test_a_file_that_others_could_read_is_closed_when_met() -> None:
    vault = Vault("me")
    vault.write(GRANT)
    vault.path.chmod(0o644)
    vault.folder.chmod(0o755)
    vault.read()
    assert mode(vault.path) == 0o600
    with vault.lock():
        assert mode(vault.folder) == 0o700


def test_the_grant_is_not_in_its_repr() -> None:
    assert "1//" not in repr(GRANT) and "ya29" not in repr(GRANT)


def test_two_clients_have_two_places() -> None:
    Vault("me").write(GRANT)
    assert Vault("you").read() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"client_id": 3}', b"\xff\xfe"])
def test_a_broken_file_is_no_grant(content: bytes) -> None:
    vault = Vault("me")
    vault.write(GRANT)
    vault.path.write_bytes(content)
    assert vault.read() is None


def test_removing_takes_what_a_killed_writer_left() -> None:
    vault = Vault("me")
    vault.write(GRANT)
    (vault.folder / f".{vault.path.name}.abc.tmp").write_text("half of it")
    vault.remove()
    assert [path.name for path in vault.folder.iterdir()] == []


def test_the_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    met = []

    def work() -> None:
        for _ in range(20):
            with Vault("me").lock():
                try:
                    os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
                    os.sched_yield()
                    (tmp_path / "inside").unlink()
                except FileExistsError as error:
                    met.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert met == []


def test_the_keyring_is_used_when_it_is_real(keyring: Path) -> None:
    vault = Vault("me")
    vault.write(GRANT)
    assert not vault.path.exists() and "1//refresh" in keyring.read_text()
    assert vault.place() == "keyring (test keyring)" and vault.read() == GRANT
    vault.remove()
    assert vault.read() is None and "1//refresh" not in keyring.read_text()


def test_a_file_from_before_the_keyring_moves_into_it(keyring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_PRIORITY", "0")  # the backend that keeps nothing
    vault = Vault("me")
    vault.write(GRANT)
    assert real_keyring() is None and vault.path.exists()
    __import__("sys").modules.pop("keyring")
    monkeypatch.setenv("FAKE_PRIORITY", "5")
    assert vault.read() == GRANT
    vault.write(GRANT)
    assert not vault.path.exists() and vault.read() == GRANT


def test_a_locked_keyring_falls_back_to_the_file(keyring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LOCKED", "1")
    vault = Vault("me")
    assert vault.write(GRANT) == str(vault.path)
    assert vault.read() == GRANT and mode(vault.path) == 0o600
