"""Signing in with a browser: heard on loopback, pasted from another machine, refused, forged."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.drive.auth import words
from services.drive.auth.browser import Attempt, SignIn
from services.drive.auth.client import OAuthClient
from services.drive.auth.open import tokens_for
from services.drive.auth.vault import Grant, Vault
from services.drive.errors import SignInNeeded
from services.errors import BadInput, StoreUnreachable
from services.settings import Settings
from services.workspace import Workspace
from tests.drive.auth.helpers import address_line, browse, make_box
from tests.drive_bed.serve import Account, DriveServer


async def test_the_browsers_answer_is_heard_and_the_grant_kept(box: Workspace, account: Account) -> None:
    async with await SignIn.begin(box) as sign_in:
        status, page = await browse(sign_in.address)
        grant = await sign_in.result()
    assert status == 200 and "has arrived" in page
    assert grant.refresh_token and words.short(grant.scope) == "drive.file"
    assert Vault(account.client).read() == grant
    assert await tokens_for(box).token() == grant.access_token  # no other request is needed


async def test_the_page_asks_for_the_narrow_scope_with_pkce_and_state(box: Workspace) -> None:
    async with await SignIn.begin(box) as sign_in:
        query = {key: values[0] for key, values in parse_qs(urlsplit(sign_in.address).query).items()}
        assert query["scope"] == "https://www.googleapis.com/auth/drive.file"
        assert query["code_challenge_method"] == "S256" and len(query["code_challenge"]) == 43
        assert query["redirect_uri"] == f"http://127.0.0.1:{sign_in.listener.port}/"  # type: ignore[union-attr]
        assert query["access_type"] == "offline" and len(query["state"]) >= 32
        assert sign_in.attempt.verifier not in sign_in.address
    async with await SignIn.begin(box, scope="drive") as wide:
        assert wide.attempt.state != sign_in.attempt.state
        assert "auth%2Fdrive&" in wide.address


async def test_it_listens_on_loopback_only_and_stops(box: Workspace) -> None:
    async with await SignIn.begin(box) as sign_in:
        assert sign_in.listener is not None and sign_in.listener._server is not None
        assert [s.getsockname()[0] for s in sign_in.listener._server.sockets] == ["127.0.0.1"]
        port = sign_in.listener.port
        assert (await browse(f"http://127.0.0.1:{port}/favicon.ico"))[0] == 404
        assert (await browse(f"http://127.0.0.1:{port}/"))[0] == 404
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()


@pytest.mark.parametrize("whole", [True, False])
async def test_pasting_the_address_line_or_only_the_code(box: Workspace, account: Account, whole: bool) -> None:
    async with await SignIn.begin(box, listen=False) as sign_in:
        line = await address_line(sign_in.address)
        code = parse_qs(urlsplit(line).query)["code"][0]
        sign_in.paste(f"  {line[:60]}\n{line[60:]} \n" if whole else code)  # terminals wrap what is copied
        grant = await sign_in.result()
    assert Vault(account.client).read() == grant


async def test_both_ways_are_open_at_once(box: Workspace) -> None:
    async with await SignIn.begin(box) as sign_in:
        waiting = asyncio.create_task(sign_in.result())
        sign_in.paste(await address_line(sign_in.address))
        assert (await waiting).access_token


async def test_an_answer_to_another_sign_in_is_not_taken(box: Workspace, account: Account) -> None:
    async with await SignIn.begin(box) as sign_in, await SignIn.begin(box) as other:
        line = await address_line(other.address)
        forged = f"http://127.0.0.1:{sign_in.listener.port}/?{urlsplit(line).query}"  # type: ignore[union-attr]
        status, page = await browse(forged)
        assert status == 400 and "another sign-in" in page
        for pasted in (line, line.replace("state=", "fate=")):
            with pytest.raises(BadInput, match="belongs to another sign-in"):
                sign_in.paste(pasted)
        sign_in.paste(parse_qs(urlsplit(line).query)["code"][0])  # without its state: then PKCE refuses it
        with pytest.raises(BadInput, match="did not take that code"):
            await sign_in.result()
        assert Vault(account.client).read() is None
        await browse(sign_in.address)  # and the person's own answer is still heard
        assert (await sign_in.result()).refresh_token


@pytest.mark.parametrize("text", ["hello", "https://example.org/", "http://127.0.0.1:1/?state=x", "<script>", "a b c"])
async def test_what_is_no_answer_is_said_to_be_none(box: Workspace, text: str) -> None:
    async with await SignIn.begin(box, listen=False) as sign_in:
        with pytest.raises(BadInput) as raised:
            sign_in.paste(text)
        assert "paste" in raised.value.hint


@given(text=st.text() | st.from_regex(r"https?://[\[\]:/?&=%\w]*(code|error|state)=[\S ]*"))
@example("http://[?code=4/0Axxxxxxxxxxxxxxxxxxxxx&state=x")
def test_whatever_is_pasted_is_taken_or_named(text: str) -> None:
    client = OAuthClient("me", "secret", "installed")
    attempt = Attempt("drive.file", "the state", "the verifier", "http://127.0.0.1:1/", 0.0)
    sign_in = SignIn(Workspace(Path("/"), Settings()), client, attempt)
    try:
        sign_in.paste(text)
    except BadInput as error:
        assert error.hint
    else:
        assert sign_in._answers.qsize() == 1


async def test_denied_consent(box: Workspace, account: Account, drive_server: DriveServer) -> None:
    drive_server.call("settings", deny=account.client)
    async with await SignIn.begin(box) as sign_in:
        status, page = await browse(sign_in.address)
        assert status == 200 and "You said no" in page
        with pytest.raises(SignInNeeded, match="told no"):
            await sign_in.result()
    assert Vault(account.client).read() is None


async def test_the_token_server_is_away(box: Workspace, drive_server: DriveServer) -> None:
    drive_server.fault(path="^/token", drop_response_at=0, times=0)
    async with await SignIn.begin(box) as sign_in:
        await browse(sign_in.address)
        with pytest.raises(StoreUnreachable, match="does not answer") as raised:
            await sign_in.result()
    assert "code" not in str(raised.value)


async def test_less_than_asked_for_is_not_kept(box: Workspace, account: Account) -> None:
    """As when the box for Drive on Google's page is left open."""
    async with await SignIn.begin(box) as sign_in:
        await browse(sign_in.address)
        sign_in.attempt = msgspec.structs.replace(sign_in.attempt, scope="drive")
        with pytest.raises(SignInNeeded, match="was not ticked"):
            await sign_in.result()
    assert Vault(account.client).read() is None


