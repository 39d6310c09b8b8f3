"""Passages and sentences: the words without markup, at the right place, and prose only."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.swarm.documents import Document
from ainp2p.swarm.passages import (
    PASSAGE_CHARS_MAX,
    SENTENCE_CHARS_MAX,
    Passage,
    is_quotable,
    sentences,
    split,
)


def markdown(text: str) -> tuple[Passage, ...]:
    return split(Document("a.md", text, len(text), markdown=True))


def plain(text: str) -> tuple[Passage, ...]:
    return split(Document("a.txt", text, len(text), markdown=False))


def words(passages: tuple[Passage, ...]) -> list[str]:
    return [sentence.text for passage in passages for sentence in passage.sentences]


def cut(text: str) -> list[str]:
    return [sentence.text for sentence in sentences(((1, text),))]


# --- sentences ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("One is here. Two is there.", ["One is here.", "Two is there."], id="two"),
        pytest.param("Is it? Yes! Good.", ["Is it?", "Yes!", "Good."], id="marks"),
        pytest.param("He said “stop.” Then he left.", ["He said “stop.”", "Then he left."], id="quotes"),
        pytest.param("Use e.g. Ed25519 here.", ["Use e.g. Ed25519 here."], id="abbreviation"),
        pytest.param("By J. R. Tolkien himself.", ["By J. R. Tolkien himself."], id="initials"),
        pytest.param("It costs 3.5 units. Cheap.", ["It costs 3.5 units.", "Cheap."], id="decimal"),
        pytest.param("Wait... and see. Go.", ["Wait... and see.", "Go."], id="ellipsis before lower case"),
        pytest.param("See a.py, b.py. Then c.", ["See a.py, b.py.", "Then c."], id="file names"),
        pytest.param("一つ目です。二つ目です。", ["一つ目です。", "二つ目です。"], id="Japanese"),
        pytest.param("no full stop", ["no full stop"], id="no end"),
        pytest.param("…", [], id="no letters"),
    ],
)
def test_text_is_cut_into_sentences(text: str, expected: list[str]) -> None:
    assert cut(text) == expected


def test_a_sentence_knows_the_lines_it_is_on() -> None:
    lines = ((7, "One is here. Two goes"), (8, "over two lines"), (9, "or three. Last one."))
    assert [(s.first_line, s.last_line) for s in sentences(lines)] == [(7, 7), (7, 9), (9, 9)]


def test_a_sentence_without_end_is_cut_between_words() -> None:
    pieces = cut("word " * 1000)
    assert len(pieces) > 5
    assert all(len(piece) <= SENTENCE_CHARS_MAX + 5 for piece in pieces)


@given(st.text(alphabet=st.sampled_from("ab.!? \n。*[]()`\"'"), max_size=200))
def test_no_sentence_says_what_is_not_in_the_text(text: str) -> None:
    flat = "".join(text.split())
    for sentence in sentences(tuple(enumerate(text.split("\n"), 1))):
        assert "".join(sentence.text.split()) in flat
        assert 1 <= sentence.first_line <= sentence.last_line <= text.count("\n") + 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("The ledger has no blocks.", True, id="a sentence"),
        pytest.param("Too short.", False, id="short"),
        pytest.param("a list item without an end", False, id="no end"),
        pytest.param("12 + 30 = 42, 17 * 3 = 51 / 9.", False, id="numbers"),
        pytest.param("台帳にはブロックがありません。", True, id="Japanese"),
    ],
)
def test_only_what_stands_alone_is_quotable(text: str, expected: bool) -> None:
    assert is_quotable(text) is expected


# --- Markdown -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("A [link](https://x.example/a.b) here.", "A link here."),
        ("A [link][1] here.", "A link here."),
        ("An ![image of it](a.png) here.", "An image of it here."),
        ("Some **bold** and *thin* and `code` words.", "Some bold and thin and code words."),
        ("A snake_case_name stays.", "A snake_case_name stays."),
        ("Two \\* three <b>bold</b>.", "Two * three bold."),
        ("> Quoted by somebody.", "Quoted by somebody."),
        ("- An item here.", "An item here."),
        ("3. A third item.", "A third item."),
    ],
)
def test_inline_markup_is_taken_off(source: str, shown: str) -> None:
    assert words(markdown(source)) == [shown]


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("```python\nThis is code.\n```", id="fenced code"),
        pytest.param("~~~~\nThis is code.\n~~~\nStill code.\n~~~~", id="a shorter fence does not close"),
        pytest.param("```\nNever closed. All code.", id="a fence that is never closed"),
        pytest.param("    This is indented code.", id="indented code"),
        pytest.param("| Name | Meaning |\n|---|---|\n| One. | Two. |", id="table"),
        pytest.param("Name | Meaning\n--- | ---\nOne is. | Two is.", id="table without outer bars"),
        pytest.param("---\ntitle: Not prose at all.\n---\n", id="front matter"),
        pytest.param("+++\ntitle = 'Not prose.'\n+++\n", id="TOML front matter"),
        pytest.param("<!-- A comment.\nTwo lines of it. -->", id="comment"),
        pytest.param("<div>\nSome HTML here.\n</div>", id="HTML"),
        pytest.param("[1]: https://x.example 'A title.'", id="link definition"),
        pytest.param("* * *", id="rule"),
    ],
)
def test_what_is_no_prose_is_left_out_and_what_follows_is_not(source: str) -> None:
    closed = "never closed" not in source.lower()
    text = f"{source}\n\nBut this is prose.\n" if closed else source
    assert words(markdown(text)) == (["But this is prose."] if closed else [])


def test_headings_make_a_path_and_end_a_passage() -> None:
    text = "Before all.\n# One\nIn one.\n## Deep `code` #\nIn deep.\n# Two\nIn two."
    assert [(p.heading, p.text, p.first_line) for p in markdown(text)] == [
        ("", "Before all.", 1),
        ("One", "In one.", 3),
        ("One › Deep code", "In deep.", 5),
        ("Two", "In two.", 7),
    ]


def test_a_setext_heading_is_a_heading() -> None:
    assert [
        (p.heading, p.text) for p in markdown("Title\n=====\n\nWords here.\n\nSub\n---\n\nMore words.")
    ] == [
        ("Title", "Words here."),
        ("Title › Sub", "More words."),
    ]


def test_a_paragraph_is_not_joined_with_a_list() -> None:
    assert words(markdown("It has these parts\n- one part\n- another\n\nAnd an end.")) == [
        "It has these parts",
        "one part",
        "another",
        "And an end.",
    ]


def test_plain_text_is_taken_as_it_is() -> None:
    [passage] = plain("# Not a heading.\n\n*Stars* stay.")
    assert passage.heading == ""
    assert passage.text == "# Not a heading. *Stars* stay."


def test_long_text_makes_several_passages() -> None:
    passages = plain("\n\n".join(f"This is sentence number {i} of the text." for i in range(100)))
    assert len(passages) > 3
    assert all(len(passage.text) <= PASSAGE_CHARS_MAX for passage in passages)
    assert [s.first_line for p in passages for s in p.sentences] == list(range(1, 200, 2))
    assert (passages[0].first_line, passages[0].last_line) == (1, passages[0].sentences[-1].last_line)


def test_nothing_but_code_makes_no_passage() -> None:
    assert markdown("```\nx = 1\n```\n") == ()


@pytest.mark.parametrize(
    "unit", ["[", "![", "[a](", "<a ", "**", "`", " ", "|", "- ", "> ", "# ", "a", "*a", "\\", "---\n", "-->"]
)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    """Twenty times the text may take some twenty times as long, not four hundred; CPU time, with room."""

    def cost(size: int) -> float:
        text = unit * (size // len(unit))
        start = time.process_time()
        markdown(text)
        return time.process_time() - start

    cost(2_000)
    small = max(cost(10_000), 0.002)
    assert cost(200_000) < 100 * small


@given(st.text(alphabet=st.sampled_from("ab. \n#-=*`~|<>![](){}_0"), max_size=300))
def test_any_markdown_is_split_with_places_in_order(text: str) -> None:
    lines = text.count("\n") + 1
    last = 0
    for passage in markdown(text):
        for sentence in passage.sentences:
            assert last <= sentence.first_line <= sentence.last_line <= lines
            last = sentence.first_line
