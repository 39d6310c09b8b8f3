"""Evidence that one validator finds is soon known to all, survives, is served, and fills no log."""

# ruff: noqa: ASYNC110

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import trio

from ainp2p.ledger.serving.attaching import TRIES_MAX, Attacher, EvidenceBook
from ainp2p.ledger.serving.messages import Attachments, EvidenceIds, FetchAttachments, ListEvidence
from ainp2p.ledger.serving.pushing import Pusher
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.effects import Wanted
from ainp2p.ledger.voting.evidence import TWO_OPERATIONS, Evidence, read_evidence, verify_evidence

from .serving.test_service import first_spend, submit
from .test_wallet_faults import run
from .town import Town, open_town
from .world import key_of


async def sign_two(town: Town, at: tuple[int, ...]) -> None:
    """Alice signs two operations for her first slot, and shows both to these validators."""
    both = first_spend(town, "alice", 1), first_spend(town, "alice", 2)
    async with town.network(key_of("alice")) as network:
        for index in at:
            await submit(network, town, index, *both)


def known(town: Town) -> list[int]:
    return [len(service._evidence) for _, service in sorted(town.services.items())]


async def who_knows(root: Path | None, running: list[int]) -> list[int]:
    """How many pieces of evidence each knows, ten seconds after one was shown two operations."""
    async with open_town(root=root, running=running) as town:
        await sign_two(town, (0,))
        with trio.move_on_after(10):
            while min(known(town)) < 1:
                await trio.sleep(0.05)
        return known(town)


def test_what_one_finds_all_know() -> None:
    assert min(run(who_knows, None, [0, 1, 2, 3])) >= 1


async def late_and_after_a_restart(root: Path) -> tuple[list[int], int]:
    async with open_town(root=root, running=[0, 1, 2]) as town:
        await sign_two(town, (0, 1, 2))
        await trio.sleep(20)
        await town.start(3)
        with trio.move_on_after(30):
            while known(town)[3] < 1:
                await trio.sleep(0.05)
        found = known(town)
        await town.stop(1)
        await town.start(1)
        return found, len(town.services[1]._evidence)


def test_a_late_joiner_learns_it_by_asking_and_a_restart_forgets_nothing(tmp_path: Path) -> None:
    found, after_restart = run(late_and_after_a_restart, tmp_path)
    assert min(found) >= 1
    assert after_restart >= 1


def test_mutant_evidence_that_is_neither_pushed_nor_asked_for_stays_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: Attacher, peer: str) -> None:
        return

    monkeypatch.setattr(Pusher, "push_attachment", lambda self, raw: None)
    monkeypatch.setattr(Attacher, "compare_evidence", nothing)
    found, _ = run(late_and_after_a_restart, tmp_path)
    assert found[3] == 0


async def fetched_by_a_stranger() -> None:
    async with open_town() as town, town.network(key_of("bob")) as network:
        await sign_two(town, (0, 1, 2, 3))
        await trio.sleep(1)
        validators, peer = Validators(network, town.genesis), town.peer(2)
        ids = (await validators.ask(peer, ListEvidence(0), EvidenceIds)).ids
        assert ids
        (raw,) = (await validators.ask(peer, FetchAttachments(ids[:1]), Attachments)).attachments
        assert raw is not None
        assert attachment_id(raw) == ids[0]
        state = town.services[2]._validator.state
        offence = verify_evidence(read_evidence(raw), town.network_id, state.committee, lambda id_: None)
        assert offence.kind == TWO_OPERATIONS
        assert offence.culprit == key_of("alice").public
        assert (await validators.ask(peer, ListEvidence(len(ids)), EvidenceIds)).ids == ()
        nothing = await validators.ask(peer, FetchAttachments((bytes(32),)), Attachments)
        assert nothing.attachments == (None,)


def test_anybody_gets_it_and_judges_it_alone() -> None:
    run(fetched_by_a_stranger)


def test_the_log_has_one_line_per_culprit_and_few_a_second(caplog: pytest.LogCaptureFixture) -> None:
    book = EvidenceBook()
    with caplog.at_level(logging.WARNING):
        for number in range(1_000):
            culprit = (number % 500).to_bytes(32, "big")
            book.log(Evidence(TWO_OPERATIONS, culprit, (bytes(number % 7 + 1),)), 0.0)
    assert 1 <= len(caplog.records) <= 10


def test_a_piece_is_kept_once_and_listed_in_the_order_of_its_coming() -> None:
    book = EvidenceBook()
    pieces = [Evidence(TWO_OPERATIONS, bytes(32), (bytes([i]),)) for i in range(5)]
    raw = [book.add(piece) for piece in pieces]
    assert None not in raw
    assert book.add(pieces[2]) is None
    ids = [attachment_id(each) for each in raw if each is not None]
    assert list(book.ids(0, 3)) == ids[:3]
    assert list(book.ids(3, 10)) == ids[3:]
    assert book.get(ids[1]) == raw[1]


# --- what votes rest on -----------------------------------------------------------------------------------


async def search(holders_answer: bool) -> tuple[list[str], int]:
    """Whom a validator asks for an attachment that two members are said to have, and what is left to do."""
    async with open_town(size=4) as town:
        service, raw = town.services[0], b"\x92\x02\xc4\x04some"
        id_ = attachment_id(raw)
        asked: list[str] = []

        class Listening(Validators):
            async def ask(self, peer, question, answer, **more):  # type: ignore[no-untyped-def]
                asked.append(peer)
                gives = holders_answer and peer == town.peer(2)
                return Attachments((raw if gives else None,))

        class Core:
            async def take_attachment(self, raw: bytes, source: str) -> None:
                attacher.came(raw)

        attacher = Attacher(Listening(service._network, town.genesis), Core(), EvidenceBook())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attacher.run)
            attacher.want([Wanted(id_, (town.keys[1].public, town.keys[2].public))])
            await trio.sleep(300)
            nursery.cancel_scope.cancel()
        assert asked[:2] == [town.peer(1), town.peer(2)]
        return asked, attacher.missing


def test_a_missing_attachment_is_asked_of_one_holder_after_another() -> None:
    asked, left = run(search, True)
    assert len(asked) == 2
    assert left == 0


def test_what_nobody_has_is_given_up() -> None:
    asked, left = run(search, False)
    assert len(asked) == TRIES_MAX
    assert left == 0
