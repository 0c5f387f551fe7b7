"""What panel tests share."""

from __future__ import annotations

from collections.abc import Callable

from textual.app import App
from textual.pilot import Pilot


async def until(pilot: Pilot[None], condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until ``condition()`` holds; fails after ``seconds``."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            await pilot.pause()
            return
        await pilot.pause(0.02)
    assert condition(), f"the panel did not get there in time:\n{screen_text(pilot.app)}"


async def until_text(pilot: Pilot[None], text: str, seconds: float = 10.0) -> str:
    """Wait until the terminal shows ``text``; returns all it shows, or fails with it."""
    app = pilot.app
    for _ in range(int(seconds / 0.02)):
        shown = screen_text(app)
        if text in shown:
            return shown
        await pilot.pause(0.02)
    raise AssertionError(f"{text!r} did not appear:\n{screen_text(app)}")


def screen_text(app: App[None]) -> str:
    """What the terminal shows, as text."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)
