"""Strings that look like a person's: e-mail addresses, phone and card numbers, IBANs, national ids. Counted and shown
masked, as a warning: a pattern is no proof, and what has no checksum here (names, addresses) is not looked for."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import msgspec

from services.data import checksums

_EXAMPLES = 3
_HIDDEN = "•"


class PersonalFound(msgspec.Struct, frozen=True):
    """``count`` strings of a kind in ``rows`` rows; ``examples`` are masked."""

    kind: str
    count: int
    rows: int
    examples: tuple[str, ...]


_MAYBE = re.compile(r"\d{4}|\d[ .-]?\d|@")
_NUMBER = r"(?<![\w.,+-])"  # where a number may begin
_END = r"(?![\w-])"
_PATTERNS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    (
        "e-mail",
        re.compile(r"\b[A-Za-z0-9][A-Za-z0-9._%+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"),
        lambda found: True,
    ),
    ("IBAN", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b"), checksums.iban),
    ("national id (FR)", re.compile(_NUMBER + r"[12](?: ?\d){14}" + _END), checksums.nir),
    ("card number", re.compile(_NUMBER + r"[2-6](?:[ -]?\d){12,18}" + _END), checksums.card),
    ("national id (ES)", re.compile(r"\b(?:\d{8}|[XYZ]\d{7})-?[A-Z]\b"), checksums.dni),
    ("national id (IT)", re.compile(r"\b[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z]\b"), checksums.codice_fiscale),
    ("national id (BR)", re.compile(_NUMBER + r"\d{3}\.\d{3}\.\d{3}-\d{2}" + _END), checksums.cpf),
    ("national id (IN)", re.compile(_NUMBER + r"[2-9]\d{3} \d{4} \d{4}" + _END), checksums.aadhaar),
    ("national id (SE)", re.compile(_NUMBER + r"(?:19|20)?\d{6}[-+]\d{4}" + _END), checksums.personnummer),
    ("national id (PL)", re.compile(_NUMBER + r"\d{11}" + _END), checksums.pesel),
    ("national id (DE)", re.compile(_NUMBER + r"[1-9]\d{10}" + _END), checksums.steuer_id),
    (
        "phone number",
        re.compile(
            r"(?<![\w.+-])(?:(?:\+|00)[1-9](?:[ ./-]?\(?\d\)?){7,13}"
            r"|0\d{1,4}[ /-]\d{3,4}(?:[ -]?\d{2,4}){1,2}"
            r"|(?:\(\d{3}\) ?|\d{3}[-.])\d{3}[-.]\d{4})" + _END
        ),
        lambda found: 8 <= sum(letter.isdigit() for letter in found) <= 15,
    ),
)


def scan(texts: Iterable[str]) -> tuple[PersonalFound, ...]:
    """What looks personal in ``texts``, by kind. A string counts once, as the first kind that fits."""
    counts: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    examples: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        if not _MAYBE.search(text):
            continue
        kinds = set()
        for kind, found in _strings(text):
            kinds.add(kind)
            counts[kind] += 1
            masked = mask(found)
            if len(examples[kind]) < _EXAMPLES and masked not in examples[kind]:
                examples[kind].append(masked)
        rows.update(kinds)
    return tuple(PersonalFound(kind, counts[kind], rows[kind], tuple(examples[kind])) for kind in sorted(counts))


def _strings(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for kind, pattern, valid in _PATTERNS:
        kept = []
        for match in pattern.finditer(text):
            whole = _longest(match[0], valid)
            if whole:
                found.append((kind, whole))
                kept.append((match.start(), match.start() + len(whole)))
        for start, end in reversed(kept):
            text = f"{text[:start]} # {text[end:]}"
    return found


def _longest(found: str, valid: Callable[[str], bool]) -> str:
    """``found``, or what remains of it after words at its end that don't belong to it ("DE89 … 00 AND")."""
    while found:
        if valid(found):
            return found
        found = found.rpartition(" ")[0]
    return ""


def mask(found: str) -> str:
    """``found`` with its letters and digits hidden but for the first two and the last two."""
    name, at, domain = found.partition("@")
    if at:
        top = domain.rpartition(".")[2]
        return f"{name[0]}{_HIDDEN * 3}@{domain[0]}{_HIDDEN * 3}.{top}"
    shown = {0, 1, len(found) - 1, len(found) - 2}
    return "".join(c if i in shown or not c.isalnum() else _HIDDEN for i, c in enumerate(found))
