"""Google's sign-in on loopback: every grant, and every way in which it ends."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from tests.drive_bed.raw import raw
from tests.drive_bed.serve import CLIENT, Account, DriveServer

REDIRECT = "http://127.0.0.1:9999/"
FILE = "https://www.googleapis.com/auth/drive.file"


@pytest.fixture
async def http(drive_server: DriveServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(drive_server.url) as session:
        yield session


async def post(http: aiohttp.ClientSession, path: str, **form: str) -> tuple[int, dict[str, Any]]:
    async with http.post(path, data=form) as answer:
        return answer.status, await answer.json()


def client(account: Account) -> dict[str, str]:
    return {"client_id": account.client, "client_secret": account.secret}


async def consent(http: aiohttp.ClientSession, **query: str) -> tuple[int, dict[str, list[str]]]:
    usual = {"client_id": CLIENT, "redirect_uri": REDIRECT, "response_type": "code", "scope": FILE, "state": "s t"}
    async with http.get("/o/oauth2/v2/auth", params=usual | query, allow_redirects=False) as answer:
        return answer.status, parse_qs(urlsplit(answer.headers.get("Location", "")).query)


async def test_loopback_with_pkce(http: aiohttp.ClientSession, drive_server: DriveServer) -> None:
    ann = drive_server.account()
    verifier = "v" * 50
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    status, back = await consent(http, code_challenge=challenge, code_challenge_method="S256")
    assert (status, back["state"], back["scope"]) == (302, ["s t"], [FILE])
    form = {"grant_type": "authorization_code", "code": back["code"][0], "redirect_uri": REDIRECT} | client(ann)
    status, told = await post(http, "/token", code_verifier=verifier, **form)
    assert (status, told["token_type"], told["scope"]) == (200, "Bearer", FILE)
    assert told["refresh_token"].startswith("1//")
    status, told = await post(http, "/token", code_verifier=verifier, **form)
    assert (status, told["error"]) == (400, "invalid_grant")  # a code serves once


@pytest.mark.parametrize(
    "change", [{"code_verifier": "wrong"}, {"redirect_uri": "http://127.0.0.1:1/"}, {"code": "4/no"}]
)
async def test_a_code_is_bound(http: aiohttp.ClientSession, drive_server: DriveServer, change: dict[str, str]) -> None:
    ann = drive_server.account()
    _, back = await consent(http, code_challenge="plain", code_challenge_method="plain")
    form = {
        "grant_type": "authorization_code",
        "code": back["code"][0],
        "redirect_uri": REDIRECT,
        "code_verifier": "plain",
    }
    status, told = await post(http, "/token", **(form | client(ann) | change))
    assert status == 400
    assert told["error"] in ("invalid_grant", "redirect_uri_mismatch")


async def test_denial_and_bad_questions(http: aiohttp.ClientSession, drive_server: DriveServer) -> None:
    drive_server.account()
    drive_server.call("settings", deny=CLIENT)
    assert await consent(http) == (302, {"error": ["access_denied"], "state": ["s t"]})
    assert (await consent(http))[0] == 302
    assert (await consent(http, redirect_uri="https://evil.example/"))[0] == 400
    assert (await consent(http, client_id="nobody"))[0] == 401
    assert (await consent(http, scope=""))[0] == 400


async def test_a_box_left_unticked(http: aiohttp.ClientSession, drive_server: DriveServer) -> None:
    drive_server.account()
    drive_server.call("settings", withhold=[FILE])
    assert (await consent(http, scope=f"{FILE} openid"))[1]["scope"] == ["openid"]


async def test_the_hint_picks_the_account(http: aiohttp.ClientSession, drive_server: DriveServer) -> None:
    ann = drive_server.account("ann@example.org")
    drive_server.account("bob@example.org")
    _, back = await consent(http, login_hint="ann@example.org", scope=FILE)
    form = {"grant_type": "authorization_code", "code": back["code"][0], "redirect_uri": REDIRECT} | client(ann)
    _, told = await post(http, "/token", **form)
    about = {"Authorization": "Bearer " + told["access_token"]}
    async with http.get("/drive/v3/about?fields=user/emailAddress", headers=about) as answer:
        assert await answer.json() == {"user": {"emailAddress": "ann@example.org"}}


async def test_refresh(http: aiohttp.ClientSession, drive_server: DriveServer) -> None:
    ann = drive_server.account()
    form = {"grant_type": "refresh_token", "refresh_token": ann.refresh_token}
    status, told = await post(http, "/token", **form, **client(ann))
    assert (status, told["expires_in"]) == (200, 3599)
    assert "refresh_token" not in told
    wrong = await post(http, "/token", **form, client_id=ann.client, client_secret="wrong")
    assert (wrong[0], wrong[1]["error"]) == (401, "invalid_client")
    other = drive_server.account("bob@example.org", client="other")
    assert (await post(http, "/token", **form, **client(other)))[1]["error"] == "invalid_grant"
    assert (await post(http, "/token", grant_type="password"))[1]["error"] == "unsupported_grant_type"


async def test_tokens_expire(drive_server: DriveServer) -> None:
    drive_server.call("settings", lifetime=-1)
    async with raw(drive_server.account()) as call:
        answer = await call("GET", "/drive/v3/files")
        assert (answer.status, answer.reason) == (401, "authError")
        assert "www-authenticate" in answer.headers


@pytest.mark.parametrize("by", ["refresh", "access"])
async def test_revoking_ends_the_grant(http: aiohttp.ClientSession, drive_server: DriveServer, by: str) -> None:
    ann = drive_server.account()
    access = ann.access_token()
    assert (await post(http, "/revoke", token=ann.refresh_token if by == "refresh" else access))[0] == 200
    async with http.get("/drive/v3/files", headers={"Authorization": "Bearer " + access}) as answer:
        assert answer.status == 401
    form = {"grant_type": "refresh_token", "refresh_token": ann.refresh_token}
    assert (await post(http, "/token", **form, **client(ann)))[1]["error"] == "invalid_grant"
    assert (await post(http, "/revoke", token=access))[1]["error"] == "invalid_token"


async def test_device_flow(http: aiohttp.ClientSession, drive_server: DriveServer) -> None:
    tv = drive_server.account(client="tv-client", kind="tv")
    drive_server.call("settings", device_interval=0)
    wide = await post(http, "/device/code", client_id=tv.client, scope="https://www.googleapis.com/auth/drive")
    assert (wide[0], wide[1]["error"]) == (400, "invalid_scope")
    _, told = await post(http, "/device/code", client_id=tv.client, scope=FILE)
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": told["device_code"],
    } | client(tv)
    waiting = await post(http, "/token", **form)
    assert (waiting[0], waiting[1]["error"]) == (428, "authorization_pending")
    drive_server.call("settings", device_interval=5)
    assert drive_server.call("device", user_code=told["user_code"], email="ann@example.org") == {"known": True}
    done = await post(http, "/token", **form)
    assert done[0] == 200
    assert done[1]["refresh_token"]


async def test_device_flow_denied_and_hasty(http: aiohttp.ClientSession, drive_server: DriveServer) -> None:
    tv = drive_server.account(client="tv-client", kind="tv")
    _, told = await post(http, "/device/code", client_id=tv.client, scope=FILE)
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": told["device_code"],
    } | client(tv)
    assert (await post(http, "/token", **form))[1]["error"] == "authorization_pending"
    assert (await post(http, "/token", **form))[1]["error"] == "slow_down"
    drive_server.call("device", user_code=told["user_code"])
    assert (await post(http, "/token", **form)) == (403, {"error": "access_denied", "error_description": "Forbidden"})
    installed = drive_server.account()
    assert (await post(http, "/device/code", client_id=installed.client, scope=FILE))[1]["error"] == "invalid_client"


async def test_a_forged_assertion(http: aiohttp.ClientSession, drive_server: DriveServer, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from google.auth import crypt, jwt

    drive_server.service_account(path=tmp_path / "real.json")
    email = "robot@project.iam.gserviceaccount.com"
    from tests.drive_bed.authority import new_key

    signer = crypt.RSASigner.from_string(new_key()[0])
    claims = {"iss": email, "aud": drive_server.url + "/token", "scope": FILE, "iat": 0, "exp": 2**33}
    grant = "urn:ietf:params:oauth:grant-type:jwt-bearer"
    status, told = await post(http, "/token", grant_type=grant, assertion=jwt.encode(signer, claims).decode())
    assert (status, told["error"]) == (400, "invalid_grant")
    assert (await post(http, "/token", grant_type=grant, assertion="a.b.c"))[0] == 400


async def test_a_narrow_scope_sees_only_what_its_client_made(drive_server: DriveServer) -> None:
    narrow = drive_server.account()
    other = drive_server.account(client="other-client")
    wide = drive_server.account(scope="drive", client="third-client")
    by_hand = narrow.put("by hand", b"1", by="")
    async with raw(narrow) as mine, raw(other) as theirs, raw(wide) as all_of_it:
        own = await mine.put("mine", b"2")
        assert await mine.list() == ["mine"]
        assert await theirs.list() == []
        assert set(await all_of_it.list("'root' in parents")) == {"by hand", "mine"}
        for call, id, status in ((mine, by_hand, 404), (theirs, own, 404), (mine, own, 200), (all_of_it, own, 200)):
            assert (await call("GET", f"/drive/v3/files/{id}")).status == status
            assert (await call("PATCH", f"/drive/v3/files/{id}", json={"starred": True})).status == status
        assert (await mine("GET", "/drive/v3/files/root")).status == 404  # a narrow client can't read the root itself
        assert (await theirs.multipart({"name": "x", "parents": ["root"]}, b"")).status == 200
        assert (await theirs.multipart({"name": "x", "parents": [by_hand]}, b"")).status == 404
        assert (await mine("GET", "/drive/v3/drives")).reason == "insufficientPermissions"


async def test_what_a_person_opens_with_a_client_is_seen_by_it(drive_server: DriveServer) -> None:
    narrow = drive_server.account()
    by_hand = narrow.put("by hand", b"1", by="")
    async with raw(narrow) as call:
        assert await call.list() == []
        drive_server.call("edit", id=by_hand, open_with=narrow.client)
        assert await call.list() == ["by hand"]


async def test_scopes_that_only_read(drive_server: DriveServer) -> None:
    looking = drive_server.account(scope="drive.metadata.readonly")
    id = looking.put("x", b"1")
    async with raw(looking) as call:
        assert await call.list("name = 'x'") == ["x"]
        assert (await call("GET", f"/drive/v3/files/{id}?alt=media")).reason == "insufficientPermissions"
        assert (await call("POST", "/drive/v3/files", json={})).reason == "insufficientPermissions"
