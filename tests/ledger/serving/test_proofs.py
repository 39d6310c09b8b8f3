"""What a validator's answer proves: each lie in it is found out."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from ainp2p.errors import BadSignature, InvalidOperation, Malformed
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.merkle import MerkleTree
from ainp2p.ledger.rules.operations import ParsedOperation, credit_id, parse
from ainp2p.ledger.rules.receipts import close_operation, refund_operation, settle_operation
from ainp2p.ledger.serving.messages import Decided, ObjectHead
from ainp2p.ledger.serving.proofs import Proofs, opened_lock
from ainp2p.ledger.voting.certificate import build_certificate
from ainp2p.ledger.voting.votelog import BATCH_VERSION, Header, VoteBatch, commit_entry, sign_batch
from ainp2p.protocol.codec import encode

from ..world import World, key_of


class Court:
    """A world whose one validator certifies whatever it is given."""

    def __init__(self) -> None:
        self.world = World()
        self.proofs = Proofs(self.world.genesis)

    def certify(self, operation: bytes, validator: str = "validator") -> bytes:
        key, leaf, network = key_of(validator), commit_entry(0, operation), self.world.network
        header = Header(BATCH_VERSION, network, 0, key.public, 1, network, 1, MerkleTree([leaf]).root, 1)
        batch = sign_batch(header, [leaf], key, 0)

        def batch_of(member: int, height: int) -> VoteBatch:
            return batch

        return build_certificate([(0, 1, 0)], batch_of, Committee((key.public,), (1,)))

    def decided(self, parsed: ParsedOperation) -> Decided:
        return Decided(encode(parsed.signed), self.certify(parsed.id))

    def do(self, signed: object) -> ParsedOperation:
        parsed = parse(signed)  # type: ignore[arg-type]  # tests pass SignedOperations only
        self.world.do(parsed.signed)
        return parsed

    def account_head(self, name: str, last: ParsedOperation) -> ObjectHead:
        account = self.world.account(name)
        return ObjectHead(account.id, encode(account), (), (self.decided(last),))


@pytest.fixture
def court() -> Court:
    return Court()


def test_a_certified_operation_is_final(court: Court) -> None:
    parsed = court.do(court.world.spend("alice", [("bob", 1)]))
    assert court.proofs.operation(court.decided(parsed)).parsed == parsed


def another_s(court: Court, parsed: ParsedOperation) -> Decided:
    return Decided(encode(parsed.signed), court.certify(bytes(32)))


def a_stranger_s(court: Court, parsed: ParsedOperation) -> Decided:
    return Decided(encode(parsed.signed), court.certify(parsed.id, "stranger"))


def nobody_s(court: Court, parsed: ParsedOperation) -> Decided:
    return Decided(encode(parsed.signed), b"")


def garbage(court: Court, parsed: ParsedOperation) -> Decided:
    return Decided(b"garbage", court.certify(parsed.id))


@pytest.mark.parametrize("lie", [another_s, a_stranger_s, nobody_s, garbage])
def test_e12_an_operation_with_a_wrong_certificate_is_not_final(
    court: Court, lie: Callable[[Court, ParsedOperation], Decided]
) -> None:
    parsed = court.do(court.world.spend("alice", [("bob", 1)]))
    with pytest.raises((Malformed, BadSignature, InvalidOperation)):
        court.proofs.operation(lie(court, parsed))


# --- accounts -----------------------------------------------------------------------------------------


def test_an_account_s_state_is_proven_by_its_last_spend(court: Court) -> None:
    court.do(court.world.spend("alice", [("bob", 1)]))
    last = court.do(court.world.spend("alice", [("bob", 2)]))
    assert court.proofs.account(court.account_head("alice", last)) == court.world.account("alice")


def richer(head: ObjectHead, account: Account) -> ObjectHead:
    rich = msgspec.structs.replace(account, balance=account.balance + 1)
    return msgspec.structs.replace(head, state=encode(rich))


def of_another(head: ObjectHead, account: Account) -> ObjectHead:
    return msgspec.structs.replace(head, object=bytes(32))


def without_proof(head: ObjectHead, account: Account) -> ObjectHead:
    return msgspec.structs.replace(head, last=())


def of_garbage(head: ObjectHead, account: Account) -> ObjectHead:
    return msgspec.structs.replace(head, state=b"garbage")


def with_another_head(head: ObjectHead, account: Account) -> ObjectHead:
    return msgspec.structs.replace(head, state=encode(msgspec.structs.replace(account, head=bytes(32))))


@pytest.mark.parametrize("lie", [richer, of_another, without_proof, of_garbage, with_another_head])
def test_an_account_s_state_that_is_not_proven_is_refused(
    court: Court, lie: Callable[[ObjectHead, Account], ObjectHead]
) -> None:
    last = court.do(court.world.spend("alice", [("bob", 2)]))
    with pytest.raises((Malformed, InvalidOperation)):
        court.proofs.account(lie(court.account_head("alice", last), court.world.account("alice")))


def test_a_settle_proves_no_account(court: Court) -> None:
    lock = court.world.open_lock()
    settle = court.do(settle_operation(lock, court.world.receipt(lock, 100)))
    with pytest.raises(InvalidOperation):
        court.proofs.account(court.account_head("alice", settle))


# --- Locks --------------------------------------------------------------------------------------------


class Deposit:
    """A Lock with its history: opened, settled twice, closed or refunded."""

    def __init__(self, court: Court) -> None:
        self.court, self.world = court, court.world
        self.opening = court.do(court.world.spend("alice", locks=[court.world.terms()]))
        (self.first,) = court.world.state.locks.values()

    @property
    def now(self) -> Lock:
        return self.world.state.locks[self.first.id]

    def settle(self, cumulative: int) -> ParsedOperation:
        return self.court.do(settle_operation(self.now, self.world.receipt(self.first, cumulative)))

    def head(self, last: ParsedOperation | None) -> ObjectHead:
        proof = () if last is None else (self.court.decided(last),)
        return ObjectHead(self.first.id, encode(self.now), (self.court.decided(self.opening),), proof)


@pytest.fixture
def deposit(court: Court) -> Deposit:
    return Deposit(court)


def test_a_lock_is_proven_by_its_opening_and_its_last_operation(court: Court, deposit: Deposit) -> None:
    assert court.proofs.lock(deposit.head(None))[0] == deposit.now
    deposit.settle(100)
    lock, proof = court.proofs.lock(deposit.head(deposit.settle(200)))
    assert lock == deposit.now
    assert [proven.parsed.id for proven in proof] == [deposit.opening.id, deposit.now.head]


def test_an_ended_lock_is_proven_as_ended(court: Court, deposit: Deposit) -> None:
    deposit.settle(100)
    receipt = deposit.world.receipt(deposit.first, 150)
    closed = court.do(close_operation(court.world.network, deposit.now, receipt, key_of("bob")))
    assert court.proofs.lock(deposit.head(closed))[0] == deposit.now
    assert deposit.now.ended


def test_a_refunded_lock_is_proven_as_ended(court: Court, deposit: Deposit) -> None:
    deposit.world.now = deposit.first.expiry
    refund = court.do(refund_operation(court.world.network, deposit.now))
    assert court.proofs.lock(deposit.head(refund))[0] == deposit.now


def test_a_lock_of_another_s_operation_is_refused(court: Court, deposit: Deposit) -> None:
    spend = court.do(court.world.spend("carol", [("bob", 1)]))
    for head in (
        msgspec.structs.replace(deposit.head(None), opening=(court.decided(spend),)),
        msgspec.structs.replace(deposit.head(None), opening=()),
        deposit.head(spend),
    ):
        with pytest.raises((Malformed, InvalidOperation)):
            court.proofs.lock(head)


def test_an_operation_opens_only_its_own_locks(deposit: Deposit) -> None:
    assert opened_lock(deposit.opening, deposit.first.id) == deposit.first
    with pytest.raises(InvalidOperation):
        opened_lock(deposit.opening, bytes(32))


# --- credits ------------------------------------------------------------------------------------------


def test_a_spend_proves_the_credits_that_it_makes(court: Court) -> None:
    parsed = court.do(court.world.spend("alice", [("bob", 5), ("carol", 6)]))
    found = court.proofs.credit(credit_id(parsed.id, 1), parsed, None, None)
    assert found == (court.world.ids["carol"], 6)
    with pytest.raises(InvalidOperation, match="no such credit"):
        court.proofs.credit(credit_id(parsed.id, 2), parsed, None, None)


def test_a_settlement_proves_its_credit_with_the_one_before_it(court: Court, deposit: Deposit) -> None:
    one, two, three = deposit.settle(100), deposit.settle(250), deposit.settle(300)
    bob = court.world.ids["bob"]
    assert court.proofs.credit(credit_id(one.id, 0), one, deposit.now, None) == (bob, 100)
    assert court.proofs.credit(credit_id(two.id, 0), two, deposit.first, one) == (bob, 150)
    assert court.proofs.credit(credit_id(three.id, 0), three, deposit.now, two) == (bob, 50)


def test_a_settlement_s_credit_needs_the_very_one_before_it(court: Court, deposit: Deposit) -> None:
    one, two, three = deposit.settle(100), deposit.settle(250), deposit.settle(300)
    for previous in (None, one, three):
        with pytest.raises(InvalidOperation, match="before is missing"):
            court.proofs.credit(credit_id(three.id, 0), three, deposit.now, previous)
    with pytest.raises(InvalidOperation, match="Lock is missing"):
        court.proofs.credit(credit_id(two.id, 0), two, None, one)


def test_the_payer_s_rest_is_proven_after_settlements(court: Court, deposit: Deposit) -> None:
    settled = deposit.settle(100)
    deposit.world.now = deposit.first.expiry
    refund = court.do(refund_operation(court.world.network, deposit.now))
    found = court.proofs.credit(credit_id(refund.id, 1), refund, deposit.now, settled)
    assert found == (court.world.ids["alice"], 900)
