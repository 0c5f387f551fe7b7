"""What a run needs, takes and costs on each device: what fits where, with how sure that is in words. Pure functions."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

from services.advisor import memory, rates
from services.advisor.memory import Plan
from services.advisor.shapes import Shape

Fits = Literal["yes", "in parts", "unsure", "no"]

SETUP_S = 300.0  # a machine elsewhere until it trains: provisioning, installing, uploading. Assumed, not measured
_EVALUATION = 0.5  # of a training token's time that reading a test token takes: forward only, and some rows twice
_REREADING = 1.2  # where every token of an answer reads the row again, by transformers: 0.8 and 1.7 measured
_GENERAL = {("CPU", "short"): 3.5, ("CPU", "long"): 3.5, ("GPU", "short"): 16.0, ("GPU", "long"): 1.5}
_LONG = 500  # tokens from which a row counts as long
_TOGETHER, _SPLIT = 0.96, 0.94  # of so many GPUs' speed, with the model whole on each (1.92 with two), and split


class Device(msgspec.Struct, frozen=True):
    """Where a run could be: ``kind`` "CPU" or a GPU's name in the table; ``usable_bytes`` of it for a run."""

    name: str
    kind: str
    target: str
    usable_bytes: int
    cores: int = 0


class Work(msgspec.Struct, frozen=True):
    """What is to be done: training and test tokens in all, and the limit in seconds that the run has (0: none)."""

    train_tokens: int
    test_tokens: int
    seconds: float = 0.0


class Speed(msgspec.Struct, frozen=True):
    """Tokens per second, likely and at worst, and where that is from."""

    likely: float
    worst: float
    basis: str


class OnDevice(msgspec.Struct, frozen=True):
    """One device. ``needed_bytes`` is for a step at once, ``least_bytes`` for row after row with layers recomputed.

    Of several GPUs that share a run both are of each; on a CPU they are of all processes together.
    ``split``: each holds a part of the model; where each held all of it, ``whole_bytes`` were needed. ``fits_split``:
    it does not fit whole, but with ``shard=on`` it would.

    ``fits``: "yes"; "in parts": the trainer measures and takes smaller portions; "unsure": within the estimate's
    error; "no". ``seconds`` is likely, ``at_most_s`` a cautious upper end, both with the final evaluation.
    """

    device: str
    target: str
    fits: Fits
    needed_bytes: int
    least_bytes: int
    usable_bytes: int
    tokens_s: float | None
    seconds: float | None
    at_most_s: float | None
    cost: str
    basis: str
    processes: int = 1
    split: bool = False
    whole_bytes: int = 0
    fits_split: bool = False
    gpu: bool = False


def on(
    device: Device, shape: Shape, plan: Plan, work: Work, table: rates.Table, measured: Speed | None = None
) -> OnDevice:
    """The estimate for one device; ``measured`` is a probe's speed there, and comes before the table's."""
    place: memory.Place = "cpu" if device.kind == "CPU" else "gpu"
    if device.kind == "T4" and plan.dtype == "bf16":
        plan = msgspec.structs.replace(plan, dtype="fp16")
    needed, least = _both(shape, plan, place)
    fits = _fits(needed, least, device.usable_bytes)
    basis = _refusal(plan, place)
    if basis:
        fits = "no"
    whole = msgspec.structs.replace(plan, split=False)
    found = OnDevice(
        device.name, device.target, fits, needed, least, device.usable_bytes, None, None, None, "", basis,
        plan.processes, plan.split, _both(shape, whole, place)[0] if plan.processes > 1 else 0,
        not basis and fits in ("unsure", "no") and _would_split(device, shape, plan, place), place == "gpu",
    )  # fmt: skip
    speed = measured or speed_of(device, shape, plan, table)
    if speed is None or fits == "no":
        return found
    if plan.processes > 1 and place == "gpu":
        speed = _of_several(speed, plan)
    test = _REREADING if not (memory.is_own(shape, plan) or plan.head_labels) else _EVALUATION
    likely, worst = (_seconds(work, rate, device.target, test) for rate in (speed.likely, speed.worst))
    cost = price_words(device, likely, worst, table)
    if plan.processes > 1 and place == "gpu" and device.target != "local":
        cost = f"the price of {plan.processes} of them is not known"  # those in the table are of machines with one
    return msgspec.structs.replace(
        found, tokens_s=round(speed.likely, 1), seconds=likely, at_most_s=worst, basis=speed.basis, cost=cost
    )


def _refusal(plan: Plan, place: memory.Place) -> str:
    """Why the trainer would not even try."""
    if plan.method == "qlora" and place == "cpu":
        return "QLoRA needs a CUDA GPU"
    return memory.obstacle(plan) if plan.split else ""


