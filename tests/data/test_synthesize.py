"""Rows written by a model: what counts, what is dropped, budgets, cancelling and going on. A small program that speaks
the worker's lines writes what each test needs."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from services.context import Context, NeedsYes, Plan
from services.data import prompts, store
from services.data.synthesize import SynthesizeParams, synthesize
from services.data.types import Row
from services.data.written import Sieve, alone
from services.errors import BadInput, Refused

WORKER = """
import json, sys
def say(id, ev, data): print(json.dumps({"id": id, "ev": ev, "data": data}), flush=True)
say(0, "ready", {})
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] != "generate": continue
    n = request.get("seed", 0)
    q, close = chr(34), chr(34) + "}"
    mixed = (f"row {n} speaks of item {n * 3}" + close, "oops", f"some words{q}, {q}more{q}: {n}" + "}")
    text = {"good": f"wholly different thing number {n} about topic {n * 7}" + close, "bad": "no json at all",
            "same": "again and again this one" + close, "mixed": mixed[n % 3]}[sys.argv[1]]
    if sys.argv[1] == "mixed" and n >= 7 and len(sys.argv) > 2: continue
    say(request["id"], "done", {"text": text, "tokens": 10, "prompt_tokens": 5})
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch):
    def speak(*how: str) -> None:
        monkeypatch.setattr("services.inference.client.COMMAND", (sys.executable, "-c", WORKER, *how))
        monkeypatch.setattr("services.data.synthesize.require_models", lambda: None)

    return speak


def _examples(ctx: Context) -> None:
    texts = {"card": "my card number {} is lost", "cash": "the machine kept {} of my notes"}
    train = [Row(text.format(n), label) for label, text in texts.items() for n in range(6)]
    rows = {"train": train, "val": [Row("v", "card")], "test": [Row("t", "cash")]}
    store.write(ctx, "t", store.build_info("mine", "classify", prompts.CLASSIFY, rows, source="t", seed=0), rows)


async def test_enough_good_rows_become_a_balanced_dataset(ctx, model, worker):
    _examples(ctx)
    worker("good")
    result = await synthesize(ctx, SynthesizeParams(rows=20, examples="mine", model=model))
    assert (result.rows, result.lines, result.usable_share, result.ended) == (20, 20, 1.0, "enough rows")
    info = result.dataset
    assert info.name == "mine-written" and info.labels == ("card", "cash") and sum(info.counts.values()) == 20
    assert "No person has read them" in info.warnings[0] and "100% of its 20 lines" in info.warnings[0]
    rows = [row for split in store.SPLITS for row in store.read_rows(Path(info.path), split)]
    assert sum(row.answer == "card" for row in rows) == 10
    more = await synthesize(ctx, SynthesizeParams(rows=30, examples="mine", model=model))
    assert more.rows == 30 and more.lines == 30 and sum(more.dataset.counts.values()) == 30


async def test_the_yield_is_told_as_it_is(ctx, model, worker):
    worker("mixed")
    result = await synthesize(ctx, SynthesizeParams(rows=20, domain="education", model=model))
    assert result.rows == 20 and result.lines == 58 and result.usable_share == pytest.approx(20 / 58)
    assert result.dropped == {"not JSON": 19, "other fields": 19}
    assert result.tokens == 580


@pytest.mark.parametrize(("how", "reason"), [("bad", "not JSON"), ("same", "repeats a row")])
async def test_it_gives_up_when_nothing_new_comes(ctx, model, worker, how, reason):
    worker(how)
    result = await synthesize(ctx, SynthesizeParams(rows=20, model=model))
    assert "gave nothing new" in result.ended and result.dataset is None
    assert result.dropped[reason] == 40 and result.rows == result.lines - 40


async def test_budgets_end_it_and_a_larger_one_goes_on(ctx, model, worker):
    worker("good")
    first = await synthesize(ctx, SynthesizeParams(rows=20, model=model, budget_tokens=120))
    assert first.ended == "the budget of 120 tokens is used up" and first.rows == 12
    second = await synthesize(ctx, SynthesizeParams(rows=20, model=model))
    assert second.rows == 20 and second.lines == 20
    timed = await synthesize(ctx, SynthesizeParams(rows=20, model=model, name="other", budget_s=1e-6))
    assert timed.rows == 1 and timed.dataset is None and "s is used up" in timed.ended


