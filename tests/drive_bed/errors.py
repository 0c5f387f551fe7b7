"""Errors as Google's API writes them.

https://developers.google.com/workspace/drive/api/guides/handle-errors
"""

from __future__ import annotations

from typing import Any

DOMAINS = {
    "rateLimitExceeded": "usageLimits",
    "userRateLimitExceeded": "usageLimits",
    "dailyLimitExceeded": "usageLimits",
    "sharingRateLimitExceeded": "usageLimits",
    "downloadQuotaExceeded": "usageLimits",
}
MESSAGES = {
    "authError": "Invalid Credentials",
    "rateLimitExceeded": "Rate Limit Exceeded",
    "userRateLimitExceeded": "User Rate Limit Exceeded",
    "dailyLimitExceeded": "Daily Limit Exceeded",
    "sharingRateLimitExceeded": "Rate limit exceeded. User message: sorry, you can't share this now.",
    "storageQuotaExceeded": "The user's Drive storage quota has been exceeded.",
    "teamDriveFileLimitExceeded": "The file limit for this shared drive has been exceeded.",
    "downloadQuotaExceeded": "The download quota for this file has been exceeded.",
    "insufficientFilePermissions": "The user does not have sufficient permissions for this file.",
    "insufficientPermissions": "Insufficient Permission",
    "cannotDownloadAbusiveFile": "This file has been identified as malware or spam and cannot be downloaded.",
    "fileNotDownloadable": ("Only files with binary content can be downloaded. Use Export with Docs Editors files."),
    "appNotAuthorizedToFile": "The user has not granted the app access to the file.",
    "fileIdInUse": "A file already exists with the provided ID.",
    "notFound": "File not found.",
    "gone": "The resource is no longer available.",
    "backendError": "Internal Error",
    "internalError": "Internal Error",
    "badRequest": "Bad Request",
    "conflict": "Conflict",
}
_INFO = {  # what Google's newer front end adds: its own status, reason and, for some, message
    "authError": (
        "UNAUTHENTICATED",
        "ACCESS_TOKEN_EXPIRED",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid "
        "authentication credential.",
    ),
    "insufficientPermissions": (
        "PERMISSION_DENIED",
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        "Request had insufficient authentication scopes.",
    ),
    "rateLimitExceeded": ("RESOURCE_EXHAUSTED", "RATE_LIMIT_EXCEEDED", ""),
}
USUAL = {
    400: "badRequest", 401: "authError", 403: "userRateLimitExceeded", 404: "notFound", 409: "conflict", 410: "gone",
    429: "rateLimitExceeded", 500: "internalError", 502: "badGateway", 503: "backendError", 504: "gatewayTimeout",
}  # fmt: skip


class ApiError(Exception):
    """An answer that is an error. ``location`` names the parameter or header at fault, if one is."""

    def __init__(
        self, status: int, reason: str = "", message: str = "", *, location: str = "", kind: str = "parameter"
    ) -> None:
        self.status = status
        self.reason = reason or USUAL.get(status, "backendError")
        self.message = message or MESSAGES.get(self.reason, "Error")
        self.location, self.kind = location, kind
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """The error as the JSON document of the API."""
        one: dict[str, Any] = {
            "message": self.message,
            "domain": DOMAINS.get(self.reason, "global"),
            "reason": self.reason,
        }
        if self.location:
            one |= {"location": self.location, "locationType": self.kind}
        error: dict[str, Any] = {"code": self.status, "message": self.message, "errors": [one]}
        if self.reason in _INFO:
            status, reason, message = _INFO[self.reason]
            info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}
            info["metadata"] = {"service": "drive.googleapis.com"}  # type: ignore[assignment]
            error |= {"message": message or self.message, "status": status, "details": [info]}
        return {"error": error}


def not_found(id: str) -> ApiError:
    """404 for a file: it is not there, or not for this account or client."""
    return ApiError(404, "notFound", f"File not found: {id}.", location="fileId")


def invalid(parameter: str, message: str = "Invalid Value") -> ApiError:
    """400 for a parameter that can't be used."""
    return ApiError(400, "invalid", message, location=parameter)
