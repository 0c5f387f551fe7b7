"""The panel's screens, one file each, imported when first shown."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from hybrid_tui.screens.base import PanelScreen


@dataclass(frozen=True)
class Place:
    """Where a screen lives: ``name`` is its mode in the app and its section of the key table."""

    name: str
    title: str
    key: str
    class_name: str

    def make(self) -> PanelScreen:
        """Import the screen's module and make the screen."""
        module = importlib.import_module(f"hybrid_tui.screens.{self.name}")
        return cast("PanelScreen", getattr(module, self.class_name)())


PLACES = (
    Place("overview", "Overview", "1", "OverviewScreen"),
    Place("storage", "Storage", "2", "StorageScreen"),
    Place("registry", "Registry", "3", "RegistryScreen"),
    Place("training", "Training", "4", "TrainingScreen"),
    Place("inference", "Inference", "5", "InferenceScreen"),
    Place("drive", "Drive", "6", "DriveScreen"),
    Place("advisor", "Advisor", "7", "AdvisorScreen"),
)
