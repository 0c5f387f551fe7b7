"""What an answer other than success means: try again, or a sentence for a person.

Reasons: https://developers.google.com/workspace/drive/api/guides/handle-errors
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping

import msgspec

from services.drive.errors import DriveFull, DriveLimit, DriveRefused
from services.errors import HybridError

_FASTER_THAN_ALLOWED = {"rateLimitExceeded", "userRateLimitExceeded"}
_FULL = {
    "storageQuotaExceeded": "Google Drive is full",
    "quotaExceeded": "Google Drive is full",
    "teamDriveFileLimitExceeded": "The shared drive holds as many files as it may",
    "teamDriveHierarchyTooDeep": "The shared drive's folders are nested as deep as they may be",
    "numChildrenInNonRootLimitExceeded": "The folder on Google Drive holds as many files as it may",
    "activeItemCreationLimitExceeded": "The account owns as many files on Google Drive as it may",
}
_LIMITS = {
    "dailyLimitExceeded": "The project's Drive requests for today are used up",
    "dailyLimitExceededUnreg": "The project's Drive requests for today are used up",
    "downloadQuotaExceeded": "Google Drive gives this file to nobody for a while: it was downloaded too often",
    "sharingRateLimitExceeded": "Google Drive allows no more sharing today",
}
_WORDS = {
    "cannotDownloadAbusiveFile": (
        "Google Drive takes the file for malware or spam and does not give it out",
        "Only if you know what it is: ask for it again, and acknowledge the risk.",
    ),
    "accessNotConfigured": (
        "The Drive API is not switched on in the Google Cloud project of your OAuth client",
        "Enable 'Google Drive API' in the console; see docs/drive-setup.md.",
    ),
    "insufficientPermissions": (
        "The sign-in does not allow this",
        "Run drive.login again; [drive] scope in hybrid.toml says how much it asks for.",
    ),
    "insufficientFilePermissions": (
        "This account may not change the file on Google Drive",
        "Ask its owner for the right to edit.",
    ),
    "appNotAuthorizedToFile": (
        "The file was not made by this OAuth client, and the sign-in covers only what it made",
        'Set [drive] scope = "drive" in hybrid.toml and run drive.login again.',
    ),
    "notFound": (
        "There is no such file on Google Drive, or this account may not see it",
        'With [drive] scope = "drive.file" only files made by this OAuth client can be seen.',
    ),
    "fileNotDownloadable": (
        "The file has no bytes of its own (a Google Doc or the like)",
        "Export it in the browser.",
    ),
    "domainPolicy": (
        "The organisation's administrator has not allowed this program to use Drive",
        "Ask the administrator, or use another account.",
    ),
}


class Trouble(Exception):
    """Something that may pass: ``str`` says what in a few words, ``after`` how many seconds to wait at least.

    ``sent`` says whether the request may have been carried out all the same. ``limited``: Drive
    found us too fast.
    """

    def __init__(self, words: str, *, after: float = 0.0, limited: bool = False, sent: bool = True) -> None:
        super().__init__(words)
        self.after = after
        self.limited = limited
        self.sent = sent


class _Detail(msgspec.Struct):
    reason: str = ""


class _Error(msgspec.Struct):
    message: str = ""
    status: str = ""
    errors: list[_Detail] = []


class _ErrorBody(msgspec.Struct):
    error: _Error | str = ""


def reason_of(body: bytes) -> tuple[str, str]:
    """Drive's word and sentence in the body of an error; ("", "") when it is none of Drive's."""
    try:
        error = msgspec.json.decode(body, type=_ErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", ""
    if isinstance(error, str):
        return error, ""
    return (error.errors[0].reason if error.errors else error.status), error.message


def judge(status: int, headers: Mapping[str, str], body: bytes, what: str) -> Trouble | HybridError:
    """What an answer to ``what`` ("listing a folder") means: Trouble when it may pass, else an error to raise."""
    reason, said = reason_of(body)
    word = f"{status} {reason}".strip()
    if status == 429 or (status == 403 and reason in _FASTER_THAN_ALLOWED):
        return Trouble(word, after=retry_after(headers), limited=True, sent=False)
    if status >= 500 or status == 408:
        return Trouble(word, after=retry_after(headers))
    if reason in _FULL:
        message = f"{_FULL[reason]}; {what} was refused."
        return DriveFull(message, status=status, reason=reason, hint="Delete what is not needed, also from the trash.")
    if reason in _LIMITS:
        message = f"{_LIMITS[reason]}; {what} was refused."
        return DriveLimit(message, status=status, reason=reason, hint="Try again tomorrow.")
    words, hint = _WORDS.get(reason, ("", ""))
    if not words:
        words = f"Google Drive answered {word}" + (f" ({said.rstrip('.')})" if said else "")
    return DriveRefused(f"{words}; {what} was refused.", status=status, reason=reason, hint=hint)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the header Retry-After asks for (a number or a date), 0 without one; an hour at most."""
    value = headers.get("Retry-After", "").strip()
    if not value:
        return 0.0
    if value.isdigit():
        return min(float(value), 3600.0)
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except ValueError:
        return 0.0
    return max(0.0, min(moment - time.time(), 3600.0))
