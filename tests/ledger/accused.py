"""Validators that do what they should not: logs in which anything can be written, signed well."""

from __future__ import annotations

import msgspec

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import Operation, Refund, SignedOperation, operation_id
from ainp2p.ledger.voting.attested import Attested, attest
from ainp2p.ledger.voting.evidence import Evidence, Offence, verify_evidence
from ainp2p.ledger.voting.votelog import OwnLog, VoteBatch, commit_entry, lock_entry, newview_entry
from ainp2p.protocol.codec import encode
from tests.ledger.world import NOW, World, key_of

WORLD = World()
NETWORK = WORLD.network
EPOCH = 3
KEYS = sorted((key_of(f"validator {i}") for i in range(4)), key=lambda key: key.public)
COMMITTEE = Committee(tuple(key.public for key in KEYS), (1, 1, 1, 1))
OTHERS = Committee(tuple(sorted(key_of(f"stranger {i}").public for i in range(4))), (1, 1, 1, 1))
CULPRIT = 2

FIRST, SECOND = sorted(
    (WORLD.spend("alice", [("bob", amount)]) for amount in (5, 6)), key=lambda each: operation_id(each.raw)
)
ELSEWHERE = WORLD.spend("bob", [("alice", 5)])
OBJECT, SEQ = WORLD.ids["alice"], 1


def id_of(signed: SignedOperation) -> bytes:
    return operation_id(signed.raw)


def refund(object_: bytes = b"l" * 32, seq: int = 2) -> SignedOperation:
    """A REFUND of some Lock: needs no key."""
    previous = object_ if seq == 1 else b"p" * 32
    return SignedOperation(encode(Operation(1, NETWORK, object_, seq, previous, None, Refund())), (), None)


class Log:
    """One member's log; `says` seals one batch."""

    def __init__(self, member: int = CULPRIT, epoch: int = EPOCH, network: bytes = NETWORK) -> None:
        self.member = member
        self.own = OwnLog(KEYS[member], network, epoch, member)

    def says(self, *entries: bytes, at: int = NOW) -> VoteBatch:
        for entry in entries:
            self.own.add(entry, at)
        return self.own.seal(at)

    def shows(self, *entries: bytes) -> list[bytes]:
        """Each entry in a batch of its own, attested and encoded."""
        return [encode(attest(self.says(entry), 0)) for entry in entries]


def lock(signed: SignedOperation, view: int = 0, why: bytes | None = None) -> bytes:
    return lock_entry(view, id_of(signed), why)


def commit(signed: SignedOperation, view: int = 0) -> bytes:
    return commit_entry(view, id_of(signed))


def newview(
    view: int,
    prepared: tuple[int, SignedOperation] | None = None,
    slot: tuple[bytes, int] = (OBJECT, SEQ),
    candidate: SignedOperation | None = FIRST,
) -> bytes:
    shown = None if prepared is None else (prepared[0], id_of(prepared[1]))
    return newview_entry(view, *slot, shown, None if candidate is None else id_of(candidate))


def against(kind: int, *items: bytes, epoch: int = EPOCH, culprit: bytes = KEYS[CULPRIT].public) -> Evidence:
    return Evidence(kind, culprit, items, epoch)


def judge(evidence: Evidence, committee: Committee = COMMITTEE, epoch: int = EPOCH) -> Offence:
    return verify_evidence(evidence, NETWORK, {epoch: committee}.__getitem__)


def changed(raw: bytes, **fields: object) -> bytes:
    """An encoded `Attested` with other fields."""
    attested = msgspec.convert(msgspec.msgpack.decode(raw), Attested)
    return encode(msgspec.structs.replace(attested, **fields))
