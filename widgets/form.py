"""A form drawn from a parameters type: a label, a field and the description for each parameter. No I/O."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Button, Checkbox, Input, Select, Static

from widgets.dialogs import Dialog

Check = Callable[[dict[str, str]], str]


@dataclass(frozen=True)
class FormField:
    """One parameter: ``default`` as a user would type it ("" = none), ``choices`` of a closed set."""

    name: str
    description: str
    required: bool
    default: str
    choices: tuple[str, ...]
    is_bool: bool


def form_fields(kind: type[msgspec.Struct]) -> list[FormField]:
    """The fields of a parameters struct: the required ones first, else in order."""
    hints = typing.get_type_hints(kind, include_extras=True)
    found = [_form_field(f, hints[f.name]) for f in msgspec.structs.fields(kind)]
    return sorted(found, key=lambda field: not field.required)


def _form_field(f: Any, annotation: Any) -> FormField:
    default = f.default if f.default is not msgspec.NODEFAULT else msgspec.NODEFAULT
    if default is msgspec.NODEFAULT and f.default_factory is not msgspec.NODEFAULT:
        default = f.default_factory()
    bare, description = _bare(annotation)
    choices = tuple(str(c) for c in typing.get_args(bare)) if typing.get_origin(bare) is typing.Literal else ()
    return FormField(f.name, description, f.required, _typed(default), choices, bare is bool)


def _bare(annotation: Any) -> tuple[Any, str]:
    """The plain type (of ``T | None`` the T) and the description in its Meta."""
    description = ""
    while hasattr(annotation, "__metadata__"):
        for meta in annotation.__metadata__:
            description = getattr(meta, "description", None) or description
        annotation = annotation.__origin__
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        some = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(some) == 1:
            bare, inner = _bare(some[0])
            return bare, description or inner
    return annotation, description


def _typed(value: Any) -> str:
    if value is None or value is msgspec.NODEFAULT:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, list)):
        return ",".join(map(str, value))
    return str(value)


class FormDialog(Dialog[dict[str, str]]):
    """Asks for the parameters of ``kind``; dismisses name → word for the filled ones, or None.

    ``check(words)`` returns "" or one sentence on what is wrong, which is shown and keeps the form open.
    """

    DEFAULT_CSS = """
    FormDialog .form-row { height: 1; }
    FormDialog .form-label { width: 18; }
    FormDialog .form-help { color: $text-muted; margin: 0 0 1 18; }
    FormDialog Input, FormDialog Select { width: 1fr; }
    FormDialog Checkbox { padding: 0; }
    FormDialog .form-intro { margin-bottom: 1; }
    FormDialog #form-problem { color: $text-error; display: none; margin-bottom: 1; }
    FormDialog #form-problem.-shown { display: block; }
    """

    def __init__(
        self,
        title: str,
        kind: type[msgspec.Struct],
        values: Mapping[str, Any] | None = None,
        *,
        intro: str = "",
        run: str = "Run",
        check: Check = lambda _: "",
        keys: Sequence[BindingType] = (),
    ) -> None:
        super().__init__(title, keys=keys)
        self.fields = form_fields(kind)
        self.values = {name: _typed(value) for name, value in (values or {}).items()}
        self.intro = intro
        self.run_label = run
        self.check = check

    def body(self) -> ComposeResult:
        if self.intro:
            yield Static(Content(self.intro), classes="form-intro")
        for field in self.fields:
            with Vertical(classes="form-field") as box:
                box.styles.height = "auto"
                with Horizontal(classes="form-row"):
                    mark = " *" if field.required else ""
                    yield Static(Content(field.name.replace("_", " ") + mark), classes="form-label")
                    yield self._editor(field)
                yield Static(Content(field.description), classes="form-help")
        yield Static("", id="form-problem")

    def _editor(self, field: FormField) -> Widget:
        value = self.values.get(field.name, "")
        name = f"field-{field.name}"
        if field.is_bool:
            return Checkbox("", value=(value or field.default) == "true", id=name, compact=True)
        if field.choices:
            chosen = value or field.default
            return Select(
                [(Content(c), c) for c in field.choices],
                value=chosen if chosen in field.choices else Select.NULL,
                allow_blank=not field.default,
                id=name,
                compact=True,
            )
        return Input(value, placeholder=field.default, id=name, compact=True)

    def buttons(self) -> ComposeResult:
        yield Button("Cancel", id="close", compact=True)
        yield Button(Content(self.run_label), id="run", variant="primary", compact=True)

    def on_mount(self) -> None:
        empty = [f for f in self.fields if f.required and not self.values.get(f.name)]
        first = (empty or self.fields)[:1]
        if first:
            self.query_one(f"#field-{first[0].name}").focus()

    def words(self) -> dict[str, str]:
        """What was filled in or chosen, leaving out what equals the default."""
        found: dict[str, str] = {}
        for field in self.fields:
            editor = self.query_one(f"#field-{field.name}")
            if isinstance(editor, Checkbox):
                word = "true" if editor.value else "false"
            elif isinstance(editor, Select):
                word = "" if editor.value is Select.NULL else str(editor.value)
            else:
                word = typing.cast(Input, editor).value.strip()
            if word and word != field.default:
                found[field.name] = word
        return found

    @on(Button.Pressed, "#run")
    @on(Input.Submitted)
    def submit(self) -> None:
        """Close with the words, unless the check finds something wrong with them."""
        words = self.words()
        problem = self.check(words)
        box = self.query_one("#form-problem", Static)
        box.update(Content(f"✗ {problem}"))
        box.set_class(bool(problem), "-shown")
        if problem:
            box.scroll_visible(animate=False)
        else:
            self.dismiss(words)
