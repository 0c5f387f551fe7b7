"""``--run``: one action without the panel. Results to stdout, everything else to stderr."""

from __future__ import annotations

import argparse
import asyncio
import errno
import io
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hybrid_tui import actions
from services import workspace as workspaces
from services.context import Context, NeedsYes, Progress
from services.errors import BadInput, CheckFailed, HybridError
from services.workspace import Workspace


def main(words: list[str], args: argparse.Namespace) -> int:
    """Run ``words`` (action, then key=value pairs) and return the exit code. Raises HybridError."""
    if not words:
        _print_actions(args.json)
        return 0
    action = actions.find(words[0])
    if args.help:
        _print_help(action)
        return 0
    params = actions.convert(action, _pairs(words[1:]))
    workspace = workspaces.open_workspace(Path(args.workspace) if args.workspace else workspaces.find())
    for warning in workspace.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    usual = "lines" if action.says_lines else "bar" if sys.stderr.isatty() else "none"
    reporter = _reporter(args.progress or usual)
    ask = _typed if sys.stdin is not None and sys.stdin.isatty() else None
    ctx = Context(workspace, reporter.report, dry_run=args.dry_run, read_only=args.read_only, yes=args.yes, ask=ask)
    try:
        result = asyncio.run(action.function()(ctx, params))
    except HybridError:
        raise
    except KeyboardInterrupt:
        reporter.close()
        print(f"Interrupted. {action.outlives}".strip(), file=sys.stderr)
        return 130
    except OSError as error:
        raise _plain(error, action.name) from error
    except Exception as error:
        raise _crash(error, action.name, workspace) from error
    finally:
        reporter.close()
    print_result(result, as_json=args.json)
    return 0


async def _typed() -> str:
    """The next line typed at the terminal; "" at its end. The loop goes on meanwhile."""
    loop, descriptor = asyncio.get_running_loop(), sys.stdin.fileno()
    typed: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        loop.remove_reader(descriptor)
        if not typed.done():
            typed.set_result(os.read(descriptor, 65536))

    loop.add_reader(descriptor, read)
    try:
        return (await typed).decode(errors="replace")
    finally:
        loop.remove_reader(descriptor)


def print_result(result: Any, *, as_json: bool) -> None:
    """A frozen struct as one JSON document, or laid out for a person."""
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(result), indent=2).decode() + "\n")
    else:
        _print_laid_out(result)
    sys.stdout.flush()


def _print_laid_out(result: Any) -> None:
    """To a terminal as wide as it is; into a pipe or file unfolded, so that a line stays a line."""
    from rich.console import Console

    from hybrid_tui.render import renderable

    if sys.stdout.isatty():
        Console().print(renderable(result))
        return
    console = Console(file=io.StringIO(), width=2000)
    console.print(renderable(result))
    for line in console.file.getvalue().splitlines():  # type: ignore[attr-defined]
        print(line.rstrip())


def print_error(error: HybridError, *, as_json: bool) -> int:
    """The error's sentence and hint on stderr (and as JSON on stdout if asked). Returns its exit code.

    A failed check prints its result on stdout as a passed one does.
    """
    print(f"{error}{' ' + error.hint if error.hint else ''}", file=sys.stderr)
    if isinstance(error, CheckFailed):
        print_result(error.result, as_json=as_json)
        return error.exit_code
    plan = error.plan if isinstance(error, NeedsYes) else None
    if as_json:
        document = {"error": {"message": str(error), "hint": error.hint, "exit_code": error.exit_code}}
        if plan is not None:
            document["plan"] = msgspec.to_builtins(plan)
        print(msgspec.json.encode(document).decode())
    elif plan is not None:
        print_result(plan, as_json=False)
    return error.exit_code


