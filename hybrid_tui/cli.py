"""The command line: opens the panel, or runs one action headless.

Textual is imported only when the panel opens, Rich only when a person reads the result.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from services.errors import BadInput, HybridError, nearest

_USAGE = """\
hybrid-tui                                    open the panel
hybrid-tui --init [DIR]                       make DIR (or this folder) a workspace
hybrid-tui --run                              list the actions
hybrid-tui --run ACTION [key=value ...]       run one action
hybrid-tui --run ACTION --help                its parameters

options:
  --workspace DIR          the folder to work in (else HYBRID_WORKSPACE, or the nearest with a hybrid.toml)
  --json                   the result as one JSON document on stdout
  --progress bar|json|none progress on stderr (default: a bar on a terminal)
  --dry-run                show what a writing action would do
  --yes                    agree to the plan of an action that deletes or overwrites
  --read-only              refuse everything that writes
  --completion bash|zsh    print a completion script for the shell
  --version                print the version

exit codes: 0 done, 1 failed, 2 bad usage or input, 3 refused, 4 store unreachable, 130 interrupted
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise BadInput(f"{message[:1].upper()}{message[1:]}.", hint="hybrid-tui --help")


def parser() -> argparse.ArgumentParser:
    """The options; words that are no option are the action and its ``key=value`` pairs."""
    options = _Parser(prog="hybrid-tui", add_help=False, allow_abbrev=False)
    options.add_argument("--run", nargs="*", metavar="WORD")
    options.add_argument("--init", nargs="?", const=".", metavar="DIR")
    options.add_argument("--workspace", metavar="DIR")
    options.add_argument("--json", action="store_true")
    options.add_argument("--progress", choices=("bar", "json", "none"))
    options.add_argument("--dry-run", action="store_true")
    options.add_argument("--yes", "-y", action="store_true")
    options.add_argument("--read-only", action="store_true")
    options.add_argument("--completion", choices=("bash", "zsh"))
    options.add_argument("--complete", metavar="WORDS", help=argparse.SUPPRESS)
    options.add_argument("--help", "-h", action="store_true")
    options.add_argument("--version", action="store_true")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are one sentence on stderr."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(words)
    except HybridError as error:
        from hybrid_tui.headless import print_error

        return print_error(error, as_json="--json" in words)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone (| head): nothing is wrong
        return 0


def _dispatch(argv: list[str]) -> int:
    args, extra = parser().parse_known_args(argv)
    words = [*(args.run or []), *(w for w in extra if not w.startswith("-"))]
    unknown = [w for w in extra if w.startswith("-")]
    if unknown:
        known = [option for action in parser()._actions for option in action.option_strings]
        raise BadInput(f"Unknown option {unknown[0]}{nearest(unknown[0], known) or '.'}", hint="hybrid-tui --help")
    if args.version:
        from hybrid_tui import __version__

        print(f"hybrid-tui {__version__}")
        return 0
    if args.completion or args.complete is not None:
        from hybrid_tui import completion

        print(
            completion.script(args.completion) if args.completion else "\n".join(completion.candidates(args.complete))
        )
        return 0
    if args.run is not None:
        from hybrid_tui import headless

        return headless.main(words, args)
    if args.help:
        print(_USAGE, end="")
        return 0
    if words:
        raise BadInput(f"Don't know what to do with '{words[0]}'.", hint="Actions are run with --run; see --help.")
    return _init(args) if args.init is not None else _panel(args)


def _init(args: argparse.Namespace) -> int:
    from services import workspace

    made = workspace.init(Path(args.init))
    print(f"{made.root} is a workspace: settings in hybrid.toml, state in .hybrid/. Open it with: hybrid-tui")
    return 0


def _panel(args: argparse.Namespace) -> int:
    import gc

    from services import workspace

    gc.disable()  # until the first frame is painted: starting makes much and drops nothing
    opened = workspace.open_workspace(Path(args.workspace) if args.workspace else workspace.find())
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise BadInput("The panel needs a terminal, and there is none here.", hint="Use hybrid-tui --run ACTION.")
    if not args.read_only:
        opened.ensure_state()
    from hybrid_tui.app import HybridApp

    app = HybridApp(opened, read_only=args.read_only)
    app.run()
    return app.return_code or 0
