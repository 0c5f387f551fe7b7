"""Names of runs and their frozen ``spec.json``; which commit of the person's own code a run was made from."""

from __future__ import annotations

import re
import secrets
import subprocess
import time
from pathlib import Path

import msgspec

from services import atomic
from services.errors import BadInput, HybridError, nearest
from services.runs.types import RunSpec
from services.workspace import Workspace

_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that are taken for one another
_RUN_ID = re.compile(r"\d{8}-\d{4}-[a-z0-9]{4}")


def make_run_id(now: float | None = None) -> str:
    """A new name such as "20261123-1405-k3v9": UTC to the minute, hence sortable, then four random letters."""
    stamp = time.strftime("%Y%m%d-%H%M", time.gmtime(now))
    return f"{stamp}-{''.join(secrets.choice(_LETTERS) for _ in range(4))}"


def write(run_dir: Path, spec: RunSpec) -> None:
    """Write ``spec.json``; it is never written again. Raises OSError."""
    atomic.write_bytes(run_dir / "spec.json", msgspec.json.format(msgspec.json.encode(spec), indent=1) + b"\n")


def read(run_dir: Path) -> RunSpec:
    """The run's spec. Raises HybridError that names the file when it is missing or damaged."""
    path = run_dir / "spec.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunSpec)
    except FileNotFoundError:
        raise HybridError(f"{path} is missing: {run_dir.name} is not a whole run.", hint=_DAMAGED) from None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HybridError(f"{path} can't be read: {error}.", hint=_DAMAGED) from error


_DAMAGED = "Its events and checkpoints are untouched; start a new run, and delete this one when you don't need it."


def folders(workspace: Workspace) -> list[Path]:
    """The folders of all runs, newest name first."""
    try:
        return sorted((path for path in workspace.runs.iterdir() if _RUN_ID.fullmatch(path.name)), reverse=True)
    except FileNotFoundError:
        return []


def find_run(workspace: Workspace, word: str) -> Path:
    """The folder of the run called ``word``: its id, its last four letters, or "" or "latest" for the newest.

    Raises BadInput when there is none, or several.
    """
    runs = folders(workspace)
    if not runs:
        raise BadInput("There is no run in this workspace yet.", hint="Start one: hybrid-tui --run train.start")
    if word in ("", "latest"):
        return max(runs, key=_made_at)
    found = [path for path in runs if word == path.name or path.name.endswith(f"-{word}")]
    if len(found) == 1:
        return found[0]
    names = [path.name for path in runs]
    if found:
        raise BadInput(f"Several runs end in '{word}'.", hint=f"Name one whole: {', '.join(p.name for p in found)}.")
    raise BadInput(f"There is no run '{word}'{nearest(word, names) or '.'}", hint="hybrid-tui --run train.list")


def _made_at(run_dir: Path) -> tuple[str, float]:
    try:
        return run_dir.name[:13], (run_dir / "spec.json").stat().st_mtime
    except OSError:
        return run_dir.name[:13], 0.0


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """(commit, whether tracked files differ from it) of the repository around ``folder``; (None, None) without one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit.strip(), None if changed is None else bool(changed.strip())


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words], capture_output=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
