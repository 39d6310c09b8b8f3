"""Which objects differ between two nodes: range-based set reconciliation (Meyer 2022), as a pure core.

Both hold sorted items (`ReconcileIndex`). A message cuts the whole key space into ranges; each is

    SKIP          nothing to say of it
    FINGERPRINT   what mine are, in 16 bytes
    ITEMS         mine, all of them

To a FINGERPRINT that differs one answers with 16 of smaller ranges, or with ITEMS where there are few; to
ITEMS with one's own; what is equal is skipped. The initiator alone keeps what it found; a responder holds
nothing between messages, so many may ask it at once, and both may change meanwhile (the lesson of
negentropy: bounded messages, a remainder that goes on in the next round, state on one side).

    message = initiator.initiate()
    while message is not None:
        answer = responder.respond(message)                      # over the network
        message, have, need = initiator.continue_(answer)

`have`: keys that the responder lacks, or has in an earlier slot; `need`: those that we do. Two heads in one
slot are in both. 100,000 objects, 10 differences: 13 kB and 6 messages; equal sets: 2 messages.
Work per message is bounded by its size, which is at most MESSAGE_SIZE_MAX; nothing here trusts the peer: all
that a liar reaches is a wrong list, and what is fetched for it is certified or dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise

from ainp2p.errors import InvalidInput, Malformed
from ainp2p.ledger.serving.reconcile_index import (
    FINGERPRINT_SIZE,
    KEY_SIZE,
    VALUE_SIZE,
    ReconcileIndex,
    value_of,
)
from ainp2p.protocol.codec import Message, Uint, decode, encode

__all__ = ["MESSAGE_SIZE_MAX", "ReconcileIndex", "Reconciler", "value_of"]

MESSAGE_SIZE_MAX = 60_000  # bytes; fits a frame, with what it travels in
MESSAGE_SIZE_LEAST = 2_000  # bytes; a split of one range must fit, at the widest bounds
RANGES_MAX = 4_096
ROUNDS_MAX = 2_000  # of one initiator; a node that starts from nothing learns 800 keys in each
LOOKS_MAX = 4  # at each of our items by one initiator; without changes meanwhile it is one or two
BRANCHES = 16
LEAF = 4  # items; so many or fewer are sent as they are
PART = 3  # items; nothing is cut finer
SKIP, FINGERPRINT, ITEMS = range(3)
_ITEM_SIZE = KEY_SIZE + VALUE_SIZE
_COUNT_SIZE = 2
_OVERHEAD = 64  # bytes: tag, headers, and the width

Item = tuple[bytes, bytes]


class Ranges(Message, frozen=True, tag=1):
    """A message: column by column, since a message of MessagePack has few elements.

    Attributes:
        width: bytes of each bound; the widest has no zero at its end.
        kinds: a byte per range.
        bounds: where each range ends (exclusive), ascending, filled up with zeros; the last one has no end.
        fingerprints: one per FINGERPRINT.
        counts: two bytes per ITEMS, big-endian.
        items: key and value of each.
    """

    width: Uint
    kinds: bytes
    bounds: bytes
    fingerprints: bytes
    counts: bytes
    items: bytes


@dataclass(frozen=True, slots=True)
class Range:
    """Keys from `lower` up to `upper` (exclusive; None: all the rest), and what a peer says of them."""

    lower: bytes
    upper: bytes | None
    kind: int
    fingerprint: bytes = b""
    items: tuple[Item, ...] = ()


class Reconciler:
    """One side of it; an initiator is used once, a responder for any number of messages.

    Attributes:
        theirs: what the responder said of each key in which we differ; None: that it has no such key.
    """

    def __init__(
        self, items: ReconcileIndex | Iterable[Item], *, message_size_max: int = MESSAGE_SIZE_MAX
    ) -> None:
        """Compare these; the index may change between messages, and what changed may be found or not.

        Raises:
            InvalidInput: items of the wrong size, or messages that could not carry one split.
        """
        if not MESSAGE_SIZE_LEAST <= message_size_max <= MESSAGE_SIZE_MAX:
            raise InvalidInput(f"messages have {MESSAGE_SIZE_LEAST} to {MESSAGE_SIZE_MAX} bytes")
        self._index = items if isinstance(items, ReconcileIndex) else ReconcileIndex(items)
        self._size_max = message_size_max
        self._rounds = self._looks = 0
        self.theirs: dict[bytes, bytes | None] = {}
        self._have: dict[bytes, None] = {}
        self._need: dict[bytes, None] = {}

    def initiate(self) -> bytes:
        """The first message."""
        writer = _Writer(self._index, self._size_max)
        writer.split(None, 0, len(self._index))
        return writer.message()

    def respond(self, message: bytes) -> bytes:
        """The answer to an initiator's message.

        Raises:
            Malformed: it is none.
        """
        writer = _Writer(self._index, self._size_max)
        for range_ in read_ranges(message):
            if not (self._answer_items(writer, range_) if range_.kind == ITEMS else _compare(writer, range_)):
                break
        return writer.message()

    def continue_(self, message: bytes) -> tuple[bytes | None, list[bytes], list[bytes]]:
        """Take an answer; returns the next message or None at the end, and the keys it newly found.

        Raises:
            Malformed: the responder broke the protocol.
        """
        self._rounds += 1
        have: list[bytes] = []
        need: list[bytes] = []
        writer = _Writer(self._index, self._size_max)
        for range_ in read_ranges(message):
            if range_.kind == ITEMS:
                self._note(range_, have, need)
            if not (writer.skip(range_.upper) if range_.kind == ITEMS else _compare(writer, range_)):
                break
        # A responder that is never satisfied is left; what it hid is found with the next one.
        finished = writer.says_nothing or self._rounds >= ROUNDS_MAX
        return None if finished else writer.message(), have, need

    def _note(self, range_: Range, have: list[bytes], need: list[bytes]) -> None:
        ours, theirs = dict(_own_items(self._index, range_)), dict(range_.items)
        self._looks += len(ours)
        if self._looks > LOOKS_MAX * (len(self._index) + RANGES_MAX):
            raise Malformed("the same items again and again")
        for key in ours.keys() | theirs.keys():
            if ours.get(key) != theirs.get(key):
                self.theirs[key] = theirs.get(key)
        for key, value in ours.items():
            if theirs.get(key) != value and value[:8] >= theirs.get(key, b"")[:8]:
                _add(key, self._have, have)
        for key, value in theirs.items():
            if ours.get(key) != value and value[:8] >= ours.get(key, b"")[:8]:
                _add(key, self._need, need)

    def _answer_items(self, writer: _Writer, range_: Range) -> bool:
        index = self._index
        first, end = _ranks(index, range_.lower, range_.upper)
        if end - first == len(range_.items) and index.items(first, end) == list(range_.items):
            return writer.skip(range_.upper)
        return writer.list_items(range_.upper, first, end)


def _compare(writer: _Writer, range_: Range) -> bool:
    """Answer a SKIP or a FINGERPRINT; False: no room for it."""
    if range_.kind == SKIP:
        return writer.skip(range_.upper)
    first, end = _ranks(writer.index, range_.lower, range_.upper)
    if writer.index.fingerprint(first, end) == range_.fingerprint:
        return writer.skip(range_.upper)
    if end - first <= LEAF:
        return writer.list_items(range_.upper, first, end)
    return writer.split(range_.upper, first, end)


def _ranks(index: ReconcileIndex, lower: bytes, upper: bytes | None) -> tuple[int, int]:
    return index.rank(lower), len(index) if upper is None else index.rank(upper)


def _own_items(index: ReconcileIndex, range_: Range) -> list[Item]:
    first, end = _ranks(index, range_.lower, range_.upper)
    return index.items(first, end)


def _add(key: bytes, known: dict[bytes, None], news: list[bytes]) -> None:
    if key not in known:
        known[key] = None
        news.append(key)


# --- messages -----------------------------------------------------------------------------------------


class _Writer:
    """Collects the ranges of one message, from the lowest key to the highest.

    Each method returns False when the message is full. Whatever was taken in fits, together with a SKIP
    and a FINGERPRINT after it.
    """

    def __init__(self, index: ReconcileIndex, size_max: int) -> None:
        self.index = index
        self._size_max = size_max
        self._width = 0
        self._kinds = bytearray()
        self._bounds: list[bytes] = []  # of all ranges but one that has no end
        self._fingerprints: list[bytes] = []
        self._counts: list[int] = []
        self._items: list[Item] = []
        self._reached: bytes | None = b""  # up to here something is said, or is to be skipped
        self._said: bytes | None = b""  # up to here it is written

    @property
    def says_nothing(self) -> bool:
        """Whether all is skipped."""
        return self._reached is None and not any(self._kinds)

    def skip(self, upper: bytes | None) -> bool:
        """Say nothing up to `upper`."""
        if not self._fits([upper], 0):
            return False
        self._reached = upper
        return True

    def split(self, upper: bytes | None, first: int, end: int) -> bool:
        """FINGERPRINTs of the parts."""
        parts = max(1, min(BRANCHES, -(-(end - first) // PART)))
        cuts = [first + (end - first) * part // parts for part in range(parts + 1)]
        uppers = [*map(self.index.bound_before, cuts[1:-1]), upper]
        if not self._fits(uppers, FINGERPRINT_SIZE * parts):
            return False
        for at, bound in enumerate(uppers):
            self._fingerprint(bound, cuts[at], cuts[at + 1])
        return True

    def list_items(self, upper: bytes | None, first: int, end: int) -> bool:
        """ITEMS; of those that do not fit the first ones, which ends the message."""
        count = end - first
        if self._fits([upper], _COUNT_SIZE + _ITEM_SIZE * count):
            self._list(upper, first, end)
            return True
        count = min(count - 1, (self._room(KEY_SIZE, 1) - _COUNT_SIZE) // _ITEM_SIZE)
        if count > 0:
            cut = self.index.bound_before(first + count)
            self._width = max(self._width, len(cut))
            self._list(cut, first, first + count)
        return False

    def message(self) -> bytes:
        """What was collected. Whatever it does not reach is one FINGERPRINT, and so goes on in the next."""
        if self._reached is not None:
            first = self.index.rank(self._reached)
            self._fingerprint(None, first, len(self.index))
        elif self._said is not None:
            self._say(SKIP, None)
        width = max(map(len, self._bounds), default=0)
        return encode(
            Ranges(
                width=width,
                kinds=bytes(self._kinds),
                bounds=b"".join([bound.ljust(width, b"\0") for bound in self._bounds]),
                fingerprints=b"".join(self._fingerprints),
                counts=b"".join([count.to_bytes(_COUNT_SIZE, "big") for count in self._counts]),
                items=b"".join([key + value for key, value in self._items]),
            )
        )

    def _fits(self, uppers: list[bytes | None], size: int) -> bool:
        """Whether there is room for these ranges and so many bytes beside; if so their bounds are counted."""
        width = max(self._width, *(len(upper or b"") for upper in uppers))
        if self._room(width, len(uppers)) < size:
            return False
        self._width = width
        return True

    def _room(self, width: int, more: int) -> int:
        ranges = len(self._kinds) + more + 2  # a SKIP before, the remainder after
        if ranges > RANGES_MAX:
            return -1
        said = FINGERPRINT_SIZE * (len(self._fingerprints) + 1) + _COUNT_SIZE * len(self._counts)
        return self._size_max - _OVERHEAD - ranges * (1 + width) - said - _ITEM_SIZE * len(self._items)

    def _fingerprint(self, upper: bytes | None, first: int, end: int) -> None:
        self._say(FINGERPRINT, upper)
        self._fingerprints.append(self.index.fingerprint(first, end))

    def _list(self, upper: bytes | None, first: int, end: int) -> None:
        self._say(ITEMS, upper)
        self._counts.append(end - first)
        self._items += self.index.items(first, end)

    def _say(self, kind: int, upper: bytes | None) -> None:
        if self._reached is not None and self._reached != self._said:
            self._kinds.append(SKIP)
            self._bounds.append(self._reached)
        self._kinds.append(kind)
        if upper is not None:
            self._bounds.append(upper)
        self._reached = self._said = upper


def read_ranges(message: bytes) -> list[Range]:
    """The ranges of a message, from the lowest key to the highest, without gaps.

    Raises:
        Malformed: it is none, or there is a shorter way to say it.
    """
    columns = decode(message, Ranges, size_max=MESSAGE_SIZE_MAX)
    kinds, width = columns.kinds, columns.width
    if not 1 <= len(kinds) <= RANGES_MAX or max(kinds) > ITEMS:
        raise Malformed(f"{len(kinds)} ranges, or a kind that does not exist")
    if bytes([SKIP, SKIP]) in kinds:
        raise Malformed("two ranges to skip beside each other")
    bounds = _read_bounds(columns.bounds, width, len(kinds) - 1)
    fingerprints = iter(_cut(columns.fingerprints, FINGERPRINT_SIZE, kinds.count(FINGERPRINT)))
    counts = _cut(columns.counts, _COUNT_SIZE, kinds.count(ITEMS))
    lists = iter(_read_items(columns.items, [int.from_bytes(count, "big") for count in counts]))
    ranges = [
        Range(
            lower,
            upper,
            kind,
            next(fingerprints) if kind == FINGERPRINT else b"",
            next(lists) if kind == ITEMS else (),
        )
        for kind, lower, upper in zip(kinds, [b"", *bounds], [*bounds, None], strict=True)
    ]
    for range_ in ranges:
        _refuse_disorder(range_)
    return ranges


def _read_bounds(data: bytes, width: int, count: int) -> list[bytes]:
    if width > KEY_SIZE:
        raise Malformed(f"bounds of {width} bytes, keys have {KEY_SIZE}")
    bounds = [bound.rstrip(b"\0") for bound in _cut(data, width, count)]
    if any(low >= high for low, high in pairwise([b"", *bounds])):
        raise Malformed("bounds that do not ascend")
    if max(map(len, bounds), default=0) != width:
        raise Malformed("bounds wider than they need to be")
    return bounds


def _read_items(data: bytes, counts: list[int]) -> list[tuple[Item, ...]]:
    items = [(item[:KEY_SIZE], item[KEY_SIZE:]) for item in _cut(data, _ITEM_SIZE, sum(counts))]
    ends = accumulate(counts, initial=0)
    return [tuple(items[first:end]) for first, end in pairwise(ends)]


def _refuse_disorder(range_: Range) -> None:
    keys = [key for key, _ in range_.items]
    if any(low >= high for low, high in pairwise(keys)):
        raise Malformed("items that do not ascend")
    if keys and (keys[0] < range_.lower or (range_.upper is not None and keys[-1] >= range_.upper)):
        raise Malformed("an item outside its range")


def _cut(data: bytes, size: int, count: int) -> list[bytes]:
    if len(data) != size * count:
        raise Malformed(f"a column of {len(data)} bytes, not {count} of {size}")
    return [data[at * size : (at + 1) * size] for at in range(count)]
