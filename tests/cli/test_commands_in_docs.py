"""Every command that a document shows is one: its words name a parser, its options are known there."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex

import pytest

from ainp2p import cli
from ainp2p.simulation.results.model_files import ModelFile
from tests.blocks import ROOT, blocks, documents


def shown() -> list[tuple[str, str]]:
    """(where, command) of each `ainp2p …` in the shell blocks of README and docs."""
    found = []
    for path in documents():
        for block in blocks(path):
            if block.language == "sh":
                joined = re.sub(r"\\\n\s*", " ", block.code)
                lines = [line.strip() for line in joined.splitlines()]
                found += [(block.name, line) for line in lines if re.match(r"(\S*/)?ainp2p ", line)]
    return found


def whole_parser() -> argparse.ArgumentParser:
    """All commands at once."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for module in dict.fromkeys(cli._MODULES.values()):
        importlib.import_module(f"ainp2p.cli.{module}").register(subparsers)
    return parser


def parser_of(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """The parser that the first words choose, and the words that are left for it."""
    parser = whole_parser()
    while True:
        groups = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not groups:
            return parser, words
        assert words, "a command is missing"
        assert words[0] in groups[0].choices, f"no command {words[0]!r}"
        parser, words = groups[0].choices[words[0]], words[1:]


def options_of(parser: argparse.ArgumentParser, rest: list[str]) -> set[str]:
    """What a command knows; a model's parameters are options as well, where its file is one of ours."""
    known = set(parser._option_string_actions)
    make = parser.get_default("parser_of")
    if make is None:
        return known
    file = next(word for word in rest if not word.startswith("-"))
    if not (ROOT / file).exists():  # the reader's own
        return known | {word for word in rest[rest.index(file) :] if word.startswith("--")}
    inner, parameters = make(ModelFile.read(ROOT / file))
    return known | set(inner._option_string_actions) | {f"--{name.replace('_', '-')}" for name in parameters}


@pytest.mark.parametrize(("where", "command"), shown())
def test_a_command_of_the_docs_exists_with_its_options(where: str, command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    parser, rest = parser_of(words)
    options = [word.partition("=")[0] for word in rest if re.match(r"--\w", word)]
    assert [option for option in options if option not in options_of(parser, rest)] == []


def test_there_are_commands() -> None:
    assert len(shown()) > 30


def test_mutant_a_command_that_is_none_is_found() -> None:
    with pytest.raises(AssertionError, match="no command"):
        parser_of(["wallet", "steal", "alice"])
