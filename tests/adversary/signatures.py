"""Each signature is looked at once: a memory for `crypto_sign_open`, since n validators live in one process.

Verdicts are libsodium's own. What is remembered is a pure function of its arguments: no run changes by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import nacl.bindings
import nacl.exceptions

_REMEMBERED_MAX = 20_000


@contextmanager
def remembered() -> Iterator[None]:
    """Within, a signature that was verified before costs a look into a dict."""
    original = nacl.bindings.crypto_sign_open
    verdicts: dict[tuple[bytes, bytes], bytes | None] = {}

    def open_(signed: bytes, pk: bytes) -> bytes:
        known = verdicts.get((signed, pk), b"?")
        if known == b"?":
            if len(verdicts) > _REMEMBERED_MAX:
                verdicts.clear()
            try:
                known = original(signed, pk)
            except nacl.exceptions.BadSignatureError:
                known = None
            verdicts[signed, pk] = known
        if known is None:
            raise nacl.exceptions.BadSignatureError("Signature was forged or corrupt")
        return known

    nacl.bindings.crypto_sign_open = open_
    try:
        yield
    finally:
        nacl.bindings.crypto_sign_open = original
