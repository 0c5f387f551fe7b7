"""Actions: drive.login, drive.logout, drive.status."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from services.context import Context, Plan, Progress
from services.drive.auth import words
from services.drive.auth.browser import SignIn
from services.drive.auth.client import client_path, read_client
from services.drive.auth.open import tokens_for
from services.drive.auth.tokens import in_thread
from services.drive.auth.vault import Grant, Vault
from services.drive.errors import SignInNeeded
from services.errors import BadInput, StoreUnreachable


class LoginParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to sign in."""

    flow: Annotated[
        Literal["auto", "loopback", "paste", "device"],
        Meta(
            description="auto: in a browser, its answer heard on this machine or pasted here; loopback: heard only; "
            "paste: pasted only; device: a code typed at Google on another device (scope drive.file)."
        ),
    ] = "auto"
    scope: Annotated[
        Literal["settings", "drive.file", "drive"], Meta(description="settings: what [drive] scope says.")
    ] = "settings"
    port: Annotated[int, Meta(ge=0, le=65535, description="Port of 127.0.0.1 for the answer; 0: any free one.")] = 0
    no_browser: Annotated[bool, Meta(description="Only print the address, open no browser.")] = False
    code: Annotated[str, Meta(description="Ends flow=paste begun before: the address or the code; -: read it.")] = ""


class LoginResult(msgspec.Struct, frozen=True):
    """``state`` is "waiting" while ``address`` waits for a person; ``next`` is the command after that."""

    state: Literal["signed in", "waiting"]
    account: str
    scope: str
    allows: str
    kept: str = ""
    address: str = ""
    next: str = ""


class LogoutParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``drive.logout`` takes no parameters."""


class LogoutResult(msgspec.Struct, frozen=True):
    """``revoked`` at Google; ``removed`` from this machine; ``note`` says what remains to be done, if anything."""

    revoked: bool
    removed: bool
    note: str = ""


class StatusParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``drive.status`` takes no parameters."""


class DriveStatus(msgspec.Struct, frozen=True):
    """Who is signed in and how much room there is. Bytes; ``limit_bytes`` and ``free_bytes`` None: unlimited.

    ``used_bytes`` is all of the account's storage (Drive, Gmail and Photos share it), ``trash_bytes`` what emptying
    Drive's trash would give back.
    """

    account: str
    email: str
    name: str
    scope: str
    allows: str
    kept: str
    used_bytes: int
    free_bytes: int | None
    limit_bytes: int | None
    drive_bytes: int
    trash_bytes: int
    root: str
    root_id: str
    shared_drive: str


async def login(ctx: Context, params: LoginParams) -> LoginResult | Plan:
    """Sign in to Google Drive; the page's address and the device's code are told as progress notes.

    Raises SignInNeeded (said no, nobody answered, no OAuth client), BadInput, StoreUnreachable.
    """
    ctx.will_write("drive.login")
    settings = ctx.workspace.settings.drive
    if settings.account != "user":
        if ctx.dry_run:
            return Plan("drive.login", f'Check that [drive] account = "{settings.account}" gives access; keep nothing.')
        return await _machines(ctx)
    scope = settings.scope if params.scope == "settings" else params.scope
    if ctx.dry_run:
        client = read_client(client_path(ctx.workspace))
        summary = f"Ask Google for the scope {scope} and keep the sign-in in {await in_thread(Vault(client.id).place)}."
        return Plan("drive.login", summary)
    if params.code:
        return await _resumed(ctx, params.code)
    if params.flow == "device":
        return await _by_device(ctx, scope)
    if params.flow == "paste" and ctx.ask is None:
        return await _begun(ctx, params, scope)
    return await _by_browser(ctx, params, scope)


async def _by_browser(ctx: Context, params: LoginParams, scope: str) -> LoginResult:
    listen = params.flow != "paste"
    async with await SignIn.begin(ctx.workspace, scope=scope, port=params.port, listen=listen) as sign_in:
        asks = ctx.ask is not None and params.flow != "loopback"
        _say(ctx, "Open this page in a browser and agree:", sign_in.address)
        if asks:
            _say(ctx, "If the browser ends at an error (it runs on another machine), paste its address line here.")
        opens = listen and not params.no_browser and has_browser()
        opening = asyncio.create_task(in_thread(lambda: open_page(sign_in.address))) if opens else None
        asking = asyncio.create_task(_ask(ctx, sign_in)) if asks else None
        try:
            while True:
                try:
                    return _signed_in(await sign_in.result(), await in_thread(sign_in.vault.place))
                except BadInput as error:
                    if asking is None or asking.done():
                        raise
                    _say(ctx, f"{error} {error.hint}")
        finally:
            for task in (opening, asking):
                if task is not None:
                    task.cancel()


async def _ask(ctx: Context, sign_in: SignIn) -> None:
    """Hand over what is pasted, line by line, until it ends."""
    assert ctx.ask is not None
    while line := await ctx.ask():
        try:
            if line.strip():
                sign_in.paste(line)
        except BadInput as error:
            _say(ctx, f"{error} {error.hint}")
    if sign_in.listener is None:
        sign_in.give_up()


async def _begun(ctx: Context, params: LoginParams, scope: str) -> LoginResult:
    """Where nobody can be asked: the address now, the answer with a second command."""
    from services.drive.auth import pending

    sign_in = await SignIn.begin(ctx.workspace, scope=scope, port=params.port, listen=False)
    pending.leave(sign_in)
    return LoginResult(
        "waiting",
        "user",
        scope,
        words.MEANING[scope],
        address=sign_in.address,
        next="hybrid-tui --run drive.login code=-",
    )


