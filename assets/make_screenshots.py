"""Pictures of every screen from the running panel: ``python assets/make_screenshots.py WORKSPACE``.

Opens the panel on a workspace with real state (a registered model, runs), goes to each screen, waits until it has
stopped changing, and writes one SVG a screen.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from xml.etree import ElementTree

from textual.app import App
from textual.pilot import Pilot

from hybrid_tui.app import HybridApp
from hybrid_tui.screens import PLACES
from services import workspace

SIZE = (120, 40)
POLL_SECONDS = 0.25
STILL_SECONDS = 1.5  # a screen is ready when it has shown the same for so long, and says nowhere that it is loading
MOST_SECONDS = 60.0
DRIVE_SECONDS = 3.0  # a transfer on its way never stands still
BUSY = (
    "Loading",
    "Reading",
    "measuring…",
    "Scanning",
    "Waiting for",
    "waiting for",
    "Looking at",
    "starting",
    "loading",
)


def shown(app: App[None]) -> str:
    """What the terminal shows, as text."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)


async def settle(pilot: Pilot[None], most: float = MOST_SECONDS) -> str:
    """Wait until the screen stands still; returns its text. A live run never does: then after ``most`` seconds."""
    last, still, spent = "", 0.0, 0.0
    while spent < most and (still < STILL_SECONDS or any(word in last for word in BUSY)):
        await pilot.pause(POLL_SECONDS)
        spent += POLL_SECONDS
        now = shown(pilot.app)
        still = still + POLL_SECONDS if now == last else 0.0
        last = now
    return last


async def make(
    root: Path,
    out: Path,
    most: float = MOST_SECONDS,
    prompt: str = "",
    model: str = "",
    run: str = "",
    only: tuple[str, ...] = (),
) -> list[Path]:
    """Write ``<screen>.svg`` for each screen (of ``only``, if any) into ``out``, which exists.

    ``run`` is shown on the training screen; ``prompt`` is asked of ``model`` beside the base. Of the storage screen
    there is a second picture, ``storage-plan.svg``: the plan of all that is safe to clean. The Drive screen has its
    queue in front; for a picture of work under way, queue some transfers first.
    """
    app = HybridApp(workspace.open_workspace(root))
    made: list[Path] = []
    async with app.run_test(size=SIZE) as pilot:
        for place in PLACES:
            if only and place.name not in only:
                continue
            await pilot.press(place.key)
            await settle(pilot, most)
            if run and place.name == "training":
                app.screen.select(run)  # type: ignore[attr-defined]
                await pilot.pause(3)
                await settle(pilot, most)
            if model and place.name == "inference":
                app.screen.talk_to(model)  # type: ignore[attr-defined]
                await settle(pilot, most)
                await pilot.press("b")
                await settle(pilot, most)
            if prompt and place.name == "inference":
                await pilot.press("i", *prompt, "enter")
                await settle(pilot, most)
            if place.name == "drive":
                await pilot.press("t")
                await settle(pilot, min(most, DRIVE_SECONDS))
            made.append(await take(pilot, out / f"{place.name}.svg"))
            if place.name == "storage":
                await pilot.press("a", "d")
                await settle(pilot, most)
                made.append(await take(pilot, out / "storage-plan.svg"))
                await pilot.press("escape", "x")
    return made


async def take(pilot: Pilot[None], path: Path) -> Path:
    """Write what the terminal shows to ``path``."""
    pilot.app.clear_notifications()
    await pilot.pause()
    picture = pilot.app.export_screenshot(title="hybrid-tui")
    ElementTree.fromstring(picture)  # a torn or ill-formed picture must not reach the README
    path.write_text(picture, encoding="utf-8")  # noqa: ASYNC240
    print(f"{path}  {len(picture):,} characters")
    return path


def main() -> None:
    """The command."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("workspace", type=Path)
    options.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "screenshots")
    options.add_argument("--seconds", type=float, default=MOST_SECONDS, help="longest wait for one screen")
    options.add_argument("--prompt", default="", help="asked of the model on the inference screen")
    options.add_argument("--model", default="", help="asked beside the base model, e.g. banking@1")
    options.add_argument("--run", default="", help="shown on the training screen; default: the newest")
    options.add_argument("--only", nargs="*", default=(), choices=[p.name for p in PLACES], help="these screens alone")
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    asyncio.run(make(args.workspace, args.out, args.seconds, args.prompt, args.model, args.run, tuple(args.only)))


if __name__ == "__main__":
    main()
