"""Inference: talk to a model, or ask two the same thing and read their answers side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Input, Static

from hybrid_tui import keymap
from hybrid_tui.model_choices import model_choices
from hybrid_tui.screens.base import PanelScreen, Throttle
from services import formats
from services.errors import HybridError
from services.inference.types import Message, Reply, Subject
from widgets.chat import Answer, Conversation
from widgets.form import FormDialog
from widgets.picker import Picker

if TYPE_CHECKING:
    from services.inference.client import WorkerClient

Mode = Literal["chat", "task"]

_INVITATION = "Press i or enter to write"
_WELCOME = "Press i to write, m to choose another model, b to ask two models the same."


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How answers are generated."""

    temperature: Annotated[float, Meta(ge=0, le=5, description="0 always takes the likeliest token.")] = 0.0
    max_tokens: Annotated[int, Meta(ge=1, le=32768, description="The longest answer, in tokens.")] = 128
    seed: Annotated[int, Meta(ge=0, description="Same seed, same answer, at a temperature above 0.")] = 0
    constrain: Annotated[bool, Meta(description="In a task with labels, answer only with one of them.")] = True


@dataclass
class Side:
    """One of the two columns: what was asked for, what it resolved to, what was said in free chat."""

    reference: str
    column: Conversation
    subject: Subject | None = None
    history: tuple[Message, ...] = ()


