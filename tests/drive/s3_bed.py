"""An S3 server on loopback: moto's, as a process of its own, with an empty bucket for each test that asks."""

from __future__ import annotations

import http.client
import importlib.util
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

ENV = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
_MISSING = [m for m in ("obstore", "moto", "flask", "flask_cors") if importlib.util.find_spec(m) is None]


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The server's address."""
    if _MISSING:
        pytest.skip(f"{', '.join(_MISSING)} missing: pip install 'hybrid-tui[dev]' brings them")
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    for line in server.stderr:
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found:
            break
    threading.Thread(target=server.stderr.read, daemon=True).start()  # so that its pipe never fills
    yield found[0]
    server.kill()
    server.wait()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> str:
    """``s3://…/team`` in a new bucket; the environment has what leads there, here and for child processes."""
    for name, value in {**ENV, "AWS_ENDPOINT_URL": s3_server}.items():
        monkeypatch.setenv(name, value)
    own = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(own / "state"))
    bucket = f"b-{uuid.uuid4().hex[:12]}"
    _ask(s3_server, "PUT", f"/{bucket}")
    return f"s3://{bucket}/team"


def unfinished_uploads(url: str) -> list[str]:
    """Keys of multipart uploads in the bucket that were neither completed nor given up."""
    return re.findall(
        r"<Key>(.*?)</Key>", _ask(os.environ["AWS_ENDPOINT_URL"], "GET", f"/{urlsplit(url).netloc}?uploads")
    )


def _ask(server: str, method: str, path: str) -> str:
    line = http.client.HTTPConnection(urlsplit(server).netloc, timeout=20)
    line.request(method, path, headers={"Authorization": "AWS4-HMAC-SHA256 Credential=test/x/us-east-1/s3/x"})
    answer = line.getresponse()
    text = answer.read().decode()
    line.close()
    assert answer.status == 200, text
    return text
