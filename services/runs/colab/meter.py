"""What a machine of Colab has cost so far, as the account tells it."""

from __future__ import annotations

import time
from typing import Any

from services.runs.colab.cli import Cli, CliError, Usage
from services.settings import Colab

_HOUR = 3600.0


class Meter:
    """Compute units of one machine, from its ``since`` (Unix seconds).

    Colab tells the account's balance and the rate of all its machines together. Ours is the rate's rise when the
    machine came; what the balance falls is shared out by rates. Where no rate can be had so, the
    settings' table is used, and said. ``state`` is kept in remote.json, so that the count outlives the agent.
    """

    def __init__(self, settings: Colab, accelerator: str, since: float, state: dict[str, Any] | None = None) -> None:
        known = state or {}
        self.since = since
        self.rate: float | None = known.get("rate")
        self.source: str = known.get("source", "")
        self.units: float = known.get("units", 0.0)
        self.balance: float | None = known.get("balance")
        self.at: float = known.get("at", since)
        self._dated = settings.rates_dated
        self._table = settings.units_per_hour.get(accelerator)

    @property
    def state(self) -> dict[str, Any]:
        """What to keep."""
        return {
            "rate": self.rate, "source": self.source, "units": self.units, "balance": self.balance, "at": self.at,
        }  # fmt: skip

    def begin(self, before: Usage | None, after: Usage | None) -> None:
        """Find the machine's own rate from the account's ``after`` it came, and ``before`` if others were there."""
        if after is not None and after.machines == 1 and after.rate > 0:
            self.rate, self.source = after.rate, "account"
        elif before and after and before.machines == after.machines - 1 and after.rate > before.rate:
            self.rate, self.source = after.rate - before.rate, "account"
        elif self._table is not None:
            self.rate, self.source = self._table, "settings"
        if after is not None:
            self.balance = after.balance

    def now(self) -> float:
        """Units used until now: what was counted, and the rate since."""
        return self.units + (self.rate or 0.0) * max(0.0, time.time() - self.at) / _HOUR

    async def ask(self, cli: Cli) -> None:
        """Bring the count up to date; when the account can't be asked the rate goes on."""
        try:
            usage = await cli.usage()
        except CliError:
            return
        used = self.now()
        if self.balance is not None and self.rate and usage.rate > 0 and usage.balance < self.balance:
            used = self.units + (self.balance - usage.balance) * min(1.0, self.rate / usage.rate)
        self.units, self.balance, self.at = used, usage.balance, time.time()

    def told(self, of: str) -> dict[str, Any]:
        """The cost event's figures."""
        known: dict[str, Any] = {"of": of, "seconds": round(time.time() - self.since, 1)}
        if self.rate is not None:
            known |= {"units": round(self.now(), 4), "rate": self.rate, "source": self.source}
        if self.source == "settings":
            known["dated"] = self._dated
        if self.balance is not None:
            known["balance"] = self.balance
        return known
