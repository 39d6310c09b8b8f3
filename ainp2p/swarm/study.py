"""What a buyer makes of documents: parts to work on, their central sentences, an answer. Pure.

The model is small, so nothing here asks it for more than it does well: sentences are quoted, not
retold; labels are chosen from a list; only a short title is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ainp2p.swarm import vectors
from ainp2p.swarm.events import Source
from ainp2p.swarm.passages import Passage, Sentence
from ainp2p.swarm.vectors import Vector

SENTENCES_MAX = 24  # of one part: one purchase of embeddings
SENTENCES_MIN = 2  # with fewer there is nothing central
QUOTES = 3
SUBJECT_CHARS_MAX = 80
EXCERPT_CHARS_MAX = 600  # given to the model: about 130 tokens
PARTS_MAX = 24
REST_MAX = 400  # parts that are only indexed
TITLE_WORDS_MIN = 2


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of one document under one heading, small enough for one task."""

    number: int  # 1-based, over all documents
    path: str
    heading: str
    sentences: tuple[Sentence, ...]

    @property
    def subject(self) -> str:
        """What it is about, for people: ``docs/faq.md: Money``."""
        heading = self.heading.rpartition(" › ")[2]
        return (f"{self.path}: {heading}" if heading else self.path)[:SUBJECT_CHARS_MAX]

    @property
    def texts(self) -> list[str]:
        """Its sentences, in order."""
        return [sentence.text for sentence in self.sentences]


@dataclass(frozen=True, slots=True)
class Summary:
    """What was bought for one part."""

    part: Part
    quotes: tuple[Source, ...]
    title: str = ""
    topic: str = ""
    tone: str = ""

    @property
    def text(self) -> str:
        """One line: title and labels."""
        labels = ", ".join(label for label in (self.topic, self.tone) if label)
        return self.title + (f" ({labels})" if labels else "")


def parts_of(passages: Iterable[Passage]) -> list[Part]:
    """All parts of all documents, in order; neighbouring passages under one heading go together."""
    parts: list[Part] = []
    place: tuple[str, str] | None = None
    waiting: list[Sentence] = []

    def close() -> None:
        if place is not None and len(waiting) >= SENTENCES_MIN:
            parts.append(Part(len(parts) + 1, *place, tuple(waiting)))
        waiting.clear()

    for passage in passages:
        if (passage.path, passage.heading) != place:
            close()
            place = (passage.path, passage.heading)
        for sentence in passage.sentences:
            if sentence.quotable:
                if len(waiting) == SENTENCES_MAX:
                    close()
                waiting.append(sentence)
    close()
    return parts


def select(parts: Sequence[Part], limit: int) -> list[Part]:
    """At most `limit` parts, spread evenly over all of them."""
    if len(parts) <= limit:
        return list(parts)
    return [parts[i * len(parts) // limit] for i in range(limit)]


def rest(parts: Sequence[Part], selected: Sequence[Part]) -> list[Part]:
    """Those that were not selected, so many as are still indexed: the first ones."""
    chosen = {part.number for part in selected}
    return [part for part in parts if part.number not in chosen][:REST_MAX]


def share(parts: Sequence[Part], buyer: int, buyers: int) -> list[Part]:
    """What one of `buyers` works on (`buyer` counts from 0): every one of them gets some of each document."""
    return list(parts[buyer::buyers])


def quotes(part: Part, embedded: Sequence[Vector]) -> tuple[Source, ...]:
    """The most central sentences of a part with their places, in the order of the text."""
    return tuple(source(part, part.sentences[i]) for i in vectors.central(embedded, QUOTES))


def source(part: Part, sentence: Sentence) -> Source:
    """A sentence with its place."""
    return Source(part.path, sentence.first_line, sentence.last_line, part.heading, sentence.text)


def excerpt(quoted: Sequence[Source]) -> str:
    """What the model is shown of a part: its central sentences, whole ones only."""
    text = ""
    for quote in quoted:
        if text and len(text) + 1 + len(quote.quote) > EXCERPT_CHARS_MAX:
            break
        text = f"{text} {quote.quote}".strip()
    return text[:EXCERPT_CHARS_MAX]


def clean_title(text: str) -> str:
    """A generated title without quotation marks, line breaks and the end of a second sentence."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = line.strip("\"'“”*# ").removeprefix("Title:").removeprefix("Headline:").strip("\"'“”*# ")
    first, stop, _ = line.partition(". ")
    if stop and len(first.split()) >= TITLE_WORDS_MIN:
        line = first
    return line.rstrip(".,;: ")


def default_question(parts: Sequence[Part]) -> str:
    """What is asked when the user asks nothing: about the first heading that says something."""
    for part in parts:
        heading = part.heading.rpartition(" › ")[2]
        if len(heading.split()) >= 2:
            return f"What is said about {heading!r}?"
    return "What is this about?"


def answer_from(hits: Sequence[Source]) -> str:
    """The answer to a question: what the best source says, in its own words."""
    return hits[0].quote if hits else ""
