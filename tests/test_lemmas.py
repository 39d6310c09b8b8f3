"""The proof and the code name one another: lemmas in docstrings, functions beside lemmas."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.blocks import ROOT

PROOF = ROOT / "docs" / "ledger-proof.md"
LEDGER = ROOT / "ainp2p" / "ledger"
_LEMMA = re.compile(r"^\*\*(L\d+), ", re.MULTILINE)
_NAMED = re.compile(r"Lemma (L\d+) \(docs/ledger-proof\.md\): \S")
_CODE = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)`")


def lemmas() -> dict[str, str]:
    """Name → statement and proof."""
    parts = _LEMMA.split(PROOF.read_text("utf-8"))
    return {name: text.split("\n#")[0] for name, text in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def definitions() -> dict[str, str]:
    """`function`, `module.function`, `Class` and `Class.method` → docstring, of all modules of the ledger."""
    found: dict[str, str] = {}
    for path in sorted(LEDGER.rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            _note(found, path, node)
    return found


def _note(found: dict[str, str], path: Path, node: ast.stmt) -> None:
    if isinstance(node, ast.FunctionDef):
        text = ast.get_docstring(node) or ""
        found[node.name] = found.get(node.name, "") + text
        found[f"{path.stem}.{node.name}"] = text
    elif isinstance(node, ast.ClassDef):
        found[node.name] = found.get(node.name, "") + (ast.get_docstring(node) or "")
        for each in node.body:
            if isinstance(each, ast.FunctionDef):
                found[f"{node.name}.{each.name}"] = ast.get_docstring(each) or ""


def test_lemmas_are_numbered_without_a_gap() -> None:
    assert sorted(lemmas(), key=lambda name: int(name[1:])) == [f"L{n + 1}" for n in range(len(lemmas()))]


@pytest.mark.parametrize("name", lemmas())
def test_each_lemma_is_named_where_its_proof_looks(name: str) -> None:
    said = {code for code in _CODE.findall(lemmas()[name]) if code in definitions()}
    naming = {code for code in said if name in _NAMED.findall(definitions()[code])}
    assert naming, f"{name} names {sorted(said)}, and none of them names it"


@pytest.mark.parametrize("name", lemmas())
def test_whatever_a_lemma_names_is_there(name: str) -> None:
    dotted = {code for code in _CODE.findall(lemmas()[name]) if "." in code}
    assert sorted(dotted - definitions().keys() - {"State.agreed_parameters"}) == []


def test_each_lemma_that_the_code_names_is_proven_there_beside_it() -> None:
    missing = []
    whole = {code: text for code, text in definitions().items() if "." in code or code[0].isupper()}
    for code, text in whole.items():
        for name in _NAMED.findall(text):
            short = code.rpartition(".")[2]
            if not any(f"`{each}`" in lemmas().get(name, "") for each in (code, short)):
                missing.append(f"{code} names {name}")
    assert missing == []


def test_mutant_a_lemma_that_nobody_names_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(definitions(), "unite", "nothing")
    assert _NAMED.findall(definitions()["unite"]) == []
    assert "L6" in _NAMED.findall(definitions()["handoff.unite"])
