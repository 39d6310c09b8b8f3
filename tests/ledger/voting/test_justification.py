"""What a justification must show: each way to make one up is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, Error, InvalidOperation, Malformed
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation, parse
from ainp2p.ledger.rules.receipts import refund_operation, settle_operation
from ainp2p.ledger.voting.attachments import ATTACHMENT_SIZE_MAX, JUSTIFICATION, attachment_tag
from ainp2p.ledger.voting.attested import attest
from ainp2p.ledger.voting.certificate import build_certificate
from ainp2p.ledger.voting.justification import (
    Justification,
    Proof,
    Shown,
    choose,
    highest_report,
    read_justification,
    verify,
)
from ainp2p.ledger.voting.picking import Conflict
from ainp2p.ledger.voting.votelog import NewView, OwnLog, VoteBatch, lock_entry, newview_entry
from ainp2p.protocol.codec import encode
from tests.ledger.world import NOW, World, key_of

NETWORK = bytes(32)
WEIGHTS = (1, 1, 1, 1)
KEYS = sorted((key_of(f"validator {i}") for i in range(4)), key=lambda key: key.public)
COMMITTEE = Committee(tuple(key.public for key in KEYS), WEIGHTS)
OBJECT, X, Y, Z = (bytes([i]) * 32 for i in (9, 1, 2, 3))


def batch(member: int, *entries: bytes, epoch: int = 0) -> VoteBatch:
    log = OwnLog(KEYS[member], NETWORK, epoch, member)
    for entry in entries:
        log.add(entry, NOW)
    return log.seal(NOW)


def prepared(view: int = 0, operation: bytes = X, members: Sequence[int] = (0, 1, 2)) -> bytes:
    batches = {member: batch(member, lock_entry(view, operation)) for member in members}
    return build_certificate([(m, 1, 0) for m in members], lambda m, _: batches[m], COMMITTEE)


def justification(*reports: bytes, epoch: int = 0, **changes: object) -> Justification:
    """Members 0, 1, … send these records; of view 1 of slot (OBJECT, 1)."""
    newviews = tuple(attest(batch(m, b"\x01" + bytes(36), r, epoch=epoch), 1) for m, r in enumerate(reports))
    made = Justification(epoch, OBJECT, 1, 1, newviews, None, (Proof(X, (), None),))
    return msgspec.structs.replace(made, **changes)


def report(
    view: int = 1, claim: tuple[int, bytes] | None = None, candidate: bytes | None = X, seq: int = 1
) -> bytes:
    return newview_entry(view, OBJECT, seq, claim, candidate)


def judged(made: Justification) -> Shown:
    return verify(read_justification(encode(made)), NETWORK, COMMITTEE)


def test_a_quorum_that_names_one_candidate() -> None:
    shown = judged(justification(*[report()] * 3))
    assert sorted(shown.reports) == [0, 1, 2]
    assert shown.prepared is None
    assert attachment_tag(encode(shown.justification)) == JUSTIFICATION


def test_the_highest_prepared_certificate_is_what_is_shown() -> None:
    reports = [report(view=3), report(view=3, claim=(1, Y)), report(view=3, claim=(0, X))]
    made = justification(*reports, view=3, prepared=prepared(1, Y), candidates=())
    assert judged(made).prepared == (1, Y)
    assert highest_report(judged(made).reports) == (1, Y)


def swapped(made: Justification) -> Justification:
    first, second, *rest = made.newviews
    return msgspec.structs.replace(made, newviews=(second, first, *rest))


def twice(made: Justification) -> Justification:
    return msgspec.structs.replace(made, newviews=(made.newviews[0], *made.newviews[:2]))


def with_record(made: Justification, record: bytes) -> Justification:
    first = msgspec.structs.replace(made.newviews[0], record=record)
    return msgspec.structs.replace(made, newviews=(first, *made.newviews[1:]))


GOOD = justification(*[report()] * 3)
CLAIMED = [report(claim=(0, X), candidate=None), report(), report()]


@pytest.mark.parametrize(
    ("made", "error"),
    [
        pytest.param(justification(report(), report()), "no quorum", id="no quorum"),
        pytest.param(swapped(GOOD), "out of order", id="members out of order"),
        pytest.param(twice(GOOD), "named twice", id="a member twice"),
        pytest.param(justification(report(2), report(), report()), "no NEWVIEW of this", id="another view"),
        pytest.param(
            justification(report(seq=2), report(), report()), "no NEWVIEW of this", id="another slot"
        ),
        pytest.param(justification(lock_entry(1, X), report(), report()), "no NEWVIEW of this", id="a LOCK"),
        pytest.param(justification(report(candidate=None), report(), report()), "neither", id="says nothing"),
        pytest.param(justification(*[report()] * 3, candidates=()), "not those", id="no proof"),
        pytest.param(
            justification(*[report()] * 3, candidates=(Proof(X, (), None), Proof(Y, (), None))),
            "not those",
            id="a proof of what nobody names",
        ),
        pytest.param(justification(*CLAIMED), "comes before", id="the prepared one is hidden"),
        pytest.param(justification(*CLAIMED, prepared=prepared()), "comes before", id="candidates beside it"),
        pytest.param(
            justification(*CLAIMED, prepared=prepared(0, Y), candidates=()),
            "not the highest",
            id="the certificate of another operation",
        ),
        pytest.param(
            justification(*[report()] * 3, prepared=prepared()),
            "nobody reports",
            id="one that nobody reports",
        ),
        pytest.param(
            justification(
                *[report(claim=(0, X)), report(claim=(0, Y)), report()], prepared=prepared(), candidates=()
            ),
            "two operations",
            id="two operations prepared in one view",
        ),
    ],
)
def test_a_justification_is_refused(made: Justification, error: str) -> None:
    with pytest.raises(InvalidOperation, match=error):
        judged(made)


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(with_record(GOOD, report(candidate=Y)), id="another candidate"),
        pytest.param(with_record(GOOD, report() + report()), id="two records in one"),
        pytest.param(justification(*[report()] * 3, epoch=1, candidates=GOOD.candidates), id="control"),
        pytest.param(
            msgspec.structs.replace(justification(*[report()] * 3, epoch=1), epoch=0), id="another epoch"
        ),
    ],
)
def test_e12_what_members_did_not_sign_is_refused(
    made: Justification, request: pytest.FixtureRequest
) -> None:
    if "control" in request.node.name:
        judged(made)
        return
    with pytest.raises((BadSignature, Malformed)):
        judged(made)


def test_e12_mutant_without_signatures_anything_is_shown() -> None:
    forged = with_record(GOOD, report(candidate=Y))
    forged = msgspec.structs.replace(forged, candidates=(Proof(X, (), None), Proof(Y, (), None)))
    with pytest.raises(BadSignature):
        judged(forged)
    shown = verify(forged, NETWORK, COMMITTEE, lambda *_: None)
    assert shown.reports[0].candidate == Y


def test_a_prepared_certificate_without_a_quorum_shows_nothing() -> None:
    with pytest.raises(InvalidOperation, match="these votes are no quorum"):
        prepared(members=(0, 1))


@pytest.mark.parametrize("members", [4, 31])
def test_the_largest_justification_fits_an_attachment(members: int) -> None:
    attested = attest(batch(0, *[lock_entry(0, bytes([i]) * 32) for i in range(255)], report()), 255)
    proofs = tuple(Proof(bytes([i]) * 32, (bytes(64),) * 4, bytes(64)) for i in range(members))
    made = Justification(
        0,
        OBJECT,
        1,
        1,
        tuple(msgspec.structs.replace(attested, member=i) for i in range(members)),
        None,
        proofs,
    )
    raw = encode(made)
    assert len(raw) <= ATTACHMENT_SIZE_MAX
    assert read_justification(raw) == made


@given(st.integers(0, len(encode(GOOD)) - 1), st.integers(1, 255))
def test_no_byte_of_it_can_be_changed(at: int, change: int) -> None:
    raw = bytearray(encode(GOOD))
    raw[at] ^= change
    with pytest.raises(Error):
        verify(read_justification(bytes(raw)), NETWORK, COMMITTEE)


# --- what follows -----------------------------------------------------------------------------------------


def names(*candidates: ParsedOperation) -> dict[int, NewView]:
    return {m: NewView(1, OBJECT, 1, None, None, each.id) for m, each in enumerate(candidates)}


def chosen(*candidates: ParsedOperation) -> ParsedOperation | Conflict | None:
    return choose(names(*candidates), {each.id: each for each in candidates}, COMMITTEE)


def lock_candidates() -> tuple[ParsedOperation, ParsedOperation]:
    world = World()
    lock = world.open_lock()
    settle: SignedOperation = settle_operation(lock, world.receipt(lock, 100))
    return parse(refund_operation(world.network, lock)), parse(settle)


def test_gated_candidates_count_only_if_more_than_a_third_of_the_weight_names_one() -> None:
    refund, settle = lock_candidates()
    assert chosen(refund, refund, refund) is refund
    assert chosen(refund, settle, settle) is settle
    world = World()
    spends = [parse(world.spend("alice", [("bob", n)])) for n in (5, 6)]
    assert choose(names(refund), {refund.id: refund}, COMMITTEE) is None  # one of four
    assert choose(names(refund, refund), {refund.id: refund}, COMMITTEE) is refund
    assert isinstance(chosen(*spends), Conflict)


def test_the_gate_counts_the_total_weight_not_that_of_the_justification() -> None:
    refund, settle = lock_candidates()
    heavy = Committee(COMMITTEE.keys, (4, 1, 1, 6))  # more than a third: 5
    reports = names(refund, settle, settle)
    assert choose(reports, {each.id: each for each in (refund, settle)}, heavy) is settle
    assert choose(names(refund), {refund.id: refund}, heavy) is None


def test_mutant_gate_forgotten_in_a_justification(monkeypatch: pytest.MonkeyPatch) -> None:
    refund, _ = lock_candidates()
    lonely: Callable[[], object] = lambda: choose(names(refund), {refund.id: refund}, COMMITTEE)  # noqa: E731
    assert lonely() is None
    monkeypatch.setattr("ainp2p.ledger.voting.justification.is_gated", lambda parsed: False)
    assert lonely() is refund
