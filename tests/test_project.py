"""The project around the code: its licence, its links, its targets, and nothing of anybody's own machine."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ainp2p
from tests.blocks import ROOT, documents

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")
# A path below somebody's own directories or this very checkout, or a note to oneself.
_OWN_MACHINE = re.compile(
    rf"(?<!\w)/(?:root|Users)/\w|/home/(?!user\b)\w|{re.escape(str(ROOT))}/|\b(?:TO" + r"DO|FIX" + r"ME)\b"
)


def tracked_files() -> list[Path]:
    """What git knows; all files where there is no git (a source archive)."""
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False, timeout=30
    )
    names = [name for name in listing.stdout.decode().split("\0") if name]
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def headings(path: Path) -> set[str]:
    """The anchors that a renderer makes of a file's headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", t).lower()).strip().replace(" ", "-") for t in titles}


def test_the_licence_is_apache_2() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text("utf-8")


def test_the_package_is_typed_and_says_its_version() -> None:
    assert (ROOT / "ainp2p" / "py.typed").is_file()
    assert ainp2p.__version__ == PROJECT["version"]
    assert f"## {ainp2p.__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_every_public_name_can_be_had() -> None:
    for name in ainp2p.__all__:
        assert getattr(ainp2p, name) is not None


def test_import_loads_nothing_heavy() -> None:
    code = "import sys, ainp2p; print(*{'torch', 'libp2p', 'trio', 'nacl', 'rich'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_leads_somewhere(path: Path) -> None:
    broken = []
    for target in _LINK.findall(re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S)):
        if re.match(r"[a-z]+:", target):
            continue  # elsewhere: not looked at, the tests need no network
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in headings(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_that_a_document_names_exists(path: Path) -> None:
    missing = []
    for code in _CODE.findall(path.read_text("utf-8")):
        if re.fullmatch(r"(ainp2p|tests|tools|docs|examples|benchmarks)/[\w./-]*(?<!/\d)", code):
            found = (ROOT / code).exists()
        elif re.fullmatch(r"ainp2p(\.\w+)+", code):
            found = _is_importable(code)
        else:
            continue
        if not found:
            missing.append(code)
    assert missing == []


def _is_importable(dotted: str) -> bool:
    """A module, or a name in one."""
    try:
        if importlib.util.find_spec(dotted) is not None:
            return True
    except ModuleNotFoundError:
        pass
    module, _, name = dotted.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return False


def test_nothing_names_anybodys_own_machine_or_plans() -> None:
    found = []
    for path in tracked_files():
        if path.suffix in (".hex", ".png", ".bin"):
            continue
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            if _OWN_MACHINE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert found == []


def test_mutant_a_path_of_ones_own_is_found() -> None:
    assert _OWN_MACHINE.search("see /ro" + "ot/secret") is not None
    assert _OWN_MACHINE.search("see /home/user/notes.md") is None


def test_make_names_its_targets() -> None:
    listed = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    targets = {line.split()[0] for line in listed.stdout.splitlines() if line.strip()}
    assert {"install", "models", "swarm", "test", "bench", "chaos"} <= targets


@pytest.mark.parametrize("script", [".ci/run", "tools/check_machine.sh", "tools/install_torch.sh"])
def test_scripts_can_be_run_and_are_strict(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in path.read_text("utf-8")
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=30)


def test_a_machine_that_lacks_gmp_is_told_its_packages(tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    told = subprocess.run(
        ["bash", str(ROOT / "tools/check_machine.sh"), sys.executable],
        env={"PATH": "/usr/bin:/bin", "CC": str(compiler)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 1
    for package in ("libgmp-dev", "gmp-devel", "brew install"):
        assert package in told.stderr


def test_a_python_that_is_too_old_is_refused(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit 0\nexit 1\n')
    old.chmod(0o755)
    told = subprocess.run(
        ["bash", str(ROOT / "tools/check_machine.sh"), str(old)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode == 1
    assert "Python 3.11 or newer is needed" in told.stderr
    assert "Python 3.9.2" in told.stderr
