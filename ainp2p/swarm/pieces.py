"""Pieces of the pages for people: sections, tables, facts, badges, and the document around them.

No scripts and no outside assets; a Content-Security-Policy forbids both, so that a hostile title that got
past the escaping could still run nothing. Light or dark as the reader's system is; one column on a phone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources

from ainp2p.swarm.charts import esc
from ainp2p.swarm.events import printable

_CSP = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, parts: Iterable[str]) -> str:
    """The whole page in one file that needs nothing else."""
    style = resources.files("ainp2p.swarm").joinpath("page.css").read_text("utf-8")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_CSP}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{shown(title)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def fact_list(facts: Iterable[tuple[str, str]]) -> str:
    """Names and values, side by side."""
    return (
        '<dl class="facts">'
        + "".join(f"<div><dt>{esc(k)}</dt><dd>{shown(v)}</dd></div>" for k, v in facts)
        + "</dl>"
    )


def section(title: str, caption: str, body: str) -> str:
    """A part of the page under its own heading."""
    return f'<section><h2>{esc(title)}</h2><p class="caption">{esc(caption)}</p>{body}</section>'


def badge(good: bool, word: str) -> str:
    """One word, green or red."""
    return f'<span class="badge {"ok" if good else "bad"}">{shown(word)}</span>'


def dim(text: str) -> str:
    """Words of less weight."""
    return f'<span class="dim">{shown(text)}</span>' if text else ""


def more(table: str) -> str:
    """A table that opens on demand, under the picture of it."""
    return f"<details><summary>as a table</summary>{table}</details>"


def data_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; a heading that starts with ``#`` makes its column one of numbers."""
    kinds = [' class="num"' if name.startswith("#") else "" for name in head]
    ths = "".join(
        f"<th scope='col'{k}>{esc(n.removeprefix('#'))}</th>" for n, k in zip(head, kinds, strict=True)
    )
    trs = "".join(
        "<tr>" + "".join(f"<td{k}>{shown(v)}</td>" for v, k in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{ths}</tr></thead><tbody>{trs}</tbody></table></div>'


def clean(text: str) -> str:
    """Foreign text without control characters and direction overrides, its line breaks kept."""
    return "\n".join(printable(line) for line in text.split("\n"))


def shown(text: str) -> str:
    """Foreign text on one line, harmless in HTML and on paper."""
    return esc(printable(text))
