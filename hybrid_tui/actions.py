"""The action table: the one list that the panel's keys, the palette, ``--run``, its help and completion draw from.

An action is ``async def name(ctx: Context, params: P) -> R`` with P a frozen msgspec struct whose fields carry their
description, and R a frozen msgspec struct (or a Plan under ``--dry-run``). It is imported when first needed, so that
listing actions or running one pulls in nothing else.
"""

from __future__ import annotations

import importlib
import re
import typing
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec

from services.context import Context
from services.errors import BadInput, nearest


@dataclass(frozen=True)
class Action:
    """``target`` is "module:function". ``writes``: changes something. ``asks``: may overwrite or delete, with a yes.

    ``outlives`` says in a sentence what goes on after Ctrl+C. ``says_lines``: its progress is a line now and then,
    printed as it comes, where a bar would redraw for hours.
    """

    name: str
    target: str
    help: str
    writes: bool = False
    asks: bool = False
    outlives: str = ""
    says_lines: bool = False

    def function(self) -> Callable[[Context, Any], Coroutine[Any, Any, Any]]:
        """Import and return the service function."""
        module, _, name = self.target.partition(":")
        return typing.cast(
            Callable[[Context, Any], Coroutine[Any, Any, Any]], getattr(importlib.import_module(module), name)
        )

    def parameters(self) -> type[msgspec.Struct]:
        """The type of the action's parameters."""
        function = self.function()
        name = function.__code__.co_varnames[1]  # the second parameter, "_params" where there is none to use
        return typing.cast(type[msgspec.Struct], typing.get_type_hints(function, include_extras=True)[name])

    def fields(self) -> list[msgspec.structs.FieldInfo]:
        """The parameters in the order people want them: the action's own before those it shares with others."""
        kind = self.parameters()
        return sorted(msgspec.structs.fields(kind), key=lambda f: f.name not in kind.__annotations__)


