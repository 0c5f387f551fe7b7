"""Moving an alias: compare-and-set against where it points, and back again."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from services.context import Context, Plan
from services.errors import BadInput, Refused
from services.registry import names
from services.registry.figures import compare
from services.registry.fold import State, moved_meanwhile
from services.registry.records import Moved, Record
from services.registry.registry import Registry, find_model, find_version, open_registry, split_reference
from services.registry.types import Promotion

Count = Annotated[int, Meta(ge=0)]


class PromoteParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which alias goes to which version."""

    model: Annotated[str, Meta(description="Name of the model, or model@version.")]
    version: Annotated[str, Meta(description="Number or alias of the version.")] = ""
    to: Annotated[str, Meta(description="The alias to move: deployed, candidate or a name of your own.")] = "deployed"
    expected: Annotated[
        Count | None, Meta(description="Version you believe the alias points to, 0 for none; refused when it does not.")
    ] = None
    note: Annotated[str, Meta(max_length=500, description="Why.")] = ""


class RollbackParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which alias goes back to where it pointed before."""

    model: Annotated[str, Meta(description="Name of the model.")]
    alias: Annotated[str, Meta(description="The alias to move back.")] = "deployed"
    expected: Annotated[
        Count | None, Meta(description="Version you believe the alias points to; refused when it does not.")
    ] = None
    note: Annotated[str, Meta(max_length=500, description="Why.")] = ""


async def promote(ctx: Context, params: PromoteParams) -> Promotion | Plan:
    """Move an alias to a version, if it still points where the caller believed (``expected``, or where it pointed when
    this call began to read). Raises Refused, naming who moved it, when it does not; BadInput for an unknown version.
    """
    ctx.will_write("registry.promote")
    model, wanted = split_reference(params.model, params.version)
    _alias(params.to)
    registry = open_registry(ctx.workspace)
    state = await registry.writable()
    find_model(state, model)
    if not wanted:
        raise BadInput("registry.promote needs version=…, a number or an alias.", hint=f"For example {model}@latest.")
    version = find_version(state, model, wanted)
    standing = state.target(model, params.to)
    move = Moved(
        model, params.to, version, standing if params.expected is None else params.expected, False, params.note
    )
    if standing == version:
        return _unchanged(state, move)
    if standing != move.expected:
        raise _lost(state, move)
    if ctx.dry_run:
        return _plan("registry.promote", state, move)
    return await _write(registry, move)


async def rollback(ctx: Context, params: RollbackParams) -> Promotion | Plan:
    """Move an alias back to the version it pointed to before its last move; again goes one further back.

    Raises Refused when there is nothing to go back to or the alias was moved meanwhile; BadInput for unknown names.
    """
    ctx.will_write("registry.rollback")
    model, _ = split_reference(params.model)
    _alias(params.alias)
    registry = open_registry(ctx.workspace)
    state = await registry.writable()
    find_version(state, model, params.alias)
    stack = state.stacks[model, params.alias]
    expected = stack[-1] if params.expected is None else params.expected
    if expected != stack[-1]:
        raise _lost(state, Moved(model, params.alias, stack[-1], expected, True, ""))
    if len(stack) < 2:
        raise Refused(
            f"{model}@{params.alias} points to {stack[-1]}, and no earlier version is left to go back to.",
            hint=f"Move it with registry.promote model={model} version=N to={params.alias}.",
        )
    move = Moved(model, params.alias, stack[-2], expected, True, params.note)
    if ctx.dry_run:
        return _plan("registry.rollback", state, move)
    return await _write(registry, move)


def _alias(name: str) -> None:
    try:
        names.check_alias(name)
    except ValueError as error:
        raise BadInput(f"{error}.") from None


async def _write(registry: Registry, move: Moved) -> Promotion:
    """Append the move unless somebody else moved the alias since ``move`` was decided."""

    changed = True

    def decide(state: State) -> Moved | Record:
        nonlocal changed
        standing = state.target(move.model, move.alias)
        if standing == move.version and not move.rollback:  # somebody else moved it just there
            changed = False
            return state.last[move.model, move.alias].record
        if standing != move.expected:
            raise _lost(state, move)
        return move

    await registry.store.make_folders(("docs/registry/log", "models/deployed"))
    written = await registry.append("moved", decide)
    warnings = await registry.settle()
    return Promotion(
        model=move.model,
        alias=move.alias,
        version=move.version,
        previous=int(written.payload["expected"]),
        changed=changed,
        by=written.who,
        at=written.at,
        record=written.id,
        note=str(written.payload["note"]),
        warnings=warnings,
    )


def _unchanged(state: State, move: Moved) -> Promotion:
    last = state.last[move.model, move.alias].record
    return Promotion(
        model=move.model,
        alias=move.alias,
        version=move.version,
        previous=move.version,
        changed=False,
        by=last.who,
        at=last.at,
        record=last.id,
        note=str(last.payload.get("note", "")),
    )


def _lost(state: State, move: Moved) -> Refused:
    return Refused(
        f"{moved_meanwhile(state, move.model, move.alias, move.expected)}.",
        hint="Look at what it points to now, then decide again.",
    )


def _plan(action: str, state: State, move: Moved) -> Plan:
    came_from = (
        f"from {move.expected} to {move.version}" if move.expected else f"to {move.version} (it points nowhere yet)"
    )
    new, old = state.member(move.model, move.version), state.member(move.model, move.expected)
    assert new is not None
    return Plan(
        action=action,
        summary=f"{move.model}@{move.alias} moves {came_from}.",
        steps=tuple(compare(new.added.metrics, old.added.metrics if old else None)),
    )
