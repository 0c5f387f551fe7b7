"""Actions on the store."""

from __future__ import annotations

import msgspec

from services.context import Context
from services.drive.open import open_store
from services.drive.store import StoreStatus


class StatusParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``store.status`` takes no parameters."""


async def status(ctx: Context, params: StatusParams) -> StoreStatus:
    """Where models and the registry are kept, and what that place promises. Raises StoreUnreachable."""
    return await open_store(ctx.workspace).status()
