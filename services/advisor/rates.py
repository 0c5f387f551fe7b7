"""The dated table ``rates.toml``: measured speeds, what GPUs have, what an hour costs. Each entry names its source."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Literal

import msgspec

TABLE = Path(__file__).with_name("rates.toml")
UNITS = "units"  # Colab's compute units, summed beside currencies as if they were one
_RESERVED = 0.7e9  # bytes of a GPU that the CUDA context and its libraries take before anything is computed
_SPARE = 0.95  # of the rest: the allocator's blocks never fit exactly

Rows = Literal["short", "long"]


class Speed(msgspec.Struct, frozen=True):
    """Tokens per second that a device reached in training adapters on a base of ``parameters`` parameters, at
    ``flops_token`` operations a token."""

    device: str
    rows: Rows
    parameters: int
    flops_token: float
    tokens_s: float
    source: str
    dated: str


class GpuType(msgspec.Struct, frozen=True):
    """``memory_mib`` as the driver reports it; ``tflops`` dense in 16 bit; ``gb_s`` of its memory."""

    name: str
    advertised_gb: int
    memory_mib: int
    tflops: float
    gb_s: float
    bf16: bool = True

    @property
    def usable_bytes(self) -> int:
        """What a run can really have: without the context, with some room for the allocator."""
        return int((self.memory_mib * 1024**2 - _RESERVED) * _SPARE)


class Price(msgspec.Struct, frozen=True):
    """What an hour costs: ``amount`` in ``currency`` ("units" are Colab's). ``accelerator`` "" means any."""

    target: str
    accelerator: str
    amount: Decimal
    currency: str
    source: str
    dated: str

    def cost(self, seconds: float) -> Decimal:
        """The cost of so many seconds, exact to a millionth."""
        return (self.amount * Decimal(repr(seconds)) / 3600).quantize(Decimal("0.000001"))


class Table(msgspec.Struct, frozen=True):
    """Everything that ``rates.toml`` holds."""

    speeds: tuple[Speed, ...]
    gpus: tuple[GpuType, ...]
    prices: tuple[Price, ...]

    def speed(self, device: str, rows: Rows) -> Speed | None:
        """The reference of ``device`` for such rows, else for others, else None."""
        known = [s for s in self.speeds if s.device == device]
        return next((s for s in known if s.rows == rows), known[0] if known else None)

    def price(self, target: str, accelerator: str) -> Price | None:
        """The price of an hour there: for that accelerator, else for any of the target's."""
        for wanted in (accelerator, accelerator.split(" ")[0], ""):
            for price in self.prices:
                if price.target == target and price.accelerator.lower() == wanted.lower():
                    return price
        return None


@functools.cache
def built_in() -> Table:
    """The table that comes with the program."""
    raw = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    prices = tuple(
        Price(p["target"], p["accelerator"], Decimal(p["units"]), UNITS, p["source"], p["dated"]) for p in raw["price"]
    )
    return Table(
        msgspec.convert(raw["speed"], tuple[Speed, ...]), msgspec.convert(raw["gpu"], tuple[GpuType, ...]), prices
    )


_RATE = re.compile(
    r"\s*(\d+(?:\.\d+)?)\s+([A-Za-z]{3,5})\s*(?:/\s*h|per hour)\s*(?:,\s*(\d{4}-\d{2}-\d{2}))?\s*(?:,\s*(.+))?"
)


def with_settings(own: Mapping[str, str]) -> tuple[Table, tuple[str, ...]]:
    """The table with the prices of ``[costs] rates``, which come first; and a sentence for each that can't be read.

    An entry is "target/accelerator" or "target" = "0.18 USD/h, 2026-11-01, where from".
    """
    table = built_in()
    prices: list[Price] = []
    problems: list[str] = []
    for place, words in own.items():
        target, _, accelerator = place.partition("/")
        match = _RATE.fullmatch(words)
        if match is None:
            problems.append(
                f'[costs] rates: {place} = "{words}" is not usable; write "0.18 USD/h, 2026-11-01, source".'
            )
            continue
        amount, currency, dated, source = match.groups()
        currency = UNITS if currency.lower() == UNITS else currency.upper()
        prices.append(
            Price(target, accelerator, Decimal(amount), currency, source or "your settings", dated or "undated")
        )
    return msgspec.structs.replace(table, prices=(*prices, *table.prices)), tuple(problems)
