"""Our engine against transformers and PEFT, in float32."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from services.errors import BadInput, HybridError

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.models

from services.runtime.decode import LlamaEngine  # noqa: E402
from services.runtime.engine import CHUNK, Engine, open_engine  # noqa: E402
from services.runtime.general import TransformersEngine  # noqa: E402
from services.runtime.tokenizer import Tokenizer  # noqa: E402

TEXT = "How can I change the pin code of my card? "


def greedy(engine: Engine, ids: list[int], count: int) -> list[int]:
    """``count`` tokens by arg max, whatever they are."""
    scores = engine.prefill(ids, count, lambda: False)
    out: list[int] = []
    while scores is not None and len(out) < count:
        out.append(int(scores.argmax()))
        scores = engine.step(out[-1])
    return out


def oracle(folder: Path, adapter: Path | None, ids: list[int], count: int) -> list[int]:
    """The same from transformers.generate (and PEFT, unmerged)."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    out = model.eval().generate(
        input_ids=torch.tensor([ids]), max_new_tokens=count, min_new_tokens=count, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    return out[0, len(ids) :].tolist()


@pytest.fixture(scope="module")
def ids(tiny: Path) -> list[int]:
    """A prompt over several chunks, its end in the middle of one."""
    encoded = Tokenizer(tiny).encode(TEXT * 60)
    assert len(encoded) > 2 * CHUNK
    return encoded[: 2 * CHUNK + 37]


@pytest.mark.parametrize("length", [1, 9, CHUNK, 2 * CHUNK + 37])
def test_greedy_equals_transformers(tiny: Path, ids: list[int], length: int) -> None:
    engine = open_engine(str(tiny), "fp32")
    assert isinstance(engine, LlamaEngine)
    assert greedy(engine, ids[:length], 40) == oracle(tiny, None, ids[:length], 40)


def test_untied_head_equals_transformers(tmp_path: Path, ids: list[int]) -> None:
    from tests.runtime.tiny_model import write_llama

    folder = write_llama(tmp_path / "untied", tied=False, seed=3)
    assert greedy(open_engine(str(folder), "fp32"), ids[:20], 40) == oracle(folder, None, ids[:20], 40)


def test_adapter_equals_peft_and_leaves_no_trace(tiny: Path, adapter: Path, ids: list[int]) -> None:
    engine = open_engine(str(tiny), "fp32")
    before = engine.prefill(ids, 1, lambda: False)
    plain = greedy(engine, ids[:30], 40)
    engine.use(adapter)
    merged = greedy(engine, ids[:30], 40)
    assert merged == oracle(tiny, adapter, ids[:30], 40)
    assert merged != plain
    engine.use(None)
    assert torch.equal(engine.prefill(ids, 1, lambda: False), before)


@pytest.mark.parametrize(
    "variant", [{"use_rslora": True}, {"alpha_pattern": {"v_proj": 40, "layers.1.self_attn.q_proj": 1}}]
)
def test_scales_equal_peft(
    tiny: Path, adapter: Path, ids: list[int], tmp_path: Path, variant: dict[str, object]
) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "variant"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | variant))
    engine = open_engine(str(tiny), "fp32")
    engine.use(folder)
    peft = TransformersEngine(tiny, torch.device("cpu"), torch.float32)
    peft.use(folder)
    ours, theirs = (e.prefill(ids[:50], 1, lambda: False) for e in (engine, peft))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    peft.use(None)
    engine.use(None)
    ours, theirs = (e.prefill(ids[:50], 1, lambda: False) for e in (engine, peft))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_prompts_scores_do_not_depend_on_what_came_before(tiny: Path, ids: list[int], dtype: str) -> None:
    engine = open_engine(str(tiny), dtype)
    fresh = greedy(open_engine(str(tiny), dtype), ids, 20)
    for other in (ids[:200], ids[50:200], ids, [*ids, *fresh[:15]]):
        greedy(engine, other, 30)
        assert greedy(engine, ids, 20) == fresh


def test_what_is_equal_is_not_read_again(tiny: Path, ids: list[int]) -> None:
    engine = open_engine(str(tiny), "fp32")
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return False

    engine.prefill(ids, 30, stopped)
    assert len(asked) == 3
    asked.clear()
    engine.prefill([*ids[: 2 * CHUNK], 5, 6, 7], 30, stopped)
    assert len(asked) == 1


def test_reading_a_prompt_can_be_stopped(tiny: Path, ids: list[int]) -> None:
    engine = open_engine(str(tiny), "fp32")
    answers = iter([False, True])
    assert engine.prefill(ids, 10, lambda: next(answers)) is None
    assert greedy(engine, ids, 10) == greedy(open_engine(str(tiny), "fp32"), ids, 10)


def test_other_architectures_run_through_transformers(tmp_path: Path, ids: list[int]) -> None:
    from tests.runtime.tiny_model import write_gpt2

    folder = write_gpt2(tmp_path / "gpt2")
    engine = open_engine(str(folder), "fp32")
    assert isinstance(engine, TransformersEngine)
    assert engine.limit == 256
    assert greedy(engine, ids[:150], 30) == oracle(folder, None, ids[:150], 30)


def test_an_adapter_of_another_model_is_refused(adapter: Path, tmp_path: Path) -> None:
    from tests.runtime.tiny_model import write_gpt2, write_llama

    shallow = write_llama(tmp_path / "shallow", layers=1)
    with pytest.raises(BadInput, match="does not fit"):
        open_engine(str(shallow), "fp32").use(adapter)
    with pytest.raises(BadInput, match="does not fit"):
        open_engine(str(write_gpt2(tmp_path / "gpt2")), "fp32").use(adapter)


def test_damaged_adapters_are_named_and_change_nothing(
    tiny: Path, adapter: Path, ids: list[int], tmp_path: Path
) -> None:
    engine = open_engine(str(tiny), "fp32")
    before = greedy(engine, ids[:20], 10)
    torn = Path(shutil.copytree(adapter, tmp_path / "torn"))
    weights = torn / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(HybridError, match=r"adapter_model\.safetensors is damaged"):
        engine.use(torn)
    (torn / "adapter_config.json").write_text("{")
    with pytest.raises(BadInput, match=r"adapter_config\.json"):
        engine.use(torn)
    with pytest.raises(BadInput, match="no adapter"):
        engine.use(tmp_path)
    assert greedy(engine, ids[:20], 10) == before
