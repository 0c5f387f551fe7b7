"""Sets up ``.venv`` for a checkout: what ``make run`` and ``make test`` call. Standard library only.

Usage: python3 -I hybrid_tui/bootstrap.py VENV run|test

Steps: a virtual environment; torch's CPU build where no NVIDIA GPU is present (before anything else, so that nothing
pulls in the CUDA build); this project with its model stack (and the tools of its tests); the demo's model.
Idempotent: a finished step is not done again, an interrupted one is.

Environment: HYBRID_TORCH = auto (default), cpu, cuda or none.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

TORCH = "torch==2.13.0"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_DISK_GB = 4.8  # torch 2.13.0 with its CUDA packages, installed; Linux x86-64, Python 3.12, 2026-11
CHECKOUT = Path(__file__).resolve().parent.parent


class SetupError(Exception):
    """One line for the person; nothing else is printed."""

    code = 1


class TooLarge(SetupError):
    """Going on would cost gigabytes; the person decides."""

    code = 3


def main(argv: list[str]) -> int:
    """Run the set-up; 0 done, 1 failed, 3 stopped because going on would cost gigabytes, 130 interrupted."""
    try:
        venv, purpose = Path(argv[1]).absolute(), argv[2]
        set_up(venv, purpose)
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("set-up: interrupted; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def set_up(venv: Path, purpose: str) -> None:
    """Bring ``venv`` up for ``purpose`` ("run" or "test"). Raises SetupError."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is what tells an old Python's owner
        raise SetupError(
            f"Python 3.11 or newer is needed, and {sys.executable} is {platform.python_version()}. "
            "Name another: make PYTHON=python3.12"
        )
    stamp = venv / f".ready-{purpose}"
    python = _environment(venv)
    torch = _torch(python, venv)
    extras = ",".join((["models"] if torch else []) + (["dev"] if purpose == "test" else []))
    _say(f"hybrid-tui itself and what it needs ({extras or 'core only'})")
    wanted = f"{CHECKOUT}[{extras}]" if extras else str(CHECKOUT)
    _pip(python, venv, ["-e", wanted], "hybrid-tui and its packages")
    if torch:
        _demo_model(python)
    stamp.write_text("done\n", encoding="utf-8")
    _say(f"ready: {venv.name} takes {_gigabytes(venv):.1f} GB")


def _environment(venv: Path) -> Path:
    """Create the virtual environment unless it works already; return its Python."""
    python = venv / "bin" / "python"
    version = "import sys; print(sys.version_info[:2])"
    if python.exists():
        found = subprocess.run([python, "-I", "-c", version], capture_output=True, text=True)
        if found.returncode == 0 and found.stdout.strip() == str(sys.version_info[:2]):
            return python
        _say(f"{venv.name} is of another Python or broken: it is made anew")
    _say(f"virtual environment {venv.name} (Python {platform.python_version()})")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", venv], capture_output=True, text=True)
    if made.returncode != 0:
        reason = (made.stderr or made.stdout).strip().splitlines() or ["no reason given"]
        raise SetupError(
            f"python3 -m venv failed ({reason[0]}). On Debian and Ubuntu: apt install python3-venv python3-pip"
        )
    return python


def _torch(python: Path, venv: Path) -> bool:
    """Install torch as HYBRID_TORCH says. Returns whether the environment has it."""
    choice = os.environ.get("HYBRID_TORCH", "auto")
    if choice not in ("auto", "cpu", "cuda", "none"):
        raise SetupError(f"HYBRID_TORCH={choice} is not one of auto, cpu, cuda, none.")
    if choice == "none":
        _say("no torch (HYBRID_TORCH=none): the panel works, training and inference say what is missing")
        return False
    if _runs(python, "import importlib.metadata as m; assert m.version('torch').startswith('2.13.0')"):
        return True
    if choice == "cuda" or (choice == "auto" and (_nvidia_gpu() or sys.platform == "darwin")):
        _say(f"{TORCH}" + (f": the CUDA build, about {CUDA_DISK_GB} GB on disk" if sys.platform == "linux" else ""))
        _pip(python, venv, [TORCH], "torch")
        return True
    _say(f"{TORCH}, the CPU build (no NVIDIA GPU here): about 0.9 GB on disk")
    _cpu_torch(python, venv)
    return True


def _cpu_torch(python: Path, venv: Path) -> None:
    """``+cpu`` is never satisfied by a CUDA build, wherever pip looks; an index out of reach costs seconds only."""
    options = ["--extra-index-url", CPU_INDEX, "--retries", "1", "--timeout", "30", f"{TORCH}+cpu"]
    try:
        _pip(python, venv, options, "torch's CPU build")
    except SetupError as error:
        raise TooLarge(
            f"no CPU build of {TORCH} can be had for Python {sys.version_info[0]}.{sys.version_info[1]} "
            f"(log: {_log(venv)}). The CUDA build would take about {CUDA_DISK_GB} GB of disk that this box can't use. "
            "Go on with it: HYBRID_TORCH=cuda; go on without models: HYBRID_TORCH=none"
        ) from error


def _nvidia_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists() or Path("/dev/dxg").exists()


def _demo_model(python: Path) -> None:
    """The demo works offline afterwards; without a network the set-up still succeeds."""
    _say("the demo's model, SmolLM2-135M-Instruct (98 MB)")
    fetched = subprocess.run([python, "-I", "-m", "services.models.fetch"], text=True, capture_output=True)
    if fetched.returncode != 0:
        reason = (fetched.stderr.strip().splitlines() or ["no reason given"])[-1]
        _say(f"not fetched ({reason}); later: hybrid-tui --run model.get")
    elif fetched.stdout.strip():
        _say(fetched.stdout.strip().splitlines()[-1])


def _pip(python: Path, venv: Path, arguments: list[str], what: str) -> None:
    """pip install, its output into the log. Raises SetupError with pip's own reason in one line."""
    command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off", *arguments]
    log = _log(venv)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ pip install {' '.join(arguments)}\n")
        file.flush()
        start = file.tell()
        try:
            done = subprocess.run([str(word) for word in command], stdout=file, stderr=subprocess.STDOUT)
        except OSError as error:
            raise SetupError(f"pip can't be started in {venv.name}: {error.strerror}") from error
    if done.returncode != 0:
        said = log.read_bytes()[start:].decode(errors="replace").splitlines()
        reasons = [line for line in said if line.startswith("ERROR:")] or said or ["no reason given"]
        raise SetupError(f"{what} could not be installed: {reasons[0].removeprefix('ERROR: ')} (log: {log})")


def _log(venv: Path) -> Path:
    return venv / "setup.log"


def _runs(python: Path, code: str) -> bool:
    return subprocess.run([python, "-I", "-c", code], capture_output=True).returncode == 0


def _gigabytes(folder: Path) -> float:
    total = 0
    for parent, _, names in os.walk(folder):
        total += sum((Path(parent) / name).lstat().st_blocks * 512 for name in names)
    return total / 1e9


def _say(text: str) -> None:
    print(f"set-up: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
