"""One entry of one validator's log, shown to somebody who does not hold the batch.

A batch's signature covers its header, and the header covers every entry by a Merkle root. So an entry is
proven by its bytes, its place, the path from there to the root, and what the header says besides; network
and epoch are the verifier's own. That is at most 0.6 kB, whatever else the batch holds. Place and count
decide the shape of the path, so nobody can show an entry at a place where it is not: the order of two
entries in a log is proven with them. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec

from ainp2p.errors import InvalidOperation, Malformed
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.merkle import root_from_path
from ainp2p.ledger.voting.votelog import (
    BATCH_VERSION,
    ENTRIES_MAX,
    SIGN_VOTES,
    Entry,
    Header,
    VoteBatch,
    read_entries,
    split_entries,
)
from ainp2p.protocol.codec import Bytes32, Message, Positive, Signature, Uint, encode
from ainp2p.protocol.identity import verify

RECORD_SIZE_MAX = 128  # bytes; a NEWVIEW, the longest, has 113
PATH_SIZE_MAX = 8 * 32  # bytes; 256 entries are 8 halvings

Check = Callable[[bytes, bytes, bytes, bytes], None]  # key, purpose, payload, signature; raises BadSignature


class Attested(Message, frozen=True):
    """An entry, and what shows that this member of the committee put it there."""

    member: Uint  # its place in the committee of the epoch
    height: Positive
    previous: Bytes32
    timestamp: Uint
    count: Annotated[int, msgspec.Meta(ge=1, le=ENTRIES_MAX)]
    position: Annotated[int, msgspec.Meta(ge=0, lt=ENTRIES_MAX)]
    record: Annotated[bytes, msgspec.Meta(min_length=1, max_length=RECORD_SIZE_MAX)]
    path: Annotated[bytes, msgspec.Meta(max_length=PATH_SIZE_MAX)]
    signature: Signature

    @property
    def place(self) -> tuple[int, int]:
        """Where it is in its log: a later entry has a higher place."""
        return self.height, self.position

    def entry(self) -> Entry:
        """What it says.

        Raises:
            Malformed: its bytes are not one record.
        """
        entries = read_entries(self.record)
        if len(entries) != 1:
            raise Malformed("an attested record is exactly one entry")
        return entries[0]


def attest(batch: VoteBatch, position: int) -> Attested:
    """Show one entry of a batch."""
    header = batch.header
    return Attested(
        member=batch.member,
        height=header.height,
        previous=header.previous,
        timestamp=header.timestamp,
        count=header.count,
        position=position,
        record=split_entries(batch.entries)[position],
        path=batch.path(position),
        signature=batch.signature,
    )


def verify_attested(
    attested: Attested, network: bytes, epoch: int, committee: Committee, check: Check = verify
) -> Entry:
    """What the member has said, if it has.

    Args:
        committee: of `epoch`.
        check: as `identity.verify`; one that remembers, for whoever reads many.

    Raises:
        Malformed: no record, or a path that does not fit its place.
        InvalidOperation: rule ``"member"``: the committee has no such place.
        BadSignature: that member of that committee did not sign it, in this network and epoch.
    """
    if attested.member >= len(committee.keys):
        raise InvalidOperation("member", f"place {attested.member} of {len(committee.keys)}")
    entry = attested.entry()
    header = Header(
        version=BATCH_VERSION,
        network=network,
        epoch=epoch,
        validator=committee.keys[attested.member],
        height=attested.height,
        previous=attested.previous,
        timestamp=attested.timestamp,
        root=root_from_path(attested.record, attested.position, attested.count, attested.path),
        count=attested.count,
    )
    check(header.validator, SIGN_VOTES, encode(header), attested.signature)
    return entry


__all__ = ["Attested", "Check", "attest", "verify_attested"]
