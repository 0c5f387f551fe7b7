"""The OAuth client: who this program is to Google. The user makes it once and gives its JSON file in the settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import msgspec

from services.drive.auth.words import SETUP
from services.drive.errors import SignInNeeded
from services.errors import BadInput
from services.workspace import Workspace


class OAuthClient(msgspec.Struct, frozen=True):
    """``kind`` is "installed" (Google's console calls it Desktop app; TVs have it too) or "web" (Web application).

    ``redirects`` are the addresses a web client may be answered at; an installed one has any port of 127.0.0.1.
    https://developers.google.com/identity/protocols/oauth2/native-app
    """

    id: str
    secret: str
    kind: Literal["installed", "web"]
    redirects: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"OAuthClient({self.id!r}, kind={self.kind!r})"


def client_path(workspace: Workspace) -> Path:
    """Where ``[drive] client`` points; relative to the workspace, or with ~."""
    return workspace.root / Path(workspace.settings.drive.client).expanduser()


def read_client(path: Path) -> OAuthClient:
    """The client in Google's JSON file.

    Raises SignInNeeded when there is no file, BadInput when it is something else; both say what to do.
    """
    document = _document(path)
    if document.get("type") == "service_account":
        raise BadInput(
            f"{path} is a service account's key, not an OAuth client.",
            hint='Set [drive] account = "service-account" and key = that file.',
        )
    if document.get("type") == "authorized_user":
        raise BadInput(
            f"{path} is a grant that gcloud made, not an OAuth client.",
            hint='Set [drive] account = "adc" to use gcloud\'s sign-in.',
        )
    kind: Literal["installed", "web"] = "web" if "web" in document else "installed"
    inner = document.get(kind)
    if not isinstance(inner, dict) or not isinstance(inner.get("client_id"), str) or not inner["client_id"]:
        raise BadInput(
            f'{path} is not an OAuth client\'s JSON: it has neither "installed" nor "web" with a client_id.',
            hint=f"Make a client of type Desktop app in Google's console and download its JSON. {SETUP}",
        )
    redirects = inner.get("redirect_uris")
    return OAuthClient(
        id=inner["client_id"],
        secret=str(inner.get("client_secret") or ""),
        kind=kind,
        redirects=tuple(r for r in redirects if isinstance(r, str)) if isinstance(redirects, list) else (),
    )


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SignInNeeded(
            f"There is no OAuth client at {path}, and without one Google lets nobody sign in.",
            hint=f"Make one in Google's console and name its JSON file in hybrid.toml, [drive] client. {SETUP}",
        ) from None
    except OSError as error:
        raise BadInput(
            f"The OAuth client {path} can't be read: {error.strerror}.", hint="Check its permissions."
        ) from None
    except ValueError:  # the parser's own words quote the file, which may hold a secret
        raise BadInput(f"{path} is not JSON.", hint=f"Download the client's JSON again. {SETUP}") from None
    if not isinstance(document, dict):
        raise BadInput(f"{path} is not an OAuth client's JSON.", hint=f"Download it again. {SETUP}")
    return document
