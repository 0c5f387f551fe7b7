"""Renewing a kept grant at the token server: several processes, revoked, broken, out of reach."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from services.drive.auth.open import tokens_for
from services.drive.auth.vault import Grant, Vault
from services.drive.errors import SignInNeeded
from services.errors import BadInput, HybridError, StoreUnreachable
from services.workspace import Workspace
from tests.drive.auth.helpers import CHECKOUT, environment, make_box
from tests.drive_bed.serve import Account, DriveServer


def renewals(server: DriveServer) -> int:
    return len([r for r in server.requests if r.path == "/token"])


def kept(account: Account) -> Grant:
    grant = Vault(account.client).read()
    assert grant is not None
    return grant


async def test_renewed_once_and_shared_with_the_next_process(
    signed_in: Workspace, account: Account, drive_server: DriveServer
) -> None:
    token = await tokens_for(signed_in).token()
    assert token.startswith("ya29.") and kept(account).access_token == token
    assert kept(account).refresh_token == account.refresh_token
    assert await tokens_for(signed_in).token() == token  # as another process would
    assert renewals(drive_server) == 1
    assert Vault(account.client).path.stat().st_mode & 0o777 == 0o600


async def test_a_token_that_another_process_has_renewed_is_taken(
    signed_in: Workspace, drive_server: DriveServer
) -> None:
    one, two = tokens_for(signed_in), tokens_for(signed_in)
    first = await one.token()
    assert await two.token() == first
    second = await one.token(refused=first)
    assert await two.token(refused=first) == second
    assert renewals(drive_server) == 2


async def test_an_ended_token_is_not_given_out(
    signed_in: Workspace, account: Account, drive_server: DriveServer
) -> None:
    first = await tokens_for(signed_in).token()
    now = time.time()
    Vault(account.client).write(msgspec.structs.replace(kept(account), obtained=now - 3600, expires=now - 1))
    assert await tokens_for(signed_in).token() != first
    Vault(account.client).write(msgspec.structs.replace(kept(account), obtained=now + 9e6, expires=now + 9e6 + 3600))
    await tokens_for(signed_in).token()  # kept by a clock that was wrong
    assert renewals(drive_server) == 3


PROCESS = """
import asyncio, sys
from pathlib import Path
from services import workspace
from services.drive.auth.open import tokens_for
async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    tokens = tokens_for(workspace.open_workspace(Path(sys.argv[1])))
    token = await tokens.token()
    print(await tokens.token(refused=token) if sys.argv[2] == "twice" else token)
