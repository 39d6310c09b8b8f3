"""A validator's vote log: entries, the signed batches that carry them, and the hash chain they form.

A batch is a block of its validator's own chain: a header, one signature over the header's bytes, and the
entries, which the header names by their Merkle root. On the wire it is [header, signature, entries].

    header  = [version, network, epoch, validator, height, previous, timestamp, root, count]
    entries = count records, joined without separators:
              LOCK             01  view (4 bytes, big endian)  operation (32)
              COMMIT           02  view                        operation
              LOCK, justified  03  view                        operation  justification (32)
              NEWVIEW          04  view  object (32)  seq (8)  prepared view + 1 (4; 0: none)
                                   prepared operation (32; zeros: none)  candidate (32; zeros: none)
              PROPOSE          05  view  operation  justification  object  seq
              HANDOFF          06  digest of the handoff (32)

A record's first byte gives its length, so there is one way to split and one way to write each list of
entries. Heights start at 1, with the network's id as `previous`. No I/O: whoever seals a batch of its own
must have it on disk before anybody else sees it (LEDGER.md: "fsync, then send").
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from ainp2p.errors import InvalidOperation, Malformed
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.merkle import MerkleTree, leaf_hash
from ainp2p.ledger.rules.operations import Signer
from ainp2p.protocol.codec import Bytes32, Message, Positive, Signature, Uint, encode, fast_decoder
from ainp2p.protocol.identity import digest, verify

BATCH_VERSION = 1
SIGN_VOTES = b"ainp2p/votes/1"
ENTRIES_MAX = 256  # in one batch; then its signature and fsync cost next to nothing per vote
ENTRIES_SIZE_MAX = 60_000  # bytes; 256 of the longest records are 28,928, so a count always ends a batch
BATCH_SIZE_MAX = 61_000  # bytes on the wire, header and signature included
FLUSH_AFTER_MS = 20  # from the first entry at most, and after the batch before at least,
GATHER_MS = 5  # but so long from the first entry: after a pause it waits only for those that come with it;
BUSY_FLUSH_MS = 30  # and so long where votes come quickly: each batch costs every member a millisecond
BUSY_ENTRIES, BUSY_MS = 100, 40  # that is when the batch before had so many, and was sealed so lately
IDLE_AFTER_MS = 20_000  # an empty batch says "I am here" and lets others notice what they missed
EARLY_MAX = 32  # batches of one validator kept while those before them are fetched

LOCK, COMMIT, LOCK_JUSTIFIED, NEWVIEW, PROPOSE, HANDOFF = 1, 2, 3, 4, 5, 6
VIEW_MAX: Final = 2**32 - 2  # a NEWVIEW has room for the view after a prepared one
_SHORT = struct.Struct(">BI32s")  # LOCK, COMMIT
_LONG = struct.Struct(">BI32s32s")  # LOCK, justified
_NEWVIEW = struct.Struct(">BI32sQI32s32s")
_PROPOSE = struct.Struct(">BI32s32s32sQ")
_HANDOFF = struct.Struct(">B32s")
_SIZES = {
    LOCK: _SHORT.size,
    COMMIT: _SHORT.size,
    LOCK_JUSTIFIED: _LONG.size,
    NEWVIEW: _NEWVIEW.size,
    PROPOSE: _PROPOSE.size,
    HANDOFF: _HANDOFF.size,
}
_NONE = bytes(32)

Vote = tuple[int, int, bytes]  # LOCK or COMMIT, view, operation id; (its kind, 0, b"") for another entry


@dataclass(frozen=True, slots=True)
class Lock:
    """A vote for an operation; `justification` is the digest of what a leader proposed it with."""

    view: int
    operation: bytes
    justification: bytes | None


@dataclass(frozen=True, slots=True)
class Commit:
    """A vote for an operation that is prepared in this view."""

    view: int
    operation: bytes


@dataclass(frozen=True, slots=True)
class NewView:
    """From now on nothing below `view` in this slot; with the highest prepared certificate that is held.

    Attributes:
        prepared: the view of that certificate, None without one.
        operation: what it is for, None without one.
        candidate: the operation that should be decided, None if only the prepared one matters.
    """

    view: int
    object: bytes
    seq: int
    prepared: int | None
    operation: bytes | None
    candidate: bytes | None


@dataclass(frozen=True, slots=True)
class Propose:
    """What the leader of `view` wants LOCKed, and the digest of what shows that it may be."""

    view: int
    operation: bytes
    justification: bytes
    object: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class Handoff:
    """The digest of what a validator hands over at the end of its epoch."""

    digest: bytes


Entry = Lock | Commit | NewView | Propose | Handoff


def lock_entry(view: int, operation: bytes, justification: bytes | None = None) -> bytes:
    """The record of a LOCK; `justification` is the digest of what a leader proposed it with."""
    if justification is None:
        return _SHORT.pack(LOCK, view, operation)
    return _LONG.pack(LOCK_JUSTIFIED, view, operation, justification)


def commit_entry(view: int, operation: bytes) -> bytes:
    """The record of a COMMIT."""
    return _SHORT.pack(COMMIT, view, operation)


def newview_entry(
    view: int, object_: bytes, seq: int, prepared: tuple[int, bytes] | None, candidate: bytes | None
) -> bytes:
    """The record of a NEWVIEW; `prepared` is (view, operation) of the highest prepared certificate."""
    below, operation = (0, _NONE) if prepared is None else (prepared[0] + 1, prepared[1])
    return _NEWVIEW.pack(NEWVIEW, view, object_, seq, below, operation, candidate or _NONE)


def propose_entry(view: int, operation: bytes, justification: bytes, object_: bytes, seq: int) -> bytes:
    """The record of a PROPOSE; `justification` is its digest."""
    return _PROPOSE.pack(PROPOSE, view, operation, justification, object_, seq)


def handoff_entry(digest_: bytes) -> bytes:
    """The record of a HANDOFF."""
    return _HANDOFF.pack(HANDOFF, digest_)


# Every member votes with the same bytes for the same: all but the first to do so find the hash here.
_vote_hash = functools.lru_cache(maxsize=4096)(leaf_hash)


def vote_tree(records: Sequence[bytes]) -> MerkleTree:
    """The Merkle tree over a batch's records."""
    return MerkleTree((), nodes=list(map(_vote_hash, records)))


