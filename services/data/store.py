"""Datasets on disk: written whole or not at all, read with every damaged line reported by file and number."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from services import atomic
from services.context import Context, Plan
from services.data.types import DatasetInfo, Datasets, Row, Split, Task
from services.errors import BadInput, HybridError, nearest
from services.workspace import Workspace

SPLITS: tuple[Split, ...] = ("train", "val", "test")
INFO = "dataset.json"
_ASIDE = ".old.tmp"
_STALE_SECONDS = 3600.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

Rows = Mapping[Split, Sequence[Row]]


def check_name(name: str) -> str:
    """``name`` if it can name a dataset (letters, digits, dot, dash, underscore). Raises BadInput otherwise."""
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"'{name}' can't name a dataset.",
            hint="Use up to 64 letters, digits, dots, dashes and underscores, beginning with a letter or digit.",
        )
    return name


def slug(text: str) -> str:
    """A usable name made from ``text``, e.g. a file's stem: "My data (2)" → "my-data-2"."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._").lower()[:64] or "data"


def lines(rows: Sequence[Row]) -> Iterator[bytes]:
    """The lines of a split file: a compact JSON object each, UTF-8. Raises BadInput for text UTF-8 can't hold."""
    encode = msgspec.json.Encoder().encode
    try:
        for row in rows:
            yield encode(row) + b"\n"
    except (UnicodeEncodeError, ValueError) as error:
        raise BadInput(f"A row holds text that UTF-8 can't write ({error}).") from None


def digest(rows: Rows) -> str:
    """SHA-256 over the split files' bytes in the order train, val, test."""
    total = hashlib.sha256()
    for split in SPLITS:
        for line in lines(rows[split]):
            total.update(line)
    return total.hexdigest()


def build_info(
    name: str, task: Task, prompt: str, rows: Rows, *, source: str, seed: int,
    warnings: Sequence[str] = (), checks: Mapping[str, float] | None = None,
) -> DatasetInfo:  # fmt: skip
    """The description of ``rows`` as they would be stored; labels and digest are computed from them."""
    labels = sorted({row.answer for split in SPLITS for row in rows[split]}) if task == "classify" else []
    return DatasetInfo(
        name=check_name(name),
        task=task,
        prompt=prompt,
        labels=tuple(labels),
        counts={split: len(rows[split]) for split in SPLITS},
        sha256=digest(rows),
        source=source,
        seed=seed,
        created_at=time.time(),
        warnings=tuple(warnings),
        checks=dict(checks or {}),
        format="chat" if any(row.messages for split in SPLITS for row in rows[split]) else "text",
    )


def write(ctx: Context, action: str, info: DatasetInfo, rows: Rows) -> DatasetInfo:
    """Store a dataset as ``.hybrid/datasets/<name>/`` and return it as opened.

    The same content under the same name is reused as it is. Other content under the name needs a yes
    (raises NeedsYes), since runs may refer to the old one. Raises HybridError when the disk is full.
    """
    folder = ctx.workspace.datasets / check_name(info.name)
    if folder.exists():
        old = _same(folder, info)
        if old is not None:
            return old
        ctx.approve(plan(ctx, action, info, rows))
    ctx.workspace.ensure_state()
    try:
        ctx.workspace.datasets.mkdir(parents=True, exist_ok=True)
        with temporary(ctx.workspace.datasets, info.name) as beside:
            write_to(beside, info, rows)
            put(beside, folder)
    except OSError as error:
        raise _write_failed(folder, error) from error
    return load_info(folder)


def write_to(folder: Path, info: DatasetInfo, rows: Rows) -> None:
    """The dataset's files into an empty folder. Raises OSError."""
    for split in SPLITS:
        _write_lines(folder / f"{split}.jsonl", rows[split])
    record = msgspec.structs.replace(info, path="")
    atomic.write_bytes(folder / INFO, msgspec.json.format(msgspec.json.encode(record)) + b"\n")


def _write_lines(path: Path, rows: Sequence[Row]) -> None:
    """Line by line, so that a large dataset is not held a second time; flushed to the disk."""
    with path.open("wb") as file:
        file.writelines(lines(rows))
        file.flush()
        os.fsync(file.fileno())


def plan(ctx: Context, action: str, info: DatasetInfo, rows: Rows) -> Plan:
    """What ``write`` would do with ``info``."""
    folder = ctx.workspace.datasets / check_name(info.name)
    size = sum(len(line) for split in SPLITS for line in lines(rows[split]))
    what = f"{sum(info.counts.values())} rows ({', '.join(f'{info.counts[s]} {s}' for s in SPLITS)})"
    if not folder.exists():
        return Plan(action, f"store {what} as the dataset '{info.name}'", (f"write {folder}",), 0, size)
    if _same(folder, info) is not None:
        return Plan(action, f"nothing: the dataset '{info.name}' holds exactly these {what} already")
    return Plan(
        action,
        f"a different dataset called '{info.name}' exists already; a yes replaces it by {what}, "
        "another name=… keeps both",
        (f"delete {folder}", f"write {folder}"),
        sum(path.stat().st_size for path in folder.glob("*") if path.is_file()),
        size,
    )


