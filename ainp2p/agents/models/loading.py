"""From a directory of weights to a running engine: which device, which dtype, how much memory.

Imports torch and transformers; only the worker process (and benchmarks) should import this module.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from ainp2p.agents.models.embedding import EmbeddingEngine
from ainp2p.agents.models.engine import Engine, Limits
from ainp2p.agents.models.model import Kind
from ainp2p.agents.models.tokenizer import Tokenizer
from ainp2p.errors import ModelError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_DECODERS = ("ForCausalLM", "LMHeadModel")  # how transformers calls what generates text
CPU_CACHE_SIZE = 1 << 30  # bytes of key/value cache on a CPU: 16 answers of 700 ids of a small model
GPU_FREE_SHARE = 0.85  # of what is free after loading; the rest is for activations


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine, and what can be said about its model."""

    engine: Engine | EmbeddingEngine
    hash: bytes
    parameters: int
    kind: Kind
    context: int
    device: str
    dtype: str
    tokens_max: int


def load(
    directory: Path, *, device: str = "auto", dtype: str = "auto", tokens_max: int | None = None
) -> Loaded:
    """Load a transformers directory and make sure that it computes numbers.

    Raises:
        ModelError: the directory, the device or the dtype cannot be used.
    """
    # Answers are to be checked elsewhere: no reduced precision beyond what the dtype says.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.set_float32_matmul_precision("highest")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    place = torch.device(choose_device(device))
    config = _config(directory)
    tokenizer = Tokenizer(directory)
    text = any(name.endswith(_DECODERS) for name in config.architectures or ())
    kind: Kind = "text" if text else "embedding"
    if dtype == "auto" and not text:
        dtype = "fp32"  # an encoder is small, and distances suffer first
    name = choose_dtype(place.type, dtype, cpu_flags())
    model = _model(directory, kind, name, place)
    if not text:
        engine: Engine | EmbeddingEngine = EmbeddingEngine(model, tokenizer)
        budget = engine.context
    else:
        budget = tokens_max or _tokens_max(config, place, name)
        rows_max = 64 if place.type == "cuda" else 16
        chunk = 2048 if place.type == "cuda" else 256
        engine = Engine(model, tokenizer, Limits(rows_max=rows_max, tokens_max=budget, chunk=chunk))
    return Loaded(
        engine=engine,
        hash=weights_hash(directory),
        parameters=sum(p.numel() for p in model.parameters()),
        kind=kind,
        context=engine.context,
        device=f"{place} {torch.cuda.get_device_name(place)}" if place.type == "cuda" else str(place),
        dtype=name,
        tokens_max=budget,
    )


def choose_device(wanted: str) -> str:
    """A torch device; ``"auto"`` is CUDA where there is a GPU. Raises ModelError where CUDA is missing."""
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {wanted!r}: torch sees no GPU here; use 'cpu'")
    return wanted


def choose_dtype(device: str, wanted: str, flags: frozenset[str]) -> str:
    """``"auto"``: fp16 on a GPU (as fast as bf16, and honest answers differ eight times less); on a CPU
    bf16 where the processor computes in it, else fp32. ``"fp32"`` is the strict profile: an answer is
    then the same alone and in a batch.

    Raises:
        ModelError: no such dtype.
    """
    if wanted == "auto":
        if device == "cuda":
            return "fp16"
        return "bf16" if flags & {"avx512_bf16", "amx_bf16"} else "fp32"
    if wanted not in DTYPES:
        raise ModelError(f"dtype is one of auto, {', '.join(DTYPES)}; not {wanted!r}")
    return wanted


def cpu_flags() -> frozenset[str]:
    """What the processor says it can, on Linux; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(word for line in lines if line.startswith("flags") for word in line.split()[2:])


def weights_hash(directory: Path) -> bytes:
    """SHA-256 of the source's weight file: as `weights` noted it, else of the safetensors files here.

    Raises:
        ModelError: there are none.
    """
    try:
        return bytes.fromhex(json.loads((directory / "source.json").read_text())["sha256"])
    except (OSError, ValueError, KeyError):
        pass
    digests = [_file_hash(path) for path in sorted(directory.glob("*.safetensors"))]
    if not digests:
        raise ModelError(f"{directory} holds no *.safetensors")
    return digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()


def _file_hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _config(directory: Path) -> Any:
    try:
        return transformers.AutoConfig.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as exc:
        raise ModelError(f"{directory} is not a model directory of transformers: {exc}") from exc


def _model(directory: Path, kind: Kind, dtype: str, device: torch.device) -> Any:
    auto = transformers.AutoModelForCausalLM if kind == "text" else transformers.AutoModel
    try:
        model = auto.from_pretrained(
            directory, dtype=DTYPES[dtype], local_files_only=True, use_safetensors=True
        )
        model = model.to(device).eval()
    except (OSError, ValueError, RuntimeError) as exc:
        raise ModelError(f"the weights in {directory} cannot be loaded: {exc}") from exc
    with torch.inference_mode():
        first = model(input_ids=torch.tensor([[0, 1]], device=device))[0]
    if not torch.isfinite(first).all():
        raise ModelError(f"in {dtype} this model leaves the range of numbers; give another dtype")
    return model


def _tokens_max(config: Any, device: torch.device, dtype: str) -> int:
    """How many ids' keys and values fit. At least one full context, whatever memory says: the system
    may still refuse it, but a model that can never be used is no model."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    per_token: int = 2 * config.num_hidden_layers * heads * head_size * DTYPES[dtype].itemsize
    size = CPU_CACHE_SIZE
    if device.type == "cuda":
        size = int(torch.cuda.mem_get_info(device)[0] * GPU_FREE_SHARE)
    context: int = config.max_position_embeddings
    return max(size // per_token, min(context, 2048))
