"""The key table: every key of the panel once. Footer, help, palette and docs/keys.md are drawn from it.

A screen writes ``BINDINGS = keymap.bindings("storage")`` and offers ``action_<action>`` methods. A person remaps a key
by its id in hybrid.toml: ``[panel] keys = { "app.help" = "f1" }``.

``python -m hybrid_tui.keymap > docs/keys.md`` writes the page.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid_tui.screens import PLACES
from services.errors import nearest

if TYPE_CHECKING:
    from textual.binding import BindingType


@dataclass(frozen=True)
class Key:
    """One key (or several, "a,b") of one section. ``name`` is unique in its section; the id is "section.name".

    ``action`` is Textual's action string; ``label`` stands in the footer when ``show``; ``help`` is a whole sentence.
    ``display`` is how the key is written where its Textual name would not be understood.
    """

    name: str
    key: str
    action: str
    label: str
    help: str
    show: bool = True
    priority: bool = False
    display: str = ""


# Section → its keys. "app" holds everywhere, the others on the screen of that name, "dialog" in dialogs,
# "plan" besides in that of a clean-up.
KEYS: dict[str, tuple[Key, ...]] = {
    "app": (
        *(Key(p.name, p.key, f"app.go('{p.name}')", p.title, f"Go to {p.title}.", show=False) for p in PLACES),
        Key("help", "question_mark,f1", "app.help", "Help", "Show the keys of this screen.", display="?"),
        Key("palette", "ctrl+p,colon", "app.command_palette", "Palette",
            "Run any action, go to a screen, choose a theme.", display=":"),
        Key("theme", "ctrl+t", "app.change_theme", "Theme", "Choose the colours.", show=False),
        Key("quit", "ctrl+q", "app.quit", "Quit", "Leave the panel at once; runs go on.", show=False, priority=True),
        Key("leave", "q", "app.quit", "Quit", "Leave the panel; runs go on."),
    ),
    "overview": (
        Key("refresh", "r", "refresh", "Refresh", "Read everything again."),
    ),
    "storage": (
        Key("clean", "c", "view('clean')", "Clean", "Go to what can be cleaned.", show=False),
        Key("explore", "e", "view('explore')", "Explore", "Go to the folders and what fills them.", show=False),
        Key("packages", "p", "view('packages')", "Packages", "Go to the installed packages.", show=False),
        Key("trash", "t", "view('trash')", "Trash", "Go to what was cleaned and can be brought back.", show=False),
        Key("history", "H", "view('history')", "History", "Go to what was freed, and when.", show=False),
        Key("upkeep", "U", "view('upkeep')", "Upkeep", "Go to the budgets and the team's tasks.", show=False),
        Key("safe", "a", "do('safe')", "All safe", "Clean: mark all that is safe to clean."),
        Key("mark", "space", "do('mark')", "Mark", "Mark what is under the cursor, or take the mark away."),
        Key("unmark", "x", "do('unmark')", "Unmark", "Take every mark away.", show=False),
        Key("plan", "d", "do('plan')", "Clean up", "Show what cleaning up the marked things would do, and ask."),
        Key("open", "enter", "do('open')", "Open",
            "Open or unfold what is under the cursor; trash: restore it; upkeep: go where it is done."),
        Key("done", "m", "do('done')", "Done", "Upkeep: mark the task under the cursor as done."),
        Key("undo", "u", "undo", "Undo",
            "Bring back what the last clean-up (in the trash: this one) moved; upkeep: take a mark back."),
        Key("free", "f", "free", "Free now",
            "Delete for good what the last clean-up (in the trash: this one) moved; asks first."),
        Key("swap", "s", "do('swap')", "Swap", "Packages: replace the CUDA build by the CPU build; asks first."),
        Key("who", "w", "do('who')", "Who needs it", "Packages: who needs the one under the cursor."),
        Key("up", "backspace", "do('up')", "Up", "Explore: go to the folder above."),
        Key("sort", "o", "do('sort')", "Order", "Explore: by size, number of files, age or name."),
        Key("largest", "l", "do('largest')", "Largest",
            "Explore: the largest folders at any depth, or what lies in this one."),
        Key("files", "b", "do('files')", "Big files", "Explore: the largest files at any depth."),
        Key("types", "y", "do('types')", "Types", "Explore: which types of files take the space."),
        Key("home", "h", "do('home')", "Home", "Explore: your home folder, or back to the workspace."),
        Key("filter", "slash", "do('filter')", "Filter", "Show only what has a text in its name.", display="/"),
        Key("hidden", "full_stop", "do('hidden')", "Hidden",
            "Show or leave out hidden names, and kinds that are not on this disk.", show=False, display="."),
        Key("rescan", "r", "rescan", "Rescan", "Read the disk and this view again."),
        Key("stop", "escape", "stop", "Stop", "Stop what is running and keep what it has found.", display="esc"),
        Key("back", "left_square_bracket", "turn(-1)", "Back", "Go to the view before.", show=False, display="["),
        Key("forth", "right_square_bracket", "turn(1)", "Forth", "Go to the next view.", show=False, display="]"),
    ),
    "plan": (
        Key("free", "f", "free", "Free now", "Delete for good instead of moving to the trash; asks again.", show=False),
    ),
    "registry": (
        Key("promote", "p", "promote", "Promote", "Move an alias, deployed for one, to this version."),
        Key("rollback", "b", "rollback", "Roll back", "Move an alias back to where it pointed before."),
        Key("add", "a", "add", "Add", "Add a folder as the next version of a model."),
        Key("talk", "t", "talk", "Talk", "Talk to this version."),
        Key("details", "enter", "details", "Details", "Show this version whole."),
        Key("fetch", "f", "fetch", "Fetch", "Fetch this version's files to this box, verified.", show=False),
        Key("history", "h", "history", "History", "Go to the log's history, and back to the versions."),
        Key("refresh", "r", "refresh", "Refresh", "Read the registry again.", show=False),
    ),
    "training": (
        Key("start", "n", "start", "New", "Start a training run."),
        Key("cancel", "c", "cancel", "Cancel", "Stop the run after a checkpoint."),
        Key("checkpoint", "k", "checkpoint", "Checkpoint", "Write a checkpoint now and go on.", show=False),
        Key("resume", "s", "resume", "Resume", "Go on from the run's last checkpoint."),
        Key("register", "g", "register", "Register", "Register the run's adapter as the next version of a model."),
        Key("talk", "t", "talk", "Talk", "Talk to the run's adapter."),
        Key("evaluate", "e", "evaluate", "Evaluate", "Measure the run's adapter on held-out data.", show=False),
        Key("delete", "d", "delete", "Delete", "Delete the finished run's folder.", show=False),
        Key("metric", "m", "metric", "Metric", "Draw the next figure: loss, learning rate, speed, gradient, memory."),
        Key("log", "l", "log_y", "Log y", "Logarithmic y axis, on or off.", show=False),
        Key("smooth", "w", "smooth", "Smooth", "Moving average, on or off.", show=False),
        Key("zoom_in", "plus,equals_sign", "zoom(0.5)", "Zoom in", "Show half as many steps.", show=False, display="+"),
        Key("zoom_out", "minus", "zoom(2.0)", "Zoom out", "Show twice as many steps.", show=False, display="-"),
        Key("back", "left_square_bracket", "pan(-0.5)", "Earlier", "Move the chart to earlier steps.",
            show=False, display="["),
        Key("forth", "right_square_bracket", "pan(0.5)", "Later", "Move the chart to later steps.",
            show=False, display="]"),
        Key("all", "z", "all", "All", "Show all steps and follow the end.", show=False),
        Key("refresh", "r", "refresh", "Refresh", "Read the runs again.", show=False),
    ),
    "inference": (
        Key("write", "i,enter", "write", "Write", "Go to the prompt; enter sends it.", display="i"),
        Key("stop", "escape,ctrl+x", "stop", "Stop", "Stop the answer; otherwise leave the prompt.", display="esc"),
        Key("model", "m", "model('left')", "Model", "Choose the model on the left."),
        Key("versus", "v", "model('right')", "Versus", "Choose the model on the right."),
        Key("pair", "b", "pair", "Both", "One model, or two side by side on the same prompt."),
        Key("mode", "t", "mode", "Chat/task", "Free chat, or the task that the adapter was trained for."),
        Key("options", "o", "options", "Options", "Temperature, longest answer, seed."),
        Key("clear", "c", "clear", "Clear", "Forget both conversations.", show=False),
    ),
    "drive": (
        Key("files", "f", "view('files')", "Files", "Go to the store's folders.", show=False),
        Key("transfers", "t", "view('transfers')", "Transfers", "Go to the queue of transfers.", show=False),
        Key("open", "enter", "do('open')", "Open",
            "Files: open the folder under the cursor; transfers: show the one under it whole."),
        Key("up", "backspace", "do('up')", "Up", "Files: go to the folder above."),
        Key("push", "p", "do('push')", "Push", "Files: send a local folder into the store; shows its plan first."),
        Key("pull", "g", "do('pull')", "Pull",
            "Files: fetch what is under the cursor to this box; shows its plan first."),
        Key("verify", "v", "do('verify')", "Verify", "Files: compare a local folder with the store, by checksums."),
        Key("trash", "d", "do('trash')", "Trash",
            "Files: move what is under the cursor to the store's trash; asks first."),
        Key("filter", "slash", "do('filter')", "Filter", "Files: show only what has a text in its name.", display="/"),
        Key("hold", "space", "do('hold')", "Pause/resume", "Transfers: pause it, or go on with it."),
        Key("cancel", "c", "do('cancel')", "Cancel", "Transfers: end it; what arrived stays."),
        Key("sooner", "plus,equals_sign", "do('sooner')", "Sooner", "Transfers: move it up in the queue.",
            display="+"),
        Key("later", "minus", "do('later')", "Later", "Transfers: move it down in the queue.", display="-"),
        Key("clear", "x", "do('clear')", "Clear", "Transfers: forget those that are over."),
        Key("sign_in", "L", "sign_in", "Sign in", "Sign in to Google Drive."),
        Key("stop", "escape", "stop", "Stop", "Stop comparing two folders.", show=False, display="esc"),
        Key("refresh", "r", "refresh", "Refresh", "Read the store and the queue again.", show=False),
    ),
    "advisor": (
        Key("refresh", "r", "refresh", "Refresh", "Look at this machine again."),
    ),
    "dialog": (
        Key("close", "escape", "close", "Close", "Close without doing anything."),
        Key("ok", "enter", "close", "Close", "Close what was only to be read.", show=False),
        Key("yes", "y", "yes", "Yes", "Do what the dialog describes.", show=False),
        Key("no", "n", "close", "No", "Don't.", show=False),
    ),
}  # fmt: skip


def bindings(section: str) -> list[BindingType]:
    """The section's keys as Textual bindings, each with its id."""
    from textual.binding import Binding

    return [
        Binding(
            key.key,
            key.action,
            key.label,
            show=key.show,
            key_display=key.display or None,
            priority=key.priority,
            tooltip=key.help,
            id=f"{section}.{key.name}",
        )
        for key in KEYS[section]
    ]


