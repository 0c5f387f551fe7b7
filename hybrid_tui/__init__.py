"""hybrid-tui: a keyboard-driven control panel for building language models without owning a GPU."""

__version__ = "0.1.0"