asyncio.run(main())
"""


@pytest.mark.parametrize("how", ["once", "twice"])
def test_processes_at_once_do_not_destroy_the_grant(
    signed_in: Workspace, account: Account, drive_server: DriveServer, how: str
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(signed_in.root), how],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=CHECKOUT,
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    told = [process.communicate("go\n", timeout=30)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * 3
    assert all(token.startswith("ya29.") for token in told)
    assert kept(account).refresh_token == account.refresh_token and kept(account).access_token in told
    if how == "once":
        assert renewals(drive_server) == 1 and len(set(told)) == 1
    assert not list(Vault(account.client).folder.glob(".*.tmp"))


async def test_revoked_is_one_clear_step_and_asked_once(
    signed_in: Workspace, account: Account, drive_server: DriveServer
) -> None:
    tokens = tokens_for(signed_in)
    token = await tokens.token()
    drive_server.call("revoke")
    for _ in range(3):
        with pytest.raises(SignInNeeded, match="revoked or has expired") as raised:
            await tokens.token(refused=token)
    assert raised.value.hint == "Sign in with: hybrid-tui --run drive.login"
    assert raised.value.exit_code == 4
    assert renewals(drive_server) == 2
    new = drive_server.account()  # signed in again, by another process
    Vault(account.client).write(
        msgspec.structs.replace(kept(account), refresh_token=new.refresh_token, access_token="")
    )
    assert await tokens.token(refused=token)


async def test_nobody_signed_in_or_with_too_little(box: Workspace, account: Account, drive_server: DriveServer) -> None:
    with pytest.raises(SignInNeeded, match="Nobody is signed in"):
        await tokens_for(box).token()
    Vault(account.client).write(Grant(account.client, "https://www.googleapis.com/auth/drive.file", "1//x"))
    wide = make_box(box.root.parent / "wide", drive_server, client=box.settings.drive.client, scope="drive")
    with pytest.raises(SignInNeeded, match=r"allows drive\.file, but \[drive\] scope asks for drive"):
        await tokens_for(wide).token()
    assert renewals(drive_server) == 0


def test_a_client_that_google_does_not_know(signed_in: Workspace, account: Account) -> None:
    changed = {"installed": {"client_id": account.client, "client_secret": "changed"}}
    Path(signed_in.settings.drive.client).write_text(json.dumps(changed))
    with pytest.raises(SignInNeeded, match=r"does not know the OAuth client any more.*invalid_client"):
        asyncio.run(tokens_for(signed_in).token())


async def test_a_passing_fault_is_ridden_out(signed_in: Workspace, drive_server: DriveServer) -> None:
    drive_server.fault(path="^/token", status=503, times=1)
    assert await tokens_for(signed_in).token()


async def test_a_full_disk_costs_nothing_but_the_note(
    signed_in: Workspace, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("services.atomic.write_bytes", full)
    assert await tokens_for(signed_in).token()
    assert kept(account).refresh_token == account.refresh_token


async def test_no_secret_in_errors_and_logs(
    signed_in: Workspace, account: Account, drive_server: DriveServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong, with every logger at its most talkative."""
    caplog.set_level(logging.DEBUG)
    seen: list[str] = []
    tokens = tokens_for(signed_in)
    token = await tokens.token()
    for fault in (
        {"status": 400, "reason": "invalid_grant"},
        {"status": 403},
        {"drop_response_at": 3},
        {"truncate_at": 20},
        {"corrupt_at": 1},
    ):
        rule = drive_server.fault(path="^/token", times=0, **fault)
        try:
            token = await tokens.token(refused=token)
        except (HybridError, BadInput) as error:
            chain: BaseException | None = error
            while chain is not None:
                seen += [str(chain), repr(chain), getattr(chain, "hint", "")]
                chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
        drive_server.clear(rule)
    drive_server.call("revoke")
    with contextlib.suppress(SignInNeeded):
        await tokens.token(refused=token)
    text = "\n".join([*seen, caplog.text, repr(tokens), repr(tokens.__dict__)])
    assert seen
    for secret in (account.refresh_token, account.secret, token, "1//", "ya29."):
        assert secret not in text


async def test_the_loop_goes_on_while_the_token_server_is_slow(signed_in: Workspace, drive_server: DriveServer) -> None:
    drive_server.fault(path="^/token", latency=0.3)
    ticks = 0
    work = asyncio.create_task(tokens_for(signed_in).token())
    while not work.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert await work and ticks > 10


async def test_out_of_reach(signed_in: Workspace) -> None:
    settings = msgspec.structs.replace(signed_in.settings.drive, token_url="http://127.0.0.1:9/token")
    box = Workspace(signed_in.root, msgspec.structs.replace(signed_in.settings, drive=settings))
    with pytest.raises(StoreUnreachable, match="does not answer") as raised:
        await tokens_for(box).token()
    assert not isinstance(raised.value, SignInNeeded) and raised.value.hint


def test_a_process_killed_while_it_renews_leaves_a_whole_grant(signed_in: Workspace, account: Account) -> None:
    endless = PROCESS.replace(
        'print(await tokens.token(refused=token) if sys.argv[2] == "twice" else token)',
        "print(token, flush=True)\n    while True: token = await tokens.token(refused=token)",
    )
    assert endless != PROCESS
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", endless, str(signed_in.root), "on"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=CHECKOUT,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        while not process.stdout.readline().startswith("ya29."):
            pass
        process.kill()
        process.communicate()
        assert kept(account).refresh_token == account.refresh_token
    assert asyncio.run(tokens_for(signed_in).token(refused=kept(account).access_token))  # and the lock is free