def _both(shape: Shape, plan: Plan, place: memory.Place) -> tuple[int, int]:
    """Bytes for a step at once, and the least. On a CPU all processes share its memory."""
    times = plan.processes if place == "cpu" else 1
    found = (memory.estimate(shape, one, place).total * times for one in (plan, least_plan(shape, plan)))
    return next(found), next(found)


def _would_split(device: Device, shape: Shape, plan: Plan, place: memory.Place) -> bool:
    if plan.split or memory.obstacle(plan):
        return False
    needed, least = _both(shape, memory.split(plan), place)
    return _fits(needed, least, device.usable_bytes) in ("yes", "in parts")


def _of_several(speed: Speed, plan: Plan) -> Speed:
    """Of as many GPUs as the run has processes; at worst as if half of them did nothing but wait."""
    share = _TOGETHER * (_SPLIT if plan.split else 1.0)
    basis = f"{speed.basis}; {plan.processes} of them by what two H100s were measured at"
    return Speed(speed.likely * plan.processes * share, speed.worst * plan.processes / 2, basis)


def least_plan(shape: Shape, plan: Plan) -> Plan:
    """The same with as little at once as the trainer can: one row, layers recomputed."""
    share = plan.labels / max(plan.tokens, 1)
    tokens = min(plan.row_tokens, plan.tokens)
    labels = max(1, round(tokens * share))
    return msgspec.structs.replace(plan, tokens=tokens, labels=labels, checkpointing=True, positions=0, pairs=0)


def _fits(needed: int, least: int, usable: int) -> Fits:
    if needed * memory.UNSURE <= usable:
        return "yes"
    if least * memory.UNSURE <= usable:
        return "in parts" if needed > usable else "yes"
    return "unsure" if least / memory.UNSURE <= usable else "no"


def speed_of(device: Device, shape: Shape, plan: Plan, table: rates.Table) -> Speed | None:
    """Speed by the table's references, scaled by operations a token and, to another GPU, by its data sheet."""
    rows: rates.Rows = "long" if plan.row_tokens >= _LONG else "short"
    cpu = device.kind == "CPU"
    reference = table.speed(device.kind, rows) or (None if cpu else _any_gpu(table, rows))
    if reference is None:
        return None
    likely = reference.tokens_s * reference.flops_token / memory.flops_per_token(shape, plan)
    worst = likely / 2
    basis = f"scaled by operations a token from {reference.tokens_s:,.0f} tokens/s on {reference.device}"
    if cpu and device.cores:
        likely, worst = likely * device.cores / 2, worst * device.cores / 2
    if not cpu and reference.device != device.kind:
        ratios = _ratios(device.kind, reference.device, table)
        if ratios is None:
            return None
        likely, worst = likely * max(ratios), likely * min(ratios) / 2
        basis += ", by 16-bit TFLOP/s, at worst by memory speed"
    if not memory.is_own(shape, plan):
        slower = _GENERAL["CPU" if cpu else "GPU", rows]
        likely, worst = likely / slower, worst / slower
        basis += f"; transformers and PEFT: {slower:g} times slower"
    return Speed(likely, worst, f"{basis} ({reference.dated})")


def _any_gpu(table: rates.Table, rows: rates.Rows) -> rates.Speed | None:
    known = [s for s in table.speeds if s.device != "CPU"]
    return next((s for s in known if s.rows == rows), known[0] if known else None)


def _ratios(name: str, reference: str, table: rates.Table) -> tuple[float, float] | None:
    found = {gpu.name: gpu for gpu in table.gpus}
    one, other = found.get(name), found.get(reference)
    if one is None or other is None:
        return None
    return one.tflops / other.tflops, one.gb_s / other.gb_s


def _seconds(work: Work, tokens_s: float, target: str, test: float) -> float:
    training = work.train_tokens / tokens_s
    if work.seconds:
        training = min(training, work.seconds)
    return training + work.test_tokens * test / tokens_s + (SETUP_S if target != "local" else 0.0)


def price_words(device: Device, likely: float, worst: float, table: rates.Table) -> str:
    """The cost in words, "about 0.45 units, at most 0.80"; what is not known is said."""
    price = table.price(device.target, device.kind)
    if price is None:
        return "no cost of its own" if device.target == "local" else "price not known before the account tells it"
    low, high = price.cost(likely), price.cost(worst)
    if high < Decimal("0.01"):
        return f"under 0.01 {price.currency}"
    return f"about {low:,.2f} {price.currency}, at most {high:,.2f} ({price.amount} an hour, {price.dated})"
