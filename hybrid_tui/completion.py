"""Shell completion for bash and zsh, answered by the action table itself."""

from __future__ import annotations

import typing

from hybrid_tui import actions
from services.errors import HybridError

_OPTIONS = (
    "--run", "--init", "--workspace", "--json", "--progress", "--dry-run", "--yes", "--read-only", "--completion",
    "--help", "--version",
)  # fmt: skip

_BASH = """\
_hybrid_tui() {
    local words="${COMP_LINE:0:COMP_POINT}" current="${COMP_WORDS[COMP_CWORD]}"
    [[ "$words" =~ [^[:space:]]*$ ]] && current="${BASH_REMATCH[0]}"
    COMPREPLY=($(compgen -W "$(hybrid-tui --complete "$words" 2>/dev/null)" -- "$current"))
    if [[ "$current" == *=* ]]; then  # bash splits words at "=": offer what comes after it
        COMPREPLY=("${COMPREPLY[@]#"${current%%=*}="}")
    fi
    [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
}
complete -o default -F _hybrid_tui hybrid-tui"""

_ZSH = """\
#compdef hybrid-tui
_hybrid_tui() {
    local -a answers
    answers=("${(@f)$(hybrid-tui --complete "${BUFFER[1,CURSOR]}" 2>/dev/null)}")
    compadd -S '' -- $answers || _files
}
compdef _hybrid_tui hybrid-tui"""


def script(shell: str) -> str:
    """The completion script for "bash" or "zsh"."""
    return _BASH if shell == "bash" else _ZSH


def candidates(line: str) -> list[str]:
    """What may stand at the end of ``line``, the command line up to the cursor."""
    words = line.split()[1:]
    current = "" if not line or line[-1].isspace() else (words.pop() if words else "")
    if current.startswith("-"):
        found: list[str] = [o for o in _OPTIONS if o not in words]
    elif words and words[-1] in ("--progress", "--completion"):
        found = ["bar", "json", "none"] if words[-1] == "--progress" else ["bash", "zsh"]
    elif words and words[-1] in ("--workspace", "--init"):
        found = []  # folders: the shell's own completion serves
    elif "--run" in words:
        found = _after_run([w for w in words[words.index("--run") + 1 :] if not w.startswith("-")], current)
    else:
        found = list(_OPTIONS)
    return [f for f in found if f.startswith(current)]


def _after_run(words: list[str], current: str) -> list[str]:
    if not words:
        return list(actions.ACTIONS)
    try:
        fields = actions.find(words[0]).fields()
    except (HybridError, ImportError):
        return []
    key, equals, _ = current.partition("=")
    if equals:
        return [f"{key}={v}" for f in fields if f.name == key for v in _choices(f.type)]
    given = {w.partition("=")[0] for w in words[1:]}
    return [f"{f.name}=" for f in fields if f.name not in given]


def _choices(annotation: typing.Any) -> list[str]:
    bare = typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    if bare is bool:
        return ["true", "false"]
    return [str(v) for v in typing.get_args(bare)] if typing.get_origin(bare) is typing.Literal else []
