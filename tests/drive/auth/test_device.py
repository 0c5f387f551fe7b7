"""Signing in on another device."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.context import Context, Progress
from services.drive.auth.actions import LoginParams, LoginResult, login
from services.drive.auth.device import DeviceSignIn
from services.drive.auth.vault import Vault
from services.drive.errors import SignInNeeded
from services.errors import BadInput
from services.workspace import Workspace
from tests.drive.auth.helpers import make_box
from tests.drive_bed.serve import Account, DriveServer


@pytest.fixture
def tv(drive_server: DriveServer) -> Account:
    """Ann with a client of the type that may."""
    return drive_server.account(client="tv-client", kind="tv")


@pytest.fixture
def tv_box(drive_server: DriveServer, tv: Account, tmp_path: Path) -> Workspace:
    return make_box(tmp_path / "work", drive_server, client=str(tv.client_json(tmp_path / "tv.json")))


class Patience:
    """Waits in no time, and does something to the world at the wait that is named."""

    def __init__(self, server: DriveServer, **device: str) -> None:
        self.server = server
        self.device = device
        self.waits: list[float] = []
        self.at = 3
        self.user_code = ""

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        if len(self.waits) == self.at:
            assert self.server.call("device", user_code=self.user_code, **self.device)["known"]


async def begun(box: Workspace, patience: Patience) -> DeviceSignIn:
    sign_in = await DeviceSignIn.begin(box)
    sign_in._sleep = patience
    patience.user_code = sign_in.user_code
    return sign_in


async def test_pending_then_allowed(tv_box: Workspace, tv: Account, drive_server: DriveServer) -> None:
    drive_server.call("settings", device_interval=0)
    patience = Patience(drive_server, email=tv.email)
    sign_in = await begun(tv_box, patience)
    assert sign_in.address == drive_server.url + "/device" and sign_in.user_code
    grant = await sign_in.result()
    assert Vault("tv-client").read() == grant
    assert patience.waits == [1, 1, 1]
    assert [r.status for r in drive_server.requests if r.path == "/token"] == [428, 428, 200]


async def test_it_slows_down_when_told(tv_box: Workspace, tv: Account, drive_server: DriveServer) -> None:
    drive_server.call("settings", device_interval=60)
    patience = Patience(drive_server, email=tv.email)
    patience.at = 4
    assert (await (await begun(tv_box, patience)).result()).refresh_token
    assert patience.waits == [60, 60, 65, 70]  # pending, slow_down, slow_down, allowed


async def test_a_broken_line_does_not_end_it(tv_box: Workspace, tv: Account, drive_server: DriveServer) -> None:
    drive_server.call("settings", device_interval=0)
    drive_server.fault(path="^/token", drop_response_at=0, times=1)
    drive_server.fault(path="^/token", status=503, times=1)
    patience = Patience(drive_server, email=tv.email)
    assert (await (await begun(tv_box, patience)).result()).refresh_token


async def test_denied(tv_box: Workspace, drive_server: DriveServer) -> None:
    drive_server.call("settings", device_interval=0)
    with pytest.raises(SignInNeeded, match="told no"):
        await (await begun(tv_box, Patience(drive_server))).result()
    assert Vault("tv-client").read() is None


async def test_expired_at_google_and_by_our_clock(tv_box: Workspace, drive_server: DriveServer) -> None:
    drive_server.call("settings", device_interval=0)
    patience = Patience(drive_server)
    sign_in = await begun(tv_box, patience)
    sign_in._device_code = "unknown by now"
    with pytest.raises(SignInNeeded, match="not typed at Google in time"):
        await sign_in.result()
    late = await begun(tv_box, patience)
    late.ends = 0
    with pytest.raises(SignInNeeded, match="not typed at Google in time"):
        await late.result()


async def test_the_command_tells_address_and_code(tv_box: Workspace, tv: Account, drive_server: DriveServer) -> None:
    drive_server.call("settings", device_interval=0)
    told: list[str] = []

    def heard(progress: Progress) -> None:
        told.append(progress.note)
        assert drive_server.call("device", user_code=progress.note.split()[-1], email=tv.email)["known"]

    result = await login(Context(tv_box, heard), LoginParams(flow="device"))
    assert isinstance(result, LoginResult) and result.state == "signed in"
    assert len(told) == 1 and f"open {drive_server.url}/device and type the code" in told[0]


async def test_a_desktop_client_may_not(box: Workspace) -> None:
    with pytest.raises(BadInput, match="TVs and Limited Input devices"):
        await DeviceSignIn.begin(box)


async def test_the_wide_scope_may_not_and_google_is_not_asked(tv_box: Workspace, drive_server: DriveServer) -> None:
    with pytest.raises(BadInput, match=r"for the scope drive, only for drive\.file") as raised:
        await DeviceSignIn.begin(tv_box, scope="drive")
    assert "flow=paste" in raised.value.hint
    assert not [r for r in drive_server.requests if r.path == "/device/code"]
