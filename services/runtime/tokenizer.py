"""Text ↔ token ids. ``tokenizer.json`` is read by the `tokenizers` library alone: 0.1 s, transformers takes 1.5."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.errors import BadInput
from services.runtime import chat_template

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json", "tokenizer.model")


class Tokenizer:
    """A folder's tokenizer.

    ``eos_id`` ends a text, ``pad_id`` fills (= ``eos_id`` when there is none), ``prefix`` is what the tokenizer itself
    puts before a text (Llama's begin-of-text; empty for many), ``stop_ids`` every id that ends an answer. ``encoder``
    says that it is one for encoders, which names no end of text; ``eos_id`` is then the token that closes one.
    """

    def __init__(self, folder: Path, now: float | None = None) -> None:
        """``now`` (Unix time) is the date that chat templates are told which ask for it; None: that of the moment.

        Raises BadInput when ``folder`` has no usable tokenizer.
        """
        self._now = now
        self.folder = folder
        self._settings = _json(folder / "tokenizer_config.json")
        self._tokenizer = _backend(folder)
        config = _json(folder / "config.json") | _json(folder / "generation_config.json")
        self.bos_id = self._special("bos_token", config.get("bos_token_id"))
        eos = config.get("eos_token_id")
        configured = [i for i in (eos if isinstance(eos, list) else [eos]) if isinstance(i, int)]
        eos_id = self._special("eos_token", configured[0] if configured else None)
        self.encoder = eos_id is None  # BERT and its like: texts begin and end with special tokens of their own
        if eos_id is None:
            eos_id = self._special("sep_token", None)
        if eos_id is None:
            raise BadInput(f"The tokenizer in {folder} names no end-of-text token.", hint="Fetch the model again.")
        self.eos_id: int = eos_id
        pad_id = self._special("pad_token", config.get("pad_token_id"))
        self.pad_id: int = eos_id if pad_id is None else pad_id
        self.stop_ids: frozenset[int] = frozenset([eos_id, *configured])
        self.prefix: tuple[int, ...] = tuple(self._tokenizer.encode("", add_special_tokens=True).ids)
        if self.prefix and self.prefix[-1] == eos_id:  # some append end-of-text to everything: not before a text
            self.prefix = self.prefix[:-1]
        self.chat_template: str | None = self._chat_template()
        self._template: chat_template.Template | None = None

    def _special(self, name: str, fallback: Any) -> int | None:
        token = self._settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        found = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        return found if found is not None else (fallback if isinstance(fallback, int) else None)

    def _chat_template(self) -> str | None:
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return file.read_text(encoding="utf-8")
        template = self._settings.get("chat_template")
        return template if isinstance(template, str) else None

    @property
    def size(self) -> int:
        """How many ids there are, added tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without anything before or after it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """``encode`` of each text, on all cores."""
        return [list(e.ids) for e in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], *, specials: bool = False) -> str:
        """Text of ``ids``; special tokens are left out unless ``specials``."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not specials))

    def encode_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """``encode``, and where in ``text`` each id's characters begin and end."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return list(found.ids), [(start, end) for start, end in found.offsets]

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The conversation as the model's chat template writes it, up to where the assistant speaks next.

        ``messages``: ``{"role", "content"}``. Raises BadInput when the model has no template or it refuses them.
        """
        if self.chat_template is None:
            raise BadInput(f"The model in {self.folder} has no chat template.", hint="Send plain text to it instead.")
        return self.written(messages, ask=True)[0]

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """What a model that was trained on conversations reads before its answer; without a template of its own it was
        trained with ``chat_template.PLAIN``. Raises BadInput when the template refuses ``messages``."""
        prefix = () if self.chat_template is not None else self.prefix  # a template writes begin-of-text itself
        return [*prefix, *self.encode(self.written(messages, ask=True)[0])]

    def written(self, messages: Sequence[dict[str, str]], *, ask: bool) -> tuple[str, list[tuple[int, int]]]:
        """The conversation in the model's template (else the plain one), and what its ``{% generation %}`` marks hold.

        ``ask``: up to where the assistant speaks next. Raises BadInput when the template refuses ``messages``.
        """
        if self._template is None:
            self._template = chat_template.Template(self.chat_template or chat_template.PLAIN, self._now)
        words = {name: self._word(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        words["eos_token"] = words["eos_token"] or str(self._tokenizer.id_to_token(self.eos_id))
        return self._template.write(messages, ask=ask, words=words)

    def _word(self, name: str) -> str:
        token = self._settings.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        return token if isinstance(token, str) else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _backend(folder: Path) -> Any:
    """The `tokenizers` object of ``folder``; older formats are converted by transformers."""
    from tokenizers import Tokenizer as Backend

    path = folder / "tokenizer.json"
    if path.is_file():
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise BadInput(f"{path} is damaged: {error}.", hint="Fetch the model again.") from error
        backend.no_padding()
        backend.no_truncation()
        return backend
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return tokenizer.backend_tokenizer
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(
            f"{folder} has no usable tokenizer.", hint="Fetch the model again, with tokenizer.json."
        ) from error
