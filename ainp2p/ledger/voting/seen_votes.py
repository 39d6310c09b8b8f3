"""Signatures of vote batches that were verified a moment ago: certificates name one batch many times.

A batch holds up to 256 votes, and a hundred operations decided together have certificates over the same few
headers. Verifying each once makes catching up several times as fast; Ed25519 alone caps a core near 17,000/s.
Remembered is the digest of key, payload *and* signature: a header that is known under another signature is
verified again, since whoever we pass the certificate on to may know neither. Of each batch that was seen
lately one vote's path is remembered, too: the batch's next vote is followed up to it only. No I/O.
"""

from __future__ import annotations

from hashlib import blake2b

from ainp2p.ledger.rules.merkle import KnownPath
from ainp2p.protocol.identity import verify

SEEN_MAX = 16_384  # about 2 MB
PATHS_MAX = 256  # batches, about 0.5 MB: what is decided together is in a few of each member


class SeenVotes:
    """Bounded; of too many, those checked longest ago are forgotten."""

    def __init__(self, seen_max: int = SEEN_MAX) -> None:
        self._seen_max = seen_max
        self._seen: dict[bytes, None] = {}
        self._paths: dict[object, KnownPath] = {}

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

    def knows(self, batch: object, record: bytes, position: int, path: bytes) -> bool:
        """Whether this record is shown to be in a batch that was remembered."""
        known = self._paths.get(batch)
        return known is not None and known.meets(record, position, path)

    def remember(self, batch: object, path: KnownPath) -> None:
        """A path whose header was found good by `check`; `batch` names the rest of it, and the signature."""
        self._paths[batch] = path
        if len(self._paths) > PATHS_MAX:
            del self._paths[next(iter(self._paths))]
