"""Rows into train, val and test: seeded, every label in its share, and what belongs together in one of them."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from services.data.types import Row, Split
from services.errors import BadInput


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


def grouped(
    rows: Sequence[Row], groups: Sequence[str], shares: Mapping[Split, float], seed: int, *, by_label: bool = True
) -> dict[Split, list[Row]]:
    """As ``stratified``, but the rows of a group (``groups``: one name a row, "" for a row by itself) stay together.

    Groups are placed whole, the largest first, each where it brings the splits nearest to their shares of the rows
    and, with ``by_label``, of every label. Shares are met as well as the groups' sizes allow; no split stays empty.
    Raises BadInput when there are fewer groups than splits.
    """
    rng = random.Random(seed)
    members: dict[object, list[Row]] = defaultdict(list)
    for number, (row, name) in enumerate(zip(rows, groups, strict=True)):
        members[name or number].append(row)
    parts: dict[Split, float] = {"train": 1.0 - sum(shares.values()), **shares}
    if len(members) < len(parts):
        raise BadInput(f"{len(members)} groups can't be shared out to {len(parts)} splits.", hint="Leave out group=.")
    lot = list(members)
    rng.shuffle(lot)
    order = sorted(lot, key=lambda group: -len(members[group]))
    balance = _Balance(rows, parts, by_label)
    placed: dict[Split, list[object]] = {split: [] for split in parts}
    for index, group in enumerate(order):
        empty = [split for split in parts if not placed[split]]
        open_to = empty if len(empty) >= len(order) - index else list(parts)
        counts = balance.counts(members[group])
        best = min(open_to, key=lambda split: balance.cost(split, counts))
        balance.add(best, counts)
        placed[best].append(group)
    result: dict[Split, list[Row]] = {"train": [], "val": [], "test": []}
    for split, names in placed.items():
        result[split] = [row for group in names for row in members[group]]
        rng.shuffle(result[split])
    return result


class _Balance:
    """How far the splits are from their shares, in all and by label; "" counts all rows."""

    def __init__(self, rows: Sequence[Row], shares: Mapping[Split, float], by_label: bool) -> None:
        self._by_label = by_label
        self._shares = shares
        self._totals = self.counts(rows)
        self._have: dict[Split, Counter[str]] = {split: Counter() for split in shares}

    def counts(self, rows: Sequence[Row]) -> Counter[str]:
        counted = Counter(row.answer for row in rows) if self._by_label else Counter()
        counted[""] += len(rows)
        return counted

    def cost(self, split: Split, counts: Counter[str]) -> float:
        """By how much the sum of squared distances (as shares of the split's due) grows when ``counts`` is added."""
        share = self._shares[split]
        cost = 0.0
        for label, number in counts.items():
            due = share * self._totals[label]
            before = self._have[split][label] - due
            weight = len(self._totals) if label == "" else 1
            cost += weight * ((before + number) ** 2 - before**2) / (due * self._totals[label])
        return cost

    def add(self, split: Split, counts: Counter[str]) -> None:
        self._have[split].update(counts)
