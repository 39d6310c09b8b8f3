"""What is too long for a record of a vote log and travels beside it, named by its digest. No I/O.

An attachment is one encoded tagged message: 1 Justification, 2 Certified (a certificate, of LOCKs or of
COMMITs), 3 Handoff, 4 Evidence, 5 Page (of a Handoff); 6 Mark never travels. Each is defined where it is
judged; here is what they have in common.
"""

from __future__ import annotations

from typing import Final

from ainp2p.protocol.identity import digest

ATTACHMENT_SIZE_MAX: Final = 60_000  # bytes: one fits a frame with room for what is around it
JUSTIFICATION, CERTIFIED, HANDOFF, EVIDENCE, PAGE, MARK = 1, 2, 3, 4, 5, 6  # tags


def attachment_id(raw: bytes) -> bytes:
    """The name of an attachment."""
    return digest(b"ainp2p/attach/1", raw)


def attachment_tag(raw: bytes) -> int:
    """The tag of an encoded message, 0 for what cannot be one: the second byte, after the array's header."""
    return raw[1] if len(raw) > 1 and 0x90 <= raw[0] <= 0x9F and raw[1] < 0x80 else 0
