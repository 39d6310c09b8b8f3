"""Tiny models with random weights, built here: everything but the sense of the answers is real."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CONTEXT = 256
SEED = 7
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def save_tokenizer(directory: Path) -> None:
    """One token per byte, and two control tokens: 0 ``<|start|>``, 1 ``<|end|>``."""
    import tokenizers
    from tokenizers import AddedToken, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<|start|>": 0, "<|end|>": 1} | {letter: at + 2 for at, letter in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|start|>", "<|end|>")])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [1]}))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of transformers: a decoder of 3 layers that has learnt nothing."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    directory = tmp_path_factory.mktemp("tiny-llama")
    torch.set_num_threads(1)  # what is so small is only slowed down by sharing it out
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.4,  # wide enough that the likeliest id is a clear one
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    save_tokenizer(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of transformers: an encoder of 2 layers."""
    import torch
    from transformers import BertConfig, BertModel

    directory = tmp_path_factory.mktemp("tiny-bert")
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=258, max_position_embeddings=64, **sizes)).save_pretrained(directory)
    save_tokenizer(directory)
    return directory


@pytest.fixture
def load_tiny(tiny_llama: Path) -> Callable[..., Any]:
    """Makes engines over the tiny decoder, in fp32, each with its own limits."""
    from transformers import LlamaForCausalLM

    from ainp2p.agents.models.engine import Engine, Limits
    from ainp2p.agents.models.tokenizer import Tokenizer

    model = LlamaForCausalLM.from_pretrained(tiny_llama)

    def make(**limits: int) -> Engine:
        return Engine(model, Tokenizer(tiny_llama), Limits(**limits))

    return make
