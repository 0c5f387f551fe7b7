"""Tiny random models that every runtime test can make in a moment: real folders, as Hugging Face's tools write them."""

from __future__ import annotations

import json
from pathlib import Path

WORDS = (
    "card payment transfer balance refund cash exchange rate top up account limit fee country declined pending wrong "
    "lost stolen new old my the a is not has been why how when where what can I do need help please change activate "
    "order Query Intent Question Answer arrival delivery charge statement money bank number pin code user assistant"
)
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path) -> int:
    """A byte-level BPE tokenizer with chat template and special tokens; returns its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"{WORDS}\n{WORDS.lower()}: "] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 512,
        "chat_template": CHAT,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return tokenizer.get_vocab_size(with_added_tokens=True)


def write_llama(folder: Path, *, seed: int = 0, layers: int = 2, tied: bool = True) -> Path:
    """A random Llama (width 48, 6 heads, 2 key-value heads) in float32."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    vocab = write_tokenizer(folder)
    width, heads, kv, dim, inner = 48, 6, 2, 8, 96
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "head_dim": dim,
        "intermediate_size": inner,
        "vocab_size": vocab,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tied,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * (1.5 / columns**0.5)

    def norm() -> torch.Tensor:
        return 1 + 0.1 * torch.randn(width, generator=generator)

    tensors = {"model.embed_tokens.weight": matrix(vocab, width) * 5, "model.norm.weight": norm()}
    if not tied:
        tensors["lm_head.weight"] = matrix(vocab, width)
    for number in range(layers):
        prefix = f"model.layers.{number}."
        tensors |= {
            f"{prefix}input_layernorm.weight": norm(),
            f"{prefix}post_attention_layernorm.weight": norm(),
            f"{prefix}self_attn.q_proj.weight": matrix(heads * dim, width),
            f"{prefix}self_attn.k_proj.weight": matrix(kv * dim, width),
            f"{prefix}self_attn.v_proj.weight": matrix(kv * dim, width),
            f"{prefix}self_attn.o_proj.weight": matrix(width, heads * dim),
            f"{prefix}mlp.gate_proj.weight": matrix(inner, width),
            f"{prefix}mlp.up_proj.weight": matrix(inner, width),
            f"{prefix}mlp.down_proj.weight": matrix(width, inner),
        }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_gpt2(folder: Path, *, seed: int = 0) -> Path:
    """A random GPT-2 (width 32, 2 layers): an architecture that our own forward pass does not know."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder.mkdir(parents=True, exist_ok=True)
    vocab = write_tokenizer(folder)
    torch.manual_seed(seed)
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = GPT2Config(vocab_size=vocab, bos_token_id=1, eos_token_id=2, pad_token_id=2, **shape)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def write_bert(folder: Path, *, seed: int = 0) -> Path:
    """A random BERT (width 32, 2 layers) with a tokenizer that puts [CLS] before a text and [SEP] after it."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({word.lower() for word in WORDS.split()} | set("0123456789"))
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "BertTokenizerFast",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=128, **shape)).save_pretrained(folder)
    return folder
