"""Signatures of vote batches that were verified a moment ago: certificates name one batch many times.

A batch holds up to 256 votes, and a hundred operations decided together have certificates over the same few
headers. Verifying each once makes catching up several times as fast; Ed25519 alone caps a core near 17,000/s.
Remembered is the digest of key, payload *and* signature: a header that is known under another signature is
verified again, since whoever we pass the certificate on to may know neither. No I/O.
"""

from __future__ import annotations

from hashlib import blake2b

from ainp2p.protocol.identity import verify

SEEN_MAX = 16_384  # about 2 MB


class SeenVotes:
    """Bounded; of too many, those checked longest ago are forgotten."""

    def __init__(self, seen_max: int = SEEN_MAX) -> None:
        self._seen_max = seen_max
        self._seen: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def check(self, public: bytes, purpose: bytes, payload: bytes, signature: bytes) -> None:
        """As `identity.verify`, but what was found good before is not verified again.

        Raises:
            BadSignature: it does not fit. That is not remembered.
        """
        whole = public + signature + purpose + b"\0" + payload  # of one length up to the purpose: one reading
        name = blake2b(whole, digest_size=16, person=b"ainp2p/seen").digest()
        if name in self._seen:
            return
        verify(public, purpose, payload, signature)
        self._seen[name] = None
        if len(self._seen) > self._seen_max:
            del self._seen[next(iter(self._seen))]
