"""HANDOFFs: what a validator leaves to the next epoch, and what a set of them says together. No I/O.

LEDGER.md, "Epochs": "publishes HANDOFF: its log height, its frontier (every decided head, certificates
fetchable) and for each undecided slot its highest prepared certificate".

    Handoff  = [3, network, epoch, validator, height, frontier root, count, prepared, more, signature]
    Page     = [5, prepared]                    what does not fit into the HANDOFF; `more` names it by its id
    prepared = [[object, seq, certificate], …]  rising, over the HANDOFF and its pages together

Both travel as attachments. The HANDOFF record (06) of the vote log signs the HANDOFF's digest, so one
validator has one for each epoch, and its votes before it are those before that record. The HANDOFF itself is
signed too (over its encoding with an empty signature): a member that shows different logs to different others
must not keep those from judging one COMMITTEE, so whichever of its HANDOFFs is named counts.

**Nothing that matters is left out.** A validator must hand over the slots in which it has COMMITted: where
one was decided unseen, each set of more than 2/3 meets the quorum that COMMITted in a correct member. So it
has at most `commits_max` such slots at any time (it holds its COMMITs back beyond that), which fit into
`PAGES_MAX` pages whatever the certificates' size. Slots that are prepared here and not COMMITted are handed
over as far as there is room: they only spare others a view.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import msgspec

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.merkle import MerkleTree
from ainp2p.ledger.rules.operations import Signer
from ainp2p.ledger.voting.attachments import ATTACHMENT_SIZE_MAX, attachment_id
from ainp2p.ledger.voting.certificate import CERTIFICATE_SIZE_MAX, read_certificate, verify_prepared
from ainp2p.protocol.codec import Bytes32, Message, Positive, Uint, encode, fast_decoder
from ainp2p.protocol.identity import verify

SIGN_HANDOFF = b"ainp2p/handoff/1"
PAGES_MAX = 512  # named by one HANDOFF: 17 kB
_ROOM = 40_000  # bytes of prepared slots in a HANDOFF; its pages' names need 17 kB
_PAGE_ROOM = 59_000
_PER_MESSAGE_MAX = 240  # slots, four elements each; the codec reads 1,024
_SLOT_SIZE = 64  # bytes beside the certificate: object, seq and headers
_VOTE_SIZE_MAX = 450  # bytes of one member's vote in a certificate: header, signature, path of 8 hashes

SlotId = tuple[bytes, int]  # object, seq
Head = tuple[int, bytes]  # seq, id of the operation decided there
CommitteeOf = Callable[[int], Committee]  # raises InvalidOperation for an epoch that is not known
HeadOf = Callable[[bytes], Head]


class Held(Message, frozen=True):
    """An undecided slot, and its highest prepared certificate."""

    object: Bytes32
    seq: Positive
    certificate: Annotated[bytes, msgspec.Meta(min_length=1, max_length=CERTIFICATE_SIZE_MAX)]


HeldSlots = Annotated[tuple[Held, ...], msgspec.Meta(max_length=_PER_MESSAGE_MAX)]


class Handoff(Message, frozen=True, tag=3):
    """What one member of `epoch` knows at its end; `height` is that of its log before it signs this."""

    network: Bytes32
    epoch: Uint
    validator: Bytes32
    height: Uint
    frontier_root: Bytes32
    frontier_count: Uint
    prepared: HeldSlots
    more: Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=PAGES_MAX)]
    signature: Annotated[bytes, msgspec.Meta(max_length=64)] = b""


class Page(Message, frozen=True, tag=5):
    """Further slots of a HANDOFF."""

    prepared: Annotated[HeldSlots, msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True, order=True)
class Prepared:
    """What a prepared certificate says; ordered by (epoch, view)."""

    epoch: int
    view: int
    operation: bytes
    certificate: bytes


read_handoff = fast_decoder(Handoff, size_max=ATTACHMENT_SIZE_MAX)
read_page = fast_decoder(Page, size_max=ATTACHMENT_SIZE_MAX)


def commits_max(members: int) -> int:
    """In how many undecided slots a validator may have COMMITted at once, so that all can be handed over."""
    held = min(members * _VOTE_SIZE_MAX + 128, CERTIFICATE_SIZE_MAX) + _SLOT_SIZE
    return PAGES_MAX * min(_PAGE_ROOM // held, _PER_MESSAGE_MAX)


# --- frontiers ----------------------------------------------------------------------------------------


def frontier_root(heads: Mapping[bytes, Head]) -> bytes:
    """The Merkle root over (object, seq, head) of each decided object, in the order of their ids."""
    return MerkleTree([id_ + heads[id_][0].to_bytes(8, "big") + heads[id_][1] for id_ in sorted(heads)]).root


def changed_frontier(base: Mapping[bytes, Head], changes: Mapping[bytes, Head]) -> dict[bytes, Head]:
    """`base` with other heads in some places; a seq of 0 says that an object is not there."""
    merged = {**base, **changes}
    return {id_: head for id_, head in merged.items() if head[0]}


# --- making one ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leaving:
    """What goes into a HANDOFF.

    Attributes:
        frontier: object → its decided head.
        committed: slot → prepared certificate, where we have COMMITted: at most `commits_max` of them.
        prepared: the same for others that are prepared: as many go with it as there is room for.
    """

    frontier: Mapping[bytes, Head]
    committed: Mapping[SlotId, bytes]
    prepared: Mapping[SlotId, bytes]


def make_handoff(
    network: bytes,
    epoch: int,
    validator: bytes,
    height: int,
    members: int,
    leaving: Leaving,
    signer: Signer | None = None,
) -> list[bytes]:
    """A HANDOFF of one of so many members as attachments: itself, then its pages.

    Lemma L6 (docs/ledger-proof.md): every slot with a COMMIT of ours is in it.

    Args:
        signer: the member's key; without one it is not signed, and nobody takes it.
    """
    chosen = dict(leaving.committed)
    for slot, certificate in sorted(leaving.prepared.items()):
        if len(chosen) >= commits_max(members):
            break
        chosen.setdefault(slot, certificate)
    held = [Held(object_, seq, chosen[object_, seq]) for object_, seq in sorted(chosen)]
    inline, rest = _split(held, _ROOM)
    pages = []
    while rest:
        page, rest = _split(rest, _PAGE_ROOM)
        pages.append(encode(Page(page)))
    names = tuple(attachment_id(page) for page in pages)
    root, count = frontier_root(leaving.frontier), len(leaving.frontier)
    handoff = Handoff(network, epoch, validator, height, root, count, inline, names)
    if signer is not None:
        signature = signer.sign(SIGN_HANDOFF, encode(handoff))
        handoff = msgspec.structs.replace(handoff, signature=signature)
    return [encode(handoff), *pages]


def check_signature(handoff: Handoff) -> None:
    """Check that its validator has signed a HANDOFF.

    Raises:
        BadSignature: it has not.
    """
    unsigned = msgspec.structs.replace(handoff, signature=b"")
    verify(handoff.validator, SIGN_HANDOFF, encode(unsigned), handoff.signature)


def _split(held: list[Held], room: int) -> tuple[tuple[Held, ...], list[Held]]:
    """As many of the first ones as fit, and the rest."""
    size = 0
    for count, each in enumerate(held):
        size += len(each.certificate) + _SLOT_SIZE
        if size > room or count == _PER_MESSAGE_MAX:
            return tuple(held[:count]), held[count:]
    return tuple(held), []


# --- checking one -------------------------------------------------------------------------------------


def check_handoff(
    raw: bytes,
    network: bytes,
    epoch: int,
    validator: bytes,
    pages: Sequence[bytes],
    committee_of: CommitteeOf,
) -> tuple[Handoff, dict[SlotId, Prepared]]:
    """A member's HANDOFF and the prepared slots in it and its pages, every certificate verified.

    That the certificate's operation belongs into that slot is seen when the operation is held.

    Raises:
        Malformed: it is none.
        InvalidOperation: rule ``"handoff"``: of another network, epoch or member, pages that are not its own,
            or slots out of order; ``"certificate"``: what it shows prepares nothing.
        BadSignature: a vote in a certificate was not signed by its member.
    """
    handoff = read_handoff(raw)
    if (handoff.network, handoff.epoch, handoff.validator) != (network, epoch, validator):
        raise InvalidOperation("handoff", "of another network, epoch or member")
    if tuple(attachment_id(page) for page in pages) != handoff.more:
        raise InvalidOperation("handoff", "other pages than it names")
    held = [*handoff.prepared, *(each for page in pages for each in read_page(page).prepared)]
    if any((a.object, a.seq) >= (b.object, b.seq) for a, b in pairwise(held)):
        raise InvalidOperation("handoff", "slots out of order, or named twice")
    return handoff, {
        (each.object, each.seq): check_prepared(each.certificate, network, epoch, committee_of)
        for each in held
    }


def check_prepared(raw: bytes, network: bytes, epoch: int, committee_of: CommitteeOf) -> Prepared:
    """What a prepared certificate of `epoch`, or of one before it, says.

    A slot may stay undecided for a whole epoch: then its certificate from before is still the highest.

    Raises:
        Malformed, InvalidOperation, BadSignature: as `certificate.verify_prepared`.
    """
    of = read_certificate(raw).epoch
    if of > epoch:
        raise InvalidOperation("certificate", f"of epoch {of}, which had not begun in {epoch}")
    view, operation = verify_prepared(raw, committee_of(of), of, network)
    return Prepared(of, view, operation, raw)


def unwritten(object_: bytes) -> Head:
    """The head of an object without operations."""
    return 0, object_


# --- a set of them ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """A HANDOFF that was fetched and checked.

    Attributes:
        id: what the HANDOFF record and a COMMITTEE name it by.
        heads: its frontier where it differs from a common base; seq 0 where that has more.
    """

    id: bytes
    handoff: Handoff
    prepared: Mapping[SlotId, Prepared]
    heads: Mapping[bytes, Head]


@dataclass(frozen=True, slots=True)
class Union:
    """What a named set of HANDOFFs says: with this, and nothing else, everybody enters the next epoch.

    Attributes:
        heads: where the union of the frontiers differs from the base: seq and head; seq 0: not there.
        prepared: the undecided slots that start at view 1, with the certificate whose operation is LOCKed.
    """

    handoffs: tuple[bytes, ...]
    heads: dict[bytes, Head]
    prepared: dict[SlotId, Prepared]


def unite(
    named: Iterable[Checked], committee: Committee, base: Mapping[bytes, Head], head_of: HeadOf = unwritten
) -> Union:
    """The union of these HANDOFFs over their common base.

    Lemma L6 (docs/ledger-proof.md): what is final is in the union, or highest prepared in it.

    Args:
        head_of: our head of an object that is not in the base, since it ended before this epoch.

    Raises:
        InvalidOperation: rule ``"handoffs"``: they are not of distinct members of this committee, or not of
            more than 2/3 of its weight; ``"fork"``: two heads in one slot (more than 1/3 is faulty).
    """
    checked = sorted(named, key=lambda each: each.id)
    places = [committee.index.get(each.handoff.validator) for each in checked]
    members = {place for place in places if place is not None}
    if len(members) != len(checked) or len({each.handoff.epoch for each in checked}) > 1:
        raise InvalidOperation("handoffs", "not of one epoch, or not each of another member of it")
    # LEDGER.md: "COMMITTEE names HANDOFFs of more than 2/3 of e".
    if committee.weight_of(members) < committee.quorum:
        raise InvalidOperation("handoffs", f"weight {committee.weight_of(members)} is no quorum")
    heads = _united_heads([each.heads for each in checked], base, head_of)
    prepared: dict[SlotId, Prepared] = {}
    for each in checked:
        for slot, found in each.prepared.items():
            decided = heads.get(slot[0]) or base.get(slot[0]) or head_of(slot[0])
            if slot[1] > decided[0] and (slot not in prepared or prepared[slot] < found):
                prepared[slot] = found
    return Union(tuple(each.id for each in checked), heads, dict(sorted(prepared.items())))


def _united_heads(
    differences: Sequence[Mapping[bytes, Head]], base: Mapping[bytes, Head], head_of: HeadOf
) -> dict[bytes, Head]:
    united: dict[bytes, Head] = {}
    for object_ in sorted({id_ for heads in differences for id_ in heads}):
        shared = base.get(object_, (0, object_))
        known = base.get(object_) or head_of(object_)
        claims = {heads.get(object_, shared) for heads in differences}
        highest = max(seq for seq, _ in claims)
        tops = {head for seq, head in claims if seq == highest}
        if len(tops) > 1 or (highest == known[0] and tops != {known[1]}):
            raise InvalidOperation("fork", f"object {object_.hex()} has two operations at {highest}")
        if (highest, *tops) != known:
            united[object_] = (highest, tops.pop())
    return united


__all__ = [
    "Checked",
    "CommitteeOf",
    "Handoff",
    "Held",
    "Leaving",
    "Page",
    "Prepared",
    "Union",
    "changed_frontier",
    "check_handoff",
    "check_prepared",
    "check_signature",
    "commits_max",
    "frontier_root",
    "make_handoff",
    "read_handoff",
    "unite",
]
