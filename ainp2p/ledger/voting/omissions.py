"""What a HANDOFF leaves out: proof that it reports less of one slot than its validator had COMMITted. No I/O.

A HANDOFF answers for a slot in two ways: its frontier has an operation there, or a prepared certificate of
the slot is in it or its pages. Both are sorted, so that an absence is shown by the two neighbours between
which there is nothing. `Omission` names those; the HANDOFF and its pages are attachments, named by what is
signed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import msgspec

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.merkle import EMPTY_ROOT, MerkleTree, root_from_path
from ainp2p.ledger.voting.certificate import read_certificate
from ainp2p.ledger.voting.handoff import Handoff, HeldSlots, read_handoff, read_page
from ainp2p.protocol.codec import Bytes32, Message, Uint, fast_decoder

SlotId = tuple[bytes, int]  # object, seq
Head = tuple[int, bytes]
At = tuple[int, int]  # epoch, view
AttachmentOf = Callable[[bytes], bytes]  # by id; raises if it is not there

_PATH_SIZE_MAX = 40 * 32  # of 2^40 objects
_LEAF_SIZE = 32 + 8 + 32  # object, seq, head


class Neighbour(Message, frozen=True):
    """One object of a frontier, and what shows that it is there."""

    index: Uint
    object: Bytes32
    seq: Uint
    head: Bytes32
    path: Annotated[bytes, msgspec.Meta(max_length=_PATH_SIZE_MAX)]

    @property
    def leaf(self) -> bytes:
        """As in `handoff.frontier_root`."""
        return self.object + self.seq.to_bytes(8, "big") + self.head


class Omission(Message, frozen=True):
    """Where to look: the object in the frontier, or its neighbours; and the part of the list of slots.

    `parts` are consecutive: 0 is the HANDOFF itself, n its n-th page.
    """

    neighbours: Annotated[tuple[Neighbour, ...], msgspec.Meta(max_length=2)]
    parts: Annotated[tuple[Uint, ...], msgspec.Meta(min_length=1, max_length=2)]


_read_omission = fast_decoder(Omission, size_max=4096)


def judge_omission(
    raw: bytes,
    signed: bytes,
    whose: tuple[bytes, int, bytes],
    slot: SlotId,
    at: At,
    ends: bool,
    fetch: AttachmentOf,
) -> None:
    """Check that a HANDOFF reports less of `slot` than a COMMIT `at` (epoch, view) demands.

    Args:
        raw: the encoded `Omission`.
        signed: the digest that the HANDOFF record signs.
        whose: network, epoch, validator.
        ends: the slot is of an object that may end and then leave the frontier: only its presence counts.

    Raises:
        Malformed: something here is no message of its kind.
        InvalidOperation: rule ``"evidence"``: it reports no less, or this does not show it.
    """
    omission, handoff = _read_omission(raw), read_handoff(fetch(signed))
    if (handoff.network, handoff.epoch, handoff.validator) != whose:
        raise InvalidOperation("evidence", "a HANDOFF of another network, epoch or member")
    _judge_frontier(omission.neighbours, handoff, slot, ends)
    for held in _slots_about(omission.parts, handoff, slot, fetch):
        if (held.object, held.seq) == slot:
            shown = read_certificate(held.certificate)
            if (shown.epoch, shown.view) >= at:
                raise InvalidOperation("evidence", "the HANDOFF reports no less")


def _judge_frontier(neighbours: Sequence[Neighbour], handoff: Handoff, slot: SlotId, ends: bool) -> None:
    count = handoff.frontier_count
    for each in neighbours:
        if root_from_path(each.leaf, each.index, count, each.path) != handoff.frontier_root:
            raise InvalidOperation("evidence", "an object is not in the frontier")
    if len(neighbours) == 1 and neighbours[0].object == slot[0]:
        if neighbours[0].seq >= slot[1]:
            raise InvalidOperation("evidence", "the slot is decided in the frontier")
        return
    if ends:
        raise InvalidOperation("evidence", "a Lock that is not in a frontier may have ended")
    if not neighbours:
        absent = count == 0 and handoff.frontier_root == EMPTY_ROOT
    elif len(neighbours) == 2:
        below, above = neighbours
        absent = below.index + 1 == above.index and below.object < slot[0] < above.object
    else:
        (only,) = neighbours
        first, last = only.index == 0, only.index == count - 1
        absent = (first and slot[0] < only.object) or (last and only.object < slot[0])
    if not absent:
        raise InvalidOperation("evidence", "this does not show that the frontier lacks the object")


def _slots_about(parts: tuple[int, ...], handoff: Handoff, slot: SlotId, fetch: AttachmentOf) -> HeldSlots:
    """The listed slots among which this one would be."""
    if parts != tuple(range(parts[0], parts[0] + len(parts))) or parts[-1] > len(handoff.more):
        raise InvalidOperation("evidence", "no such part of a HANDOFF")
    held: HeldSlots = ()
    for part in parts:
        held += read_page(fetch(handoff.more[part - 1])).prepared if part else handoff.prepared
    names = [(each.object, each.seq) for each in held]
    above = parts[0] == 0 or (names and names[0] <= slot)
    below = parts[-1] == len(handoff.more) or (names and slot <= names[-1])
    if not above or not below:
        raise InvalidOperation("evidence", "the slot would be in another part")
    return held


# --- making one ---------------------------------------------------------------------------------------


class Report:
    """What one HANDOFF says of every slot, read once for however many COMMITs it is compared with."""

    def __init__(self, handoff: Handoff, pages: Sequence[bytes], frontier: Mapping[bytes, Head]) -> None:
        """Read it.

        Args:
            frontier: the whole of it, object → (seq, head), as the HANDOFF's root says.
        """
        self._frontier = frontier
        self._lists = [handoff.prepared, *(read_page(page).prepared for page in pages)]
        self._shown: dict[SlotId, At] = {}
        for held in (each for part in self._lists for each in part):
            certificate = read_certificate(held.certificate)
            self._shown[held.object, held.seq] = certificate.epoch, certificate.view
        self._objects: list[bytes] = []
        self._tree: MerkleTree | None = None

    def omission(self, slot: SlotId, at: At, ends: bool) -> Omission | None:
        """How it reports less than a COMMIT `at` (epoch, view) in this slot; None if it does not."""
        head = self._frontier.get(slot[0])
        if (head is None and ends) or (head is not None and head[0] >= slot[1]):
            return None
        if slot in self._shown and self._shown[slot] >= at:
            return None
        return Omission(self._neighbours(slot[0]), _parts(self._lists, slot))

    def _neighbours(self, object_: bytes) -> tuple[Neighbour, ...]:
        frontier = self._frontier
        if self._tree is None:  # of as many objects as there are: only for who is guilty
            self._objects = sorted(frontier)
            self._tree = MerkleTree(
                [id_ + frontier[id_][0].to_bytes(8, "big") + frontier[id_][1] for id_ in self._objects]
            )
        objects, place = self._objects, bisect_left(self._objects, object_)
        around = [place] if object_ in frontier else [i for i in (place - 1, place) if 0 <= i < len(objects)]
        return tuple(Neighbour(i, objects[i], *frontier[objects[i]], self._tree.path(i)) for i in around)


def _parts(lists: Sequence[HeldSlots], slot: SlotId) -> tuple[int, ...]:
    """The last part that begins at or below the slot, and the next one if the slot lies between both."""
    begins = [part for part, held in enumerate(lists) if part == 0 or (held[0].object, held[0].seq) <= slot]
    part = begins[-1]
    last = lists[part][-1] if lists[part] else None
    if part == len(lists) - 1 or (last is not None and slot <= (last.object, last.seq)):
        return (part,)
    return (part, part + 1)


__all__ = ["Neighbour", "Omission", "Report", "judge_omission"]
