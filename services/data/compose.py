"""One generated text: a core, perhaps with a beginning and an end, perhaps reworded, perhaps typed in haste."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

_HOLE = re.compile(r"\{([^{}]*)\}|<(\w+)>")
_HASTY = 0.25  # share of the texts that are typed in haste


def compose(
    core: str, openers: Sequence[str], closers: Sequence[str], slots: Mapping[str, Sequence[str]], rng: random.Random,
    *, reword: float = 0.0,
) -> str:  # fmt: skip
    """A text around ``core``, four in ten with an opener, four in ten with a closer; ``reword`` is the share of them
    that say some words in another way."""
    core = fill(core, slots, rng)
    opener = fill(rng.choice(openers), slots, rng) if rng.random() < 0.4 else ""
    closer = fill(rng.choice(closers), slots, rng) if rng.random() < 0.4 else ""
    return _hastily(_join(opener, _reworded(core, reword, rng), closer, rng), rng)


def voiced(
    core: str, openers: Sequence[str], closers: Sequence[str], slots: Mapping[str, Sequence[str]], rng: random.Random,
    *, reword: float = 0.0,
) -> str:  # fmt: skip
    """A text around ``core`` in a voice: always with one of its beginnings or ends, or both. A voice without any is a
    plain core."""
    opener = closer = ""
    if openers and closers:
        which = rng.choice(("opener", "closer", "both"))
        opener = fill(rng.choice(openers), slots, rng) if which != "closer" else ""
        closer = fill(rng.choice(closers), slots, rng) if which != "opener" else ""
    return _hastily(_join(opener, _reworded(fill(core, slots, rng), reword, rng), closer, rng), rng)


def _join(opener: str, core: str, closer: str, rng: random.Random) -> str:
    if not opener or opener[-1] in ".?!)":
        core = core[:1].upper() + core[1:]
    return " ".join(part for part in (opener, _end(core, rng), closer) if part)


def _hastily(text: str, rng: random.Random) -> str:
    return _hasty(text, rng) if rng.random() < _HASTY else text


_FRAMES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern), others)
    for pattern, others in (
        (r"^how do I ", ("how can I ", "what's the way to ", "could you explain how to ", "I don't know how to ")),
        (r"^(?:can|could) I ", ("is it possible for me to ", "would I be able to ", "am I allowed to ")),
        (
            r"^(?:can|could) you ",
            ("would it be possible for you to ", "I'd be glad if you could ", "would you ", "I'm asking you to "),
        ),
        (r"^I(?:'d like| want) to ", ("I'm hoping to ", "I wish to ", "my aim is to ", "I would love to ")),
        (r"^I (?:need|have) to ", ("I must ", "it's necessary for me to ", "I've got to ")),
        (r"^I need (?!to )", ("what I need is ", "I require ", "I'm looking for ")),
        (r"^is there ", ("I wonder whether there is ", "do you know if there is ", "do you have ")),
        (r"^please ", ("I'd ask you to ", "would you please ", "kindly ")),
    )
)
"""How a core may begin, and other ways to begin it that leave what follows as it is."""

_SAME: tuple[tuple[str, ...], ...] = (
    ("I'm", "I am"), ("I've", "I have"), ("can't", "cannot"), ("don't", "do not"), ("doesn't", "does not"),
    ("isn't", "is not"), ("won't", "will not"), ("didn't", "did not"), ("it's", "it is"), ("that's", "that is"),
    ("hasn't", "has not"), ("wasn't", "was not"), ("we're", "we are"), ("tell me", "let me know"),
    ("buy", "purchase"), ("again", "once more"), ("because of", "due to", "on account of"), ("almost", "nearly"),
    ("maybe", "perhaps"), ("although", "even though"), ("nobody", "no one"), ("until when", "by when"),
    ("somebody", "someone"), ("often", "frequently"),
)  # fmt: skip
_SWAPS = {word: tuple(o for o in group if o != word) for group in _SAME for word in group}
_SWAP = re.compile("|".join(rf"\b{re.escape(word)}\b" for word in sorted(_SWAPS, key=len, reverse=True)))


_ASKED = ("I'd like to know:", "my question:", "can you tell me:", "what I want to ask:", "please tell me:")
_STATED = ("it's like this:", "here's what it is about:", "in short:", "to be brief:", "what I'm writing about:")


def _reworded(core: str, share: float, rng: random.Random) -> str:
    """``core`` begun in another way, or led up to, and with some words for others that mean the same."""
    if not share or rng.random() >= share:
        return core
    others = next(((pattern, others) for pattern, others in _FRAMES if pattern.match(core)), None)
    if others is not None:
        core = others[0].sub(rng.choice(others[1]), core)
    elif rng.random() < 0.6:
        core = f"{rng.choice(_ASKED if _QUESTION.match(core) else _STATED)} {core}"
    return _SWAP.sub(lambda match: rng.choice((match[0], *_SWAPS[match[0]])), core)


def fill(pattern: str, slots: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """``pattern`` with each {a|b} and <slot> replaced by one of its choices, from the inside out."""
    while match := _HOLE.search(pattern):
        choices = match[1].split("|") if match[1] is not None else slots[match[2]]
        pattern = pattern[: match.start()] + rng.choice(choices) + pattern[match.end() :]
    return re.sub(r" +([,:.?]|$)", r"\1", " ".join(pattern.split()))


_ASKING = "how|what|when|where|which|whom?|why|is|are|can|could|do|does|did|will|would|may|must|should|has|have"
_QUESTION = re.compile(rf"(?:^|, |: )(?:{_ASKING})\b", re.I)


def _end(core: str, rng: random.Random) -> str:
    """``core`` with the mark that ends it, or, as people write, sometimes without."""
    return core + (rng.choice(("?", "?", "?", "")) if _QUESTION.search(core) else rng.choice((".", ".", "", "!")))


_SHORT = {"please": "pls", "you": "u", "your": "ur", "thanks": "thx", "because": "cos", "are": "r", "account": "acct"}


def _hasty(text: str, rng: random.Random) -> str:
    """``text`` as typed on a phone: one or two slips among small letters, a typo, a short form, no punctuation."""
    for slip in rng.sample((_lower, _typo, _shorten, _bare), rng.choice((1, 1, 2))):
        text = slip(text, rng)
    return text


def _lower(text: str, rng: random.Random) -> str:
    return text.lower()


def _bare(text: str, rng: random.Random) -> str:
    return text.replace(",", "").replace("'", "").rstrip(".!?")


def _shorten(text: str, rng: random.Random) -> str:
    return re.sub(r"[A-Za-z]+", lambda match: _SHORT.get(match[0].lower(), match[0]), text)


def _typo(text: str, rng: random.Random) -> str:
    """Two letters swapped, one left out or one doubled, inside one longer word."""
    words = text.split(" ")
    long = [index for index, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    if not long:
        return text
    index = rng.choice(long)
    word, at = words[index], rng.randrange(1, len(words[index]) - 2)
    ends = (word[at + 1] + word[at] + word[at + 2 :], word[at + 1 :], word[at] + word[at:])
    words[index] = word[:at] + rng.choice(ends)
    return " ".join(words)
