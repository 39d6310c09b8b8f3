"""How keys sign and verify while a world runs: as they do outside, or cheaper.

    "ed25519"  as outside: about 22 us to sign and 57 us to verify
    "cached"   as outside, but what was signed in this world, or verified once, is not verified again: a
               gossiped card is checked for all of its readers. The signatures are the same bytes
    "keyed"    64 bytes of a keyed hash: 1 us each. Good inside this world only, where nobody but a `Key`'s
               owner can have one made; its bytes are refused outside, as Ed25519's are refused inside

The hooks are two names in protocol/identity.py; leaving the block puts back what was there.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import nacl.exceptions

from ainp2p.errors import InvalidInput
from ainp2p.protocol import card, identity, messages

Mode = Literal["ed25519", "cached", "keyed"]
CACHE_SIZE = (
    1 << 16
)  # signatures remembered per half, about 7 MB: the older half is dropped when the newer is full
_PERSON = b"ainp2p/sim/sign"

_Sign = Callable[[bytes, bytes], bytes]
_Open = Callable[[bytes, bytes, bytes], None]


@contextmanager
def signatures(mode: Mode, *, secret: bytes = b"") -> Iterator[None]:
    """Sign and verify this way inside the block.

    `secret` is the world's own (`draws.derive("signatures")`): "keyed" signatures of worlds with
    different secrets do not fit each other.

    Raises:
        InvalidInput: no such mode.
    """
    hooks: Any = identity
    before = hooks._sign, hooks._open
    if mode == "cached":
        hooks._sign, hooks._open = _remembering(hooks._sign, hooks._open)
    elif mode == "keyed":
        hooks._sign, hooks._open = _keyed(secret)
    elif mode != "ed25519":
        raise InvalidInput(f"signatures are 'ed25519', 'cached' or 'keyed', not {mode!r}")
    messages.forget_opened()
    card.forget_opened()
    try:
        yield
    finally:
        hooks._sign, hooks._open = before
        messages.forget_opened()
        card.forget_opened()


def _remembering(sign: _Sign, verify: _Open) -> tuple[_Sign, _Open]:
    """`verify`, done once for the same key, message and signature, and not for what `sign` has made.

    Refusals are not remembered.
    """
    new: set[bytes] = set()
    old: set[bytes] = set()

    def open_once(public: bytes, message: bytes, signature: bytes) -> None:
        seen = _seen(public, message, signature)
        if seen not in new and seen not in old:
            verify(public, message, signature)
            remember(seen)

    def sign_and_remember(secret: bytes, message: bytes) -> bytes:
        signature = sign(secret, message)
        remember(_seen(secret[identity.SEED_SIZE :], message, signature))
        return signature

    def remember(seen: bytes) -> None:
        nonlocal new, old
        if len(new) >= CACHE_SIZE:
            new, old = set(), new
        new.add(seen)

    return sign_and_remember, open_once


def _seen(public: bytes, message: bytes, signature: bytes) -> bytes:
    # Lengths are fixed but for the message's, which is last: no two calls give the same bytes.
    return hashlib.blake2b(signature + public + message, digest_size=20).digest()


def _keyed(secret: bytes) -> tuple[_Sign, _Open]:
    key = hashlib.blake2b(secret, digest_size=64, person=_PERSON).digest()
    start = hashlib.blake2b(key=key)

    def tag(public: bytes, message: bytes) -> bytes:
        state = start.copy()
        state.update(public + message)
        return state.digest()

    def sign(secret: bytes, message: bytes) -> bytes:
        return tag(secret[identity.SEED_SIZE :], message)  # libsodium's secret is the seed and the public key

    def open_(public: bytes, message: bytes, signature: bytes) -> None:
        if not hmac.compare_digest(tag(public, message), signature):
            raise nacl.exceptions.BadSignatureError("not a signature of this world")

    return sign, open_
