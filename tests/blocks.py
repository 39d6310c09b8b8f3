"""Blocks of Markdown files that say they can be run: ``<!-- run -->`` on the line above the fence.

Words after ``run`` say more: ``model`` (needs weights), ``process`` (starts processes that trade), a number
(the limit in seconds). For the tests of README and docs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIMIT_S = 60
_BLOCK = re.compile(r"(?:^<!-- run([^\n>]*)-->\n)?^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `words` is None if it does not say that it can be run."""

    path: Path
    line: int
    language: str
    code: str
    words: tuple[str, ...] | None

    @property
    def name(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path) -> list[Block]:
    """All fenced blocks of a file."""
    text = path.read_text("utf-8")
    return [
        Block(
            path=path,
            line=text.count("\n", 0, match.start(2)) + 1,
            language=match[2],
            code=match[3],
            words=None if match[1] is None else tuple(match[1].split()),
        )
        for match in _BLOCK.finditer(text)
    ]


def documents() -> list[Path]:
    """The files for people that this repository holds."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]


def parameters(all_blocks: list[Block]) -> list[object]:
    """Those that can be run, as pytest parameters with their marks."""
    return [
        pytest.param(
            block, id=block.name, marks=[getattr(pytest.mark, w) for w in block.words if w.isalpha()]
        )
        for block in all_blocks
        if block.words is not None
    ]


def run(command: list[str], home: Path, cwd: Path, limit_s: float) -> str:
    """Run a command with a home of its own, without input or network settings; its output, or AssertionError.

    Fetched models are shared with the person who runs the tests: nothing is downloaded twice.
    """
    models = Path(os.environ.get("AINP2P_HOME", Path.home() / ".ainp2p")) / "models"
    home.mkdir(mode=0o700, exist_ok=True)
    if models.is_dir() and not (home / "models").exists():
        (home / "models").symlink_to(models)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("AINP2P_", "PYTEST_"))}
    environ["AINP2P_HOME"] = str(home)
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ.get('PATH', '')}"
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        output, _ = process.communicate()
        raise AssertionError(f"still running after {limit_s} s:\n{output[-4000:]}") from None
    assert process.returncode == 0, f"exit status {process.returncode}:\n{output[-4000:]}"
    return output
