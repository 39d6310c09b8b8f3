"""The section "Finding a planted bug" of docs/simulation-testing.md, step by step, as a user would do it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

from tests.blocks import ROOT

PAGE = ROOT / "docs" / "simulation-testing.md"
INSTALLED = "from importlib.metadata import entry_points as e; print(*e(group='pytest11').names)"
LIMIT_S = 100


def section() -> tuple[dict[str, str], str]:
    """The files that it shows, by name, and the command that it gives."""
    text = PAGE.read_text("utf-8").partition("\n## Finding a planted bug\n")[2].partition("\n## ")[0]
    files = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", text, re.M | re.S))
    (command,) = re.findall(r"^```sh\n(.*?)\n```$", text, re.M | re.S)
    return files, command


@cache
def plugin() -> tuple[str, ...]:
    """What loads the plugin where the library is not installed with it."""
    command = [sys.executable, "-P", "-c", INSTALLED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module = project["entry-points"]["pytest11"]["ainp2p"]
    return () if "ainp2p" in done.stdout.split() else ("-p", module)


def run(command: str, cwd: Path) -> tuple[int, str]:
    """A command as it is printed, in a process of its own: exit status and output."""
    name, *words = shlex.split(command)
    assert name == "pytest"
    options = ("-p", "no:cacheprovider", f"--rootdir={cwd}", *plugin())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout + done.stderr


def told(output: str) -> list[str]:
    """What the report says under `simulation`: from the seed to the command."""
    lines = output.splitlines()
    begin = next(i for i, line in enumerate(lines) if re.match(r"seed \d+, at ", line))
    return [line.strip() for line in lines[begin : lines.index("again:") + 2]]


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """A directory with the section's files; `conftest.py` plants the bug."""
    files, _ = section()
    assert sorted(files) == ["conftest.py", "test_budget.py"]
    for name, code in files.items():
        (tmp_path / name).write_text(code, "utf-8")
    return tmp_path


def test_a_planted_bug_is_found_shrunk_replayed_and_gone_when_it_is_mended(town: Path) -> None:
    _, command = section()
    status, output = run(command, town)
    assert status == 1, output
    found = told(output)
    assert re.fullmatch(
        r"seed \d+, at [\d.]+ s virtual: invariant 'within_budget' is violated: (\d+) uain paid of .* 12",
        found[0],
    ), found[0]
    faults = next(line for line in found if line.startswith("faults: "))
    left, before = map(int, re.findall(r"(\d+) of (\d+) faults", faults)[0])
    assert 1 <= left < before, faults
    schedule = found[found.index(faults) + 1 : found.index("last events:")]
    assert len(schedule) == left
    again = found[-1]
    assert f"--sim-faults={'; '.join(schedule)}" in shlex.split(again)

    status, replayed = run(again, town)
    assert status == 1, replayed
    same = told(replayed)
    events = slice(found.index("last events:"), None)
    assert same[0] == found[0]
    assert same[same.index("last events:") :] == found[events]  # event by event, and the same command

    (town / "conftest.py").unlink()
    status, mended = run(again, town)
    assert status == 0, mended
    assert "1 passed" in mended


def test_without_the_bug_the_same_test_passes_with_all_its_seeds_and_marks(town: Path) -> None:
    (town / "conftest.py").unlink()
    status, output = run("pytest test_budget.py", town)
    assert status == 0, output
    assert "10 passed" in output


def test_mutant_without_faults_the_bug_is_not_seen(town: Path) -> None:
    status, output = run("pytest test_budget.py '--sim-faults=' --sim-seeds=2", town)
    assert status == 0, output


def test_the_page_shows_what_a_report_looks_like() -> None:
    text = PAGE.read_text("utf-8")
    shown = re.findall(r"^```text\n(seed \d+, .*?)^```$", text, re.M | re.S)
    assert len(shown) == 1
    lines = told(shown[0])
    seed, fault = lines[0].split()[1].rstrip(","), lines[lines.index("last events:") - 1]
    words = shlex.split(lines[-1])
    assert words[:1] + words[2:] == ["pytest", f"--sim-seed={seed}", f"--sim-faults={fault}"]
    assert f'@sim.test(seeds=[{seed}], faults="{fault}")' in text
