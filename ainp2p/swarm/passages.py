"""Cuts a document into passages and sentences that know their place: file, lines, heading. Pure.

Only prose counts: front matter, code, tables, HTML, comments and link definitions are left out of Markdown,
its inline markup is taken off. This is no CommonMark parser; in doubt it leaves something out. Time is linear
in the text, whatever it holds: documents come from anywhere.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from ainp2p.swarm.documents import Document

PASSAGE_CHARS_MAX = 900  # about 200 tokens: an embedding model reads 256
SENTENCE_CHARS_MAX = 600  # longer ones are cut, between words where there are any
HEADING_CHARS_MAX = 200
SENTENCE_WORDS_MIN = 4  # shorter ones say nothing alone

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*))?$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_RULE = re.compile(r" {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$")
_ITEM = re.compile(r"[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+")
_QUOTE = re.compile(r" {0,3}(?:>[ \t]?)+")
_LINK_DEFINITION = re.compile(r" {0,3}\[[^\]]{1,200}\]:")
_HTML = re.compile(r" {0,3}<(?:[A-Za-z/!?])")


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence of prose without markup; `first_line` and `last_line` count from 1."""

    text: str
    first_line: int
    last_line: int

    @property
    def quotable(self) -> bool:
        """Whether it can stand alone: enough words, mostly letters, and an end (list items have none)."""
        return is_quotable(self.text)


@dataclass(frozen=True, slots=True)
class Passage:
    """Neighbouring paragraphs under one heading. `heading` is the path to it: ``Paying › Locks``."""

    path: str
    heading: str
    first_line: int
    last_line: int
    sentences: tuple[Sentence, ...]

    @property
    def text(self) -> str:
        """The sentences, joined."""
        return " ".join(sentence.text for sentence in self.sentences)


@dataclass(frozen=True, slots=True)
class _Paragraph:
    """Lines that belong together: (number, text)."""

    heading: str
    lines: tuple[tuple[int, str], ...]


def split(document: Document) -> tuple[Passage, ...]:
    """The passages of a document, in order; none if it holds no prose."""
    paragraphs = _markdown(document.text) if document.markdown else _plain(document.text)
    passages: list[Passage] = []
    waiting: list[Sentence] = []
    heading = ""

    def close() -> None:
        if waiting:
            place = (waiting[0].first_line, waiting[-1].last_line)
            passages.append(Passage(document.path, heading, *place, tuple(waiting)))
            waiting.clear()

    for paragraph in paragraphs:
        if paragraph.heading != heading:
            close()
            heading = paragraph.heading
        for sentence in sentences(paragraph.lines, markdown=document.markdown):
            if sum(len(s.text) + 1 for s in waiting) + len(sentence.text) > PASSAGE_CHARS_MAX:
                close()
            waiting.append(sentence)
    close()
    return tuple(passages)


# --- paragraphs ---------------------------------------------------------------------------------------


def _plain(text: str) -> Iterator[_Paragraph]:
    """Paragraphs of plain text: what stands between empty lines."""
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            lines.append((number, line))
        elif lines:
            yield _Paragraph("", tuple(lines))
            lines = []
    if lines:
        yield _Paragraph("", tuple(lines))


def _markdown(text: str) -> Iterator[_Paragraph]:
    """Paragraphs, list items and quotations of Markdown under their headings."""
    headings: list[tuple[int, str]] = []
    lines: list[tuple[int, str]] = []

    def taken() -> Iterator[_Paragraph]:
        if lines:
            yield _Paragraph(" › ".join(title for _, title in headings), tuple(lines))
            lines.clear()

    for number, kind, content in _lines(text):
        if kind == "heading":
            yield from taken()
            _descend(headings, int(content[0]), content[1:])
        elif kind == "underline" and lines:  # a setext heading: its text was taken for a paragraph
            title = " ".join(line for _, line in lines)
            lines.clear()
            _descend(headings, 1 if content == "=" else 2, title)
        elif kind == "item":
            yield from taken()
            lines.append((number, content))
        elif kind == "prose":
            lines.append((number, content))
        else:
            yield from taken()
    yield from taken()


def _descend(headings: list[tuple[int, str]], level: int, title: str) -> None:
    """Put a heading where it belongs below those above it."""
    while headings and headings[-1][0] >= level:
        headings.pop()
    headings.append((level, _unmark(title[:HEADING_CHARS_MAX])))


def _lines(text: str) -> Iterator[tuple[int, str, str]]:
    """(number, kind, content) of each line; kinds: prose, item, heading, underline, other."""
    lines = text.split("\n")
    at = _after_front_matter(lines)
    fence = ""
    in_comment = in_table = in_html = False
    in_paragraph = in_list = False
    for index in range(at, len(lines)):
        line, number = lines[index], index + 1
        kind, content = "other", ""
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not line[mark.end() :].strip():
                fence = ""
        elif in_comment:
            in_comment = "-->" not in line
        elif mark and not ("`" in line[mark.end() :] and mark[1][0] == "`"):
            fence = mark[1]
        elif not line.strip():
            in_table = in_html = False
        elif in_table or in_html:
            pass
        elif line.lstrip().startswith("<!--"):
            in_comment = "-->" not in line
        elif _HTML.match(line) and not in_paragraph:
            in_html = True
        elif (heading := _HEADING.match(line)) is not None:
            kind, content = "heading", f"{len(heading[1])}{(heading[2] or '').rstrip('# ')}"
        elif in_paragraph and not in_list and (under := _SETEXT.match(line)) is not None:
            kind, content = "underline", under[1][0]
        elif _RULE.match(line) or _LINK_DEFINITION.match(line):
            pass
        elif "|" in line and (line.lstrip().startswith("|") or _starts_table(lines, index)):
            in_table = True
        elif (item := _ITEM.match(line)) is not None:
            kind, content, in_list = "item", line[item.end() :], True
        elif line.startswith(("    ", "\t")) and not in_paragraph and not in_list:
            pass  # indented code
        else:
            quote = _QUOTE.match(line)
            kind, content = "prose", line[quote.end() if quote else 0 :]
            if not in_paragraph and not line.startswith((" ", "\t")):
                in_list = False
        in_paragraph = kind in ("prose", "item")
        yield number, kind, content


