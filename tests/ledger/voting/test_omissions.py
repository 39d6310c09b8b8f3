"""What a HANDOFF leaves out is proven to anybody who has it; what it says or may leave out is no offence."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, Error, InvalidOperation, NotYet
from ainp2p.ledger.rules.operations import SignedOperation, parse
from ainp2p.ledger.voting import omissions as module
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.attested import attest
from ainp2p.ledger.voting.certificate import build_certificate, pack_place
from ainp2p.ledger.voting.collector import Collector
from ainp2p.ledger.voting.evidence import (
    EVIDENCE_SIZE_MAX,
    FORGOTTEN_COMMIT,
    Evidence,
    Offence,
    may_end,
    verify_evidence,
)
from ainp2p.ledger.voting.handoff import Handoff, Head, Leaving, SlotId, make_handoff, read_handoff
from ainp2p.ledger.voting.omissions import Omission, Report
from ainp2p.ledger.voting.votelog import VoteBatch, handoff_entry
from ainp2p.protocol.codec import decode, encode
from tests.ledger.accused import (
    COMMITTEE,
    CULPRIT,
    EPOCH,
    FIRST,
    KEYS,
    NETWORK,
    OBJECT,
    SECOND,
    SEQ,
    Log,
    commit,
    id_of,
    lock,
    refund,
)

WHO = KEYS[CULPRIT].public
SLOT = (OBJECT, SEQ)
LOW, HIGH = b"\x00" * 32, b"\xff" * 32
OTHERS: dict[bytes, Head] = {LOW: (4, b"x" * 32), HIGH: (7, b"y" * 32)}


@cache
def prepared(signed: SignedOperation, view: int = 0, epoch: int = EPOCH) -> bytes:
    batches = {m: Log(m, epoch).says(lock(signed, view)) for m in range(4)}
    return build_certificate([(m, 1, 0) for m in range(3)], lambda m, _: batches[m], COMMITTEE)


class Exit:
    """The last words of one validator: a COMMIT, then its HANDOFF."""

    def __init__(
        self,
        frontier: Mapping[bytes, Head] | None = None,
        held: Mapping[SlotId, bytes] | None = None,
        voted: SignedOperation = FIRST,
        view: int = 0,
        *,
        late: bool = False,
        many: int = 0,
    ) -> None:
        self.frontier = dict(OTHERS if frontier is None else frontier)
        filler = {((200 * i).to_bytes(2, "big") + bytes(30), 1): prepared(FIRST) for i in range(1, many + 1)}
        leaving = Leaving(self.frontier, {**filler, **(held or {})}, {})
        self.raw, *self.pages = make_handoff(NETWORK, EPOCH, WHO, 1, 4, leaving)
        entries = [commit(voted, view), handoff_entry(attachment_id(self.raw))]
        log = Log()
        self.batches: dict[int, VoteBatch] = {}
        for height, entry in enumerate(reversed(entries) if late else entries, 1):
            self.batches[height] = log.says(entry)
        self.voted, self.view, self.late = voted, view, late

    @property
    def handoff(self) -> Handoff:
        return read_handoff(self.raw)

    def attachment(self, id_: bytes) -> bytes | None:
        return {attachment_id(each): each for each in (self.raw, *self.pages)}.get(id_)

    def found(self) -> list[Evidence]:
        collector = Collector(COMMITTEE, NETWORK, epoch=EPOCH, batch=lambda _, height: self.batches[height])
        first, second = (2, 1) if self.late else (1, 2)
        commits = [(parse(self.voted), self.view, pack_place(CULPRIT, first, 0))]
        record = pack_place(CULPRIT, second, 0)
        return collector.take_handoff(record, [self.raw, *self.pages], self.frontier, commits)

    def judge(self, evidence: Evidence, *, offline: bool = False) -> Offence:
        known = {EPOCH: COMMITTEE}.__getitem__
        if offline:
            return verify_evidence(evidence, NETWORK, known)
        return verify_evidence(evidence, NETWORK, known, self.attachment)

    def blame(self, omission: Omission) -> Evidence:
        """Evidence with any omission, shown by the real entries."""
        items = [encode(attest(self.batches[height], 0)) for height in ((2, 1) if self.late else (1, 2))]
        return Evidence(FORGOTTEN_COMMIT, WHO, (*items, self.voted.raw, encode(omission)), EPOCH)


GUILTY = {
    "neither decided nor prepared": Exit(),
    "nothing at all": Exit({}),
    "the object is the first": Exit({HIGH: (1, b"h" * 32)}),
    "the object is the last": Exit({LOW: (1, b"h" * 32)}),
    "an older prepared view": Exit(held={SLOT: prepared(SECOND, 1)}, view=2),
    "a certificate of an earlier epoch": Exit(held={SLOT: prepared(FIRST, 5, EPOCH - 1)}),
    "a Lock's head below": Exit({**OTHERS, b"l" * 32: (1, b"h" * 32)}, voted=refund(seq=2)),
    "among many pages": Exit(many=300),
    "after many pages": Exit(held={(LOW, 1): prepared(FIRST)}, many=230),
}
INNOCENT = {
    "decided": Exit({**OTHERS, OBJECT: (SEQ, id_of(SECOND))}),
    "decided long ago": Exit({OBJECT: (SEQ + 5, HIGH)}),
    "reported": Exit(held={SLOT: prepared(FIRST)}),
    "reported among many": Exit(held={SLOT: prepared(FIRST)}, many=300),
    "a higher view reported": Exit(held={SLOT: prepared(SECOND, 3)}, view=2),
    "another operation of its view reported": Exit(held={SLOT: prepared(SECOND, 2)}, view=2),
    "a Lock that may have ended": Exit(voted=refund(seq=2)),
    "a COMMIT after the HANDOFF": Exit(late=True),
}


@pytest.mark.parametrize("name", GUILTY)
def test_a_handoff_that_reports_less_than_a_commit_is_found_and_proven(name: str) -> None:
    world = GUILTY[name]
    (evidence,) = world.found()
    assert world.judge(evidence) == Offence(FORGOTTEN_COMMIT, WHO, EPOCH)
    assert len(encode(evidence)) <= EVIDENCE_SIZE_MAX


def test_a_short_handoff_is_proven_by_the_evidence_alone() -> None:
    world = GUILTY["an older prepared view"]
    assert world.judge(world.found()[0], offline=True).culprit == WHO


def test_a_long_handoff_is_asked_for() -> None:
    world = GUILTY["among many pages"]
    assert len(world.pages) > 1
    (evidence,) = world.found()
    with pytest.raises(NotYet) as caught:
        world.judge(evidence, offline=True)
    assert caught.value.rule == "attachment"


@pytest.mark.parametrize("name", INNOCENT)
def test_a_handoff_that_says_enough_is_not_blamed(name: str) -> None:
    assert INNOCENT[name].found() == []


def every_omission(world: Exit) -> list[Omission]:
    """Whatever somebody who wants to blame could show: all neighbours, all parts."""
    frontier = dict(world.frontier)
    parts = [*((n,) for n in range(len(world.pages) + 1)), *((n, n + 1) for n in range(len(world.pages)))]
    report = Report(world.handoff, world.pages, frontier)
    single = [report._neighbours(each)[0] for each in frontier]
    around = [report._neighbours(OBJECT)] + [(each,) for each in single]
    around += [(a, b) for a in single for b in single] + [()]
    return [Omission(neighbours, part) for neighbours in around for part in parts]


@pytest.mark.parametrize("name", INNOCENT)
def test_whatever_is_shown_of_a_handoff_that_says_enough_proves_nothing(name: str) -> None:
    world = INNOCENT[name]
    for omission in every_omission(world):
        with pytest.raises((InvalidOperation, BadSignature)):
            world.judge(world.blame(omission))


@given(
    st.dictionaries(st.sampled_from([LOW, b"\x01" * 32, OBJECT, HIGH]), st.integers(1, 2), max_size=4),
    st.sampled_from([None, 0, 1, 2]),
    st.integers(0, 2),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_it_is_found_if_and_only_if_it_is_so(
    heads: dict[bytes, int], shown: int | None, view: int, full: bool
) -> None:
    frontier = {id_: (seq, b"h" * 32) for id_, seq in heads.items()}
    held = {} if shown is None else {SLOT: prepared(FIRST, shown)}
    world = Exit(frontier, held, view=view, many=300 if full else 0)
    found = world.found()
    assert bool(found) == (OBJECT not in heads and (shown is None or shown < view))
    for evidence in found:
        assert world.judge(evidence).kind == FORGOTTEN_COMMIT


BENT = GUILTY["neither decided nor prepared"]
GOOD = decode(BENT.found()[0].items[3], Omission)


@pytest.mark.parametrize(
    "omission",
    [
        pytest.param(Omission((), GOOD.parts), id="no neighbours"),
        pytest.param(Omission(GOOD.neighbours[:1], GOOD.parts), id="one neighbour"),
        pytest.param(Omission(GOOD.neighbours[::-1], GOOD.parts), id="neighbours turned round"),
        pytest.param(Omission(GOOD.neighbours, (1,)), id="a part that is not there"),
        pytest.param(Omission(GOOD.neighbours, (0, 0)), id="a part twice"),
        *(
            pytest.param(
                Omission((msgspec.structs.replace(GOOD.neighbours[0], **fields), GOOD.neighbours[1]), (0,)),
                id=f"another {next(iter(fields))}",
            )
            for fields in (
                {"index": 1},
                {"object": b"\x01" * 32},
                {"seq": 5},
                {"head": bytes(32)},
                {"path": bytes(32)},
            )
        ),
    ],
)
def test_an_omission_that_shows_too_little_is_refused(omission: Omission) -> None:
    with pytest.raises(InvalidOperation) as caught:
        BENT.judge(BENT.blame(omission))
    assert caught.value.rule == "evidence"


def test_another_validators_handoff_proves_nothing() -> None:
    world = Exit()
    other = decode(world.raw, Handoff)
    world.raw = encode(msgspec.structs.replace(other, validator=KEYS[0].public))
    log = Log()
    log.says(commit(FIRST))
    world.batches[2] = log.says(handoff_entry(attachment_id(world.raw)))
    with pytest.raises(InvalidOperation):
        world.judge(world.blame(GOOD))


# --- planted faults ---------------------------------------------------------------------------------------


def accepted(world: Exit) -> bool:
    for omission in every_omission(world):
        try:
            world.judge(world.blame(omission))
        except Error:
            continue
        return True
    return False


def test_mutant_a_frontier_that_is_not_looked_at_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not accepted(INNOCENT["decided"])
    monkeypatch.setattr(module, "_judge_frontier", lambda *_: None)
    assert accepted(INNOCENT["decided"])


def test_mutant_slots_that_are_not_looked_at_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not accepted(INNOCENT["reported among many"])
    monkeypatch.setattr(module, "_slots_about", lambda *_: ())
    assert accepted(INNOCENT["reported among many"])


def test_mutant_a_lock_that_ended_taken_for_one_left_out_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert may_end(refund().raw)
    assert not accepted(INNOCENT["a Lock that may have ended"])
    monkeypatch.setattr("ainp2p.ledger.voting.evidence.may_end", lambda _: False)
    world = Exit(voted=refund(seq=2))
    omission = Report(world.handoff, [], world.frontier).omission((b"l" * 32, 2), (EPOCH, 0), False)
    assert omission is not None
    assert world.judge(world.blame(omission)).culprit == WHO
