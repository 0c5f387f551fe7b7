"""torch's caches. Sources: torch.hub's "Where are my downloaded models saved?"."""

from __future__ import annotations

from pathlib import Path

from services.storage.kinds import places
from services.storage.kinds.rule import Box, Kind, each_entry


def _hub(box: Box) -> list[Path]:
    return [(places.variable(box, "TORCH_HOME") or places.caches(box) / "torch") / "hub"]


KINDS: tuple[Kind, ...] = (
    Kind(
        "torch", "torch hub: models and checkpoints", _hub, each_entry,
        "torch.hub.load downloads them again at the next use.", usual=True,
    ),
)  # fmt: skip
