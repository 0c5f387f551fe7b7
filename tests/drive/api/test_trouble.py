"""What each answer means: try again, or which sentence."""

from __future__ import annotations

import email.utils
import json
import time

import hypothesis.strategies as st
import pytest
from hypothesis import given

from services.drive.api.trouble import Trouble, judge, retry_after
from services.drive.errors import DriveFull, DriveLimit, DriveRefused
from services.errors import HybridError


def body(reason: str, message: str = "No.") -> bytes:
    """An error as the API writes it."""
    return json.dumps({"error": {"message": message, "errors": [{"reason": reason, "domain": "usageLimits"}]}}).encode()


@pytest.mark.parametrize(
    ("status", "reason", "limited"),
    [
        (500, "internalError", False),
        (502, "", False),
        (503, "backendError", False),
        (504, "", False),
        (408, "", False),
        (429, "rateLimitExceeded", True),
        (429, "", True),
        (403, "rateLimitExceeded", True),
        (403, "userRateLimitExceeded", True),
    ],
)
def test_what_may_pass(status: int, reason: str, limited: bool) -> None:
    verdict = judge(status, {}, body(reason), "listing a folder")
    assert isinstance(verdict, Trouble)
    assert verdict.limited == limited


@pytest.mark.parametrize(
    ("status", "reason", "kind"),
    [
        (403, "storageQuotaExceeded", DriveFull),
        (403, "teamDriveFileLimitExceeded", DriveFull),
        (403, "dailyLimitExceeded", DriveLimit),
        (403, "downloadQuotaExceeded", DriveLimit),
        (403, "insufficientFilePermissions", DriveRefused),
        (403, "cannotDownloadAbusiveFile", DriveRefused),
        (403, "accessNotConfigured", DriveRefused),
        (404, "notFound", DriveRefused),
        (409, "fileIdInUse", DriveRefused),
        (400, "invalid", DriveRefused),
        (416, "requestedRangeNotSatisfiable", DriveRefused),
    ],
)
def test_what_does_not_pass(status: int, reason: str, kind: type[DriveRefused]) -> None:
    verdict = judge(status, {}, body(reason), "listing a folder")
    assert type(verdict) is kind
    assert isinstance(verdict, DriveRefused)
    assert (verdict.status, verdict.reason) == (status, reason)
    assert str(verdict).endswith("listing a folder was refused.")


@given(st.integers(400, 599), st.binary(max_size=200) | st.text(max_size=50).map(lambda t: body(t, t)))
def test_any_answer_is_understood_as_something(status: int, text: bytes) -> None:
    assert isinstance(judge(status, {}, text, "x"), Trouble | HybridError)


def test_retry_after() -> None:
    assert retry_after({}) == 0
    assert retry_after({"Retry-After": "7"}) == 7
    assert retry_after({"Retry-After": "99999999"}) == 3600
    assert retry_after({"Retry-After": "soon"}) == 0
    assert 50 < retry_after({"Retry-After": email.utils.formatdate(time.time() + 60, usegmt=True)}) <= 60
    assert retry_after({"Retry-After": email.utils.formatdate(time.time() - 60, usegmt=True)}) == 0
