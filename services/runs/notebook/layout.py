"""What lies where in the store for a run in a notebook. Standard library only: both sides use it.

    notebooks/<run>.ipynb
    results/runs/<run>/
      job.json                      what the notebook needs: the spec, the files to bring and their sha256; written last
      wishes.json                   what the box asks for; the notebook only reads it
      in/                           code.zip and the data
      events/N/FIRST-LAST.jsonl     events of the N-th start of the notebook, by their numbers; never changed
      events/N/closed.json          that start is over, and how many events it had
      checkpoints/step-S-nN/ + .json, output-nN/ + .json     files, then the manifest that makes them whole
      log-nN.txt                    what the trainer printed

Every file is written once and whole (wishes.json is the exception), because a mounted Drive shows files late, in any
order, and without telling; numbers in the names say what is missing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

JOB, WISHES, EVENTS, CHECKPOINTS = "job.json", "wishes.json", "events", "checkpoints"
CLOSED = "closed.json"  # beside the events of a start that is over: how many they are


def run_folder(run: str) -> str:
    """The run's folder in the store."""
    return f"results/runs/{run}"


def notebook_path(run: str) -> str:
    """The notebook's place in the store."""
    return f"notebooks/{run}.ipynb"


def segment_name(first: int, last: int) -> str:
    """The file that holds the events ``first`` to ``last``."""
    return f"{first:09d}-{last:09d}.jsonl"


def segment(name: str) -> tuple[int, int] | None:
    """(first, last) of a file made by ``segment_name``; None for any other file."""
    first, dash, last = name.removesuffix(".jsonl").partition("-")
    if not name.endswith(".jsonl") or not dash or not first.isdigit() or not last.isdigit():
        return None
    return int(first), int(last)


def checkpoint_name(step: int, number: int) -> str:
    """The folder of a checkpoint made by the ``number``-th start."""
    return f"step-{step:06d}-n{number}"


def output_name(number: int) -> str:
    """The folder of the finished adapter."""
    return f"output-n{number}"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every file below ``folder``, by its path relative to it. Raises OSError."""
    return {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
