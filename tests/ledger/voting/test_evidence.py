"""Every offence is proven by real batches; nothing that a correct party does can be made to look like one."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, Error, InvalidOperation, LedgerError, Malformed, RemoteError
from ainp2p.ledger.rules.operations import (
    OPERATION_SIZE_MAX,
    SIGN_CLOSE,
    SIGN_OPERATION,
    VERSION,
    Close,
    Operation,
    Out,
    SignedOperation,
    operation_id,
    parse,
    sign_operation,
)
from ainp2p.ledger.voting import evidence as module
from ainp2p.ledger.voting.attested import Attested, attest, verify_attested
from ainp2p.ledger.voting.evidence import (
    BELOW_NEWVIEW,
    EVIDENCE_SIZE_MAX,
    FORGOTTEN_COMMIT,
    MALFORMED_LOCK,
    TWO_BATCHES,
    TWO_LOCKS,
    TWO_OPERATIONS,
    Evidence,
    Offence,
    evidence_id,
    first_of_each,
    is_malformed,
    offenders,
    read_evidence,
    verify_evidence,
)
from ainp2p.ledger.voting.votelog import ENTRIES_MAX, SIGN_VOTES, Header, commit_entry, lock_entry
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import digest
from tests.ledger.accused import (
    COMMITTEE,
    CULPRIT,
    ELSEWHERE,
    EPOCH,
    FIRST,
    KEYS,
    NETWORK,
    OBJECT,
    OTHERS,
    SECOND,
    WORLD,
    Log,
    against,
    changed,
    commit,
    id_of,
    judge,
    lock,
    newview,
    refund,
)
from tests.ledger.offences import (
    ALICE,
    BROKEN,
    CUT_OFF,
    GUILTY,
    below,
    forgotten,
    later,
    malformed,
    two_batches,
    two_locks,
    two_operations,
)
from tests.ledger.world import NOW, key_of
from tests.ledger.world import changed as changed_operation


@pytest.mark.parametrize("name", GUILTY)
def test_an_offence_is_proven_to_anybody(name: str) -> None:
    evidence = read_evidence(encode(GUILTY[name]))
    offence = judge(evidence)
    assert offence == Offence(evidence.kind, evidence.culprit, evidence.epoch)
    assert (offence.culprit == ALICE) == (evidence.kind == TWO_OPERATIONS)
    assert len(encode(evidence)) <= EVIDENCE_SIZE_MAX


def test_every_kind_is_there() -> None:
    kinds = {evidence.kind for evidence in GUILTY.values()}
    assert kinds == {
        TWO_BATCHES,
        TWO_LOCKS,
        TWO_OPERATIONS,
        BELOW_NEWVIEW,
        FORGOTTEN_COMMIT,
        MALFORMED_LOCK,
    }


# --- near misses: what correct parties do ---------------------------------------------------------------

PLAIN = Log()
NEXT_EPOCH = Log(epoch=EPOCH + 1)
ROTATED = sign_operation(parse(SECOND).operation, key_of("alice'"))
CLOSE = SignedOperation(
    encode(Operation(VERSION, NETWORK, b"l" * 32, 1, b"l" * 32, None, Close(0, 0, b""))), (), None
)


def mixed(kind: int, first: Log, second: Log, one: bytes, two: bytes, *raws: bytes) -> Evidence:
    return against(kind, *first.shows(one), *second.shows(two), *raws)


INNOCENT: dict[str, Evidence] = {
    "a batch shown twice": two_batches(batch := Log().says(lock(FIRST)), batch),
    "two batches, one after the other": two_batches(PLAIN.says(), PLAIN.says()),
    "one height in two epochs": two_batches(Log().says(), NEXT_EPOCH.says()),
    "one height in two networks": two_batches(Log().says(), Log(network=bytes(32)).says()),
    "one height of two validators": two_batches(Log(1).says(), Log(2).says()),
    "a LOCK repeated": two_locks(lock(FIRST), lock(FIRST), FIRST.raw, FIRST.raw),
    "a LOCK repeated with its justification": two_locks(
        lock(FIRST, 1), lock(FIRST, 1, b"j" * 32), FIRST.raw, FIRST.raw
    ),
    "LOCKs in two views": two_locks(lock(FIRST, 0), lock(SECOND, 1)),
    "LOCKs in two slots": two_locks(
        *sorted((lock(FIRST), lock(ELSEWHERE))), *sorted((FIRST.raw, ELSEWHERE.raw), key=operation_id)
    ),
    "LOCKs in two slots of one account": two_locks(
        *sorted((lock(FIRST), lock(later(2)))), *sorted((FIRST.raw, later(2).raw), key=operation_id)
    ),
    "LOCKs in two epochs": mixed(
        TWO_LOCKS, Log(), Log(epoch=EPOCH + 1), lock(FIRST), lock(SECOND), FIRST.raw, SECOND.raw
    ),
    "LOCKs of two validators": mixed(
        TWO_LOCKS, Log(1), Log(2), lock(FIRST), lock(SECOND), FIRST.raw, SECOND.raw
    ),
    "a LOCK and a COMMIT": two_locks(lock(FIRST), commit(SECOND)),
    "LOCKs for other operations than shown": two_locks(
        *sorted((lock(FIRST), lock(ELSEWHERE))), FIRST.raw, SECOND.raw
    ),
    "one operation signed twice": two_operations(FIRST, FIRST),
    "operations in two slots": two_operations(FIRST, later(2)),
    "two operations, signed by two keys": two_operations(FIRST, ROTATED),
    "operations of two accounts by one key": two_operations(
        FIRST, changed_operation(parse(ELSEWHERE).operation, "alice", previous=WORLD.ids["bob"])
    ),
    "a vote before its NEWVIEW": below(lock(FIRST), newview(1)),
    "a vote shown as if after its NEWVIEW": against(
        BELOW_NEWVIEW, *reversed(Log().shows(lock(FIRST), newview(1))), FIRST.raw
    ),
    "a vote in the NEWVIEW's own view": below(newview(1), lock(FIRST, 1)),
    "a vote above a NEWVIEW": below(newview(1), commit(FIRST, 2)),
    "a NEWVIEW in another slot": below(newview(1, slot=(OBJECT, 2)), lock(FIRST)),
    "a NEWVIEW of another object": below(newview(1, slot=(WORLD.ids["bob"], 1)), lock(FIRST)),
    "a NEWVIEW in another epoch": mixed(
        BELOW_NEWVIEW, Log(epoch=EPOCH - 1), Log(), newview(1), lock(FIRST), FIRST.raw
    ),
    "somebody else's NEWVIEW": mixed(BELOW_NEWVIEW, Log(1), Log(), newview(1), lock(FIRST), FIRST.raw),
    "a COMMIT reported": forgotten(commit(FIRST), newview(1, (0, FIRST))),
    "more than the COMMIT reported": forgotten(commit(FIRST), newview(5, (4, SECOND))),
    "another operation reported in its view": forgotten(commit(FIRST, 1), newview(2, (1, SECOND))),
    "a NEWVIEW before the COMMIT": against(
        FORGOTTEN_COMMIT, *reversed(Log().shows(newview(1), commit(FIRST, 1))), FIRST.raw
    ),
    "a NEWVIEW, then a COMMIT": forgotten(newview(1), commit(FIRST, 1)),
    "a report after a LOCK": forgotten(lock(FIRST), newview(1)),
    "a report of another slot": forgotten(commit(FIRST), newview(1, slot=(OBJECT, 2))),
    "a report in the next epoch": mixed(
        FORGOTTEN_COMMIT, Log(epoch=EPOCH - 1), Log(), commit(FIRST), newview(1), FIRST.raw
    ),
    "a well-formed operation": malformed(FIRST.raw),
    "an operation without its proof": malformed(CLOSE.raw),  # good with the closer's signature
    "an operation that needs no proof": malformed(refund().raw),
    "an operation of another network": malformed(
        encode(msgspec.structs.replace(parse(refund()).operation, network=bytes(32)))
    ),
    "an operation of a later release": malformed(b"\x97\x02" + FIRST.raw[2:]),
    "bytes that are no operation of ours": malformed(b"\x00" * 40),
    "a COMMIT for a malformed operation": malformed(BROKEN, commit_entry(0, operation_id(BROKEN))),
    "malformed bytes that nobody voted for": malformed(BROKEN, lock(FIRST)),
}


@pytest.mark.parametrize("name", INNOCENT)
def test_what_looks_alike_is_no_offence(name: str) -> None:
    with pytest.raises((InvalidOperation, BadSignature)):
        judge(INNOCENT[name])


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param(Evidence(0, ALICE, (), 0), id="kind 0"),
        pytest.param(Evidence(7, ALICE, (), 0), id="kind 7"),
        *(pytest.param(msgspec.structs.replace(e, items=()), id=f"no items: {n}") for n, e in GUILTY.items()),
        *(
            pytest.param(msgspec.structs.replace(e, items=e.items[:-1]), id=f"an item less: {n}")
            for n, e in GUILTY.items()
        ),
        *(
            pytest.param(msgspec.structs.replace(e, items=(*e.items, b"x")), id=f"an item more: {n}")
            for n, e in GUILTY.items()
        ),
    ],
)
def test_no_evidence(evidence: Evidence) -> None:
    with pytest.raises(InvalidOperation) as caught:
        judge(evidence)
    assert caught.value.rule == "evidence"


# --- where and against whom it holds ----------------------------------------------------------------------

BY_VALIDATORS = [name for name, evidence in GUILTY.items() if evidence.kind != TWO_OPERATIONS]


@pytest.mark.parametrize("name", BY_VALIDATORS)
def test_e12_evidence_holds_in_its_committee_epoch_and_network_only(name: str) -> None:
    evidence = GUILTY[name]
    with pytest.raises((BadSignature, InvalidOperation)):
        judge(evidence, committee=OTHERS)
    with pytest.raises((BadSignature, InvalidOperation)):
        verify_evidence(evidence, bytes(32), {EPOCH: COMMITTEE}.__getitem__)
    with pytest.raises((BadSignature, InvalidOperation)):
        judge(msgspec.structs.replace(evidence, epoch=EPOCH + 1), epoch=EPOCH + 1)
    with pytest.raises(InvalidOperation) as caught:
        judge(msgspec.structs.replace(evidence, epoch=EPOCH + 1))
    assert caught.value.rule == "epoch"


@pytest.mark.parametrize("name", GUILTY)
def test_e12_nobody_else_can_be_blamed(name: str) -> None:
    for other in (KEYS[1].public, key_of("bob").public, bytes(32)):
        with pytest.raises((BadSignature, InvalidOperation)):
            judge(msgspec.structs.replace(GUILTY[name], culprit=other))


def test_e12_an_owners_evidence_holds_in_its_network_only() -> None:
    with pytest.raises(InvalidOperation):
        verify_evidence(GUILTY["two operations"], bytes(32), {EPOCH: COMMITTEE}.__getitem__)
    with pytest.raises(InvalidOperation):
        judge(msgspec.structs.replace(GUILTY["two operations"], epoch=EPOCH))


@pytest.mark.parametrize("purpose", [SIGN_VOTES, SIGN_CLOSE, b"ainp2p/recover/1", b"ainp2p/committee/1"])
def test_e12_a_signature_for_another_purpose_is_no_owners_signature(purpose: bytes) -> None:
    signature = key_of("alice").sign(purpose, id_of(SECOND))
    with pytest.raises(BadSignature):
        judge(two_operations(FIRST, msgspec.structs.replace(SECOND, signatures=(signature,))))


def test_e12_a_vote_signed_for_another_purpose_is_none() -> None:
    header = Log().says(lock(FIRST)).header
    other = Log().says(lock(SECOND))
    forged = KEYS[CULPRIT].sign(SIGN_OPERATION, encode(header))
    pair = sorted([(encode(header), forged), (encode(other.header), other.signature)])
    with pytest.raises(BadSignature):
        judge(against(TWO_BATCHES, *pair[0], *pair[1]))


ATTESTED_CHANGES: list[dict[str, object]] = [
    {"member": 1},
    {"height": 99},
    {"previous": b"x" * 32},
    {"timestamp": NOW + 9},
    {"count": 2},
    {"position": 1, "count": 2, "path": bytes(32)},
    {"record": lock_entry(0, b"x" * 32)},
    {"path": bytes(32)},
    {"signature": bytes(64)},
    {"member": 4},
    {"record": b"\x09"},
    {"record": lock_entry(0, b"x" * 32) * 2},
]


@pytest.mark.parametrize("fields", ATTESTED_CHANGES, ids=[str(sorted(each)) for each in ATTESTED_CHANGES])
@pytest.mark.parametrize("name", [name for name in BY_VALIDATORS if GUILTY[name].kind != TWO_BATCHES])
def test_e12_each_field_of_each_vote_is_signed(name: str, fields: dict[str, object]) -> None:
    evidence = GUILTY[name]
    votes = 1 if evidence.kind == MALFORMED_LOCK else 2
    for index in range(votes):
        items = list(evidence.items)
        items[index] = changed(items[index], **fields)
        with pytest.raises((BadSignature, InvalidOperation, Malformed)):
            judge(msgspec.structs.replace(evidence, items=tuple(items)))


HEADER_CHANGES: list[dict[str, object]] = [
    {"version": 2},
    {"network": bytes(32)},
    {"epoch": EPOCH + 1},
    {"validator": KEYS[1].public},
    {"height": 2},
    {"previous": bytes(32)},
    {"timestamp": NOW + 9},
    {"root": bytes(32)},
    {"count": 9},
]


@pytest.mark.parametrize("fields", HEADER_CHANGES, ids=[next(iter(each)) for each in HEADER_CHANGES])
def test_e12_each_field_of_a_header_is_signed(fields: dict[str, object]) -> None:
    first, one, second, two = GUILTY["two batches"].items
    header = msgspec.convert(msgspec.msgpack.decode(first), Header)
    other = encode(msgspec.structs.replace(header, **fields))
    pair = sorted([(other, one), (second, two)])
    with pytest.raises((BadSignature, InvalidOperation)):
        judge(against(TWO_BATCHES, *pair[0], *pair[1]))


def test_a_header_of_a_later_release_is_not_judged() -> None:
    one, two = (
        encode(msgspec.structs.replace(Log().says().header, version=2, timestamp=at)) for at in (1, 2)
    )
    key = KEYS[CULPRIT]
    with pytest.raises(InvalidOperation):
        judge(against(TWO_BATCHES, one, key.sign(SIGN_VOTES, one), two, key.sign(SIGN_VOTES, two)))


def test_places_in_one_batch_are_ordered_too() -> None:
    batch = Log().says(newview(1), lock(FIRST))
    items = [encode(attest(batch, position)) for position in (0, 1)]
    assert judge(against(BELOW_NEWVIEW, *items, FIRST.raw)).kind == BELOW_NEWVIEW
    batch = Log().says(lock(FIRST), newview(1))
    items = [encode(attest(batch, position)) for position in (1, 0)]
    with pytest.raises(InvalidOperation):
        judge(against(BELOW_NEWVIEW, *items, FIRST.raw))


@given(count=st.integers(1, ENTRIES_MAX), data=st.data())
@settings(max_examples=40, deadline=None)
def test_an_entry_is_shown_at_its_place_and_at_no_other(count: int, data: st.DataObject) -> None:
    batch = Log().says(*(lock_entry(0, i.to_bytes(32, "big")) for i in range(count)))
    position = data.draw(st.integers(0, count - 1))
    shown = attest(batch, position)
    assert verify_attested(shown, NETWORK, EPOCH, COMMITTEE) == shown.entry()
    other = data.draw(st.integers(0, min(count, 255)).filter(lambda at: at != position))
    with pytest.raises((BadSignature, Malformed)):
        verify_attested(msgspec.structs.replace(shown, position=other), NETWORK, EPOCH, COMMITTEE)


def test_a3_a_validator_that_restored_an_old_disk_and_went_on_is_proven_to_be_one() -> None:
    log = Log()
    log.says(lock(FIRST))
    height, head = log.own.height, log.own.head
    forgotten_batch = log.says(commit(FIRST))
    log.own.resume(height, head)  # the disk has lost the last write
    assert judge(two_batches(forgotten_batch, log.says(lock(SECOND)))).culprit == KEYS[CULPRIT].public


def test_a2_an_owner_that_signs_two_operations_is_named_by_its_key() -> None:
    assert judge(two_operations(FIRST, SECOND)) == Offence(TWO_OPERATIONS, ALICE, 0)


def test_a2_a_stranger_who_signs_for_anothers_account_only_names_itself() -> None:
    one, two = (sign_operation(parse(each).operation, key_of("mallory")) for each in (FIRST, SECOND))
    assert judge(two_operations(one, two, key_of("mallory").public)).culprit != ALICE
    with pytest.raises(BadSignature):
        judge(two_operations(one, two))


# --- size ---------------------------------------------------------------------------------------------------


def long_spend(salt: int) -> SignedOperation:
    """The largest SPEND of alice that may exist, and then some."""
    operation = parse(FIRST).operation
    credits = tuple(sorted(digest(b"test", bytes([salt, i % 256, i // 256])) + b"\0\0" for i in range(512)))
    outs = tuple(Out(bytes([salt, i]) + bytes(30), 2**40) for i in range(64))
    lock_terms = WORLD.terms(deposit=1)
    raw = b""
    for keys in range(1, 9):
        locks = (lock_terms,) * keys
        more = changed_operation(operation, "alice", body_credits=credits, body_outs=outs, body_locks=locks)
        if len(more.raw) > OPERATION_SIZE_MAX:
            break
        raw = more.raw
    assert len(raw) > 20_000
    return SignedOperation(raw, (key_of("alice").sign(SIGN_OPERATION, operation_id(raw)),), None)


def test_two_of_the_largest_operations_fit() -> None:
    large = sorted((long_spend(salt) for salt in (1, 2)), key=id_of)
    filler = [lock_entry(0, i.to_bytes(32, "big")) for i in range(255)]
    items = [encode(attest(Log().says(*filler, lock(each, 0, b"j" * 32)), 255)) for each in large]
    evidence = against(TWO_LOCKS, *items, *(each.raw for each in large))
    assert judge(read_evidence(encode(evidence))).kind == TWO_LOCKS
    around = len(encode(evidence)) - sum(len(each.raw) for each in large)
    assert 2 * OPERATION_SIZE_MAX + around <= EVIDENCE_SIZE_MAX


# --- acted upon ---------------------------------------------------------------------------------------------


def test_the_same_offence_with_other_bytes_counts_once() -> None:
    evidences = [GUILTY["two LOCKs"], GUILTY["two LOCKs in a later view"], GUILTY["two operations"]]
    judged = [(judge(evidence), evidence) for evidence in evidences]
    assert len({evidence_id(evidence) for evidence in evidences}) == 3
    assert offenders(offence for offence, _ in judged) == {KEYS[CULPRIT].public}
    named = first_of_each(judged)
    assert len(named) == 2
    assert named == sorted(named) == first_of_each(reversed(judged))


def test_an_owners_offence_costs_no_seat() -> None:
    assert offenders([judge(GUILTY["two operations"])]) == set()


# --- what is malformed --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "is_so"),
    [
        (FIRST.raw, False),
        (CLOSE.raw, False),
        (refund().raw, False),
        (BROKEN, True),
        (CUT_OFF, True),
        (FIRST.raw + b"\0", True),
        (b"\x97\x01", True),
        (b"\x97\x02", False),
        (b"", False),
        (b"\x96\x01", False),
    ],
)
def test_bytes_are_malformed_whatever_their_proof_or_not_at_all(raw: bytes, is_so: bool) -> None:
    assert is_malformed(raw) == is_so


# --- fuzz ---------------------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(GUILTY)), st.data())
@settings(max_examples=300, deadline=None)
def test_e2_bent_evidence_is_refused_or_says_the_same(name: str, data: st.DataObject) -> None:
    """One byte of one item is other than it was; the frame is valid."""
    evidence = GUILTY[name]
    index = data.draw(st.integers(0, len(evidence.items) - 1))
    item = bytearray(evidence.items[index])
    at = data.draw(st.integers(0, len(item) - 1))
    item[at] ^= data.draw(st.integers(1, 255))
    items = (*evidence.items[:index], bytes(item), *evidence.items[index + 1 :])
    with pytest.raises((RemoteError, LedgerError)):
        judge(msgspec.structs.replace(evidence, items=items))


@given(
    st.integers(0, 8),
    st.lists(
        st.binary(max_size=80) | st.sampled_from([i for e in GUILTY.values() for i in e.items]), max_size=8
    ),
    st.sampled_from([KEYS[CULPRIT].public, ALICE, bytes(32)]),
    st.sampled_from([0, EPOCH]),
)
@settings(max_examples=300, deadline=None)
def test_e2_evidence_made_of_parts_of_others_proves_nothing_new(
    kind: int, items: list[bytes], culprit: bytes, epoch: int
) -> None:
    try:
        offence = judge(Evidence(kind, culprit, tuple(items), epoch))
    except (RemoteError, LedgerError):
        return
    assert offence.culprit in {KEYS[CULPRIT].public, ALICE}  # who is guilty of such things, really


# --- planted faults -----------------------------------------------------------------------------------------


def accepted(evidence: Evidence) -> bool:
    try:
        judge(evidence)
    except Error:
        return False
    return True


FORGED = {
    "batches": against(
        TWO_BATCHES, *(x if i % 2 == 0 else bytes(64) for i, x in enumerate(GUILTY["two batches"].items))
    ),
    "votes": msgspec.structs.replace(
        GUILTY["two LOCKs"],
        items=tuple(changed(x, signature=bytes(64)) for x in GUILTY["two LOCKs"].items[:2])
        + GUILTY["two LOCKs"].items[2:],
    ),
    "operations": msgspec.structs.replace(
        GUILTY["two operations"],
        items=(FIRST.raw, bytes(64), SECOND.raw, bytes(64)),
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_mutant_a_signature_that_is_not_checked_is_noticed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not accepted(FORGED[name])
    monkeypatch.setattr(module, "verify", lambda *_: None)
    monkeypatch.setattr(
        module, "verify_attested", lambda a, n, e, c: verify_attested(a, n, e, c, check=lambda *_: None)
    )
    assert accepted(FORGED[name])


def test_mutant_an_epoch_that_is_not_checked_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    innocent = INNOCENT["LOCKs in two epochs"]
    assert not accepted(innocent)

    def in_any_epoch(attested: Attested, network: bytes, epoch: int, committee: object) -> object:
        for each in (epoch, epoch + 1):
            try:
                return verify_attested(attested, network, each, COMMITTEE)
            except BadSignature:
                continue
        raise BadSignature("in none")

    monkeypatch.setattr(module, "verify_attested", in_any_epoch)
    assert accepted(innocent)


@pytest.mark.parametrize(
    ("demand", "innocent"),
    [
        ("the same batch twice", "a batch shown twice"),
        ("two heights", "two batches, one after the other"),
        ("a batch of another epoch", "one height in two epochs"),
        ("a vote is not the culprit's", "LOCKs of two validators"),
        ("the same operation twice", "a LOCK repeated"),
        ("the same operation twice", "one operation signed twice"),
        ("two views", "LOCKs in two views"),
        ("two slots", "LOCKs in two slots"),
        ("two slots", "operations in two slots"),
        ("two slots", "a NEWVIEW in another slot"),
        ("two slots", "a report of another slot"),
        ("the operation is not the one", "LOCKs for other operations than shown"),
        ("the vote came before", "a vote shown as if after its NEWVIEW"),
        ("the vote is not below", "a vote in the NEWVIEW's own view"),
        ("the COMMIT came after", "a NEWVIEW before the COMMIT"),
        ("it reports no less", "a COMMIT reported"),
        ("the operation is well formed", "a well-formed operation"),
        ("the operation is not the one", "malformed bytes that nobody voted for"),
    ],
)
def test_mutant_each_demand_is_needed(demand: str, innocent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this demand alone somebody innocent would be guilty."""
    kept: Callable[[bool, str], None] = module._demand

    def lenient(holds: bool, otherwise: str) -> None:
        if not otherwise.startswith(demand):
            kept(holds, otherwise)

    assert not accepted(INNOCENT[innocent])
    monkeypatch.setattr(module, "_demand", lenient)
    assert accepted(INNOCENT[innocent])


def test_mutant_a_proof_taken_for_a_part_of_the_operation_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    innocent = INNOCENT["an operation without its proof"]
    assert not accepted(innocent)

    def by_the_proof_that_came(raw: bytes) -> bool:
        try:
            parse(SignedOperation(raw, (), None))
        except Error:
            return True
        return False

    monkeypatch.setattr(module, "is_malformed", by_the_proof_that_came)
    assert accepted(innocent)
