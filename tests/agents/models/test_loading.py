"""Which device, which dtype, how much memory; and directories that are no model."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from ainp2p.agents.models import loading
from ainp2p.agents.models.embedding import EmbeddingEngine
from ainp2p.agents.models.engine import Engine
from ainp2p.errors import ModelError

NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("device", "wanted", "flags", "chosen"),
    [
        ("cuda", "auto", NONE, "fp16"),
        ("cpu", "auto", NONE, "fp32"),
        ("cpu", "auto", frozenset({"avx512_bf16"}), "bf16"),
        ("cpu", "auto", frozenset({"amx_bf16"}), "bf16"),
        ("cpu", "fp32", frozenset({"amx_bf16"}), "fp32"),
        ("cuda", "bf16", NONE, "bf16"),
    ],
)
def test_the_dtype_fits_the_device(device: str, wanted: str, flags: frozenset[str], chosen: str) -> None:
    assert loading.choose_dtype(device, wanted, flags) == chosen


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ModelError, match="int4"):
        loading.choose_dtype("cpu", "int4", NONE)


def test_a_gpu_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loading.choose_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert loading.choose_device("auto") == "cpu"
    with pytest.raises(ModelError, match="sees no GPU"):
        loading.choose_device("cuda:1")


def test_a_decoder_becomes_a_text_model(tiny_llama: Path) -> None:
    found = loading.load(tiny_llama, device="cpu", dtype="fp32")
    assert isinstance(found.engine, Engine)
    assert (found.kind, found.dtype, found.device, found.context) == ("text", "fp32", "cpu", 256)
    assert found.hash == hashlib.sha256((tiny_llama / "model.safetensors").read_bytes()).digest()
    assert found.parameters > 1000
    assert found.tokens_max == loading.CPU_CACHE_SIZE // (2 * 3 * 2 * 8 * 4)


def test_a_smaller_budget_can_be_given(tiny_llama: Path) -> None:
    found = loading.load(tiny_llama, device="cpu", dtype="fp32", tokens_max=100)
    assert (found.tokens_max, found.context) == (100, 100)


def test_an_encoder_becomes_an_embedding_model_in_fp32(tiny_bert: Path) -> None:
    found = loading.load(tiny_bert, device="cpu")
    assert isinstance(found.engine, EmbeddingEngine)
    assert (found.kind, found.dtype, found.context) == ("embedding", "fp32", 64)


def test_the_hash_is_the_sources_where_that_is_known(tiny_llama: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(tiny_llama, tmp_path / "copy")
    (directory / "source.json").write_text(json.dumps({"sha256": "ab" * 32}))
    assert loading.weights_hash(directory) == b"\xab" * 32


def test_several_weight_files_have_one_hash(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_text(name)
    digests = [hashlib.sha256(name.encode()).digest() for name in ("a", "b")]
    assert loading.weights_hash(tmp_path) == hashlib.sha256(b"".join(digests)).digest()


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="safetensors"):
        loading.weights_hash(tmp_path)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "tokenizer.json"])
def test_an_incomplete_directory_is_refused(tiny_llama: Path, tmp_path: Path, missing: str) -> None:
    directory = shutil.copytree(tiny_llama, tmp_path / "copy")
    (directory / missing).unlink()
    with pytest.raises(ModelError):
        loading.load(directory, device="cpu", dtype="fp32")


def test_a_model_that_computes_no_numbers_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    directory = shutil.copytree(tiny_llama, tmp_path / "copy")
    model = LlamaForCausalLM.from_pretrained(tiny_llama)
    model.model.norm.weight.data.fill_(float("inf"))
    model.save_pretrained(directory)
    with pytest.raises(ModelError, match="range of numbers"):
        loading.load(directory, device="cpu", dtype="fp32")
