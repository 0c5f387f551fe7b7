"""drive.login, drive.logout and drive.status as commands: real processes, a real terminal, real requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.drive.auth.vault import Grant, Vault
from services.workspace import Workspace
from tests.drive.auth.helpers import address_line, browse, command, environment, run
from tests.drive_bed.serve import Account, DriveServer


class Terminal:
    """A command whose input is a terminal; its output is collected."""

    def __init__(self, box: Workspace, *words: str) -> None:
        self.keyboard, end = pty.openpty()
        self.process = subprocess.Popen(
            command(box, *words, "--json"), stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(), start_new_session=True,
        )  # fmt: skip
        os.close(end)
        self.said = ""

    def address(self) -> str:
        """Wait until it has printed Google's page, and give that."""
        assert self.process.stderr is not None
        while not (found := re.search(r"^http\S+/auth\?\S+$", self.said, re.MULTILINE)):
            line = self.process.stderr.readline()
            assert line, f"it ended: {self.said}"
            self.said += line
        return found.group()

    def type(self, text: str) -> None:
        os.write(self.keyboard, text.encode())

    def arguments(self) -> str:
        return Path(f"/proc/{self.process.pid}/cmdline").read_text().replace("\0", " ")

    def end(self) -> tuple[int, dict[str, Any]]:
        """Its exit code and result."""
        out, err = self.process.communicate(timeout=30)
        self.said += err
        return self.process.returncode, json.loads(out) if out else {}


@contextlib.contextmanager
def terminal(box: Workspace, *words: str) -> Iterator[Terminal]:
    opened = Terminal(box, *words)
    try:
        yield opened
    finally:
        if opened.process.poll() is None:
            opened.process.kill()
            opened.process.communicate()
        os.close(opened.keyboard)


def config(home: Path) -> list[str]:
    folder = home / ".config" / "hybrid-tui"
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") if folder.exists() else []