def split_entries(entries: bytes) -> list[bytes]:
    """The records, which are also the leaves of the batch's Merkle tree.

    Raises:
        Malformed: an unknown kind, or a record that is cut off.
    """
    size = _SHORT.size
    if _all_short(entries):
        return [entries[at : at + size] for at in range(0, len(entries), size)]
    records, at = [], 0
    while at < len(entries):
        length = _SIZES.get(entries[at], 0)
        record = entries[at : at + max(length, 1)]
        if len(record) != length:
            raise Malformed(f"vote of kind {record[0]} with {len(record)} bytes")
        records.append(record)
        at += length
    return records


def read_votes(entries: bytes) -> list[Vote]:
    """The LOCKs and COMMITs in their order; another entry only keeps its place. See `read_entries`.

    Raises:
        Malformed: as `split_entries`.
    """
    if _all_short(entries):
        return list(_SHORT.iter_unpack(entries))
    return [_read_vote(record) for record in split_entries(entries)]


def _read_vote(record: bytes) -> Vote:
    kind = record[0]
    if kind > LOCK_JUSTIFIED:
        return kind, 0, b""
    return (COMMIT if kind == COMMIT else LOCK, *_SHORT.unpack_from(record)[1:])


def read_entries(entries: bytes) -> list[Entry]:
    """All records in their order, each as what it is.

    Raises:
        Malformed: as `split_entries`, or a field that contradicts another.
    """
    return [read_entry(record) for record in split_entries(entries)]


def read_entry(record: bytes) -> Entry:
    """One record.

    Raises:
        Malformed: a field that contradicts another.
    """
    kind = record[0]
    if kind == COMMIT:
        return Commit(*_SHORT.unpack(record)[1:])
    if kind == LOCK:
        _, view, operation = _SHORT.unpack(record)
        return Lock(view, operation, None)
    if kind == LOCK_JUSTIFIED:
        return Lock(*_LONG.unpack(record)[1:])
    if kind == PROPOSE:
        return Propose(*_PROPOSE.unpack(record)[1:])
    if kind == HANDOFF:
        return Handoff(*_HANDOFF.unpack(record)[1:])
    _, view, object_, seq, above, operation, candidate = _NEWVIEW.unpack(record)
    if (above == 0) != (operation == _NONE) or above > view:
        raise Malformed(f"a NEWVIEW for view {view} that reports {above - 1} as prepared")
    return NewView(
        view, object_, seq, above - 1 if above else None, operation if above else None, _or_none(candidate)
    )


def _or_none(id_: bytes) -> bytes | None:
    return None if id_ == _NONE else id_


def entry_at(entries: bytes, position: int) -> tuple[Vote, bytes | None]:
    """The LOCK or COMMIT at this position, and its justification if it has one."""
    if _all_short(entries):
        return _SHORT.unpack_from(entries, position * _SHORT.size), None
    return _read_with_justification(split_entries(entries)[position])


def _read_with_justification(record: bytes) -> tuple[Vote, bytes | None]:
    return _read_vote(record), record[_SHORT.size :] if record[0] == LOCK_JUSTIFIED else None


def has_views(entries: bytes) -> bool:
    """Whether there is anything but LOCKs without justification and COMMITs."""
    return not _all_short(entries)


