"""What a scan has still to read, in branches that are read in turn."""

from __future__ import annotations

from services.storage.tree import Part
from services.storage.walk import Place

Todo = tuple[int, str, "int | None", Place, str, int, int]
"""A folder to read: its parent's row in the branch's part (below zero: -1 - the index of one of the branch's first
folders, whose parents ``Part.above`` has), name, inode as listed, what its path is relative to, path, row in the
earlier tree or -1, and where the run of rows ends there that it stands for: itself, what is below it, and the siblings
that follow it, if these are meant too."""


class Child:
    """A subfolder of the scanned folder with its sums so far."""

    __slots__ = ("apparent", "before", "blocks", "files", "gone", "name", "open", "used")

    def __init__(self, name: str, before: int | None) -> None:
        self.name = name
        self.before = before  # bytes when last read
        self.blocks = self.apparent = self.files = 0
        self.used = 0.0
        self.open = 1  # branches that have still to read something of it
        self.gone = False  # deleted meanwhile, or another file system is mounted there

    @property
    def finished(self) -> bool:
        """Whether all of it is read."""
        return not self.open


class Branch:
    """Folders that are read one after the other with all that is below them, and those read so far.

    ``todo`` has what is to be read, the first last. ``children`` says to which subfolder of the scanned folder each of
    the folders belongs that the branch began with.
    """

    __slots__ = ("children", "part", "pieces", "position", "todo")

    def __init__(self, first: list[Todo], above: list[tuple[Part, int]], children: list[Child]) -> None:
        self.part = Part(above)
        self.children = children
        self.position = 0  # of the first folder that is being read
        self.todo: list[Todo] = [(-1 - index, *item[1:]) for index, item in enumerate(first)]
        self.todo.reverse()
        self.pieces: list[Branch] = []  # split off from the end, so that each comes before those split off earlier

    def reach(self, position: int) -> None:
        """Take down that the first folders before ``position`` are read whole."""
        while self.position < position:
            self.children[self.position].open -= 1
            self.position += 1

    def close(self) -> None:
        """Take down that nothing is to be read any more."""
        self.reach(len(self.children))

    def owner(self, parent: int) -> tuple[Part, int]:
        """Part and row of what ``parent`` means in a todo or a row of this branch."""
        return (self.part, parent) if parent >= 0 else self.part.above[-1 - parent]

    def split(self, count: int) -> Branch:
        """A branch of its own for the ``count`` folders that would be read last."""
        taken = self.todo[:count][::-1]
        del self.todo[:count]
        children = [self.children[self.position if item[0] >= 0 else -1 - item[0]] for item in taken]
        for child in children:
            child.open += 1
        piece = Branch(taken, [self.owner(item[0]) for item in taken], children)
        self.pieces.append(piece)
        return piece