async def _resumed(ctx: Context, code: str) -> LoginResult:
    from services.drive.auth import pending

    sign_in = pending.resume(ctx.workspace)
    sign_in.paste(await in_thread(sys.stdin.readline) if code == "-" else code)
    try:
        grant = await sign_in.result()
    except SignInNeeded:
        pending.forget(ctx.workspace)
        raise
    pending.forget(ctx.workspace)
    return _signed_in(grant, await in_thread(sign_in.vault.place))


async def _by_device(ctx: Context, scope: str) -> LoginResult:
    from services.drive.auth.device import DeviceSignIn

    sign_in = await DeviceSignIn.begin(ctx.workspace, scope=scope)
    _say(ctx, f"On any device, open {sign_in.address} and type the code {sign_in.user_code}")
    return _signed_in(await sign_in.result(), await in_thread(sign_in.vault.place))


async def _machines(ctx: Context) -> LoginResult:
    """An account that the machine brings needs no sign-in of ours: show that it works, in Colab after its dialog."""
    settings = ctx.workspace.settings.drive
    if settings.account == "colab":
        from services.drive.auth.machine import colab_sign_in

        colab_sign_in()
    await tokens_for(ctx.workspace).token()
    return LoginResult(
        "signed in", settings.account, settings.scope, words.MEANING[settings.scope], kept="not by hybrid-tui"
    )


async def logout(ctx: Context, params: LogoutParams) -> LogoutResult | Plan:
    """End the grant at Google and forget it here. When Google can't be reached it is forgotten all the same.

    Raises BadInput when the account is not one that drive.login signed in.
    """
    ctx.will_write("drive.logout")
    settings = ctx.workspace.settings.drive
    if settings.account != "user":
        raise BadInput(
            f'[drive] account is "{settings.account}", which hybrid-tui did not sign in.', hint=_END[settings.account]
        )
    vault = Vault(read_client(client_path(ctx.workspace)).id)
    if ctx.dry_run:
        summary = f"End the sign-in at Google and remove it from {await in_thread(vault.place)}."
        return Plan("drive.logout", summary)
    grant = await in_thread(lambda: _removed(vault))
    if grant is None:
        return LogoutResult(False, False, "Nobody was signed in on this machine.")
    from services.drive.auth.endpoints import revoke

    try:
        revoked = await revoke(settings, grant.refresh_token)
    except StoreUnreachable as error:
        return LogoutResult(
            False, True, f"{error} End the access at https://myaccount.google.com/connections yourself."
        )
    return LogoutResult(True, True, "" if revoked else "The sign-in had ended at Google before.")


_END = {
    "adc": "gcloud auth application-default revoke ends it.",
    "service-account": "Delete its key in Google's console to end it.",
    "colab": "It ends with the Colab machine.",
}


def _removed(vault: Vault) -> Grant | None:
    with vault.lock():
        grant = vault.read()
        vault.remove()
    return grant


async def status(ctx: Context, params: StatusParams) -> DriveStatus:
    """Who is signed in, what that allows, and how much room there is.

    Raises SignInNeeded, StoreUnreachable, DriveRefused (the Drive API is not enabled in the client's project).
    """
    from services.drive.api.client import DriveClient

    workspace = ctx.workspace
    settings = workspace.settings.drive
    async with DriveClient(tokens_for(workspace), settings, workspace.drive_state) as client:
        about = await client.about()
    scope, kept = str(settings.scope), "not by hybrid-tui"
    if settings.account == "user":
        vault = Vault(read_client(client_path(workspace)).id)
        grant = await in_thread(vault.read)
        if grant is None:
            raise SignInNeeded("The sign-in was removed just now.", hint=words.LOGIN)
        scope, kept = words.short(grant.scope), await in_thread(vault.place)
    return DriveStatus(
        account=settings.account,
        email=about.email,
        name=about.name,
        scope=scope,
        allows=words.MEANING["drive" if "drive" in scope.split() else "drive.file"],
        kept=kept,
        used_bytes=about.used,
        free_bytes=None if about.limit is None else max(about.limit - about.used, 0),
        limit_bytes=about.limit,
        drive_bytes=about.in_drive,
        trash_bytes=about.in_trash,
        root=workspace.settings.store.root,
        root_id=settings.root_id,
        shared_drive=settings.shared_drive,
    )


def _signed_in(grant: Grant, kept: str) -> LoginResult:
    scope = words.short(grant.scope)
    return LoginResult(
        "signed in",
        "user",
        scope,
        words.MEANING["drive" if "drive" in scope.split() else "drive.file"],
        kept=kept,
        next="hybrid-tui --run drive.status",
    )


def _say(ctx: Context, *lines: str) -> None:
    for line in lines:
        ctx.report(Progress("sign in", note=line))


def has_browser() -> bool:
    """Only where a page would open in a window: a text browser would take over the terminal."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"))


def open_page(address: str) -> None:
    """Show ``address`` in the user's browser. Blocks while that starts; some print, and our output is not theirs."""
    import subprocess

    null = subprocess.DEVNULL
    command = [sys.executable, "-m", "webbrowser", address]
    subprocess.run(command, stdin=null, stdout=null, stderr=null, start_new_session=True, check=False)