def _all_short(entries: bytes) -> bool:
    """Whether all records are LOCKs without justification and COMMITs: nearly always, and read in bulk."""
    return len(entries) % _SHORT.size == 0 and not entries[:: _SHORT.size].strip(b"\x01\x02")


class Header(Message, frozen=True):
    """What a validator signs, as encode(header), under `SIGN_VOTES`."""

    version: Uint
    network: Bytes32
    epoch: Uint
    validator: Bytes32
    height: Positive
    previous: Bytes32  # id of the batch before; of the network, for the first
    timestamp: Uint  # ms since 1970, by the validator's own clock
    root: Bytes32
    count: Annotated[int, msgspec.Meta(ge=0, le=ENTRIES_MAX)]


class SignedBatch(Message, frozen=True):
    """What travels."""

    header: Annotated[bytes, msgspec.Meta(max_length=256)]
    signature: Signature
    entries: Annotated[bytes, msgspec.Meta(max_length=ENTRIES_SIZE_MAX)]


@dataclass(slots=True)
class VoteBatch:
    """A batch whose header fits its entries.

    Attributes:
        raw: the bytes that travel.
        id: digest of the header; the next batch's `previous`.
        member: the validator's place in the committee.
    """

    raw: bytes
    id: bytes
    member: int
    header: Header
    signature: bytes
    entries: bytes
    _records: list[bytes] | None = None
    _tree: MerkleTree | None = None

    @property
    def votes(self) -> list[Vote]:
        """What the entries say; made each time, since many batches are kept and few are read again."""
        return read_votes(self.entries)

    def path(self, position: int) -> bytes:
        """The Merkle path of one entry; the tree is kept, since who asks for one asks for many."""
        if self._tree is None:
            self._tree = vote_tree(self._split())
        return self._tree.path(position)

    def entry(self, position: int) -> tuple[Vote, bytes | None]:
        """The LOCK or COMMIT at this position, and its justification; kept like the tree."""
        return _read_with_justification(self._split()[position])

    def _split(self) -> list[bytes]:
        if self._records is None:
            self._records = split_entries(self.entries)
        return self._records


_read_batch = fast_decoder(SignedBatch, size_max=BATCH_SIZE_MAX)
_read_header = fast_decoder(Header, size_max=256)


def batch_id(header: bytes) -> bytes:
    """The id of the batch with this encoded header."""
    return digest(b"ainp2p/batch/1", header)


def read_batch(raw: bytes) -> tuple[SignedBatch, Header]:
    """A batch of which nothing has been checked, for `check_batch`, if it is wanted.

    Raises:
        Malformed: not a batch.
    """
    batch = _read_batch(raw)
    return batch, _read_header(batch.header)


def open_batch(raw: bytes, network: bytes, epoch: int, committee: Committee) -> VoteBatch:
    """Read a batch and check it (`check_batch`).

    Raises:
        Malformed, InvalidOperation, BadSignature: as `check_batch`; or not a batch.
    """
    return check_batch(raw, read_batch(raw), network, epoch, committee)


def check_batch(
    raw: bytes, read: tuple[SignedBatch, Header], network: bytes, epoch: int, committee: Committee
) -> VoteBatch:
    """Check all of a batch except its place in the chain: one signature for all its votes.

    Args:
        read: what `read_batch(raw)` gave.

    Raises:
        Malformed: an unknown kind of entry, or entries that do not fit the header.
        InvalidOperation: rule ``"version"``, ``"network"``, ``"epoch"`` or ``"member"``.
        BadSignature: its validator did not sign it.
    """
    batch, header = read
    member = _check_header(header, network, epoch, committee)
    verify(header.validator, SIGN_VOTES, batch.header, batch.signature)
    return _parsed(raw, batch, header, member)


def reopen_batch(raw: bytes, committee: Committee) -> VoteBatch:
    """Read a batch from one's own disk: it was checked before it was written, so no signature again.

    Raises:
        Malformed: the bytes are damaged.
        InvalidOperation: rule ``"member"``.
    """
    batch, header = read_batch(raw)
    return _parsed(raw, batch, header, _member(header, committee))


def _check_header(header: Header, network: bytes, epoch: int, committee: Committee) -> int:
    if header.version != BATCH_VERSION:
        raise InvalidOperation(
            "version", f"batch version {header.version}, this release knows {BATCH_VERSION}"
        )
    if header.network != network:
        raise InvalidOperation("network", "a batch of another network")
    if header.epoch != epoch:
        raise InvalidOperation("epoch", f"a batch of epoch {header.epoch} in epoch {epoch}")
    return _member(header, committee)


def _member(header: Header, committee: Committee) -> int:
    member = committee.index.get(header.validator)
    if member is None:
        raise InvalidOperation("member", "the batch's validator is not in the committee")
    return member


