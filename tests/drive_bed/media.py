"""Downloads: alt=media with Range.

https://developers.google.com/workspace/drive/api/guides/manage-downloads
"""

from __future__ import annotations

import re

from tests.drive_bed.errors import ApiError
from tests.drive_bed.items import Item
from tests.drive_bed.messages import Answer, Request
from tests.drive_bed.state import flag

_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")


def media(item: Item, request: Request) -> Answer:
    """The bytes of a file, or the part that Range names. Raises ApiError 403 for what has none or is abusive.

    Drive gives downloads no ETag, so an If-Range can't match and the whole file comes.
    """
    if item.blob is None:
        raise ApiError(403, "fileNotDownloadable", location="alt")
    if item.abusive and not flag(request, "acknowledgeAbuse"):
        raise ApiError(403, "cannotDownloadAbusiveFile", location="alt")
    size = item.blob.size
    headers = {
        "Content-Type": item.mime,
        "Content-Disposition": "attachment",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=0, must-revalidate",
    }
    match = _RANGE.match(request.headers.get("range", "").replace(" ", ""))
    if match is None or match.groups() == ("", "") or "if-range" in request.headers:
        return Answer(200, headers, file=item.blob.path, count=size)
    first, last = _bounds(match.group(1), match.group(2), size)
    if first >= size or last < first:
        answer = Answer(416, {"Content-Range": f"bytes */{size}", "Content-Type": "text/html"})
        answer.body = b"Requested range not satisfiable"
        return answer
    headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return Answer(206, headers, file=item.blob.path, offset=first, count=last - first + 1)


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1
