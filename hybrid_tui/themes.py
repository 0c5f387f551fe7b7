"""The panel's own colours. Textual's themes can be chosen as well; colour never carries meaning alone."""

from __future__ import annotations

from textual.theme import Theme

DARK = Theme(
    name="hybrid-dark",
    primary="#7aa2c8",
    secondary="#9d8ec7",
    accent="#d9a35b",
    warning="#d9a35b",
    error="#dc7a78",
    success="#86b88a",
    foreground="#d6dae0",
    background="#15181d",
    surface="#1b1f26",
    panel="#232831",
    dark=True,
    variables={
        "border-blurred": "#39414d",
        "scrollbar": "#39414d",
        "scrollbar-background": "#1b1f26",
        "scrollbar-corner-color": "#1b1f26",
    },
)
LIGHT = Theme(
    name="hybrid-light",
    primary="#2f6294",
    secondary="#6a559c",
    accent="#9a6412",
    warning="#8f5b0c",
    error="#a93b3a",
    success="#2f7239",
    foreground="#23272e",
    background="#f5f4f0",
    surface="#fbfaf7",
    panel="#e7e5df",
    dark=False,
    variables={
        "border-blurred": "#bdbab2",
        "scrollbar": "#bdbab2",
        "scrollbar-background": "#efede8",
        "scrollbar-corner-color": "#efede8",
    },
)