class InferenceScreen(PanelScreen):
    """Two conversations over one worker process, which holds one model at a time."""

    NAME = "inference"
    BINDINGS = keymap.bindings("inference")
    AUTO_FOCUS = "#left"
    DEFAULT_CSS = """
    InferenceScreen #columns { height: 1fr; }
    InferenceScreen #right { display: none; }
    InferenceScreen.-pair #right { display: block; }
    InferenceScreen #options { height: 1; padding: 0 1; color: $text-muted; }
    InferenceScreen #prompt { height: 1; border: none; padding: 0 1; background: $boost; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.mode: Mode = "chat"
        self.pair = False
        self.options = Options()
        self.client: WorkerClient | None = None
        self.rss_bytes: int | None = None
        self.answering = False
        self._stopping = False
        self._wanted = ""
        self.left = Side("base", Conversation("Loading…", id="left"))
        self.right = Side("base", Conversation(_WELCOME, id="right"))

    def body(self) -> ComposeResult:
        with Horizontal(id="columns"):
            yield self.left.column
            yield self.right.column
        yield Static(id="options", markup=False)
        yield Input(placeholder=_INVITATION, id="prompt", compact=True)

    # Choosing

    def first_shown(self) -> None:
        """Resolve what stands on the left, or say what is missing."""
        given = self.panel.workspace.settings.inference
        self.options = Options(given.temperature, given.max_tokens)
        self._draw_options()
        self.choose(self.left, self._wanted or "base")

    def talk_to(self, reference: str) -> None:
        """Put ``reference`` on the left; from another screen."""
        if self.is_mounted and self._was_shown:
            self.choose(self.left, reference)
        else:
            self._wanted = reference

    def choose(self, side: Side, reference: str) -> None:
        """Resolve ``reference`` and make it the side's model; on an error the column says what to do."""

        async def resolve() -> None:
            subject = await self._resolve(reference, side.column.say)
            side.reference, side.subject, side.history = reference, subject, ()
            side.column.clear()
            side.column.say(_WELCOME)
            if (subject.prompt or subject.head) and self.mode == "chat":
                self.mode = "task"
            self._draw()

        def failed(error: HybridError) -> None:
            if side.subject is None:
                side.column.say(f"✗ {error}\n{error.hint}".strip())
                side.column.entitle(reference)
            else:
                self.panel.toast(error)

        side.column.entitle(reference, "looking it up")
        self.background(resolve(), group=f"choose-{side.column.id}", failed=failed)

    async def _resolve(self, reference: str, say: Callable[[str], None]) -> Subject:
        def imported() -> Any:
            from services.inference import client, resolve

            client.require_models()
            return resolve.resolve

        resolve = await asyncio.to_thread(imported)
        report = Throttle(lambda p: say(f"{p.stage} {p.note}".strip()))
        try:
            return await resolve(self.panel.context(report), reference)  # type: ignore[no-any-return]
        finally:
            report.flush()

    def action_model(self, which: str) -> None:
        """Ask which model one side is."""
        side = self.right if which == "right" else self.left

        async def ask() -> None:
            choices, problems = await model_choices(self.panel.context())
            picked = await self.app.push_screen_wait(
                Picker(
                    f"Model on the {which}",
                    choices,
                    own="Type a part of the name, or a Hugging Face id, a folder or a GGUF file",
                    note="\n".join(problems),
                    keys=self.dialog_keys,
                )
            )
            if picked is None:
                return
            if side is self.right and not self.pair:
                self._show_pair(True)
            self.choose(side, picked)

        self.background(ask(), group="pick")

    def action_pair(self) -> None:
        """Show one conversation or two side by side."""
        self._show_pair(not self.pair)
        if self.pair and self.right.subject is None:
            self.choose(self.right, self.right.reference)

    def _show_pair(self, on: bool) -> None:
        self.pair = on
        self.set_class(on, "-pair")
        if not on and self.focused is self.right.column:
            self.left.column.focus()
        self._draw()

    def action_mode(self) -> None:
        """Switch between free chat and the task the adapter was trained for."""
        if self.mode == "chat" and self._shown_task() is None:
            self.notify("Neither model has a task: choose a run or a registered version (m).", markup=False)
            return
        self.mode = "task" if self.mode == "chat" else "chat"
        self._draw()

    def action_options(self) -> None:
        """Ask for temperature and length."""

        def check(words: dict[str, str]) -> str:
            try:
                msgspec.convert(words, Options, strict=False)
            except msgspec.ValidationError as error:
                return str(error).replace("`", "").replace("$.", "")
            return ""

        def chosen(words: dict[str, str] | None) -> None:
            if words is not None:
                self.options = msgspec.convert(words, Options, strict=False)
                self._draw_options()

        given = msgspec.structs.asdict(self.options)
        form = FormDialog("Answers", Options, given, run="Use", check=check, keys=self.dialog_keys)
        self.app.push_screen(form, chosen)

    # Asking

    def action_write(self) -> None:
        """Go to the prompt."""
        prompt = self.query_one("#prompt", Input)
        prompt.placeholder = "Enter sends, escape leaves"
        prompt.focus()

    @on(Input.Blurred, "#prompt")
    def _left_prompt(self, event: Input.Blurred) -> None:
        event.input.placeholder = _INVITATION

    @on(Input.Submitted, "#prompt")
    def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        text = event.value.strip()
        if not text:
            return
        if self.answering:
            self.notify("An answer is on its way; escape stops it.", markup=False)
            return
        if any(side.subject is None for side in self._sides()):
            self.choose(next(s for s in self._sides() if s.subject is None), self.left.reference)
            self.notify("The model is not ready; its column says why.", severity="warning", markup=False)
            return
        event.input.clear()
        self.answering = True
        self.background(self._answer(text), group="answer")

    def action_stop(self) -> None:
        """Stop the answer; with none under way, leave the prompt."""
        if self.answering and self.client is not None:
            self._stopping = True
            self.background(self.client.cancel(), group="stop")
        elif self.focused is self.query_one("#prompt"):
            self.left.column.focus()

    def action_clear(self) -> None:
        """Forget both conversations."""
        if not self.answering:
            for side in (self.left, self.right):
                side.history = ()
                side.column.clear()

    async def _answer(self, text: str) -> None:
        """Ask every side in turn: one worker, one model at a time."""
        self._stopping = False
        sides = self._sides()
        answers = [side.column.ask(text) for side in sides]
        for answer in answers[1:]:
            answer.note("waiting for the left side")
        try:
            for side, answer in zip(sides, answers, strict=True):
                if self._stopping:
                    answer.note("not asked")
                else:
                    await self._stream(side, answer, text)
        finally:
            self.answering = False
            self._draw()

    async def _stream(self, side: Side, answer: Answer, text: str) -> None:
        assert side.subject is not None
        fields: dict[str, Any] = msgspec.structs.asdict(self.options)
        if self.mode == "task":
            subject = self._as_task(side.subject)
            fields |= {"subject": subject, "text": text, "constrain": self.options.constrain and bool(subject.labels)}
        else:
            del fields["constrain"]
            fields |= {"subject": side.subject, "messages": (*side.history, Message("user", text))}
        try:
            async with aclosing((await self._worker()).stream("generate", **fields)) as replies:
                async for reply in replies:
                    self._take(answer, reply)
        except HybridError as error:
            answer.fail(f"✗ {error} {error.hint}".strip())
            return
        if self.mode == "chat" and answer.text:
            side.history = (*side.history, Message("user", text), Message("assistant", answer.text))

    def _take(self, answer: Answer, reply: Reply) -> None:
        data = reply.data
        if reply.ev == "loading":
            answer.note(f"{data.get('stage', 'loading')}…")
        elif reply.ev == "token":
            if not answer.text:
                answer.note("answering, escape stops")
            answer.append(str(data.get("text", "")))
        elif reply.ev == "done":
            if not answer.text:
                answer.append(str(data.get("text", "")))
            self.rss_bytes = data.get("rss_bytes", self.rss_bytes)
            answer.finish(figures(data))
            self._draw_options()

    async def _worker(self) -> WorkerClient:
        if self.client is None:

            def make() -> WorkerClient:
                from services.inference.client import WorkerClient

                return WorkerClient(self.panel.context())

            self.client = await asyncio.to_thread(make)
        return self.client

    async def on_unmount(self) -> None:
        """The worker ends with the panel."""
        if self.client is not None:
            await self.client.close()

    # Drawing

    def _sides(self) -> list[Side]:
        return [self.left, self.right] if self.pair else [self.left]

    def _shown_task(self) -> Subject | None:
        """The shown subject that brings a task's prompt, the right one first, if any."""
        shown = (side.subject for side in reversed(self._sides()))
        return next((subject for subject in shown if subject is not None and (subject.prompt or subject.head)), None)

    def _as_task(self, subject: Subject) -> Subject:
        """``subject`` with the task's prompt and labels: both sides are asked exactly the same."""
        from services.inference.types import as_task

        task = self._shown_task()
        return subject if task is None else as_task(subject, task)

    def _draw(self) -> None:
        if self.mode == "task" and self._shown_task() is None:
            self.mode = "chat"
        for side in (self.left, self.right):
            subject = side.subject
            side.column.entitle(subject.label if subject else side.reference, "" if subject is None else _kind(subject))
        self._draw_options()

    def _draw_options(self) -> None:
        options, task = self.options, self._shown_task()
        parts = [f"mode {self.mode}"]
        if self.mode == "task" and task is not None and task.labels and options.constrain:
            parts.append("labels only")
        parts += [f"temperature {options.temperature:g}", f"up to {formats.count(options.max_tokens)} tokens"]
        if self.rss_bytes is not None:
            parts.append(f"worker {formats.size(self.rss_bytes)}")
        self.query_one("#options", Static).update(Content(" · ".join(parts)))


def _kind(subject: Subject) -> str:
    """What a subject is, in a word or two."""
    if subject.head:
        return "classifier"
    return "with its adapter" if subject.adapter else "fully trained" if subject.prompt else "base model"


def figures(data: dict[str, Any]) -> str:
    """An answer's figures in one line: time to the first token, speed, length; a classifier's: how sure, how long."""
    if "probability" in data:
        return f"{formats.percent(data['probability'])} sure · {1000 * data['seconds']:.1f} ms"
    parts = [
        f"first token {formats.duration(data.get('first_token_s'))}",
        formats.rate(data.get("tokens_s"), "tokens"),
        "1 token" if data.get("tokens") == 1 else f"{formats.count(data.get('tokens'))} tokens",
    ]
    return " · ".join([*parts, "stopped"] if data.get("stopped") else parts)
