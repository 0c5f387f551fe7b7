"""How a row becomes the text that the model sees; the same in training, evaluation and use."""

from __future__ import annotations

CLASSIFY = "Query: {text}\nIntent:"
GENERATE = "Question: {text}\nAnswer:"


def render(template: str, text: str) -> str:
    """The prompt for ``text``. Braces in ``text`` are literal."""
    return template.replace("{text}", text.strip())


def label_words(label: str) -> str:
    """A label as plain words: "card_arrival" → "card arrival"."""
    return " ".join(label.replace("_", " ").split())


def completion(answer: str, *, classify: bool) -> str:
    """What follows the prompt, with its leading space; the tokenizer's end-of-text token comes after it."""
    return " " + (label_words(answer) if classify else answer.strip())
