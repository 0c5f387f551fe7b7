"""How a run on Colab can end or break off, beside failing: what is raised for it, and who tells lost from slow."""

from __future__ import annotations

from services.errors import HybridError
from services.runs.colab.cli import Cli, CliError
from services.runs.emit import Emitter
from services.runs.remote import Remote


class Cancelled(Exception):
    """The run was cancelled before it could run."""


class OverBudget(Exception):
    """The budget leaves nothing to run with."""


class Lost(Exception):
    """The machine is gone; str says how it was noticed."""


class NotStarted(Exception):
    """The machine is there, but nothing of the run goes on there; str says why, if that is known."""


class Vanished(HybridError):
    """The machine is gone and no new one may be had by ourselves."""


def check_cancelled(emit: Emitter) -> None:
    """Raises Cancelled when somebody has asked for it."""
    if emit.cancelled():
        raise Cancelled


async def check_machine(cli: Cli, remote: Remote, why: str) -> None:
    """Raises Lost when the account has the machine no more; when it can't be asked, that is for later."""
    try:
        listed = await cli.sessions()
    except CliError:
        return
    if all(session.endpoint != remote.data.get("endpoint") for session in listed):
        raise Lost(why)
