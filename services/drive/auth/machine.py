"""Grants that a machine brings: Application Default Credentials, a service account's key, Colab's own sign-in.

Blocking where said so; google-auth keeps these in memory only.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.drive.auth import words
from services.drive.auth.tokens import Lease
from services.drive.auth.user import GrantGone, expiry, refresh
from services.drive.errors import SignInNeeded
from services.errors import BadInput, StoreUnreachable
from services.settings import Drive


def renewer(load: Callable[[], Any], settings: Drive) -> Callable[[str], Lease]:
    """What SharedTokens calls in a thread: ``load`` once, then renew what it gave."""
    held: list[Any] = []
    one_at_a_time = threading.Lock()

    def renew(refused: str) -> Lease:
        with one_at_a_time:
            if not held:
                held.append(load())
            obtained = time.time()
            try:
                refresh(held[0], settings.token_url)
            except GrantGone:
                held.clear()  # it may be made anew meanwhile
                raise _gone(settings) from None
            return Lease(held[0].token, obtained, expiry(held[0], obtained))

    return renew


def _gone(settings: Drive) -> SignInNeeded:
    steps = {
        "service-account": "Make a new key for the service account and name it in [drive] key.",
        "adc": "Run gcloud auth application-default login again, with the scopes that docs/drive-setup.md names.",
        "colab": "In a cell: from google.colab import auth; auth.authenticate_user()",
    }
    whose = "the service account's key" if settings.account == "service-account" else "this machine's sign-in"
    return SignInNeeded(f"Google does not accept {whose} any more.", hint=steps[settings.account])


def _need_shared_drive(settings: Drive) -> None:
    if not settings.shared_drive:
        raise BadInput(
            "A service account has no storage of its own and can keep files in a shared drive only.",
            hint="Make it a member of a shared drive and set [drive] shared_drive to the drive's id.",
        )


def service_account(key: Path, settings: Drive) -> Any:
    """google-auth's credentials from a key file. Raises BadInput.

    A service account has no storage of its own: a file in its My Drive would count against a quota of nothing. In a
    shared drive the drive's organisation owns the files, so that is the only place it can keep any.
    """
    if not settings.key:
        raise BadInput('[drive] account is "service-account", but no key is named.', hint="Set [drive] key.")
    _need_shared_drive(settings)
    from google.oauth2 import service_account as accounts

    try:
        credentials: Any = accounts.Credentials.from_service_account_file(  # type: ignore[no-untyped-call]
            str(key), scopes=[words.full(settings.scope)]
        )
    except OSError as error:
        raise BadInput(f"The key {key} can't be read: {error.strerror}.", hint="Check [drive] key.") from None
    except ValueError:  # google-auth's words may quote the file
        raise BadInput(f"{key} is not a service account's key.", hint=f"Make a new JSON key. {words.SETUP}") from None
    return credentials.with_token_uri(settings.token_url)


def application_default(settings: Drive) -> Any:
    """What gcloud, GOOGLE_APPLICATION_CREDENTIALS or the machine itself offers. Raises SignInNeeded, BadInput."""
    import google.auth
    from google.auth import exceptions

    try:
        credentials, _ = google.auth.default(scopes=[words.full(settings.scope)])
    except exceptions.DefaultCredentialsError:
        raise SignInNeeded(
            "This machine has no Application Default Credentials.",
            hint="Make them with gcloud auth application-default login and the scopes that docs/drive-setup.md names.",
        ) from None
    except exceptions.GoogleAuthError:
        raise StoreUnreachable("The machine's metadata server does not answer.", hint="Try again.") from None
    if hasattr(credentials, "service_account_email"):  # a key in the variable, or a machine of Google's cloud
        _need_shared_drive(settings)
    if settings.token_url != Drive().token_url and hasattr(credentials, "with_token_uri"):
        return credentials.with_token_uri(settings.token_url)
    return credentials


def colab_sign_in() -> None:
    """Ask Colab for the user's grant, with its own dialog. Only in the notebook's kernel and its main thread.

    https://github.com/googlecolab/colabtools/blob/main/google/colab/auth.py
    """
    if "google.colab" not in sys.modules or "ipykernel" not in sys.modules:
        raise SignInNeeded(
            "Colab's own sign-in works inside a Colab notebook only.",
            hint="In a cell: from google.colab import auth; auth.authenticate_user()",
        )
    from google.colab import auth

    try:
        auth.authenticate_user()
    except Exception as error:  # Colab's AuthorizationError, MessageError, or what gcloud left
        raise SignInNeeded(
            f"Colab's sign-in did not succeed ({type(error).__name__}).", hint="Run the cell again and agree."
        ) from None


def colab(settings: Drive) -> Any:
    """The credentials that Colab's sign-in left on the machine. Raises SignInNeeded."""
    try:
        return application_default(settings)
    except SignInNeeded:
        raise SignInNeeded(
            "This Colab machine has no sign-in yet.",
            hint="In a cell: from google.colab import auth; auth.authenticate_user()",
        ) from None
