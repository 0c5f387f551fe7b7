"""Actions on notebooks: where one is, and how it is made again."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from msgspec import Meta

from services.context import Context, Plan
from services.drive.open import open_store
from services.errors import BadInput
from services.runs import spec
from services.runs.notebook import layout, link, parcel


class NotebookParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which run."""

    run: Annotated[str, Meta(description="The run's id or its last four letters; empty: the newest.")] = ""


class Made(msgspec.Struct, frozen=True):
    """A notebook in the store. ``open`` is Colab's link to it, or its path where the store is not Google Drive."""

    run: str
    path: str
    open: str


async def notebook(ctx: Context, params: NotebookParams) -> Made | Plan:
    """Write a run's notebook into the store again, as it was; its link. Raises BadInput for runs of other targets."""
    ctx.will_write("train.notebook")
    run_dir = await asyncio.to_thread(spec.find_run, ctx.workspace, params.run)
    run = spec.read(run_dir)
    if run.target != "notebook":
        raise BadInput(f"Run {run.id} runs on {run.target}, not in a notebook.", hint="train.start target=notebook")
    path = layout.notebook_path(run.id)
    if ctx.dry_run:
        return Plan("train.notebook", f"write {path} into the store again")
    store = open_store(ctx.workspace)
    await parcel.write_notebook(store, run, link.mounted(ctx.workspace, store))
    return Made(run.id, path, await link.link(store, path))
