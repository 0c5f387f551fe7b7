"""Python environments with their sizes, each unfolding into its distributions, largest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from services import formats
from services.storage.packages.types import Distribution, Environment
from widgets.line_list import Cell, Column, LineList, shortened, visible

KINDS = {
    "this": "this program's own",
    "venv": "virtual environment",
    "uv": "uv's virtual environment",
    "conda": "conda environment",
    "pipx": "pipx",
    "uv-tool": "uv tool",
    "python": "an interpreter's own packages",
    "user": "pip install --user",
}


class PackageRow(msgspec.Struct, frozen=True):
    """An environment (``distribution`` None) or one of its distributions; ``fold`` as drawn before the name."""

    key: str
    environment: Environment
    distribution: Distribution | None
    fold: str


class PackageList(LineList[PackageRow]):
    """Holds which environments are unfolded; ``lists`` are the distributions that are known, by environment."""

    COLUMNS: ClassVar = (
        Column("name", "Environment, package", 0),
        Column("size", "Size", 9, right=True),
        Column("frees", "Frees", 9, right=True, least=24, rank=2),
        Column("gpu", "For GPU", 9, right=True, least=24, rank=1),
        Column("version", "Version", 14, least=24, rank=3),
        Column("by", "Needed by", 26, least=30, rank=4),
    )

    def __init__(self, **names: Any) -> None:
        super().__init__(**names)
        self.environments: tuple[Environment, ...] = ()
        self.lists: Mapping[str, Sequence[Distribution]] = {}
        self.unfolded: frozenset[str] = frozenset()
        self.text = ""

    def show(self, environments: Sequence[Environment], lists: Mapping[str, Sequence[Distribution]]) -> None:
        """Draw these environments, and what is known of the distributions in those that are unfolded."""
        self.environments = tuple(environments)
        self.lists = lists
        self.redraw()

    def fold(self) -> str:
        """Unfold the environment of the row under the cursor, or fold it again; its path when it is unfolded now."""
        row = self.row
        if row is None:
            return ""
        path = row.environment.path
        self.unfolded ^= {path}
        self.redraw(select=path)
        return path if path in self.unfolded else ""

    def filter(self, text: str) -> None:
        """Show only packages with ``text`` in their name."""
        self.text = text.casefold()
        self.redraw()

    def redraw(self, select: str | None = None) -> None:
        """Draw the rows as they are to be now."""
        self.show_rows(list(self._lines()), select=select, now=self.now)

    def _lines(self) -> Iterator[PackageRow]:
        for environment in self.environments:
            unfolded = environment.path in self.unfolded
            yield PackageRow(environment.path, environment, None, "▾" if unfolded else "▸")
            for one in self.lists.get(environment.path, ()) if unfolded else ():
                if self.text in one.name.casefold():
                    yield PackageRow(f"{environment.path}\n{one.name}", environment, one, "")

    def cell(self, row: PackageRow, column: str, width: int) -> Cell:
        one, environment = row.distribution, row.environment
        match column:
            case "name":
                if one is None:
                    return Cell(f"{row.fold} {shortened(visible(environment.path), max(width - 2, 0))}")
                return Cell(f"    {shortened(visible(one.name), max(width - 4, 0))}")
            case "size":
                return Cell(formats.size((one or environment).bytes))
            case "frees":
                return Cell(formats.size(one.freed_bytes) if one else "", "quiet")
            case "gpu":
                if one:
                    return Cell("▲ CUDA" if one.cuda else "", "warn")
                return Cell(formats.size(environment.cuda_bytes) if environment.cuda_bytes else "", "warn")
            case "version":
                return Cell(visible(one.version) if one else f"Python {environment.python}", "quiet")
        words = ", ".join(map(visible, one.needed_by)) if one else KINDS[environment.kind]
        return Cell(shortened(words, width), "quiet")
