"""The buyer's handle: pieces, results, bills, restarts, failures; nobody works on it here."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ainp2p.agents.job import Job, Leg, Piece, failure_words, value_of
from ainp2p.errors import Malformed, NoOffers
from ainp2p.protocol.identity import id_text
from ainp2p.protocol.messages import BYTES, JSON, TEXT, TOKENS, Chunk, pack_tokens

SELLER, LOCK = b"S" * 32, b"L" * 32


def chunk(kind: int, data: bytes, *ids: int) -> Chunk:
    return Chunk(bytes(32), 1, 0, len(ids) or 1, kind, data, pack_tokens(list(ids)), b"")


def leg(units: int, amount: int, *, continued: bool = False, failure: str = "") -> Leg:
    return Leg(SELLER, "alice", units, amount, "2/token", LOCK, failure, None, (), continued)


def test_a_piece_is_text_with_the_ids_that_it_was_counted_by() -> None:
    piece = value_of(chunk(TOKENS, "añb".encode(), 5, 6))
    assert piece == "añb"
    assert isinstance(piece, Piece)
    assert piece.tokens == (5, 6)
    assert value_of(chunk(TEXT, b"plain")) == Piece("plain")


def test_bytes_and_json_are_what_they_were() -> None:
    assert value_of(chunk(BYTES, b"\xff")) == b"\xff"
    assert value_of(chunk(JSON, b'{"a":[1]}')) == {"a": [1]}
    with pytest.raises(Malformed):
        value_of(chunk(JSON, b"{"))


async def test_pieces_come_in_order_and_then_the_end() -> None:
    job = Job("write", 10)
    job.put(chunk(TEXT, b"one "))
    job.put(chunk(TEXT, b"two"))
    job.end("done")
    assert [piece async for piece in job] == ["one ", "two"]
    assert (job.text, job.finish, job.unread) == ("one two", "done", 0)
    with pytest.raises(StopAsyncIteration):
        await anext(job)


async def test_what_came_before_a_failure_is_read_first() -> None:
    job = Job("write", 10)
    job.put(chunk(TEXT, b"half"))
    job.end(None, NoOffers("nobody is left"))
    assert await anext(job) == "half"
    for _ in range(2):
        with pytest.raises(NoOffers, match="nobody is left"):
            await anext(job)


async def test_only_the_first_end_counts() -> None:
    job = Job("write", 10)
    job.end("done")
    job.end(None, NoOffers("too late"))
    assert (job.finish, job.failure) == ("done", None)


@pytest.mark.parametrize(
    ("chunks", "result"),
    [
        ([], ""),
        ([chunk(TEXT, b"a"), chunk(TEXT, b"b")], "ab"),
        ([chunk(JSON, b"[1,2]")], [1, 2]),
        ([chunk(JSON, b"1"), chunk(JSON, b"2")], [1, 2]),
        ([chunk(BYTES, b"\0")], b"\0"),
    ],
    ids=["nothing", "text", "one value", "values", "bytes"],
)
async def test_the_result_is_text_or_the_value_or_all_values(chunks: list[Chunk], result: object) -> None:
    job = Job("write", 10)
    for each in chunks:
        job.put(each)
    job.end("done")
    assert await job.result() == result


async def test_a_result_that_began_anew_counts_from_its_last_beginning() -> None:
    job = Job("write", 10)
    job.put(chunk(TEXT, b"half an ans"))
    job.begin_anew()
    job.put(chunk(TEXT, b"a whole "))
    job.put(chunk(TEXT, b"answer"))
    job.end("done")
    assert (job.restarts, job.text) == (1, "a whole answer")
    assert await job.result() == "a whole answer"


def test_the_bill_adds_up_over_legs_and_the_one_under_way() -> None:
    class UnderWay:
        seller, opened_at, units, amount = "carol", 1.0, 3, 6

    job = Job("write", 100)
    job.legs += [leg(10, 20, failure="gone")]
    job.under_way = UnderWay()
    assert (job.units, job.paid) == (13, 26)
    assert repr(job) == "Job(write: working, 13 units, 26 of 100 uain)"


@pytest.mark.parametrize(
    ("legs", "wasted"),
    [
        ([], 0),
        ([leg(10, 20)], 0),
        ([leg(10, 20), leg(5, 10, continued=True)], 0),
        ([leg(10, 20), leg(5, 10)], 10),
        ([leg(10, 20), leg(5, 10, continued=True), leg(7, 14)], 15),
        ([leg(10, 20), leg(0, 0)], 0),
    ],
)
def test_what_a_restart_wasted_is_told_apart(legs: list[Leg], wasted: int) -> None:
    job = Job("write", 100)
    job.legs += legs
    assert job.wasted == wasted


def test_ids_are_shown_as_text() -> None:
    assert repr(leg(1, 2)) == f"Leg(alice {id_text(SELLER)}: 1 units, 2 uain)"
    assert repr(leg(1, 2, failure="gone")).endswith("2 uain, failed: gone)")


async def test_a_slow_reader_holds_up_whoever_works_at_home() -> None:
    job = Job("write", 0)
    sent = 0

    async def work() -> None:
        nonlocal sent
        while True:
            await job.put_slowly(chunk(TEXT, b"x"))
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(work)
        await trio.testing.wait_all_tasks_blocked()
        before = sent
        await anext(job)
        await trio.testing.wait_all_tasks_blocked()
        assert sent == before + 1
        nursery.cancel_scope.cancel()


def test_a_failure_in_a_line_has_its_type_where_its_words_do_not_say_enough() -> None:
    assert failure_words(NoOffers("nobody")) == "nobody"
    assert failure_words(NoOffers()) == "NoOffers()"
    assert failure_words(KeyError("x")) == "KeyError('x')"