_TABLE = (
    Action("storage.usage", "services.storage.actions:usage", "Disk: total, used, free, against the budgets."),
    Action("storage.scan", "services.storage.actions:scan", "What fills a folder, as du counts it, largest first."),
    Action(
        "storage.explore",
        "services.storage.explore:explore",
        "One level of a folder, sorted and filtered, at once if it was scanned before.",
    ),
    Action("storage.largest", "services.storage.explore:largest", "The largest files or folders at any depth."),
    Action("storage.types", "services.storage.explore:types", "What kinds of files fill a folder, by their endings."),
    Action(
        "storage.caches",
        "services.storage.actions:caches",
        "Known caches (pip, uv, Hugging Face, torch, npm) and their sizes.",
    ),
    Action("storage.items", "services.storage.actions:items", "All that can go, by cache kind, item by item."),
    Action(
        "storage.plan",
        "services.storage.cleaning.actions:plan",
        "What a clean-up would do: exact list, bytes, what must stay and why. Kept under an id.",
    ),
    Action(
        "storage.clean",
        "services.storage.cleaning.actions:clean",
        "Move what can go to the trash, or delete it with now=true.",
        writes=True,
        asks=True,
        outlives="What was moved is back at its place; of what was being deleted the rest lies in the trash.",
    ),
    Action(
        "storage.undo",
        "services.storage.cleaning.actions:undo",
        "Bring a clean-up back from the trash.",
        writes=True,
        outlives="What is not back yet lies in the trash.",
    ),
    Action("storage.trash", "services.storage.cleaning.actions:trash", "What lies in the trash, and until when."),
    Action(
        "storage.purge",
        "services.storage.cleaning.actions:purge",
        "Delete batches of the trash for good.",
        writes=True,
        asks=True,
        outlives="What is not deleted yet lies in the trash.",
    ),
    Action("storage.history", "services.storage.cleaning.actions:history_of", "What was cleaned, and what that freed."),
    Action(
        "packages.environments",
        "services.storage.packages.actions:environments",
        "Python environments of this box (venv, uv, conda, pipx, system) and their sizes.",
    ),
    Action(
        "packages.list",
        "services.storage.packages.actions:list_packages",
        "Installed packages by size on disk, what deleting one frees, and files no package claims.",
    ),
    Action(
        "packages.why",
        "services.storage.packages.actions:why",
        "Who needs a package, and what is here only because of it.",
    ),
    Action(
        "packages.cuda",
        "services.storage.packages.actions:audit",
        "The CUDA audit: packages for NVIDIA GPUs, their cost, and what to do without such a GPU.",
    ),
    Action(
        "packages.swap",
        "services.storage.packages.swapping:swap_builds",
        "Replace an environment's packages for NVIDIA GPUs by CPU builds, proved by importing them.",
        writes=True,
        asks=True,
        outlives="Unless the CPU builds were proved already, everything was moved back.",
    ),
    Action(
        "packages.restore",
        "services.storage.packages.swapping:restore",
        "Undo a swap that was interrupted: everything is moved back.",
        writes=True,
    ),
    Action(
        "env.split",
        "services.storage.packages.splitting:split_requirements",
        "Requirements as two files: base.txt (CPU) and gpu.txt (Colab).",
        writes=True,
        asks=True,
    ),
    Action(
        "env.check",
        "services.storage.packages.splitting:check_requirements",
        "Check that base.txt holds nothing for GPUs and agrees with gpu.txt; exit code 3 if not.",
    ),
    Action(
        "storage.check",
        "services.storage.upkeep.actions:check",
        "All budgets at once, for scripts and CI: exit code 3 when one is broken.",
    ),
    Action(
        "storage.forecast",
        "services.storage.upkeep.actions:forecast",
        "The day the disk is full, from the samples recorded in this workspace.",
    ),
    Action(
        "storage.prompt",
        "services.storage.upkeep.actions:prompt",
        "One short line for a shell's prompt, and the quick command that prints it.",
    ),
    Action(
        "storage.watch",
        "services.storage.upkeep.watch:watch",
        "Watch the disk and say what changes; clean only by a policy given and agreed to.",
        writes=True,
        asks=True,
        says_lines=True,
    ),
    Action(
        "repo.check",
        "services.storage.upkeep.actions:check_repository",
        "The git repository's size, and model files in its index and history.",
    ),
    Action("upkeep.list", "services.storage.upkeep.actions:list_tasks", "Recurrent tasks of the team and what is due."),
    Action(
        "upkeep.done",
        "services.storage.upkeep.actions:done",
        "Mark a recurrent task as done.",
        writes=True,
    ),
    Action(
        "upkeep.undo",
        "services.storage.upkeep.actions:undo",
        "Take back the last mark of a recurrent task.",
        writes=True,
    ),
    Action(
        "upkeep.glance",
        "services.storage.upkeep.actions:glance",
        "Forecast, tasks and the last repository check, as the overview shows them.",
    ),
    Action(
        "store.status",
        "services.drive.actions:status",
        "Where models and the registry are kept, and what that place promises.",
    ),
    Action(
        "drive.login",
        "services.drive.auth.actions:login",
        "Sign in to Google Drive: in a browser here or elsewhere, or by a code on another device.",
        writes=True,
        says_lines=True,
        outlives="Nothing was kept of the sign-in.",
    ),
    Action(
        "drive.logout",
        "services.drive.auth.actions:logout",
        "End the sign-in to Google Drive, at Google and here.",
        writes=True,
        outlives="drive.status says whether this machine still has the sign-in; Google may have ended it.",
    ),
    Action(
        "drive.status", "services.drive.auth.actions:status", "Who is signed in to Google Drive, scope, quota, root."
    ),
    Action("drive.list", "services.transfers.queue_actions:list_level", "One level of the store: names, sizes, dates."),
    Action(
        "drive.plan",
        "services.transfers.actions:plan_of",
        "What a push or pull would do: what is new, changed, only at one side, the same.",
    ),
    Action(
        "drive.push",
        "services.transfers.actions:push",
        "Make a folder of the store equal to a local one; manifest.json goes last.",
        writes=True,
        asks=True,
        outlives="What arrived stays: the same command goes on from there.",
    ),
    Action(
        "drive.pull",
        "services.transfers.actions:pull",
        "Fetch a folder of the store, or a version (banking@deployed), and verify it.",
        writes=True,
        asks=True,
        outlives="What arrived stays: the same command goes on from there.",
    ),
    Action(
        "drive.verify",
        "services.transfers.actions:verify",
        "Is a local folder what lies in the store? By checksums; exit code 3 if not.",
    ),
    Action(
        "drive.trash",
        "services.transfers.queue_actions:trash",
        "Move a file or folder of the store to the store's trash.",
        writes=True,
        asks=True,
    ),
    Action(
        "drive.transfers",
        "services.transfers.queue_actions:transfers",
        "The queue of transfers: how far, how fast, how long, what went wrong.",
    ),
    Action("drive.pause", "services.transfers.queue_actions:pause", "Let a transfer rest.", writes=True),
    Action(
        "drive.resume",
        "services.transfers.queue_actions:resume",
        "Go on with a transfer that is paused, interrupted, cancelled or failed.",
        writes=True,
    ),
    Action(
        "drive.cancel", "services.transfers.queue_actions:cancel", "End a transfer; what arrived stays.", writes=True
    ),
    Action(
        "drive.priority",
        "services.transfers.queue_actions:priority",
        "Move a transfer up or down in the queue; a higher one takes the running one's place.",
        writes=True,
    ),
    Action("drive.clear", "services.transfers.queue_actions:clear", "Forget transfers that are over.", writes=True),
    Action(
        "drive.init",
        "services.drive.google_init:init",
        "The store's folder on Google Drive: found, adopted or made, with its layout; hybrid.toml gets its id.",
        writes=True,
        asks=True,
    ),
    Action(
        "registry.add",
        "services.registry.actions:add",
        "Add a folder (or a run's result) as the next version of a model.",
        writes=True,
    ),
    Action("registry.list", "services.registry.actions:list_versions", "Models, versions, aliases and metrics."),
    Action("registry.show", "services.registry.actions:show", "One version, whole."),
    Action(
        "registry.promote",
        "services.registry.actions:promote",
        "Move an alias to a version, if it still points where you believe.",
        writes=True,
    ),
    Action(
        "registry.rollback",
        "services.registry.actions:rollback",
        "Move an alias back to where it pointed before.",
        writes=True,
    ),
    Action("registry.history", "services.registry.actions:history", "Every record of the log, in words, newest first."),
    Action(
        "data.generate",
        "services.data.actions:generate",
        "Generate a seeded dataset from templates: five domains, by intent, tone or emotion.",
        writes=True,
        asks=True,
    ),
    Action(
        "data.prepare",
        "services.data.actions:prepare",
        "Check, split and store a CSV, JSON or Parquet file as a dataset.",
        writes=True,
        asks=True,
    ),
    Action(
        "data.synthesize",
        "services.data.synthesize:synthesize",
        "Let a local model write rows after examples; unusable ones are dropped and counted.",
        writes=True,
        asks=True,
        outlives="What was written is kept; the same call goes on from there.",
    ),
    Action("data.list", "services.data.actions:list_datasets", "Prepared datasets."),
    Action("data.show", "services.data.actions:show", "One dataset with samples."),
    Action(
        "data.check",
        "services.data.check:check",
        "Before training: duplicates, leaks, balance, personal data, tokens a pass costs, rows as the model sees them.",
    ),
    Action(
        "data.push",
        "services.data.versions:push",
        "Put a dataset into the store under its content's hash, once.",
        writes=True,
    ),
    Action(
        "data.pull",
        "services.data.versions:pull",
        "Fetch a dataset from the store: NAME, or NAME@HASH.",
        writes=True,
        asks=True,
    ),
    Action("data.versions", "services.data.versions:versions", "Versions of datasets in the store."),
    Action(
        "data.baseline", "services.data.baseline:baseline", "What counting words alone achieves: the figure to beat."
    ),
    Action(
        "model.get",
        "services.models.actions:get",
        "Fetch the demo's base model, or take in a folder, GGUF file or Hugging Face id.",
        writes=True,
    ),
    Action("model.list", "services.models.actions:list_models", "Base models in this workspace."),
    Action(
        "train.start",
        "services.runs.actions:start",
        "Start a training run that outlives the panel.",
        writes=True,
        outlives="A run that was started goes on; train.cancel stops it.",
    ),
    Action(
        "train.estimate",
        "services.runs.estimate:estimate",
        "What a run would need, take and cost on each device, before it is started.",
    ),
    Action(
        "train.report",
        "services.runs.report:report",
        "A run's report with its curves: into its folder and the store's results/training_logs.",
        writes=True,
    ),
    Action("costs.show", "services.runs.costs:show", "What this month's runs have cost, by target and by run."),
    Action(
        "costs.enforce",
        "services.runs.costs:enforce",
        "Ask live runs over a ceiling to checkpoint and stop; the panel does so by itself.",
        writes=True,
    ),
    Action("train.list", "services.runs.actions:list_runs", "Runs, newest first."),
    Action("train.show", "services.runs.actions:show", "One run: phase, figures, results, cause of its end."),
    Action(
        "train.watch",
        "services.runs.actions:watch",
        "Follow a run until it ends.",
        outlives="The run goes on; train.cancel stops it.",
    ),
    Action("train.cancel", "services.runs.actions:cancel", "Stop a run after a checkpoint.", writes=True),
    Action(
        "train.checkpoint",
        "services.runs.actions:checkpoint",
        "Ask a run to write a checkpoint now and go on.",
        writes=True,
    ),
    Action(
        "train.resume",
        "services.runs.actions:resume",
        "Go on from a run's last checkpoint, as a new attempt.",
        writes=True,
    ),
    Action(
        "train.consent",
        "services.runs.actions:consent",
        "Say that you agreed at the link that a run waits for (Google Drive on its machine).",
        writes=True,
    ),
    Action(
        "train.reattach",
        "services.runs.actions:reattach",
        "Follow again runs that go on elsewhere while nothing here follows them; the panel does so by itself.",
        writes=True,
        outlives="The runs go on, and are followed.",
    ),
    Action(
        "train.sessions",
        "services.runs.colab.actions:sessions",
        "Colab's machines of this account, whose they are, and which nobody follows: they bill.",
    ),
    Action(
        "train.release",
        "services.runs.colab.actions:release",
        "Give a machine of Colab back, whatever runs on it.",
        writes=True,
        asks=True,
    ),
    Action(
        "train.notebook",
        "services.runs.notebook.actions:notebook",
        "Write a run's notebook into the store again, and say where to open it.",
        writes=True,
    ),
    Action("train.delete", "services.runs.actions:delete", "Delete a finished run's folder.", writes=True, asks=True),
    Action(
        "sweep.start",
        "services.sweeps.actions:start",
        "Look for good settings by many short runs, the weak ones stopped early; outlives the panel.",
        writes=True,
        outlives="The sweep goes on; sweep.cancel stops it.",
    ),
    Action("sweep.list", "services.sweeps.actions:list_sweeps", "Sweeps, newest first, each with its best trial."),
    Action("sweep.show", "services.sweeps.actions:show", "One sweep with all its trials."),
    Action(
        "sweep.cancel",
        "services.sweeps.actions:cancel",
        "Stop a sweep and its runs, each after a checkpoint.",
        writes=True,
    ),
    Action(
        "sweep.resume",
        "services.sweeps.actions:resume",
        "Go on with a sweep that nobody drives, or that was stopped, exactly where it was.",
        writes=True,
        outlives="The sweep goes on; sweep.cancel stops it.",
    ),
    Action(
        "sweep.register",
        "services.sweeps.actions:register",
        "Add the result of a sweep's best trial as the next version of a model.",
        writes=True,
    ),
    Action(
        "inference.generate", "services.inference.actions:generate", "Answer a prompt with base, a run or a version."
    ),
    Action(
        "inference.classify",
        "services.inference.actions:classify",
        "The label that a classification head puts on a text, with its probability.",
    ),
    Action("inference.compare", "services.inference.actions:compare", "The same prompt to two models, side by side."),
    Action(
        "inference.evaluate",
        "services.inference.actions:evaluate",
        "Accuracy and macro-F1 of a model on a dataset's split.",
    ),
    Action("settings.show", "hybrid_tui.about:settings", "Settings in force, and what in hybrid.toml was not usable."),
    Action(
        "demo",
        "hybrid_tui.demo:run",
        "The whole job on example data: scan, train, evaluate, register, promote, answer.",
        writes=True,
        outlives="A training run it started goes on; the demo called again takes it up, train.cancel stops it.",
    ),
)

