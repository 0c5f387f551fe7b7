"""What Google Drive may answer that a person has to act on. Ordinary trouble (a slow line, a busy server) is retried
by the client and ends in StoreUnreachable when it does not pass."""

from __future__ import annotations

from services.errors import HybridError, StoreUnreachable


class SignInNeeded(StoreUnreachable):
    """There is no grant, or it was revoked or has expired. ``hint`` is the one step that mends it."""


class DriveRefused(HybridError):
    """Drive answered that it won't: ``status`` is HTTP's, ``reason`` Drive's word ("insufficientFilePermissions").

    https://developers.google.com/workspace/drive/api/guides/handle-errors
    """

    def __init__(self, message: str, *, status: int, reason: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason


class DriveFull(DriveRefused):
    """The account's storage is used up (storageQuotaExceeded, teamDriveFileLimitExceeded and the like)."""


class DriveLimit(DriveRefused):
    """A limit that waiting a little does not lift: dailyLimitExceeded, downloadQuotaExceeded."""


class Corrupted(HybridError):
    """Bytes that arrived are not those that were sent: the checksum differs, and nothing was kept of them."""