def _parsed(raw: bytes, batch: SignedBatch, header: Header, member: int) -> VoteBatch:
    leaves = split_entries(batch.entries)
    if len(leaves) != header.count or vote_tree(leaves).root != header.root:
        raise Malformed("a batch's entries are not those that its header names")
    if has_views(batch.entries):
        read_entries(batch.entries)
    return VoteBatch(raw, batch_id(batch.header), member, header, batch.signature, batch.entries)


@dataclass(slots=True)
class Chain:
    """How much of one validator's log is held without a gap, and what came early.

    Attributes:
        height: batches 1 … height are held; 0 for none.
        head: the id of the last of them; the network's id for none.
    """

    height: int
    head: bytes
    early: dict[int, VoteBatch]

    def add(self, batch: VoteBatch) -> list[VoteBatch]:
        """Take a verified batch above `height`; returns those that now follow without a gap, in order.

        Raises:
            InvalidOperation: rule ``"chain"``: it does not continue the log that is held.
        """
        if batch.header.height > self.height + 1:
            if len(self.early) < EARLY_MAX:
                self.early.setdefault(batch.header.height, batch)
            return []
        ready: list[VoteBatch] = []
        follower: VoteBatch | None = batch
        while follower is not None:
            if follower.header.previous != self.head:
                if ready:  # kept early, but on another chain: what came before it is good
                    break
                raise InvalidOperation("chain", f"batch {follower.header.height} follows another one")
            self.height, self.head = follower.header.height, follower.id
            ready.append(follower)
            follower = self.early.pop(self.height + 1, None)
        return ready

    @property
    def missing(self) -> range:
        """Heights below what came early; empty when nothing is missing."""
        return range(self.height + 1, min(self.early)) if self.early else range(0)


class OwnLog:
    """The log that a validator writes: collects entries and seals them into batches."""

    def __init__(self, signer: Signer, network: bytes, epoch: int, member: int) -> None:
        self._signer, self._network, self._epoch, self._member = signer, network, epoch, member
        self.height, self.head = 0, network
        self._entries: list[bytes] = []
        self._first_at: int | None = None  # when the oldest waiting entry was added
        self._sealed_at: int | None = None  # when the last batch was,
        self._sealed = 0  # and how many entries it had

    def __len__(self) -> int:
        return len(self._entries)

    def resume(self, height: int, head: bytes) -> None:
        """Go on after the last batch on disk."""
        self.height, self.head = height, head

    def add(self, entry: bytes, now: int) -> None:
        """Put one entry into the next batch."""
        if self._first_at is None:
            self._first_at = now
        self._entries.append(entry)

    @property
    def due(self) -> int:
        """When `seal` should be called, in ms; 0 for at once."""
        if len(self._entries) >= ENTRIES_MAX:
            return 0
        if self._first_at is not None:
            if self._sealed_at is None:
                return self._first_at + FLUSH_AFTER_MS
            if self._is_busy(self._first_at - self._sealed_at):
                return self._first_at + BUSY_FLUSH_MS
            return max(self._first_at + GATHER_MS, min(self._first_at, self._sealed_at) + FLUSH_AFTER_MS)
        return 0 if self._sealed_at is None else self._sealed_at + IDLE_AFTER_MS

    def _is_busy(self, paused_ms: int) -> bool:
        """Whether votes come quickly: then waiting longer makes fewer batches, and all of it quicker."""
        return self._sealed >= BUSY_ENTRIES and paused_ms < BUSY_MS

    def clock_put_back(self, now: int) -> None:
        """Wait from now on, not from a time that has not come yet."""
        self._first_at = None if self._first_at is None else min(self._first_at, now)
        self._sealed_at = None if self._sealed_at is None else min(self._sealed_at, now)

    def seal(self, now: int) -> VoteBatch:
        """Make the next batch of at most 256 entries, oldest first; with none it is an empty one."""
        leaves, self._entries = self._entries[:ENTRIES_MAX], self._entries[ENTRIES_MAX:]
        header = Header(
            version=BATCH_VERSION,
            network=self._network,
            epoch=self._epoch,
            validator=self._signer.public,
            height=self.height + 1,
            previous=self.head,
            timestamp=now,
            root=vote_tree(leaves).root,
            count=len(leaves),
        )
        batch = sign_batch(header, leaves, self._signer, self._member)
        self.height, self.head = header.height, batch.id
        self._first_at, self._sealed_at = (now if self._entries else None), now
        self._sealed = len(leaves)
        return batch


def sign_batch(header: Header, leaves: Sequence[bytes], signer: Signer, member: int) -> VoteBatch:
    """Sign a header and put its entries beside it."""
    encoded, entries = encode(header), b"".join(leaves)
    signature = signer.sign(SIGN_VOTES, encoded)
    raw = encode(SignedBatch(encoded, signature, entries))
    return VoteBatch(raw, batch_id(encoded), member, header, signature, entries)
