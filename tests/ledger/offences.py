"""Evidence of every offence, made by hand: for tests that judge it, and for those that bend it."""

from __future__ import annotations

from ainp2p.ledger.rules.operations import OPERATION_SIZE_MAX, SignedOperation, operation_id, parse
from ainp2p.ledger.voting.evidence import (
    BELOW_NEWVIEW,
    FORGOTTEN_COMMIT,
    MALFORMED_LOCK,
    TWO_BATCHES,
    TWO_LOCKS,
    TWO_OPERATIONS,
    Evidence,
)
from ainp2p.ledger.voting.votelog import VoteBatch, lock_entry
from ainp2p.protocol.codec import encode
from tests.ledger.accused import FIRST, SECOND, Log, against, commit, id_of, lock, newview
from tests.ledger.world import NOW, key_of
from tests.ledger.world import changed as changed_operation

ALICE = key_of("alice").public


def two_batches(first: VoteBatch, second: VoteBatch) -> Evidence:
    pair = sorted((encode(batch.header), batch.signature) for batch in (first, second))
    return against(TWO_BATCHES, *pair[0], *pair[1])


def two_locks(first: bytes = lock(FIRST), second: bytes = lock(SECOND), *raws: bytes) -> Evidence:
    return against(TWO_LOCKS, *Log().shows(first, second), *(raws or (FIRST.raw, SECOND.raw)))


def two_operations(first: SignedOperation, second: SignedOperation, key: bytes = ALICE) -> Evidence:
    pair = sorted((first, second), key=id_of)
    items = [item for each in pair for item in (each.raw, each.signatures[0])]
    return against(TWO_OPERATIONS, *items, epoch=0, culprit=key)


def below(*entries: bytes, operation: SignedOperation = FIRST) -> Evidence:
    return against(BELOW_NEWVIEW, *Log().shows(*entries), operation.raw)


def forgotten(*entries: bytes, operation: SignedOperation = FIRST) -> Evidence:
    return against(FORGOTTEN_COMMIT, *Log().shows(*entries), operation.raw)


def malformed(raw: bytes, entry: bytes | None = None) -> Evidence:
    (shown,) = Log().shows(entry or lock_entry(0, operation_id(raw)))
    return against(MALFORMED_LOCK, shown, raw)


def later(seq: int) -> SignedOperation:
    """A SPEND of alice in a later slot."""
    return changed_operation(
        parse(FIRST).operation, "alice", seq=seq, previous=b"p" * 32, body_inception=None
    )


BROKEN = changed_operation(parse(FIRST).operation, "alice", seq=0).raw  # "starts at 1"
CUT_OFF = FIRST.raw[:-1]

GUILTY: dict[str, Evidence] = {
    "two batches": two_batches(Log().says(lock(FIRST)), Log().says(lock(SECOND))),
    "two batches, one empty": two_batches(Log().says(lock(FIRST)), Log().says()),
    "two batches at two times": two_batches(Log().says(), Log().says(at=NOW + 1)),
    "two LOCKs": two_locks(),
    "two LOCKs in a later view": two_locks(lock(FIRST, 7), lock(SECOND, 7)),
    "two justified LOCKs": two_locks(lock(FIRST, 1, b"1" * 32), lock(SECOND, 1, b"2" * 32)),
    "a justified LOCK and a plain one": two_locks(lock(FIRST, 1), lock(SECOND, 1, b"2" * 32)),
    "two operations": two_operations(FIRST, SECOND),
    "a LOCK below a NEWVIEW": below(newview(1), lock(FIRST)),
    "a COMMIT below a NEWVIEW": below(newview(3), commit(FIRST, 2)),
    "a justified LOCK below a NEWVIEW": below(newview(3), lock(FIRST, 2, b"j" * 32)),
    "a COMMIT forgotten": forgotten(commit(FIRST), newview(1)),
    "a COMMIT forgotten for a lower one": forgotten(commit(FIRST, 4), newview(6, (3, SECOND))),
    "a LOCK for a broken rule": malformed(BROKEN),
    "a LOCK for bytes cut off": malformed(CUT_OFF),
    "a LOCK for too many bytes": malformed(FIRST.raw + bytes(OPERATION_SIZE_MAX)),
    "a justified LOCK for a broken rule": malformed(BROKEN, lock_entry(2, operation_id(BROKEN), b"j" * 32)),
}