async def test_cancelled_it_keeps_its_rows_and_the_next_call_goes_on(ctx, model, worker):
    worker("mixed", "hang")  # from the eighth request on no answer comes
    reached = asyncio.Event()
    seen = []

    def report(step):
        seen.append(step)
        if step.stage == "write rows" and len(seen) == 7:
            reached.set()

    params = SynthesizeParams(rows=15, model=model)
    task = asyncio.create_task(synthesize(Context(ctx.workspace, report), params))
    await asyncio.wait_for(reached.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    journal = ctx.workspace.state / "synthesis/banking-written/requests.jsonl"
    assert len(journal.read_bytes().splitlines()) == 7
    with journal.open("ab") as file:
        file.write(b'{"number": 7, "ke')  # a crash in the middle of a line
    worker("mixed")
    result = await synthesize(ctx, params)
    numbers = [json.loads(line)["number"] for line in journal.read_bytes().splitlines()]
    assert numbers == list(range(result.lines)) and result.rows == 15


async def test_two_calls_under_one_name_do_not_mix(ctx, model, worker):
    worker("good")
    with alone(ctx.workspace.state / "synthesis/banking-written"), pytest.raises(Refused, match="Another call"):
        await synthesize(ctx, SynthesizeParams(rows=12, model=model))
    assert (await synthesize(ctx, SynthesizeParams(rows=12, model=model))).rows == 12


async def test_other_settings_under_the_name_need_a_yes(ctx, model, worker):
    worker("good")
    await synthesize(ctx, SynthesizeParams(rows=12, model=model))
    with pytest.raises(NeedsYes, match="other settings"):
        await synthesize(ctx, SynthesizeParams(rows=12, model=model, seed=1))
    again = await synthesize(ctx, SynthesizeParams(rows=12, model=model, fresh=True))
    assert again.lines == 12


async def test_what_speaks_of_a_crisis_is_not_left_to_a_model(ctx, model, worker):
    worker("good")
    result = await synthesize(ctx, SynthesizeParams(rows=20, domain="mental_health", model=model))
    assert result.dataset.labels == (
        "coping_exercise",
        "find_therapist",
        "sleep_trouble",
        "stress_work",
        "support_someone",
    )
    assert "no substitute for help" in result.dataset.warnings[1]


async def test_mistakes_and_dry_run(ctx, model):
    with pytest.raises(BadInput, match="can't both be given"):
        await synthesize(ctx, SynthesizeParams(domain="banking", examples="mine"))
    with pytest.raises(BadInput, match="no domain 'bank'"):
        await synthesize(ctx, SynthesizeParams(domain="bank"))
    plan = await synthesize(Context(ctx.workspace, dry_run=True), SynthesizeParams(model=model))
    assert isinstance(plan, Plan) and "for at most 50,000 tokens" in plan.summary
    assert not (ctx.workspace.state / "synthesis").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"label":"card","text":"where is my new card now"}', ""),
        ('{"label":"cash","text":"where is my new card now"}', "another label"),
        ('{"label":"card","text":"hm"}', "too short or too long"),
        ('{"label":"card","text":3}', "other fields"),
        ('{"label":"card","text":"a fine text of words","more":1}', "other fields"),
        ('["card"]', "other fields"),
        ('{"label":"card","text":"My card, number 1, is lost!"}', "repeats an example"),
    ],
)
def test_what_counts_as_a_row(line, reason):
    sieve = Sieve([Row("my card number 1 is lost", "card")], [], frozenset({"card", "cash"}))
    row, why = sieve.take(line, "card")
    assert why == reason and (row is None) == bool(reason)
    if row is not None:
        assert sieve.take(line, "card") == (None, "repeats a row")
    assert sieve.take(line, "card", cut=True) == (None, "cut off")
