"""Made data for notebooks and scripts: the same texts as ``data.generate``, as plain dictionaries."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from services import atomic
from services.data import domains
from services.data.generate import GenerateParams, make, most_rows
from services.errors import BadInput


class TrainingDataGenerator:
    """Texts by what is wanted, or by the tone or emotion they are said with.

    >>> generator = TrainingDataGenerator(domain="healthcare", seed=7)
    >>> rows = generator.generate(600)
    >>> sorted(rows[0])
    ['domain', 'emotion', 'intent', 'label', 'split', 'text', 'tone']
    >>> generator.save("healthcare.jsonl")

    The same arguments give the same rows. No row of a split comes near (Jaccard index of the words 0.8) one of another.
    """

    DOMAINS = domains.DOMAINS

    def __init__(
        self,
        domain: str | Sequence[str] = "banking",
        *,
        seed: int = 0,
        label: Literal["intent", "tone", "emotion"] = "intent",
        reword: float = 0.3,
        val: float = 0.1,
        test: float = 0.1,
    ) -> None:
        """``domain``: one, or several with commas or as a list, whose labels are then "domain/intent".

        ``reword`` is the share of the texts that say a template's words in another way. Raises BadInput for an unknown
        domain or label.
        """
        words = domain if isinstance(domain, str) else ",".join(domain)
        given = {"domains": words, "seed": seed, "label": label, "reword": reword, "val": val, "test": test}
        try:
            self._params = msgspec.convert(given, GenerateParams)
        except msgspec.ValidationError as error:
            raise BadInput(f"TrainingDataGenerator can't be made so: {error}.") from None
        self._rows: list[dict[str, str]] = []
        domains.find(words)

    @property
    def most_rows(self) -> int:
        """The largest number of rows that ``generate`` is good for."""
        return most_rows(self._params)

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be said with every dataset made of these domains."""
        every = (domains.templates(name).note for name in domains.find(self._params.domains))
        return tuple(note for note in every if note)

    def generate(self, rows: int = 2400) -> list[dict[str, str]]:
        """``rows`` rows, first those of train, then val, then test; balanced over the labels in each.

        Keys: text, label, split, domain, intent, tone, emotion ("" where not varied). Raises BadInput when there are
        too few for the labels or more than can be made apart.
        """
        made = make(msgspec.structs.replace(self._params, rows=rows))
        self._rows = [{**msgspec.structs.asdict(drawn), "split": split} for split in made for drawn in made[split]]
        return [dict(row) for row in self._rows]

    def save(self, path: str | Path) -> Path:
        """Write what was generated last as .jsonl, .json or .csv, whole or not at all; returns the file's path.

        The file is what ``data.prepare source=… label=label`` reads. Raises BadInput for another ending, or when
        nothing was generated yet.
        """
        target = Path(path).expanduser()
        if not self._rows:
            raise BadInput("Nothing was generated yet.", hint="Call generate(rows) first.")
        suffix = target.suffix.lower()
        if suffix == ".jsonl":
            data = b"".join(msgspec.json.encode(row) + b"\n" for row in self._rows)
        elif suffix == ".json":
            data = msgspec.json.format(msgspec.json.encode(self._rows)) + b"\n"
        elif suffix == ".csv":
            data = _csv(self._rows)
        else:
            raise BadInput(f"{target.name} has no ending that is known here.", hint="Use .jsonl, .json or .csv.")
        atomic.write_bytes(target, data)
        return target


def _csv(rows: Sequence[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