async def test_a_connection_that_says_nothing_is_hung_up(box: Workspace) -> None:
    async with await SignIn.begin(box) as sign_in:
        reader, writer = await asyncio.open_connection("127.0.0.1", sign_in.listener.port)  # type: ignore[union-attr]
        writer.write(b"GET /?code=")
        await browse(sign_in.address)  # others are heard meanwhile
        assert (await sign_in.result()).refresh_token
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_a_taken_port_is_named(box: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"Port {port}"):
            await SignIn.begin(box, port=port)
    async with await SignIn.begin(box, port=port) as sign_in:
        assert sign_in.attempt.redirect == f"http://127.0.0.1:{port}/"


async def test_a_web_client_uses_its_registered_address(
    box: Workspace, account: Account, drive_server: DriveServer
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"http://127.0.0.1:{probe.getsockname()[1]}/back"
    known = drive_server.call("client", id="web-client", kind="web")
    web = {"client_id": "web-client", "client_secret": known["secret"], "redirect_uris": ["https://x.org/", address]}
    file = box.root.parent / "web.json"
    file.write_text(json.dumps({"web": web}))
    other = make_box(box.root.parent / "web", drive_server, client=str(file))
    async with await SignIn.begin(other) as sign_in:
        assert sign_in.attempt.redirect == address
        await browse(sign_in.address)
        assert (await sign_in.result()).refresh_token


async def test_a_sign_in_replaces_the_one_before(signed_in: Workspace, account: Account) -> None:
    before = Vault(account.client).read()
    async with await SignIn.begin(signed_in) as sign_in:
        await browse(sign_in.address)
        await sign_in.result()
    after = Vault(account.client).read()
    assert isinstance(before, Grant) and isinstance(after, Grant)
    assert after.refresh_token != before.refresh_token


async def test_nobody_answers(box: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.drive.auth.browser.WAIT_SECONDS", 0.05)
    async with await SignIn.begin(box) as sign_in:
        with pytest.raises(SignInNeeded, match="Nobody answered"):
            await sign_in.result()
