"""Google's unmodified Colab command line against a backend on loopback, where the shared test bed and Python 3.12 are.

The command line's own environment (about 360 MB) is made once a machine, below the person's cache folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SHARED

BED = SHARED / "colab-testbed"
PACKAGES = ["msgspec>=0.20"]  # what the trainer's events need, so that nothing is to be installed on a machine
# Brought by the bed's Jupyter server, not by the command line, to check addresses, which nothing here does. Where it is
# found, each start of the command line compiles a grammar for 1.2 s, which makes it three times as slow.
SLOW = ["rfc3987-syntax"]
SMI = """#!/bin/sh
test -f "{box}/gpu" || exit 9
cat "{box}/gpu"
"""


def python312() -> str | None:
    """A Python 3.12 that can make environments; pyenv's shims don't count."""
    known = [shutil.which("python3.12"), *map(str, sorted(Path.home().glob(".pyenv/versions/3.12*/bin/python3")))]
    for path in known:
        if path and subprocess.run([path, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
            return path
    return None


def environment() -> Path:
    """The Python of the command line's environment, made when it isn't there. Skips the test where it can't be."""
    if not BED.is_dir():
        pytest.skip("the Colab test bed does not lie beside this checkout")
    if os.geteuid() != 0 or not shutil.which("unshare"):
        pytest.skip("the Colab test bed needs root and unshare")
    python = python312()
    if python is None:
        pytest.skip("the Colab command line needs Python 3.12, which is not here")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "hybrid-tui" / "testbeds" / "colab"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = f"{python}\n{(BED / 'requirements.txt').read_text()}\n{PACKAGES} without {SLOW}"
    with (folder / "lock").open("w") as lock:  # the suite's processes wait for the one that makes it
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = folder / "ready"
        if not ready.exists() or ready.read_text() != recipe:
            ready.unlink(missing_ok=True)
            if why := _make(python, folder / "venv"):
                pytest.skip(f"the Colab command line can't be installed: {why}")
            ready.write_text(recipe)
    return folder / "venv/bin/python"


@functools.cache
def _make(python: str, venv: Path) -> str:
    """Takes half a minute. Why it can't be made, "" when it is; asked once, or each test would wait for an index."""
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
    wanted = ["-r", str(BED / "requirements.txt"), *PACKAGES]
    done = subprocess.run([*pip, "install", "-q", *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        return (done.stderr.strip() or "pip said nothing").splitlines()[-1]
    subprocess.run([*pip, "uninstall", "-q", "-y", *SLOW], check=True)
    return ""


class Bed:
    """A running backend. ``box`` is the folder of all it writes, ``cli`` the command line."""

    def __init__(self, box: Path, *options: str) -> None:
        self.box = box
        python = environment()
        (box / "tools").mkdir(parents=True)
        smi = box / "tools" / "nvidia-smi"  # there is no GPU here: what it names is what a test wrote
        smi.write_text(SMI.format(box=box))
        smi.chmod(0o755)
        self.gpu("Tesla T4")
        self.process = subprocess.Popen(
            [str(python), str(BED / "fake_colab.py"), "--dir", str(box), "--max-seconds", "600", *options],
            stdout=subprocess.PIPE, text=True, start_new_session=True,
            env={**os.environ, "PATH": f"{box / 'tools'}:{os.environ['PATH']}"},
        )  # fmt: skip
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        if not first:
            self.stop()
            raise RuntimeError("the test bed's backend did not start")
        self.info: dict[str, Any] = json.loads(first)
        self.cli = self.info["colab"]

    def gpu(self, name: str) -> None:
        """What nvidia-smi says on the machines; "" for none."""
        (self.box / "gpu").write_text(name) if name else (self.box / "gpu").unlink(missing_ok=True)

    def set(self, **knobs: Any) -> None:
        """Change what the backend does."""
        self._post("testbed/set", json.dumps(knobs).encode())

    def reclaim(self, endpoint: str) -> None:
        """Take a machine away, as Colab does."""
        self._post(f"testbed/reclaim/{endpoint}")

    def machines(self) -> list[str]:
        """The endpoints that were given out and are not back: those that bill."""
        made, back = [], set()
        for request in self.requests():
            if "/unassign/" in request and request.startswith("POST"):
                back.add(request.split("/unassign/")[1].split("?")[0])
            if "/testbed/reclaim/" in request:
                back.add(request.rpartition("/")[2])
        for folder in (self.box / "vms").iterdir():
            made.append(folder.name)
        return [name for name in made if name not in back]

    def requests(self) -> list[str]:
        """What the backend was asked, so far."""
        with urllib.request.urlopen(f"{self.info['url']}/testbed/log", timeout=10) as answer:
            found: list[str] = json.loads(answer.read())["requests"]
            return found

    def content(self, endpoint: str) -> Path:
        """The machine's /content."""
        return self.box / "vms" / endpoint / "content"

    def history(self) -> str:
        """All that the command line has written about its sessions, with its log."""
        config = self.box / "home/.config/colab-cli"
        return "".join(path.read_text() for path in [*config.glob("history/*.jsonl"), *config.glob("colab.log")])

    def stop(self) -> None:
        """End it, and every machine with it."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=20)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _post(self, path: str, body: bytes = b"") -> None:
        request = urllib.request.Request(f"{self.info['url']}/{path}", data=body, method="POST")
        urllib.request.urlopen(request, timeout=20).close()


@contextlib.contextmanager
def running(box: Path, *options: str) -> Iterator[Bed]:
    """A bed for as long as the block lasts."""
    bed = Bed(box, *options)
    try:
        yield bed
    finally:
        bed.stop()


if __name__ == "__main__":  # by hand: python -m tests.runs.colab.bed FOLDER
    with running(Path(sys.argv[1]).absolute()) as one:
        print(json.dumps(one.info), flush=True)
        time.sleep(600)
