"""Scopes, addresses and the sentences that several parts of the sign-in say."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

from services.drive.errors import SignInNeeded
from services.errors import StoreUnreachable

PREFIX = "https://www.googleapis.com/auth/"
"""What Google's names of scopes begin with; "drive.file" is the rest."""

MEANING = {
    "drive.file": "only files that this OAuth client made, or that were opened with it",
    "drive": "every file of the account, also models put there by hand",
}

LOGIN = "Sign in with: hybrid-tui --run drive.login"
SETUP = "docs/drive-setup.md goes through it step by step."


def full(scope: str) -> str:
    """Google's name of a scope."""
    return PREFIX + scope


def short(scopes: str) -> str:
    """Scopes as Google answers them (separated by spaces), in the words of the settings."""
    return " ".join(scope.removeprefix(PREFIX) for scope in scopes.split())


def covers(granted: str, wanted: str) -> bool:
    """Whether scopes as Google answers them allow ``wanted`` ("drive.file" or "drive")."""
    return bool({wanted, "drive"} & set(short(granted).split()))


def beside(token_url: str, name: str) -> str:
    """The address ``name`` ("revoke", "device/code") next to the token address, where Google has it."""
    parts = urlsplit(token_url)
    return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] + "/" + name, query=""))


def code_of(answer: object) -> str:
    """The error code in a token server's answer, "" when there is none. Only its plain word: never text that might
    repeat what was sent."""
    code = answer.get("error") if isinstance(answer, dict) else ""
    return code if isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code) else ""


def grant_gone() -> SignInNeeded:
    """invalid_grant: Google's one word for revoked, expired, unused for six months, or too many grants.

    https://developers.google.com/identity/protocols/oauth2#expiration
    """
    return SignInNeeded(
        "Google does not accept the sign-in any more: it was revoked or has expired"
        " (after 7 days when the consent screen is in testing).",
        hint=LOGIN,
    )


def refused(code: str, token_url: str) -> StoreUnreachable:
    """What the token server's error ``code`` means. https://developers.google.com/identity/protocols/oauth2/native-app"""
    if code in ("invalid_client", "unauthorized_client", "deleted_client", "disabled_client"):
        return SignInNeeded(
            f"Google does not know the OAuth client any more, or its secret was changed ({code}).",
            hint=f"Download its JSON again from Google's console. {SETUP}",
        )
    if code == "invalid_scope":
        return SignInNeeded("The sign-in was not given for what [drive] scope asks for (invalid_scope).", hint=SETUP)
    if code in ("access_denied", "org_internal", "admin_policy_enforced"):
        return SignInNeeded(f"Google does not allow this sign-in ({code}).", hint=SETUP)
    return unreachable(token_url, f"answered with an error{f' ({code})' if code else ''}")


def unreachable(token_url: str, why: str = "") -> StoreUnreachable:
    """The token server does not answer, or not as one should."""
    return StoreUnreachable(
        f"Google's token server {urlsplit(token_url).netloc} {why or 'does not answer'}.",
        hint="Check the network, then try again: the sign-in itself is kept.",
    )
