"""What the tests of the vault share: keys, Locks, operations, and a clock that is set by hand."""

from __future__ import annotations

from collections.abc import Callable

from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import LockTerms, Operation, Out, Rotation, Share, Spend
from ainp2p.protocol.codec import encode
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key

KEY = Key(b"k" * 32)
SELLER_KEY = Key(b"s" * 32)
NETWORK, ACCOUNT, SELLER, OTHER = b"n" * 32, b"a" * 32, b"s" * 32, b"o" * 32
HASH = b"h" * 32
NOW = 1_700_000_000_000


def context(now_ms: Callable[[], int] = lambda: NOW) -> Context:
    return Context.seeded("vault", now_ms)


def lock(
    number: int = 1,
    *,
    deposit: int = 1000,
    paid: int = 0,
    payees: tuple[bytes, ...] = (SELLER,),
    authority: tuple[bytes, ...] = (KEY.public,),
    threshold: int = 1,
    ended: int = 0,
) -> Lock:
    id_ = bytes([number]) * 32
    shares = tuple(Share(payee, 1) for payee in sorted(payees))
    closer, expiry = SELLER_KEY.public, NOW + 10**9
    return Lock(
        id_, 0, id_, ACCOUNT, shares, deposit, paid, 1, authority, threshold, closer, expiry, HASH, ended
    )


def terms(
    deposit: int, *, authority: tuple[bytes, ...] = (KEY.public,), threshold: int = 1, payee: bytes = SELLER
) -> LockTerms:
    return LockTerms(
        (Share(payee, 1),), deposit, 1, authority, threshold, SELLER_KEY.public, NOW + 10**9, HASH
    )


def spend(
    *outs: tuple[bytes, int],
    locks: tuple[LockTerms, ...] = (),
    fee: int = 0,
    rotate: Rotation | None = None,
    seq: int = 2,
) -> bytes:
    """A SPEND's bytes."""
    made = tuple(Out(account, amount) for account, amount in outs)
    body = Spend(0, (), made, locks, fee, None, rotate, HASH)
    return encode(Operation(1, NETWORK, ACCOUNT, seq, HASH, NOW, body))
