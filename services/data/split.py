"""Rows into train, val and test: seeded, every label in its share."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from services.data.types import Row, Split


def stratified(
    rows: Sequence[Row], shares: Mapping[Split, float], seed: int, *, by_label: bool = True
) -> dict[Split, list[Row]]:
    """Split ``rows``; ``shares`` gives those of val and test (each in [0, 1), together below 1), train gets the rest.

    With ``by_label`` each label's rows are shared out alike: its count in a split differs by less than one from its
    share, except that its last row always stays in train. Splits hold each row once, in a seeded order.
    """
    rng = random.Random(seed)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.answer if by_label else ""].append(row)
    labels = sorted(groups)
    for label in labels:
        rng.shuffle(groups[label])
    room = {label: len(groups[label]) - 1 for label in labels}
    result: dict[Split, list[Row]] = {"train": [], "val": [], "test": []}
    for split, share in shares.items():
        taken = _apportion({label: len(groups[label]) * share for label in labels}, room, rng)
        for label, number in taken.items():
            room[label] -= number
            result[split] += [groups[label].pop() for _ in range(number)]
    for label in labels:
        result["train"] += groups[label]
    for split in result:
        rng.shuffle(result[split])
    return result


def _apportion(quota: Mapping[str, float], room: Mapping[str, int], rng: random.Random) -> dict[str, int]:
    """Whole numbers near ``quota``, none above ``room``, that sum to its rounded sum (at least 1 if anything is asked).

    Largest remainders win; equal ones by lot, so that no label is favoured by its name.
    """
    total = sum(quota.values())
    wanted = max(1, round(total)) if total > 0 else 0
    taken = {label: min(int(q), room[label]) for label, q in quota.items()}
    lot = {label: rng.random() for label in quota}
    order = sorted(quota, key=lambda label: (-(quota[label] - int(quota[label])), lot[label]))
    for label in order:
        if sum(taken.values()) >= wanted:
            break
        if taken[label] < room[label] and quota[label] > int(quota[label]):
            taken[label] += 1
    return taken