def _same(folder: Path, info: DatasetInfo) -> DatasetInfo | None:
    """The stored dataset if it holds exactly what ``info`` describes, also in its bytes."""
    try:
        old = load_info(folder)
        stored = file_digest(folder)
    except (HybridError, OSError):
        return None
    same = (old.sha256, old.task, old.prompt, stored) == (info.sha256, info.task, info.prompt, info.sha256)
    return old if same else None


@contextlib.contextmanager
def temporary(parent: Path, name: str) -> Iterator[Path]:
    """A hidden folder in ``parent`` that is gone afterwards, unless it was renamed."""
    for left in parent.glob(".*.tmp"):  # by a process that was killed; ".old.tmp" holds a replaced dataset and stays
        if not left.name.endswith(_ASIDE) and time.time() - left.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def put(new: Path, folder: Path) -> None:
    """Rename ``new`` to ``folder``; an old one there steps aside first and is removed last."""
    aside = new.with_name(new.name.removesuffix(".tmp") + _ASIDE)
    if folder.exists():
        folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    atomic.sync_directory(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _write_failed(folder: Path, error: OSError) -> HybridError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HybridError(
            f"The disk is full: the dataset {folder.name} was not stored.",
            hint="hybrid-tui --run storage.scan shows what takes the space.",
        )
    return HybridError(f"The dataset {folder.name} was not stored: {error.strerror or error}.")


def load_info(folder: Path) -> DatasetInfo:
    """Open the dataset in ``folder``. Raises BadInput naming the file when it is missing or damaged."""
    path = folder / INFO
    try:
        info = msgspec.json.decode(path.read_bytes(), type=DatasetInfo)
    except OSError as error:
        raise BadInput(f"{folder} is not a dataset: {INFO} can't be read ({error.strerror}).", hint=_AGAIN) from None
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise BadInput(f"{path} is damaged ({error}); it is left as it is.", hint=_AGAIN) from None
    return msgspec.structs.replace(info, path=str(folder))


_AGAIN = "Prepare it again with data.prepare or data.generate; data.list shows the datasets there are."


def read_rows(folder: Path, split: Split) -> list[Row]:
    """All rows of a split. Raises BadInput naming file and line when one is damaged, or the file when it is missing."""
    path = folder / f"{split}.jsonl"
    decode = msgspec.json.Decoder(Row).decode
    rows: list[Row] = []
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    raise BadInput(
                        f"{path}, line {len(rows) + 1} has no end: the file was cut; it is left as it is.", hint=_AGAIN
                    )
                rows.append(decode(line))
    except OSError as error:
        raise BadInput(f"{path} can't be read ({error.strerror}).", hint=_AGAIN) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(
            f"{path}, line {len(rows) + 1} is damaged ({error}); the file is left as it is.", hint=_AGAIN
        ) from None
    return rows


def file_digest(folder: Path) -> str:
    """The digest of the split files as they lie in ``folder``. Raises OSError when one can't be read."""
    total = hashlib.sha256()
    for split in SPLITS:
        with (folder / f"{split}.jsonl").open("rb") as file:
            while block := file.read(1 << 20):
                total.update(block)
    return total.hexdigest()


def all_datasets(workspace: Workspace) -> Datasets:
    """Every dataset of the workspace by name, and one sentence for each folder that can't be opened."""
    infos: list[DatasetInfo] = []
    problems: list[str] = []
    for folder in _folders(workspace):
        try:
            infos.append(load_info(folder))
        except BadInput as error:
            problems.append(str(error))
    return Datasets(tuple(infos), tuple(problems))


def _folders(workspace: Workspace) -> list[Path]:
    if not workspace.datasets.is_dir():
        return []
    return sorted(p for p in workspace.datasets.iterdir() if p.is_dir() and not p.name.startswith("."))


def resolve(workspace: Workspace, name_or_path: str) -> Path:
    """The folder of a dataset given by its name, or by the path of a folder holding dataset.json.

    Raises BadInput naming the nearest dataset there is.
    """
    if _NAME.fullmatch(name_or_path) and (workspace.datasets / name_or_path).is_dir():
        return workspace.datasets / name_or_path
    given = Path(name_or_path).expanduser()
    for path in (given.absolute(), workspace.root / given):
        if (path / INFO).is_file():
            return path
    known = [folder.name for folder in _folders(workspace)]
    hint = f"Datasets: {', '.join(known)}." if known else "Make one with data.generate or data.prepare source=FILE."
    raise BadInput(f"There is no dataset '{name_or_path}'{nearest(name_or_path, known) or '.'}", hint=hint)
