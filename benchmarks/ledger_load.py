"""Operations made before the clock starts: chains of SETTLEs on Locks, and chains of SPENDs of poor accounts.

All that a payee and its payer sign is signed here, so what is timed afterwards is the committee and whoever
submits. Each operation is made against the state that those before it leave, and is valid after them.
"""

from __future__ import annotations

from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.genesis import DEVELOPMENT, Genesis, new_genesis
from ainp2p.ledger.rules.operations import (
    LOCKS_MAX,
    LockTerms,
    Share,
    SignedOperation,
    parse,
    plain_inception,
    purpose_digest,
    sign_operation,
)
from ainp2p.ledger.rules.operations import lock_id as lock_id_of
from ainp2p.ledger.rules.receipts import Receipt, settle_operation, sign_receipt
from ainp2p.ledger.rules.state import State
from ainp2p.protocol.identity import Key

STEP = 10  # uain
SPAMMERS = 32  # accounts at the fee floor
GRANT, DUST = 10**12, 10**5
_LIFE_MS = 3_000_000


class Load:
    """The genesis of a committee, and everything that will be submitted to it.

    Attributes:
        payee: the account that all Locks pay.
        openings: SPENDs of the payer, one after the other.
        chains: for each Lock its SETTLEs, each of which follows on the one before.
        spam: for each of some poor accounts a chain of SPENDs.
        now_ms: when all of it was made.
    """

    def __init__(
        self, seats: list[tuple[Key, tuple[str, ...]]], now_ms: int, *, locks: int, settles: int, spam: int
    ) -> None:
        payer, payee = _key("payer"), _key("payee")
        poor = [_key("spam", at) for at in range(SPAMMERS)]
        grants = [(plain_inception(payer.public), GRANT)]
        grants += [(plain_inception(key.public), DUST) for key in poor]
        members = [(key.public, 1, addresses) for key, addresses in seats]
        self.genesis: Genesis = new_genesis("benchmark", now_ms, members, grants, None, DEVELOPMENT)
        self.network = self.genesis.network_id
        self.payee = accounts.unopened_account(self.network, plain_inception(payee.public)).id
        self._state, self.now_ms = State(self.genesis), now_ms
        self.openings: list[SignedOperation] = []
        ids = [
            id_ for at in range(0, locks, LOCKS_MAX) for id_ in self._open(payer, min(LOCKS_MAX, locks - at))
        ]
        self.chains = [self._settle(id_, payer, settles) for id_ in ids]
        self.spam = [[self._spend(key) for _ in range(spam)] for key in poor]

    def _open(self, payer: Key, count: int) -> list[bytes]:
        terms = LockTerms(
            (Share(self.payee, 1),), 10**6, STEP, (payer.public,), 1, payer.public,
            self.now_ms + _LIFE_MS, purpose_digest(b""),
        )  # fmt: skip
        self.openings.append(self._spend(payer, (terms,) * count))
        id_ = parse(self.openings[-1]).id
        return [lock_id_of(id_, index) for index in range(count)]

    def _settle(self, lock: bytes, payer: Key, count: int) -> list[SignedOperation]:
        chain = []
        for at in range(1, count + 1):
            receipt = Receipt(self.network, lock, at * STEP, at, bytes(32))
            chain.append(settle_operation(self._state.locks[lock], sign_receipt(receipt, payer)))
            self._state.apply(parse(chain[-1]))
        return chain

    def _spend(self, key: Key, locks: tuple[LockTerms, ...] = ()) -> SignedOperation:
        inception = plain_inception(key.public)
        unopened = accounts.unopened_account(self.network, inception)
        account = self._state.accounts.get(unopened.id, unopened)
        operation = accounts.spend(
            account,
            self._state.credits_of(account.id),
            self.genesis.parameters,
            network=self.network,
            now_ms=self.now_ms,
            locks=locks,
            inception=None if account.seq else inception,
        )
        signed = sign_operation(operation, key)
        self._state.apply(parse(signed))
        return signed


def _key(*parts: object) -> Key:
    return Key(repr(parts).encode().ljust(32, b".")[:32])
