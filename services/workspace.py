"""The folder a person works in: ``hybrid.toml`` beside their files, our state in ``.hybrid/``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from services import atomic, settings
from services.errors import BadInput

MARK = "hybrid.toml"


@dataclass(frozen=True)
class Workspace:
    """``root`` is absolute. Nothing is created by making this object; ``ensure_state`` does that."""

    root: Path
    settings: settings.Settings
    warnings: tuple[str, ...] = ()

    @property
    def state(self) -> Path:
        """``.hybrid/``: git-ignored, survives a rebuild of the box."""
        return self.root / ".hybrid"

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.state / "runs"

    @property
    def datasets(self) -> Path:
        """One folder a prepared dataset."""
        return self.state / "datasets"

    @property
    def models(self) -> Path:
        """Base models fetched or converted for this workspace."""
        return self.state / "models"

    @property
    def drive_state(self) -> Path:
        """What this box knows of the store and of transfers to it; ``[store] path`` is not in it by default."""
        return self.state / "drive-state"

    @property
    def store_path(self) -> Path:
        """The root folder of the store (``[store] path`` and ``root``)."""
        return (self.root / Path(self.settings.store.path).expanduser() / self.settings.store.root).absolute()

    def ensure_state(self) -> Path:
        """Create ``.hybrid/`` with its .gitignore. Raises BadInput when the workspace can't be written."""
        try:
            self.state.mkdir(parents=True, exist_ok=True)
            ignore = self.state / ".gitignore"
            if not ignore.exists():
                atomic.write_text(ignore, "*\n")
        except OSError as error:
            raise BadInput(
                f"The workspace {self.root} can't be written: {error.strerror}.",
                hint="Choose another with --workspace DIR, or change its permissions.",
            ) from error
        return self.state


def find(start: Path | None = None) -> Path:
    """``HYBRID_WORKSPACE``, or the nearest folder from ``start`` upwards holding hybrid.toml, or ``start`` itself."""
    if start is None and os.environ.get("HYBRID_WORKSPACE"):
        return Path(os.environ["HYBRID_WORKSPACE"]).expanduser().absolute()
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / MARK).is_file():
            return folder
    return here


def open_workspace(root: Path) -> Workspace:
    """Read the workspace's settings. Raises BadInput when ``root`` is not a folder."""
    root = root.expanduser().absolute()
    if not root.is_dir():
        raise BadInput(f"The workspace {root} is not a folder.", hint="Create it, or make one with hybrid-tui --init.")
    loaded = settings.load(root / MARK)
    return Workspace(root, loaded.settings, loaded.warnings)


def init(root: Path) -> Workspace:
    """Make ``root`` a workspace: hybrid.toml with every key documented (an existing one is kept), ``.hybrid/``."""
    root = root.expanduser().absolute()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not (root / MARK).exists():
            atomic.write_text(root / MARK, settings.document())
    except OSError as error:
        raise BadInput(
            f"{root} can't be made a workspace: {error.strerror}.", hint="Choose a folder you may write."
        ) from error
    workspace = open_workspace(root)
    workspace.ensure_state()
    return workspace
