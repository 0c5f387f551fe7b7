"""After our items are moved away, the tools find their caches sound: real pip, uv and hf, without network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from services.storage.reclaim import Item, KindItems
from tests.storage.kinds.conftest import du
from tests.storage.kinds.hub_cache import Cache, commit

BIN = Path(sys.executable).parent
UV, HF = BIN / "uv", BIN / "hf"
NAME = "tinypkg"

BACKEND = """
import shutil
def build_wheel(folder, config_settings=None, metadata_directory=None):
    shutil.copy("tiny.whl", folder + "/tinypkg-1.0-py3-none-any.whl")
    return "tinypkg-1.0-py3-none-any.whl"
"""


def run(*words: str | Path, cwd: Path | None = None) -> str:
    out = subprocess.run(words, capture_output=True, text=True, cwd=cwd)
    assert out.returncode == 0, out.stdout + out.stderr
    return out.stdout + out.stderr


def make_wheel(path: Path) -> Path:
    info = f"{NAME}-1.0.dist-info"
    files = {
        f"{NAME}/__init__.py": "answer = 42\n" + "# padding\n" * 2000,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},"
        f"{len(text)}\n"
        for name, text in files.items()
    )
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(name, text)
    return path


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index over HTTPS on this machine: pip keeps nothing that came without."""
    root = tmp_path / "index"
    (root / "simple" / NAME).mkdir(parents=True)
    wheel = make_wheel(root / f"{NAME}-1.0-py3-none-any.whl")
    (root / "simple" / NAME / "index.html").write_text(f'<a href="/{wheel.name}">{wheel.name}</a>')
    key = tmp_path / "key.pem"
    try:
        run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", tmp_path / "cert.pem",
            "-days", "1", "-subj", "/CN=localhost")  # fmt: skip
    except OSError:
        pytest.skip("no openssl to make a certificate with")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(root)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_port}/simple/"
    server.shutdown()
    server.server_close()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "max-age=3600")
        super().end_headers()


def move_away(item: Item, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(item.paths):
        os.rename(path, folder / str(number))  # noqa: PTH104


Lookup = Callable[[str], KindItems]


def _git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Hub(SimpleHTTPRequestHandler):
    """As much of the hub's API as ``hf cache verify`` asks: the files of a revision with their checksums."""

    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        tree = "/tree/" in self.path
        rows = [
            {"type": "file", "path": name, "size": len(data), "oid": _git_sha1(data)}
            for name, data in self.files.items()
        ]
        body = json.dumps(rows if tree else {"id": "org/m", "sha": commit(2), "siblings": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.skipif(not HF.exists(), reason="huggingface_hub's command is not installed here")
def test_hf_verifies_what_stays(look: Lookup, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(home / ".cache/huggingface/hub")
    cache.revision("org/m", 1, {"config.json": "old", "w": "same"})
    root = cache.revision("org/m", 2, {"config.json": "new", "w": "same"}, refs=("main",))
    _Hub.files = {"config.json": (root / "blobs/new").read_bytes(), "w": (root / "blobs/same").read_bytes()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    verify = (HF, "cache", "verify", "org/m", "--fail-on-missing-files", "--fail-on-extra-files")
    try:
        for item in look("huggingface").items:
            if item.suggested:
                move_away(item, tmp_path / "bin" / item.name)
        assert not (root / "snapshots" / commit(1)).exists()
        assert "2 file" in run(*verify)
        (root / "blobs/same").write_bytes(b"not what it was")  # the check itself can fail
        assert subprocess.run(verify, capture_output=True).returncode != 0
    finally:
        server.shutdown()
        server.server_close()


def test_pip_lives_on_without_each_of_its_items(look: Lookup, home: Path, tmp_path: Path, index: str) -> None:
    source = tmp_path / "sdist" / f"{NAME}-1.0"
    source.mkdir(parents=True)
    make_wheel(source / "tiny.whl")
    (source / "backend.py").write_text(BACKEND)
    (source / "pyproject.toml").write_text(
        f'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        f'[project]\nname = "{NAME}"\nversion = "1.0"\n'
    )
    (source / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    archive = shutil.make_archive(str(tmp_path / f"{NAME}-1.0"), "gztar", tmp_path / "sdist", f"{NAME}-1.0")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    there = ("--no-deps", "--target", tmp_path / "there", "--upgrade")

    def install() -> str:
        built = run(*pip, "install", "--no-index", *there, archive, cwd=tmp_path)
        return built + run(*pip, "install", *there, "-i", index, "--trusted-host", "localhost", NAME, cwd=tmp_path)

    install()
    assert NAME in run(*pip, "cache", "list")
    kind = look("pip")
    assert kind.paths == (run(*pip, "cache", "dir").strip(),) and kind.bytes == du(home / ".cache/pip")
    names = {item.name for item in kind.items}
    assert "wheels" in names and names & {"http", "http-v2"}
    for item in kind.items:
        move_away(item, tmp_path / "bin" / item.name)
        listed = run(*pip, "cache", "list")
        assert (NAME in listed) == (item.name != "wheels" and (home / ".cache/pip/wheels").exists())
        run(*pip, "cache", "info")
        install()
        assert (tmp_path / "there" / NAME / "__init__.py").is_file()
    assert "Using cached" in install()


@pytest.mark.skipif(not UV.exists(), reason="uv is not installed here")
def test_uv_lives_on_without_each_of_its_items(look: Lookup, home: Path, tmp_path: Path, index: str) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")

    def install() -> str:
        return run(
            UV, "pip", "install", "--python", tmp_path / "venv/bin/python", "--reinstall-package", NAME, "-i", index,
            "--allow-insecure-host", "localhost", NAME,
        )  # fmt: skip

    install()
    kind = look("uv")
    assert kind.paths == (run(UV, "cache", "dir").strip(),) and kind.bytes == du(home / ".cache/uv")
    packages = next(item for item in kind.items if item.name == "packages")
    installed = next((tmp_path / "venv").glob(f"lib/*/site-packages/{NAME}/__init__.py"))
    assert installed.stat().st_nlink > 1  # uv links from its cache: removing that frees less
    assert packages.freed_bytes <= packages.bytes - installed.stat().st_blocks * 512
    for item in kind.items:
        move_away(item, tmp_path / "bin" / item.name)
        run(UV, "cache", "prune")
        install()
        assert run(tmp_path / "venv/bin/python", "-c", f"import {NAME}; print({NAME}.answer)").strip() == "42"
    run(UV, "cache", "prune")
    assert run(UV, "pip", "check", "--python", tmp_path / "venv/bin/python")


@pytest.mark.skipif(not HF.exists(), reason="huggingface_hub's command is not installed here")
def test_hf_lists_a_sound_cache_after_the_suggested_items(look: Lookup, home: Path, tmp_path: Path) -> None:
    cache = Cache(home / ".cache/huggingface/hub")
    cache.revision("org/m", 1, {"config.json": "old", "w": "same"})
    root = cache.revision("org/m", 2, {"config.json": "new", "w": "same"}, refs=("main",))
    (root / "snapshots" / commit(2) / "lost").symlink_to("../../blobs/lost")
    assert "warning" in run(HF, "cache", "ls").lower()
    suggested = [item for item in look("huggingface").items if item.suggested]
    assert len(suggested) == 2
    for item in suggested:
        move_away(item, tmp_path / "bin" / item.name)
    listed = run(HF, "cache", "ls", "--revisions", "--no-truncate")
    assert commit(2) in listed and commit(1) not in listed and "warning" not in listed.lower()
