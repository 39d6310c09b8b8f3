"""Parts of documents, their shares, titles, quotes and answers."""

from __future__ import annotations

import pytest

from ainp2p.swarm import study
from ainp2p.swarm.documents import Document
from ainp2p.swarm.events import Source
from ainp2p.swarm.passages import split
from ainp2p.swarm.study import Part, clean_title, parts_of, select, share
from ainp2p.swarm.vectors import unit

TEXT = """# Ships

The ship left the harbour at dawn. Nobody waved from the pier.

## Prices of salt

Salt was dear in the north. It was cheap in the south. Too short.
"""


def parts(text: str = TEXT) -> list[Part]:
    return parts_of(split(Document("a.md", text, len(text), True)))


def test_a_part_is_what_stands_under_one_heading_and_can_be_quoted() -> None:
    first, second = parts()
    assert (first.number, first.path, first.heading) == (1, "a.md", "Ships")
    assert first.texts == ["The ship left the harbour at dawn.", "Nobody waved from the pier."]
    assert second.subject == "a.md: Prices of salt"
    assert second.texts == ["Salt was dear in the north.", "It was cheap in the south."]


def test_a_part_with_one_sentence_is_left_out() -> None:
    assert parts("# One\n\nThis is the only sentence here.\n") == []


def test_a_long_stretch_is_cut_into_parts_that_one_purchase_can_embed() -> None:
    text = "# Long\n\n" + " ".join(f"This is sentence number {i} of many." for i in range(100))
    found = parts(text)
    assert [len(part.sentences) for part in found] == [24, 24, 24, 24, 4]
    assert [part.number for part in found] == [1, 2, 3, 4, 5]


def test_selected_parts_are_spread_evenly_and_shared_without_rest() -> None:
    text = "# Long\n\n" + " ".join(f"This is sentence number {i} of many." for i in range(24 * 10))
    found = parts(text)
    chosen = select(found, 4)
    assert [part.number for part in chosen] == [1, 3, 6, 8]
    assert select(found, 99) == found
    assert study.rest(found, chosen) == [part for part in found if part.number not in (1, 3, 6, 8)]
    assert study.rest(found, found) == []
    first, second = (share(found, buyer, 2) for buyer in range(2))
    assert sorted([*first, *second], key=lambda part: part.number) == found


def test_quotes_are_the_central_sentences_with_their_places() -> None:
    part = parts()[1]
    quoted = study.quotes(part, [unit([1.0, 0.0]), unit([0.0, 1.0])])
    assert quoted == (
        Source("a.md", 7, 7, "Ships › Prices of salt", "Salt was dear in the north."),
        Source("a.md", 7, 7, "Ships › Prices of salt", "It was cheap in the south."),
    )


def test_an_excerpt_holds_whole_sentences_within_its_bound() -> None:
    long = [Source("a.md", 1, 1, "", word * 250) for word in ("a", "b", "c")]
    assert study.excerpt(long) == "a" * 250 + " " + "b" * 250
    assert len(study.excerpt([Source("a.md", 1, 1, "", "x" * 5000)])) == study.EXCERPT_CHARS_MAX


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        pytest.param(' "Salt and Silver"\n\nMore', "Salt and Silver", id="quotation marks and a second line"),
        pytest.param("Headline: Salt is dear.", "Salt is dear", id="a label before it"),
        pytest.param("Salt is dear. It was always so. And", "Salt is dear", id="more than one sentence"),
        pytest.param("Mr. Smith goes to town", "Mr. Smith goes to town", id="an abbreviation at the start"),
        pytest.param("**Salt**", "Salt", id="markup"),
        pytest.param("\n\n", "", id="nothing"),
    ],
)
def test_a_title_is_one_clean_line(raw: str, cleaned: str) -> None:
    assert clean_title(raw) == cleaned


def test_a_summary_is_said_in_a_line() -> None:
    summary = study.Summary(parts()[0], (), "Salt", "money", "fact")
    assert summary.text == "Salt (money, fact)"
    assert study.Summary(parts()[0], (), "Salt").text == "Salt"


def test_a_question_is_made_from_the_documents_when_none_is_asked() -> None:
    assert study.default_question(parts()) == "What is said about 'Prices of salt'?"
    assert study.default_question([]) == "What is this about?"


def test_the_answer_is_the_best_source_in_its_own_words() -> None:
    assert study.answer_from([Source("a.md", 1, 1, "", "Salt was dear.")]) == "Salt was dear."
    assert study.answer_from([]) == ""
