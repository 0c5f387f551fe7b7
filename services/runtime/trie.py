"""The closed set of a classifier's answers as a tree of token ids: decoding along it always ends at a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.data import prompts
from services.runtime.tokenizer import Tokenizer


@dataclass
class Node:
    """Where some answers have gone the same way. ``label`` is set where one ends; ``next`` leads on by token id."""

    next: dict[int, Node] = field(default_factory=dict)
    label: str | None = None

    def only(self) -> str | None:
        """The label that this node must end at, when only one is left."""
        node = self
        while node.label is None:
            if len(node.next) != 1:
                return None
            node = next(iter(node.next.values()))
        return node.label


def label_trie(tokenizer: Tokenizer, labels: Sequence[str]) -> Node:
    """The tree of ``labels`` as a model is trained to write them: completion, then the end-of-text token.

    The end token makes a label that begins another one (\"card\", \"card arrival\") a leaf of its own.
    """
    root = Node()
    texts = [prompts.completion(label, classify=True) for label in labels]
    for label, ids in zip(labels, tokenizer.encode_many(texts), strict=True):
        node = root
        for id in (*ids, tokenizer.eos_id):
            node = node.next.setdefault(id, Node())
        node.label = label
    return root
