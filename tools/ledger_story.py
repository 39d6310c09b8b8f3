"""A small network that is decided by hand, from seeds: what `tools.ledger_vectors` writes down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.changes import Changes
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.genesis import DEVELOPMENT, Genesis, new_genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import (
    BOND_PURPOSE,
    Inception,
    LockTerms,
    ParsedOperation,
    Rotation,
    Share,
    SignedOperation,
    account_id,
    key_digest,
    lock_id,
    operation_id,
    parse,
    plain_inception,
    purpose_digest,
    sign_operation,
)
from ainp2p.ledger.rules.receipts import (
    Receipt,
    SignedReceipt,
    sign_receipt,
)
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.voting.certificate import build_certificate
from ainp2p.ledger.voting.votelog import OwnLog, VoteBatch
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key, digest

NOW = 1_700_000_000_000  # ms
PURSE = 1_000_000  # uain
LEASE = 20_000  # ms
PARAMETERS = msgspec.structs.replace(DEVELOPMENT, epoch_ms=600_000)  # so that a bond outlives an epoch
NAMES = ("alice", "bob", "carol")
LEAVER = "validator 0"  # a member of the genesis, whose key's own account opens its waiver


Json = dict[str, Any]
SlotId = tuple[bytes, int]


def key(name: str) -> Key:
    """Whose key it is decides its seed: BLAKE2b-256 of the name, with no `person`."""
    return Key(digest(b"", name.encode()))


class Story:
    """One small network, decided by hand: every operation of this page is valid where it stands."""

    def __init__(self) -> None:
        inceptions = [self.inception(name) for name in NAMES]
        self.validators = sorted((key(f"validator {i}") for i in range(4)), key=lambda each: each.public)
        self.genesis: Genesis = new_genesis(
            "vectors",
            NOW,
            [(each.public, 1, []) for each in self.validators],
            [(inception, PURSE) for inception in inceptions],
            None,
            PARAMETERS,
        )
        self.network = self.genesis.network_id
        self.committee = Committee.of(self.genesis)
        self.state = State(self.genesis)
        self.state.check_committee = lambda parsed: None  # `epochs` says what is looked at
        self.ids = {name: account_id(self.network, self.inception(name)) for name in (*NAMES, LEAVER)}
        self.decided: list[ParsedOperation] = []

    @staticmethod
    def inception(name: str) -> Inception:
        """Two of three guardians, a lease of 20 s, and a next key that is named with a prime.

        A validator's is of its key alone.
        """
        if name.startswith("validator"):
            return plain_inception(key(name).public)
        guardians = tuple(sorted(key(f"guardian {i}").public for i in range(3)))
        return Inception(key(name).public, key_digest(key(name + "'").public), guardians, 2, LEASE, bytes(32))

    # --- composing ----------------------------------------------------------------------------------

    def account(self, name: str) -> accounts.Account:
        found = self.state.accounts.get(self.ids[name])
        return found or accounts.unopened_account(self.network, self.inception(name))

    def spend(
        self,
        name: str,
        *,
        outs: Sequence[tuple[str, int]] = (),
        locks: Sequence[LockTerms] = (),
        rotate: Rotation | None = None,
        now: int = NOW,
        by: Key | None = None,
    ) -> SignedOperation:
        """The next SPEND of somebody's account, signed."""
        account = self.account(name)
        mine = {id_: c.amount for id_, c in self.state.credits.items() if c.account == account.id}
        operation = accounts.spend(
            account,
            mine,
            self.genesis.parameters,
            network=self.network,
            now_ms=now,
            outs=[(self.ids[to], amount) for to, amount in outs],
            locks=locks,
            inception=self.inception(name) if account.seq == 0 else None,
            rotate=rotate,
        )
        return sign_operation(operation, by or key(name))

    def terms(
        self,
        pays: Sequence[tuple[str, int]],
        verifiers: Sequence[str],
        threshold: int,
        closer: str,
        life: int,
    ) -> LockTerms:
        """A deposit of 1,000 uain with steps of 10."""
        beneficiaries = sorted((Share(self.ids[to], parts) for to, parts in pays), key=lambda s: s.account)
        authority = tuple(sorted(key(each).public for each in verifiers))
        purpose = purpose_digest(b"vectors")
        return LockTerms(
            tuple(beneficiaries), 1_000, 10, authority, threshold, key(closer).public, NOW + life, purpose
        )

    def bond(self, validator: str) -> LockTerms:
        """A bond of 800,000 uain: more than a quarter of all money, so it weighs as much as one of four."""
        return LockTerms(
            (Share(self.ids["carol"], 1),),
            800_000,
            800_000,
            (self.network,),
            1,
            key(validator).public,
            NOW + PARAMETERS.lock_life_ms_max,
            BOND_PURPOSE,
        )

    def waiver(self, validator: str) -> LockTerms:
        """A bond that pays the System, for which the member's own account must pay: its seat is given up."""
        network = self.network
        expiry = NOW + PARAMETERS.lock_life_ms_max
        closer = key(validator).public
        return LockTerms((Share(network, 1),), 1, 1, (network,), 1, closer, expiry, BOND_PURPOSE)

    def lock(self, opening: SignedOperation, index: int = 0) -> Lock:
        return self.state.locks[lock_id(operation_id(opening.raw), index)]

    def receipt(self, lock: Lock, cumulative: int, *signers: str) -> SignedReceipt:
        receipt = Receipt(self.network, lock.id, cumulative, cumulative // 10, b"c" * 32)
        return sign_receipt(receipt, key(signers[0]))

    # --- deciding -----------------------------------------------------------------------------------

    def decide(self, signed: SignedOperation, *, now: int = NOW, checked: bool = True) -> Json:
        """Check and apply an operation; the vector of it."""
        parsed = parse(signed)
        if checked:
            self.state.check(parsed, now)
        changes = self.state.apply(parsed)
        self.decided.append(parsed)
        return self.described(parsed, changes, now)

    def described(self, parsed: ParsedOperation, changes: Changes, now: int) -> Json:
        """An operation, its proof, and all that it changes."""
        return {
            "raw": parsed.raw,
            "id": parsed.id,
            "object": parsed.operation.object,
            "seq": parsed.operation.seq,
            "signed": encode(parsed.signed),
            "signatures": parsed.signed.signatures,
            "closer": parsed.signed.closer,
            "now": now,
            "accounts": [encode(each) for each in changes.accounts],
            "locks": [encode(each) for each in changes.locks],
            "credits": [[id_, credit.account, credit.amount] for id_, credit in changes.made],
            "consumed": list(changes.consumed),
            "burnt": changes.burnt,
            "system": encode(changes.system) if changes.system is not None else None,
        }


class Votes:
    """The vote logs of the four members, in one epoch."""

    def __init__(self, story: Story, epoch: int = 0, opening: bytes | None = None) -> None:
        self.story, self.epoch = story, epoch
        self.logs = [
            OwnLog(signer, story.network, epoch, member) for member, signer in enumerate(story.validators)
        ]
        for log in self.logs:
            log.resume(0, opening or story.network)
        self.batches: dict[tuple[int, int], VoteBatch] = {}

    def say(self, member: int, *entries: bytes, at: int = NOW) -> VoteBatch:
        """One batch of one member."""
        for entry in entries:
            self.logs[member].add(entry, at)
        batch = self.logs[member].seal(at)
        self.batches[member, batch.header.height] = batch
        return batch

    def all_say(self, *entries: bytes) -> bytes:
        """One batch of each with the same entries; the certificate of the first of them."""
        return self.certificate([self.say(member, *entries) for member in range(4)])

    def certificate(self, batches: Sequence[VoteBatch], position: int = 0) -> bytes:
        """The certificate that the entries at this position make."""
        places = [(batch.member, batch.header.height, position) for batch in batches]
        return build_certificate(
            places, lambda member, height: self.batches[member, height], self.story.committee
        )


__all__ = [
    "LEASE",
    "LEAVER",
    "NAMES",
    "NOW",
    "PARAMETERS",
    "PURSE",
    "Json",
    "SlotId",
    "Story",
    "Votes",
    "key",
]
