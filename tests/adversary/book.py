"""LEDGER.md's table of operations, said a second time: what is decided is entered here, and must be right.

Written apart from the cores: of the library it uses the messages (how operations are encoded), ids and
`verify`. Amounts are plain ints in dicts, every rule is one `demand`, and there is no undo: an operation that
breaks a rule has been decided by a quorum, so the run is over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from ainp2p.errors import BadSignature
from ainp2p.ledger.rules.genesis import Genesis, Parameters
from ainp2p.ledger.rules.operations import (
    BOND_PURPOSE,
    Close,
    EndEpoch,
    Inception,
    LockTerms,
    NextCommittee,
    Operation,
    ParsedOperation,
    Recover,
    Refund,
    Settle,
    SignedOperation,
    Spend,
    Void,
)
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import digest, verify
from tests.adversary.violation import Violation

AMOUNT_MAX = 2**63 - 1
ANY_PAYEE = digest(b"ainp2p/payee/1", b"whom the receipt names")  # a bounty's beneficiary


class Refused(Exception):
    """A rule says no; `rule` names it."""

    def __init__(self, rule: str) -> None:
        super().__init__(rule)
        self.rule = rule


def need(holds: object, rule: str) -> None:
    if not holds:
        raise Refused(rule)


@dataclass(frozen=True)
class Purse:
    """An account."""

    id: bytes
    seq: int
    head: bytes
    balance: int
    debt: int
    key: bytes
    next_digest: bytes
    guardians: tuple[bytes, ...]
    m: int
    lease: int
    timestamp: int
    epoch: int


@dataclass(frozen=True)
class Deposit:
    """A Lock."""

    id: bytes
    seq: int
    head: bytes
    payer: bytes
    shares: tuple[tuple[bytes, int], ...]
    deposit: int
    paid: int
    step: int
    authority: tuple[bytes, ...]
    threshold: int
    closer: bytes
    expiry: int
    ended: bool
    bond: bool = False
    opened_by: bytes = b""  # the SPEND

    def credited(self, paid: int) -> int:
        whole = sum(parts for _, parts in self.shares)
        return sum(paid * parts // whole for _, parts in self.shares)

    @property
    def held(self) -> int:
        return 0 if self.ended else self.deposit - self.credited(self.paid)


@dataclass
class Effect:
    """What one operation does."""

    purse: Purse | None = None
    deposits: tuple[Deposit, ...] = ()
    credits: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    consumed: tuple[bytes, ...] = ()
    burnt: int = 0


def born(network: bytes, inception: Inception) -> Purse:
    """An account before its first operation."""
    id_ = digest(b"ainp2p/account/1", network, encode(inception))
    i = inception
    return Purse(id_, 0, id_, 0, 0, i.key, i.next_digest, i.guardians, i.m, i.lease, 0, 0)


def digest_of(p: Purse) -> bytes:
    """ "SPEND, RECOVER and VOID end with a digest of the account's whole state after them"."""
    fields = (p.id, p.seq, p.balance, p.debt, p.key, p.next_digest, p.guardians, p.m, p.lease, p.timestamp)
    return digest(b"ainp2p/state/1", encode((*fields, p.epoch)))


def settling_fee(terms: LockTerms, floor: int) -> int:
    """ "settling fee of each Lock that it opens (floor · (⌊deposit/step⌋ + 2))"."""
    return floor * (terms.deposit // terms.step + 2)


class Book:
    """All objects of the network after what has been decided so far.

    Attributes:
        history: (object, seq) → the object's state then; validators must show the same.
        frontier: object → (seq, head).
    """

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.network = genesis.network_id
        self.rules: Parameters = genesis.parameters
        self.purses: dict[bytes, Purse] = {}
        self.deposits: dict[bytes, Deposit] = {}
        self.credits: dict[bytes, tuple[bytes, int]] = {}
        self.spent: set[bytes] = set()
        self.burnt = 0
        self.history: dict[tuple[bytes, int], Purse | Deposit] = {}
        self.epoch, self.opened_at = 0, genesis.created
        self.system = (0, self.network)
        self.inboxes: dict[bytes, dict[bytes, int]] = {}
        for index, grant in enumerate(genesis.grants):
            owner = born(self.network, grant.inception).id
            self._credit(self.network + index.to_bytes(2, "big"), owner, grant.amount)

    # --- looking --------------------------------------------------------------------------------

    def head(self, object_: bytes) -> tuple[int, bytes]:
        if object_ == self.network:
            return self.system
        found = self.purses.get(object_) or self.deposits.get(object_)
        return (found.seq, found.head) if found is not None else (0, object_)

    def total(self) -> int:
        """Invariant 1's right side, counted anew."""
        return (
            sum(purse.balance for purse in self.purses.values())
            + sum(amount for _, amount in self.credits.values())
            + sum(deposit.held for deposit in self.deposits.values())
            + self.burnt
        )

    # --- judging --------------------------------------------------------------------------------

    def effect(self, parsed: ParsedOperation, conflicts: Callable[[ParsedOperation], bool]) -> Effect:
        """What this operation does if it is the valid next one of its object, whatever the time.

        Args:
            conflicts: whether two conflicting operations, signed by the owner's current key, exist for
                the slot of a VOID.

        Raises:
            Refused: it is not.
        """
        operation = parsed.operation
        body = operation.body
        need(operation.network == self.network, "network")
        seq, head = self.head(operation.object)
        need(operation.seq == seq + 1, "sequence")
        need(operation.previous == head, "previous")
        if isinstance(body, Spend):
            return self._spend(parsed, body)
        if isinstance(body, Settle | Close | Refund):
            return self._on_deposit(parsed, body)
        if isinstance(body, Recover):
            return self._recover(parsed, body)
        if isinstance(body, EndEpoch | NextCommittee):
            return self._system(parsed, body)
        if isinstance(body, Void):
            return self._void(parsed, body, conflicts)
        raise Refused("kind")

    def enter(self, parsed: ParsedOperation, conflicts: Callable[[ParsedOperation], bool]) -> Effect:
        """Take over a decided operation.

        Raises:
            Violation: it breaks a rule, and was decided.
        """
        try:
            effect = self.effect(parsed, conflicts)
        except Refused as exc:
            kind = type(parsed.operation.body).__name__
            raise Violation("validity", f"{kind} decided against the rule {exc.rule!r}") from exc
        if effect.purse is not None:
            self.purses[effect.purse.id] = effect.purse
            self.history[effect.purse.id, effect.purse.seq] = effect.purse
        body = parsed.operation.body
        if isinstance(body, EndEpoch | NextCommittee):
            self.system = (parsed.operation.seq, parsed.id)
        if isinstance(body, NextCommittee):
            self.epoch, self.opened_at = body.epoch, parsed.operation.timestamp or 0
        for deposit in effect.deposits:
            self.deposits[deposit.id] = deposit
            self.history[deposit.id, deposit.seq] = deposit
        for id_ in effect.consumed:
            owner, _ = self.credits.pop(id_)
            del self.inboxes[owner][id_]
            self.spent.add(id_)
        for id_, (owner, amount) in effect.credits.items():
            self._credit(id_, owner, amount)
        self.burnt += effect.burnt
        return effect

    def _credit(self, id_: bytes, owner: bytes, amount: int) -> None:
        self.credits[id_] = (owner, amount)
        self.inboxes.setdefault(owner, {})[id_] = amount

    def _spend(self, parsed: ParsedOperation, body: Spend) -> Effect:
        operation, rules = parsed.operation, self.rules
        if operation.seq == 1:
            need(body.inception is not None, "inception iff seq = 1")
            assert body.inception is not None
            before = born(self.network, body.inception)
            need(before.id == operation.object, "inception")
        else:
            need(body.inception is None, "inception iff seq = 1")
            need(operation.object in self.purses, "an account")
            before = self.purses[operation.object]
        key, next_digest = before.key, before.next_digest
        if body.rotate is not None:
            key, next_digest = body.rotate.key, body.rotate.next_digest
            need(digest(b"ainp2p/nextkey/1", key) == before.next_digest, "the revealed next key")
        self._signed(key, b"ainp2p/op/1", parsed.id, parsed.signed.signatures, "the owner's signature")
        need(operation.timestamp is not None and operation.timestamp >= before.timestamp, "timestamp")
        assert operation.timestamp is not None
        need(before.epoch <= body.epoch <= self.epoch, "names an epoch from its last to the current one")
        need(len(set(body.credits)) == len(body.credits) <= rules.credits_max, "credits distinct, in the cap")
        received = 0
        for id_ in body.credits:
            need(id_ not in self.spent, "a credit is consumed at most once")
            need(id_ in self.credits, "credits exist")
            owner, amount = self.credits[id_]
            need(owner == operation.object, "credits are addressed here")
            received += amount
        amounts = [out.amount for out in body.outs] + [terms.deposit for terms in body.locks]
        need(len(body.outs) <= 64 and all(0 < amount <= AMOUNT_MAX for amount in amounts), "amounts > 0")
        least = rules.fee_floor + before.debt
        least += sum(settling_fee(terms, rules.fee_floor) for terms in body.locks)
        need(body.fee >= least, "fee ≥ minimum + debt + settling fees")
        balance = before.balance + received - sum(amounts) - body.fee
        need(0 <= balance <= AMOUNT_MAX, "balance + credits - outs - locks - fee ≥ 0")
        after = replace(
            before,
            seq=operation.seq,
            head=parsed.id,
            balance=balance,
            debt=0,
            key=key,
            next_digest=next_digest,
            timestamp=operation.timestamp,
            epoch=body.epoch,
        )
        need(digest_of(after) == body.digest, "the digest of the account's whole state after it")
        opened = tuple(self._opened(parsed, index, terms) for index, terms in enumerate(body.locks))
        made = {
            parsed.id + i.to_bytes(2, "big"): (out.account, out.amount) for i, out in enumerate(body.outs)
        }
        return Effect(after, opened, made, body.credits, body.fee)

    def _opened(self, parsed: ParsedOperation, index: int, terms: LockTerms) -> Deposit:
        operation = parsed.operation
        assert operation.timestamp is not None
        life = terms.expiry - operation.timestamp
        need(0 < life <= self.rules.lock_life_ms_max, "its life is bounded from the timestamp")
        need(terms.step >= 1 and terms.beneficiaries, "step ≥ 1, beneficiaries")
        need(all(share.parts >= 1 for share in terms.beneficiaries), "parts ≥ 1")
        need(1 <= terms.threshold <= len(terms.authority), "k of m")
        systems = self.network in terms.authority
        need(systems == (terms.purpose == BOND_PURPOSE), "the System's authority is over bonds")
        id_ = digest(b"ainp2p/lock/1", parsed.id, index.to_bytes(2, "big"))
        return Deposit(
            id=id_,
            seq=0,
            head=id_,
            payer=operation.object,
            shares=tuple((share.account, share.parts) for share in terms.beneficiaries),
            deposit=terms.deposit,
            paid=0,
            step=terms.step,
            authority=terms.authority,
            threshold=terms.threshold,
            closer=terms.closer,
            expiry=terms.expiry,
            ended=False,
            bond=terms.purpose == BOND_PURPOSE,
            opened_by=parsed.id,
        )

    def _system(self, parsed: ParsedOperation, body: EndEpoch | NextCommittee) -> Effect:
        operation = parsed.operation
        need(operation.object == self.network, "the System")
        if isinstance(body, EndEpoch):
            need(operation.seq % 2 == 1 and body.epoch == self.epoch, "previous is COMMITTEE{e}")
            need(operation.timestamp is None and not parsed.signed.signatures, "nobody's signature")
            return Effect()
        need(operation.seq % 2 == 0 and body.epoch == self.epoch + 1, "previous is END-EPOCH{e}")
        need((operation.timestamp or 0) >= self.opened_at, "timestamp")
        proof = parsed.signed.signatures
        self._signed(body.proposer, b"ainp2p/committee/1", parsed.id, proof, "a member of e signs")
        need(body.parameters == self.rules, "parameters stay as they are")
        return self._bonds_ended(parsed, body)

    def _bonds_ended(self, parsed: ParsedOperation, body: NextCommittee) -> Effect:
        """ "a bond is a Lock … which a COMMITTEE ends": burnt, or back to who paid it."""
        ended, made, burnt = [], dict[bytes, tuple[bytes, int]](), 0
        for index, id_ in enumerate((*body.returned_bonds, *body.burnt_bonds)):
            need(id_ in self.deposits, "a bond exists")
            bond = self.deposits[id_]
            need(bond.bond and not bond.ended, "an open bond")
            ended.append(replace(bond, seq=bond.seq + 1, head=parsed.id, ended=True))
            if index < len(body.returned_bonds):
                made[parsed.id + index.to_bytes(2, "big")] = (bond.payer, bond.held)
            else:
                burnt += bond.held
        return Effect(None, tuple(ended), made, (), burnt)

    def _recover(self, parsed: ParsedOperation, body: Recover) -> Effect:
        operation = parsed.operation
        need(operation.object in self.purses, "at least one operation decided")
        before = self.purses[operation.object]
        need(before.m >= 1 and len(parsed.signed.signatures) == before.m, "m of n guardians")
        left = list(before.guardians)
        for signature in parsed.signed.signatures:
            fitting = [key for key in left if fits(key, b"ainp2p/recover/1", parsed.id, signature)]
            need(fitting, "a guardian's signature")
            left.remove(fitting[0])
        need(operation.timestamp is not None, "timestamp")
        assert operation.timestamp is not None
        need(before.timestamp + before.lease <= operation.timestamp, "last timestamp + lease ≤ timestamp")
        need(before.lease >= self.rules.lease_ms_min, "lease ≥ the least lease")
        after = replace(
            before,
            seq=operation.seq,
            head=parsed.id,
            key=body.key,
            next_digest=body.next_digest,
            timestamp=operation.timestamp,
        )
        need(digest_of(after) == body.digest, "the digest of the account's whole state after it")
        return Effect(after)

    def _void(
        self, parsed: ParsedOperation, body: Void, conflicts: Callable[[ParsedOperation], bool]
    ) -> Effect:
        operation = parsed.operation
        need((body.inception is not None) == (operation.seq == 1), "inception iff seq = 1")
        if body.inception is not None:
            before = born(self.network, body.inception)
            need(before.id == operation.object, "inception")
        else:
            need(operation.object in self.purses, "an account")
            before = self.purses[operation.object]
        need(operation.timestamp is None and not parsed.signed.signatures, "nobody's")
        need(conflicts(parsed), "two conflicting operations signed by the owner's current key")
        debt = before.debt + self.rules.void_debt
        after = replace(before, seq=operation.seq, head=parsed.id, debt=debt)
        need(digest_of(after) == body.digest, "the digest of the account's whole state after it")
        return Effect(after)

    def _on_deposit(self, parsed: ParsedOperation, body: Settle | Close | Refund) -> Effect:
        need(parsed.operation.object in self.deposits, "a Lock")
        before = self.deposits[parsed.operation.object]
        need(not before.ended, "the Lock has not ended")
        need(not before.bond, "only a COMMITTEE ends a bond")
        need(parsed.operation.timestamp is None, "no timestamp")
        paid = before.paid
        if isinstance(body, Settle) or (isinstance(body, Close) and body.context):
            paid = body.cumulative
            need(before.paid < paid <= before.deposit, "paid < cumulative ≤ deposit")
            self.judge_receipt(before, body, parsed.signed)
        elif isinstance(body, Close):
            need(body.cumulative == before.paid and body.units == 0, "cumulative = paid with units 0")
        if isinstance(body, Settle):
            more = paid - before.paid
            need(more >= before.step or paid == before.deposit, "a step, or the whole deposit")
        if isinstance(body, Close) and parsed.signed.closer is not None:
            proof = (parsed.signed.closer,)
            self._signed(before.closer, b"ainp2p/close/1", parsed.id, proof, "the closer's signature")
        ended = not isinstance(body, Settle)
        after = replace(before, seq=before.seq + 1, head=parsed.id, paid=paid, ended=ended)
        made: dict[bytes, tuple[bytes, int]] = {}
        whole = sum(parts for _, parts in before.shares)
        for index, (account, parts) in enumerate(before.shares):
            more = paid * parts // whole - before.paid * parts // whole
            if more and account == ANY_PAYEE:
                assert isinstance(body, Settle | Close)
                need(body.context != ANY_PAYEE, "a bounty's receipt names whom it pays")
                account = body.context
            if more:
                made[parsed.id + index.to_bytes(2, "big")] = (account, more)
        rest = before.deposit - before.credited(paid)
        if ended and rest:
            made[parsed.id + len(before.shares).to_bytes(2, "big")] = (before.payer, rest)
        return Effect(None, (after,), made)

    def judge_receipt(self, deposit: Deposit, body: Settle | Close, signed: SignedOperation) -> None:
        receipt = encode((self.network, deposit.id, body.cumulative, body.units, body.context))
        need(len(signed.signatures) == deposit.threshold, "k signatures")
        further = iter(deposit.authority)  # k of m sign in the order of their keys, each once
        for signature in signed.signatures:
            fitting = any(fits(key, b"ainp2p/receipt/1", receipt, signature) for key in further)
            need(fitting, "the authority's signature")

    def _signed(
        self, key: bytes, purpose: bytes, payload: bytes, signatures: tuple[bytes, ...], rule: str
    ) -> None:
        need(len(signatures) == 1 and fits(key, purpose, payload, signatures[0]), rule)


def fits(key: bytes, purpose: bytes, payload: bytes, signature: bytes) -> bool:
    """Whether `signature` is `key`'s over `payload` for this purpose."""
    try:
        verify(key, purpose, payload, signature)
    except BadSignature:
        return False
    return True


__all__ = ["Book", "Deposit", "Effect", "Operation", "Purse", "Refused", "born", "digest_of", "fits"]
