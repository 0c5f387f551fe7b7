"""Chat templates (Jinja, as Hugging Face's tokenizers carry them), and the one for models that have none."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from services.errors import BadInput

PLAIN = (
    "{% for m in messages %}"
    "{% if m['role'] == 'user' %}User: {{ m['content'] }}\n"
    "{% elif m['role'] == 'assistant' %}Assistant: {{ m['content'] }}{{ eos_token }}\n"
    "{% else %}{{ m['content'] }}\n\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_BEGIN, _END = "\ufdd0", "\ufdd1"  # no characters by Unicode's definition: they stand around what the marks hold


class Template:
    """A compiled template. Besides Jinja's own it knows what templates expect: ``raise_exception``,
    ``strftime_now``, ``tojson``, and ``{% generation %}`` around what the assistant says
    (https://huggingface.co/docs/transformers/main/en/chat_templating_writing)."""

    def __init__(self, source: str, now: float | None = None) -> None:
        """``now`` is the time (Unix, shown in UTC) that the template is told; None: the time when it is asked.

        Raises BadInput when ``source`` is no template.
        """
        import jinja2
        from jinja2 import nodes
        from jinja2.ext import Extension
        from jinja2.parser import Parser
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            tags = {"generation"}  # noqa: RUF012

            def parse(self, parser: Parser) -> list[nodes.Node]:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                marks = [nodes.Output([nodes.TemplateData(mark)]).set_lineno(line) for mark in (_BEGIN, _END)]
                return [marks[0], *body, marks[1]]

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
        )
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = lambda pattern: time.strftime(pattern, _at(now))
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise BadInput(f"The model's chat template is damaged: {error}.", hint="Fetch the model again.") from error

    def write(
        self, messages: Sequence[dict[str, str]], *, ask: bool, words: dict[str, str]
    ) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where in it the marks' contents lie; ``words`` are the special tokens' names and texts.

        Raises BadInput when the template refuses ``messages``.
        """
        import jinja2

        clean = [{name: value.replace(_BEGIN, "").replace(_END, "") for name, value in m.items()} for m in messages]
        try:
            text = self._template.render(messages=clean, add_generation_prompt=ask, **words)
        except jinja2.TemplateError as error:
            raise BadInput(f"The model's chat template refuses this conversation: {error}.") from error
        marks: list[tuple[int, int]] = []
        parts: list[str] = []
        length = 0
        for part in text.split(_BEGIN):
            inside, end, after = part.partition(_END)
            if end:
                marks.append((length, length + len(inside)))
            parts += [inside, after]
            length += len(inside) + len(after)
        return "".join(parts), marks


def _at(now: float | None) -> time.struct_time:
    return time.localtime() if now is None else time.gmtime(now)


def _refuse(message: str) -> Any:
    import jinja2

    raise jinja2.TemplateError(message)
