"""GGUF → a transformers directory in fp32, of which every other dtype is made. A program of its own.

Reading a GGUF file takes 20 s and a gigabyte at every start; what this writes loads in under a second.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ainp2p.errors import ModelError


def convert_gguf(source: Path, to: Path) -> None:
    """Dequantise `source` into the directory `to`.

    Raises:
        ModelError: the packages for it are not installed, or the file is not understood.
    """
    try:
        import transformers
    except ImportError as exc:
        raise ModelError(f"this needs the model extra ({exc}): pip install 'ainp2p[model]'") from exc
    where: dict[str, Any] = {"gguf_file": source.name, "local_files_only": True}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, **where)
        model = transformers.AutoModelForCausalLM.from_pretrained(source.parent, dtype="float32", **where)
    except (ImportError, ValueError, RuntimeError, OSError) as exc:
        raise ModelError(f"transformers does not read it: {exc}") from exc
    # transformers refuses to save what came from GGUF, although the weights are plain numbers by now.
    model.hf_quantizer, model.is_quantized = None, False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(to)
    tokenizer.save_pretrained(to)


if __name__ == "__main__":
    try:
        convert_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
    except ModelError as exc:
        sys.exit(str(exc).replace("\n", " "))
