"""Every file of examples/ runs alone, without input or network, and ends by itself."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.blocks import ROOT, run

LIMIT_S = 90
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def marks(path: Path) -> list[pytest.MarkDecorator]:
    """An example that needs a real model says so in its docstring: ``Needs the weights of …``."""
    needs_weights = "Needs the weights" in (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "")
    return [pytest.mark.model] if needs_weights else []


@pytest.mark.process
@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem, marks=marks(path)) for path in EXAMPLES])
def test_an_example_runs_alone_and_says_something(path: Path, tmp_path: Path) -> None:
    output = run([sys.executable, str(path)], tmp_path / "home", tmp_path, LIMIT_S)
    assert output.strip(), "an example shows something"
    assert "Traceback" not in output


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_starts_with_what_it_shows(path: Path) -> None:
    text = path.read_text("utf-8")
    assert ast.get_docstring(ast.parse(text)), "a docstring says what the example shows"
    assert len(text.splitlines()) <= 120, "an example is short"
    outside = re.findall(r"https?://(?!127\.0\.0\.1|localhost|\[::1\])\S+", text)
    assert outside == [], "an example needs nobody else's server"
