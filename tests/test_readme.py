"""The blocks of README and docs do what they say: they are run, each in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.blocks import LIMIT_S, ROOT, Block, blocks, documents, parameters, run

ALL = [block for path in documents() for block in blocks(path)]


@pytest.mark.parametrize("block", parameters(ALL))
def test_a_block_runs(block: Block, tmp_path: Path) -> None:
    assert block.words is not None
    limit_s = next((int(word) for word in block.words if word.isdigit()), LIMIT_S)
    if block.language == "python":
        command = [sys.executable, "-W", "error::RuntimeWarning", "-c", block.code]
        run(command, tmp_path / "home", tmp_path, limit_s)
    else:
        assert block.language == "sh", f"{block.name}: only python and sh blocks can be run"
        run(["bash", "-euo", "pipefail", "-c", block.code], tmp_path / "home", ROOT, limit_s)


def test_every_python_block_of_the_readme_is_run() -> None:
    python = [block for block in blocks(ROOT / "README.md") if block.language == "python"]
    assert python
    assert [block.name for block in python if block.words is None] == []


def test_every_python_block_of_the_docs_can_at_least_be_read() -> None:
    for block in ALL:
        if block.language == "python":
            compile(block.code, block.name, "exec", flags=0x2000)  # PyCF_ALLOW_TOP_LEVEL_AWAIT


def test_a_block_is_found_with_its_words(tmp_path: Path) -> None:
    file = ROOT / "README.md"
    assert all(block.line > 0 and block.path == file for block in blocks(file))
    sample = tmp_path / "a.md"
    sample.write_text("text\n\n<!-- run model 90 -->\n```python\nx = 1\n```\n\n```sh\nls\n```\n")
    assert [(b.line, b.language, b.code, b.words) for b in blocks(sample)] == [
        (4, "python", "x = 1\n", ("model", "90")),
        (8, "sh", "ls\n", None),
    ]


def test_mutant_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exit status 3"):
        run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "home", tmp_path, LIMIT_S)


def test_mutant_a_block_that_does_not_end_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"still running after 0\.2 s"):
        run([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "home", tmp_path, 0.2)
