"""GGUF file → model folder that the runtime loads: ``python -m services.runtime.convert SRC.gguf DEST_DIR``.

Done once per file: weights dequantised to bf16 safetensors, tokenizer with its chat template and special tokens,
config, and ``conversion.json`` (what it was made from). Prints one JSON object a line: ``{"stage", "done", "total"}``,
at the end ``{"stage": "done", "path", "bytes", "seconds", "already"}``; or ``{"error", "hint"}`` and exit code 1.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from services import atomic
from services.errors import HybridError

RECORD = "conversion.json"
STAGES = ("reading", "tokenizer", "weights", "writing")


def _say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def _stage(name: str) -> None:
    _say(stage=name, done=STAGES.index(name), total=len(STAGES))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(source: Path) -> None:
    try:
        with source.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise HybridError(f"{source} can't be read: {error.strerror}.", hint="Give the path of a GGUF file.") from error
    if magic != b"GGUF":
        raise HybridError(f"{source} is not a GGUF file: it starts with {magic!r}.", hint="Fetch the model again.")


def converted_from(folder: Path) -> str | None:
    """The sha256 of the GGUF file that ``folder`` was converted from, or None when it is no whole conversion."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = all((folder / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json"))
    return str(record.get("sha256")) if whole else None


def _write_model(source: Path, folder: Path) -> None:
    """Load ``source`` through transformers and save it into ``folder``. Library chatter goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    _stage("tokenizer")
    with contextlib.redirect_stdout(sys.stderr):
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    _stage("weights")
    with contextlib.redirect_stdout(sys.stderr):
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),  # without it the model refuses to be saved
        )
        for name, weight in model.named_parameters():
            if not bool(torch.isfinite(weight).all()):
                raise ValueError(f"the weights {name} hold values that are not finite")
    _stage("writing")
    with contextlib.redirect_stdout(sys.stderr):
        model.save_pretrained(folder, max_shard_size="100GB")
        tokenizer.save_pretrained(folder)


def _sync(folder: Path) -> int:
    """Make every file of ``folder`` durable; the sum of their sizes."""
    total = 0
    for path in folder.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        total += path.stat().st_size
    atomic.sync_directory(folder)
    return total


def convert(source: Path, destination: Path) -> None:
    """Convert ``source`` into ``destination``, which appears whole or not at all. A second call does nothing.

    Raises HybridError: not a GGUF file, damaged, an architecture transformers can't read, disk full, or
    ``destination`` is something else already.
    """
    started = time.monotonic()
    _check(source)
    _stage("reading")
    digest = _digest(source)
    if converted_from(destination) == digest:
        total = sum(p.stat().st_size for p in destination.iterdir())
        _say(stage="done", path=str(destination), bytes=total, seconds=time.monotonic() - started, already=True)
        return
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise HybridError(
            f"{destination} exists and is no conversion of {source.name}.", hint="Remove it or choose another folder."
        )
    destination.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(destination)
    temporary = Path(tempfile.mkdtemp(prefix=f"{destination.name}.tmp-{os.getpid()}-", dir=destination.parent))
    temporary.chmod(0o755)
    try:
        _write_model(source, temporary)
        record = {"source": source.name, "bytes": source.stat().st_size, "sha256": digest, "dtype": "bf16"}
        atomic.write_text(temporary / RECORD, json.dumps(record, indent=1))
        total = _sync(temporary)
        temporary.rename(destination)  # fails when another process was first: then its result stands
    except OSError as error:
        if converted_from(destination) != digest:
            raise _explained(source, destination, error) from error
        total = sum(p.stat().st_size for p in destination.iterdir())
    except Exception as error:  # a damaged file surfaces as KeyError, ValueError, struct.error, … from the reader
        raise _explained(source, destination, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    atomic.sync_directory(destination.parent)
    _say(stage="done", path=str(destination), bytes=total, seconds=time.monotonic() - started, already=False)


def _remove_leftovers(destination: Path) -> None:
    """Delete what killed conversions left beside ``destination``; a live one's folder carries its process id."""
    for folder in destination.parent.glob(f"{destination.name}.tmp-*"):
        owner = folder.name.rpartition(".tmp-")[2].partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists() and Path("/proc/self").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _explained(source: Path, destination: Path, error: Exception) -> HybridError:
    cause = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    if (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in cause:
        return HybridError(f"The disk is full: {destination} was not written.", hint="Free space, then try again.")
    return HybridError(
        f"{source.name} can't be converted, it is damaged or of an unknown kind ({type(error).__name__}: {cause}).",
        hint="Fetch the file again and compare its checksum.",
    )


def main(arguments: list[str]) -> int:
    """Entry point; see the module's text."""
    if len(arguments) != 2:
        _say(error="Two arguments are needed: SRC.gguf DEST_DIR.", hint="python -m services.runtime.convert SRC DEST")
        return 1
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the file
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        convert(Path(arguments[0]).expanduser().absolute(), Path(arguments[1]).expanduser().absolute())
    except HybridError as error:
        _say(error=str(error), hint=error.hint)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