def ids() -> dict[str, Key]:
    """Every binding id and its key."""
    return {f"{section}.{key.name}": key for section, keys in KEYS.items() for key in keys}


def checked(wanted: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Split a person's remapping into what can be used and one warning for each entry that can't."""
    known = ids()
    good: dict[str, str] = {}
    warnings: list[str] = []
    for binding, keys in wanted.items():
        if binding not in known:
            warnings.append(f"[panel] keys: there is no binding '{binding}'{nearest(binding, list(known)) or '.'}")
        elif not all(_is_key(word.strip()) for word in keys.split(",")):
            warnings.append(f"[panel] keys: '{keys}' for {binding} is not a key; {known[binding].key} stays.")
        else:
            good[binding] = keys
    return good, warnings


def _is_key(word: str) -> bool:
    from textual.keys import REPLACED_KEYS, Keys

    *modifiers, last = word.split("+")
    if not set(modifiers) <= {"ctrl", "shift", "alt", "super", "hyper", "meta"}:
        return False
    if len(last) == 1:
        return last.isprintable() and not last.isspace()
    if last in {key.value for key in Keys}:
        return True
    try:
        unicodedata.lookup(REPLACED_KEYS.get(last, last).replace("_", " ").upper())
    except KeyError:
        return False
    return True


_DISPLAY = {"question_mark": "?", "colon": ":", "slash": "/", "escape": "esc", "plus": "+", "minus": "-",
            "left_square_bracket": "[", "right_square_bracket": "]", "full_stop": ".", "comma": ","}  # fmt: skip


def shown_key(binding: str, overrides: Mapping[str, str]) -> str:
    """The key(s) of a binding id as a person reads them: "? f1"."""
    keys = overrides.get(binding) or ids()[binding].key
    return " ".join(_DISPLAY.get(word.strip(), word.strip()) for word in keys.split(","))


def document() -> str:
    """docs/keys.md."""
    lines = [
        "# Keys",
        "",
        "Made by `python -m hybrid_tui.keymap > docs/keys.md` from the key table; don't edit it by hand.",
        "",
        "Any key can be changed by its id in `hybrid.toml`; several keys are separated by commas:",
        "",
        "```toml",
        "[panel]",
        'keys = { "app.help" = "f1", "app.palette" = "ctrl+p" }',
        "```",
    ]
    titles = {"app": "Everywhere", "dialog": "In dialogs", "plan": "In the plan of a clean-up"}
    titles |= {place.name: place.title for place in PLACES}
    for section, keys in KEYS.items():
        if not keys:
            continue
        lines += [
            "",
            f"## {titles.get(section, section.title())}",
            "",
            "| key | id | what it does |",
            "| --- | --- | --- |",
        ]
        for key in keys:
            shown = " ".join(f"`{word}`" for word in shown_key(f"{section}.{key.name}", {}).split())
            lines.append(f"| {shown} | `{section}.{key.name}` | {key.help} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(document(), end="")