def _pairs(words: list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadInput(
                f"'{word}' is not key=value.", hint="Write parameters as name=value, quoted if they hold spaces."
            )
        if key in values:
            raise BadInput(f"{key} is given twice.", hint="Leave one out.")
        values[key] = value
    return values


def _print_actions(as_json: bool) -> None:
    table = list(actions.ACTIONS.values())
    if as_json:
        rows = [{"name": a.name, "help": a.help, "writes": a.writes, "asks": a.asks} for a in table]
        print(msgspec.json.encode(rows).decode())
        return
    width = max(len(a.name) for a in table)
    for a in table:
        print(f"{a.name:<{width}}  {a.help}{' (asks)' if a.asks else ''}")
    print("\nParameters of one: hybrid-tui --run ACTION --help")


def _print_help(action: actions.Action) -> None:
    fields = action.fields()
    shown = [_usage(f) for f in fields if f.required or len(fields) <= 8]
    print(
        " ".join(["hybrid-tui --run", action.name, *shown, *(["[name=value …]"] if len(shown) < len(fields) else [])])
    )
    print(f"\n{action.help}")
    if action.writes:
        print("It writes: --dry-run shows what it would do." + (" It asks: --yes agrees." if action.asks else ""))
    if fields:
        print()
    width = max((len(f.name) for f in fields), default=0)
    for f in fields:
        notes = [actions.type_words(f.type), "needed" if f.required else f"default {actions.default_words(f)}"]
        print(f"  {f.name:<{width}}  {actions.description(f.type)} ({', '.join(notes)})".rstrip())


def _usage(field: msgspec.structs.FieldInfo) -> str:
    word = f"{field.name}=…"
    return word if field.required else f"[{word}]"


class _Reporter:
    """Where progress goes; the base class drops it."""

    def report(self, progress: Progress) -> None:
        return None

    def close(self) -> None:
        return None


class _JsonLines(_Reporter):
    def report(self, progress: Progress) -> None:
        line = msgspec.structs.replace(progress, partial=None)
        print(msgspec.json.encode(line).decode(), file=sys.stderr, flush=True)


class _Lines(_Reporter):
    def report(self, progress: Progress) -> None:
        if progress.note:
            print(progress.note, file=sys.stderr, flush=True)


class _Bar(_Reporter):
    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        text = TextColumn("{task.description}", markup=False)
        note = TextColumn("{task.fields[note]}", markup=False)
        self.bars = Bars(text, BarColumn(), note, TimeElapsedColumn(), console=Console(stderr=True), transient=True)
        self.task = self.bars.add_task("", total=None, note="")
        self.started = False

    def report(self, progress: Progress) -> None:
        if not self.started:
            self.started = True
            self.bars.start()
        self.bars.update(
            self.task, description=progress.stage, completed=progress.done, total=progress.total, note=progress.note
        )

    def close(self) -> None:
        if self.started:
            self.bars.stop()


def _reporter(kind: str) -> _Reporter:
    makers: dict[str, Callable[[], _Reporter]] = {
        "bar": _Bar,
        "lines": _Lines,
        "json": _JsonLines,
        "none": _Reporter,
    }
    return makers[kind]()


def _plain(error: OSError, action: str) -> HybridError:
    """A system error nobody foresaw, as a sentence: what, where, what to do."""
    where = f" at {error.filename}" if error.filename else ""
    hints = {
        errno.ENOSPC: "The disk is full: hybrid-tui --run storage.caches shows what can go.",
        errno.EACCES: "Check the permissions of that file or folder.",
        errno.EROFS: "That file system is mounted read-only.",
    }
    return HybridError(f"{action} failed{where}: {error.strerror or error}.", hint=hints.get(error.errno or 0, ""))


def _crash(error: Exception, action: str, workspace: Workspace) -> HybridError:
    """A bug of ours: the trace goes to a file, the person gets a sentence."""
    log = workspace.state / "errors.log"
    kind = type(error).__name__
    try:
        workspace.ensure_state()
        with log.open("a", encoding="utf-8") as file:
            file.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {action}\n{traceback.format_exc()}\n")
    except (OSError, HybridError):
        return HybridError(f"{action} hit a bug: {kind}: {error}.")
    return HybridError(f"{action} hit a bug: {kind}: {error}.", hint=f"The trace is in {log}; please report it.")