def _starts_table(lines: list[str], index: int) -> bool:
    rule = lines[index + 1] if index + 1 < len(lines) else ""
    return "-" in rule and "|" in rule and not rule.strip("|-: \t")


def _after_front_matter(lines: list[str]) -> int:
    """The index of the first line behind a YAML (``---``) or TOML (``+++``) block at the very top."""
    if lines[0].rstrip() in ("---", "+++"):
        for index in range(1, len(lines)):
            if lines[index].rstrip() in (lines[0].rstrip(), "..."):
                return index + 1
    return 0


# --- sentences ----------------------------------------------------------------------------------------

_ENDS = ".!?…。！？"
_WIDE_ENDS = "。！？"  # no space follows these
_CLOSERS = "\"'”’»)]*_`"
_TITLES = ("mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "inc", "ltd", "co")
_REFERENCES = ("cf", "fig", "figs", "no", "nos", "vol", "sec", "ch", "p", "pp", "al")
_ABBREVIATIONS = frozenset({"e.g", "i.e", "vs", "etc", "approx", "resp", *_TITLES, *_REFERENCES})
_MARKUP = (
    (re.compile(r"!\[([^\[\]]{0,300})\]\([^()\n]{0,500}\)"), r"\1"),
    (re.compile(r"\[([^\[\]]{1,300})\]\([^()\n]{0,500}\)"), r"\1"),
    (re.compile(r"\[([^\[\]]{1,300})\]\[[^\[\]]{0,100}\]"), r"\1"),
    (re.compile(r"<((?:https?|mailto):[^>\s]{1,300})>"), r"\1"),
    (re.compile(r"</?[A-Za-z][^<>]{0,300}>"), ""),
    (re.compile(r"`+"), ""),
    (re.compile(r"(\*\*|__|~~)(?=\S)"), ""),
    (re.compile(r"(?<=\S)(\*\*|__|~~)"), ""),
    (re.compile(r"(?<![\w\\])[*_](?=\S)"), ""),
    (re.compile(r"(?<=[^\s\\])[*_](?!\w)"), ""),
    (re.compile(r"\\([!-/:-@\[-`{-~])"), r"\1"),
)


def sentences(lines: tuple[tuple[int, str], ...], *, markdown: bool = False) -> Iterator[Sentence]:
    """The sentences of one paragraph, given as (number, text) of its lines, each with the lines it is on."""
    text = "\n".join(line for _, line in lines)
    starts = [0]  # where each line begins in `text`
    for _, line in lines:
        starts.append(starts[-1] + len(line) + 1)
    starts.pop()
    for begin, end in _cut(text):
        raw = text[begin:end].strip()
        words = " ".join((_unmark(raw) if markdown else raw).split())
        if any(c.isalpha() for c in words):
            begin += len(text[begin:end]) - len(text[begin:end].lstrip())
            first, last = (bisect_right(starts, at) - 1 for at in (begin, begin + len(raw) - 1))
            yield Sentence(words, lines[first][0], lines[last][0])


def is_quotable(text: str) -> bool:
    """See `Sentence.quotable`."""
    letters = sum(c.isalpha() or c.isspace() for c in text)
    wide = sum(c > "\u2e7f" for c in text)  # CJK: hardly any spaces
    if letters * 10 < len(text) * 7 or not text.rstrip(_CLOSERS).endswith(tuple(_ENDS)):
        return False
    return len(text.split()) >= SENTENCE_WORDS_MIN or wide >= 2 * SENTENCE_WORDS_MIN


def _cut(text: str) -> Iterator[tuple[int, int]]:
    """(begin, end) of each sentence; together they cover the text."""
    begin = 0
    at = 0
    while at < len(text):
        if text[at] in _ENDS:
            end = at + 1
            while end < len(text) and text[end] in _ENDS + _CLOSERS:
                end += 1
            if _ends_here(text, begin, at, end):
                yield begin, end
                begin = end
            at = end
        elif at - begin >= SENTENCE_CHARS_MAX and (
            text[at].isspace() or at - begin >= 2 * SENTENCE_CHARS_MAX
        ):
            yield begin, at
            begin = at
            at += 1
        else:
            at += 1
    if text[begin:].strip():
        yield begin, len(text)


def _ends_here(text: str, begin: int, stop: int, end: int) -> bool:
    """Whether the full stop (or its like) at `stop`, closers up to `end`, ends the sentence from `begin`."""
    if text[stop] in _WIDE_ENDS:
        return True
    if end < len(text) and not text[end].isspace():
        return False
    after = text[end : end + 40].lstrip().lstrip("\"'“‘«([*_")
    if after and after[0].islower():
        return False
    if text[stop] != ".":
        return True
    word = text[max(begin, stop - 20) : stop].rsplit(None, 1)[-1:]
    last = word[0].lstrip("\"'“‘«([*_`") if word else ""
    single_initial = len(last) == 1 and last.isupper()
    return not single_initial and last.lower() not in _ABBREVIATIONS


def _unmark(text: str) -> str:
    """Markdown's inline markup taken off."""
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text.strip()