def result(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_address_line_is_pasted_into_the_terminal(box: Workspace, account: Account) -> None:
    with terminal(box, "drive.login") as opened:
        line = asyncio.run(address_line(opened.address()))
        opened.type("nonsense\n")
        opened.type("4/0AaBbCcDdEeFfGgHhIiJjKk\n")  # looks like a code: Google has to say that it is none
        opened.type(line + "\n")
        code, told = opened.end()
    assert code == 0, opened.said
    assert told["state"] == "signed in" and told["scope"] == "drive.file"
    assert "neither the address nor the code" in opened.said and "did not take that code" in opened.said
    assert Vault(account.client).read() is not None


def test_the_browser_opens_by_itself_and_is_heard(
    box: Workspace, account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = tmp_path / "browser"
    script = "import sys, urllib.request\nprint(urllib.request.urlopen(sys.argv[1]).read())"
    browser.write_text(f"#!{sys.executable}\n{script}")
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    told = result(run(box, "drive.login", "--json"))  # what the browser prints is not in the result
    assert told["state"] == "signed in" and told["kept"] == str(Vault(account.client).path)


def test_ctrl_c_leaves_nothing_behind(box: Workspace, home: Path) -> None:
    with terminal(box, "drive.login") as opened:
        address = opened.address()
        opened.process.send_signal(signal.SIGINT)
        code, told = opened.end()
    assert code == 130 and told == {}
    assert "Interrupted. Nothing was kept of the sign-in." in opened.said and "Traceback" not in opened.said
    assert config(home) == []
    line = asyncio.run(address_line(address))
    with pytest.raises(OSError):
        asyncio.run(browse(line))  # nobody listens any more


def test_paste_in_two_commands(box: Workspace, account: Account, home: Path) -> None:
    begun = result(run(box, "drive.login", "flow=paste", "--json"))
    assert begun["state"] == "waiting" and begun["next"] == "hybrid-tui --run drive.login code=-"
    pending = Vault(account.client).pending
    assert pending.stat().st_mode & 0o777 == 0o600 and pending.parent.stat().st_mode & 0o777 == 0o700
    line = asyncio.run(address_line(begun["address"]))
    wrong = run(box, "drive.login", "code=-", typed="http://127.0.0.1/?state=other&code=4/0Axxxxxxxxx\n")
    assert wrong.returncode == 2 and "another sign-in" in wrong.stderr
    assert result(run(box, "drive.login", "code=-", "--json", typed=line + "\n"))["state"] == "signed in"
    assert config(home) == [Vault(account.client).path.name]
    again = run(box, "drive.login", "code=-", typed=line + "\n")
    assert again.returncode == 2 and "No sign-in is waiting" in again.stderr


def test_status_then_logout(signed_in: Workspace, account: Account, home: Path, drive_server: DriveServer) -> None:
    account.put("weights.bin", b"x" * 1000)
    status = result(run(signed_in, "drive.status", "--json"))
    assert (status["email"], status["scope"], status["root"]) == (account.email, "drive.file", "Banking LLM")
    assert status["used_bytes"] == 1000 and status["free_bytes"] == status["limit_bytes"] - 1000
    assert "only files that this OAuth client made" in run(signed_in, "drive.status").stdout
    ended = result(run(signed_in, "drive.logout", "--json"))
    assert (ended["revoked"], ended["removed"]) == (True, True) and config(home) == []
    assert [r.status for r in drive_server.requests if r.path == "/revoke"] == [200]
    assert run(signed_in, "drive.status").returncode == 4
    assert "Nobody was signed in" in result(run(signed_in, "drive.logout", "--json"))["note"]


def test_logout_goes_on_when_google_is_away(signed_in: Workspace, home: Path, drive_server: DriveServer) -> None:
    drive_server.fault(path="^/revoke", drop_response_at=0, times=0)
    ended = result(run(signed_in, "drive.logout", "--json"))
    assert (ended["revoked"], ended["removed"]) == (False, True) and config(home) == []
    assert "does not answer" in ended["note"] and "myaccount.google.com" in ended["note"]


def test_logout_of_what_had_ended_at_google(signed_in: Workspace, home: Path, drive_server: DriveServer) -> None:
    drive_server.call("revoke")
    ended = result(run(signed_in, "drive.logout", "--json"))
    assert ended["removed"] and "had ended at Google before" in ended["note"] and config(home) == []


def test_exit_codes(box: Workspace, signed_in: Workspace, drive_server: DriveServer, home: Path) -> None:
    drive_server.call("revoke")
    revoked = run(signed_in, "drive.status", "--json")
    assert revoked.returncode == 4
    assert json.loads(revoked.stdout)["error"]["hint"] == "Sign in with: hybrid-tui --run drive.login"
    drive_server.call("settings", deny="12345-hybrid.apps.googleusercontent.com")
    with terminal(box, "drive.login") as opened:
        asyncio.run(browse(opened.address()))
        code, told = opened.end()
    assert code == 4 and "told no" in told["error"]["message"]
    assert run(box, "drive.login", "--read-only").returncode == 3
    before = config(home)
    for name in ("drive.login", "drive.logout"):
        assert result(run(box, name, "--dry-run", "--json"))["action"] == name
    assert config(home) == before


def test_the_end_of_the_input_ends_a_paste(box: Workspace) -> None:
    with terminal(box, "drive.login", "flow=paste") as opened:
        opened.address()
        opened.type("\x04")
        code, told = opened.end()
    assert code == 4 and "No answer" in told["error"]["message"]


def test_no_secret_is_printed_or_kept_elsewhere(box: Workspace, account: Account, home: Path) -> None:
    """Every word the commands print, every file they leave, every argument they run with."""
    said: list[str] = []
    with terminal(box, "drive.login", "--progress", "json") as opened:
        assert opened.process.stderr is not None
        while not (found := re.search(r'"(http[^"\s]+/auth\?[^"\s]+)"', opened.said)):
            opened.said += opened.process.stderr.readline()
        said.append(opened.arguments())
        opened.type(asyncio.run(address_line(found.group(1))) + "\n")
        _, told = opened.end()
        said += [opened.said, json.dumps(told)]
    grant = Vault(account.client).read()
    assert isinstance(grant, Grant)
    for words in (
        ["drive.status"],
        ["drive.status", "--json"],
        ["settings.show", "--json"],
        ["drive.logout", "--json"],
    ):
        done = run(box, *words)
        said += [done.stdout, done.stderr]
    said += [p.read_text(errors="replace") for p in box.root.rglob("*") if p.is_file()]
    said += [p.read_text(errors="replace") for p in home.rglob("*") if p.is_file()]
    text = "\n".join(said)
    for secret in (grant.refresh_token, grant.access_token, account.secret):
        assert secret and secret not in text
