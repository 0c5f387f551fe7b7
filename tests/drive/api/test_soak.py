"""A short soak; ``python -m tests.drive.api.soak`` is the long one, and says what share of bytes was sent twice."""

from __future__ import annotations

from pathlib import Path

from tests.drive.api.soak import soak


def test_short_soak(tmp_path: Path) -> None:
    summary = soak(tmp_path, transfers=120, kills=2, seed=7)
    assert (summary.transfers, summary.kills) == (120, 2)
    assert summary.faults > 5
    assert not (summary.different or summary.duplicates or summary.strays), summary.text()
    assert summary.twice < 0.25, summary.text()  # one large file begun anew weighs much among so few