ACTIONS: dict[str, Action] = {action.name: action for action in _TABLE}


def find(name: str) -> Action:
    """The action called ``name``. Raises BadInput naming the nearest one."""
    try:
        return ACTIONS[name]
    except KeyError:
        raise BadInput(
            f"There is no action '{name}'{nearest(name, list(ACTIONS)) or '.'}", hint="hybrid-tui --run lists them."
        ) from None


def convert(action: Action, values: dict[str, str]) -> msgspec.Struct:
    """Typed parameters from ``key=value`` words. Raises BadInput for an unknown, missing or unusable one.

    A tuple's items are separated by commas.
    """
    kind = action.parameters()
    fields = {f.name: f for f in action.fields()}
    typed: dict[str, Any] = {}
    for key, word in values.items():
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise BadInput(
                f"{action.name} has no parameter '{key}'{nearest(key, list(fields)) or '.'}", hint=f"Known: {known}."
            )
        typed[key] = _value(action, key, word, fields[key].type)
    missing = [name for name, f in fields.items() if f.required and name not in typed]
    if missing:
        raise BadInput(
            f"{action.name} needs {' and '.join(f'{m}=…' for m in missing)}.",
            hint=f"hybrid-tui --run {action.name} --help",
        )
    return kind(**typed)


def _value(action: Action, key: str, word: str, annotation: Any) -> Any:
    bare = typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    raw: Any = [p.strip() for p in word.split(",") if p.strip()] if typing.get_origin(bare) is tuple else word
    try:
        return msgspec.convert(raw, annotation, strict=False)
    except msgspec.ValidationError as error:
        wanted = type_words(annotation)
        reason = f"it is not {wanted}" if wanted.startswith("one of") else _reason(error)
        raise BadInput(f"{action.name}: {key}={word} is not usable: {reason}.") from None


def _reason(error: msgspec.ValidationError) -> str:
    """What msgspec expected, in a person's words: "expected a number <= 1.0"."""
    words = str(error).split(" - at ")[0].replace("`", "")
    for theirs, ours in (("float", "a number"), ("int", "a whole number"), ("bool", "true or false"), ("str", "text")):
        words = re.sub(rf"\b{theirs}\b", ours, words)
    return words[:1].lower() + words[1:]


def description(annotation: Any) -> str:
    """The description in a parameter's annotation, or ""."""
    metas = [m for m in getattr(annotation, "__metadata__", ()) if isinstance(m, msgspec.Meta)]
    return next((m.description for m in metas if m.description), "")


def type_words(annotation: Any) -> str:
    """A parameter's type in words: "text", "whole number", "one of bf16, fp32"."""
    bare = typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation
    origin, items = typing.get_origin(bare), typing.get_args(bare)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, items))}"
    if origin is tuple:
        return "list, separated by commas"
    if type(None) in items:
        return type_words(next(i for i in items if i is not type(None)))
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(bare, str(bare))


def default_words(field: msgspec.structs.FieldInfo) -> str:
    """A parameter's default as a person would type it."""
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value == "" or value == ():
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
