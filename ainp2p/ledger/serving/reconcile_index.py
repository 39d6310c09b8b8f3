"""Object → (seq, head), in order of the keys, with the fingerprint of any range: what `reconcile` compares.

It lives beside a running State: `put` for each decided operation only remembers; a few thousand changes are
folded in together, or whatever there is when somebody asks. Two levels: sorted chunks of at most CHUNK_MAX
items, each with the sum of its items' digests, and running totals over the chunks, counted again when asked
after a change. So a change costs O(1) digests and the fingerprint of a range a few microseconds, at 100,000
objects and at a million. No I/O.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from hashlib import blake2b
from itertools import accumulate

from ainp2p.errors import InvalidInput

KEY_SIZE = 32
VALUE_SIZE = 40  # seq, 8 bytes big-endian, then the head
FINGERPRINT_SIZE = 16
CHUNK_MAX = 256  # items; half a chunk is summed for each end of a range, 4 us
PENDING_MAX = 1024  # changes; folding them in takes 3 ms
_MASK = 2**256 - 1
_ITEM = blake2b(digest_size=32, person=b"ainp2p/item/1")
_RANGE = b"ainp2p/range/1"


def value_of(seq: int, head: bytes) -> bytes:
    """An object's state as 40 bytes; those of a later slot are greater."""
    return seq.to_bytes(8, "big") + head


def item_digest(key: bytes, value: bytes) -> int:
    """What an item adds to its range's sum."""
    state = _ITEM.copy()
    state.update(key + value)
    return int.from_bytes(state.digest(), "big")


def range_fingerprint(total: int, count: int) -> bytes:
    """Of a range whose items' digests have this sum.

    Meyer 2022, section 3: a monoid over items, hashed at the end. Sums can be made to collide (Wagner's
    generalised birthday) by whoever can add tens of thousands of chosen objects: that hides a difference
    until the next change in its range, and can never make a wrong one, since what is fetched is certified.
    """
    sized = (total & _MASK).to_bytes(32, "big") + count.to_bytes(8, "big")
    return blake2b(sized, digest_size=FINGERPRINT_SIZE, person=_RANGE).digest()


class _Chunk:
    """A run of items in order: three lists side by side."""

    __slots__ = ("digests", "keys", "total", "values")

    def __init__(self, keys: list[bytes], values: list[bytes], digests: list[int]) -> None:
        self.keys, self.values, self.digests = keys, values, digests
        self.total = sum(digests)


class ReconcileIndex:
    """Items (key of 32 bytes → value of 40), sorted; ranks count from 0."""

    def __init__(self, items: Iterable[tuple[bytes, bytes]] = ()) -> None:
        """Start with these, in any order; of two with one key the later counts."""
        known = dict(items)
        for key, value in known.items():
            _check(key, value)
        keys = sorted(known)
        half = CHUNK_MAX // 2
        self._chunks = [
            _made([(k, known[k]) for k in keys[at : at + half]]) for at in range(0, len(keys), half)
        ]
        self._chunks = self._chunks or [_made([])]
        self._firsts = [chunk.keys[0] if at else b"" for at, chunk in enumerate(self._chunks)]
        self._pending: dict[bytes, bytes | None] = {}
        self._totals: list[tuple[int, int]] | None = None  # before each chunk, and at the end: (items, sum)

    # --- changing -----------------------------------------------------------------------------------

    def put(self, key: bytes, value: bytes) -> None:
        """An object's state is this now.

        Raises:
            InvalidInput: a key has 32 bytes, a value 40.
        """
        if len(key) != KEY_SIZE or len(value) != VALUE_SIZE:
            _check(key, value)
        self._pending[key] = value
        if len(self._pending) >= PENDING_MAX:
            self._fold()

    def discard(self, key: bytes) -> None:
        """Forget an object, if it is there."""
        self._pending[key] = None
        if len(self._pending) >= PENDING_MAX:
            self._fold()

    def _fold(self) -> None:
        pending, self._pending = self._pending, {}
        self._totals = None
        chunks, firsts = self._chunks, self._firsts
        for key, value in pending.items():
            place = bisect_right(firsts, key) - 1
            chunk = chunks[place]
            at = bisect_left(chunk.keys, key)
            known = at < len(chunk.keys) and chunk.keys[at] == key
            if value is None:
                if known:
                    self._remove(place, at)
                continue
            digest = item_digest(key, value)
            if known:
                chunk.total += digest - chunk.digests[at]
                chunk.values[at], chunk.digests[at] = value, digest
                continue
            chunk.keys.insert(at, key)
            chunk.values.insert(at, value)
            chunk.digests.insert(at, digest)
            chunk.total += digest
            if len(chunk.keys) > CHUNK_MAX:
                self._split(place)

    def _remove(self, place: int, at: int) -> None:
        chunk = self._chunks[place]
        chunk.total -= chunk.digests[at]
        del chunk.keys[at], chunk.values[at], chunk.digests[at]
        if not chunk.keys and len(self._chunks) > 1:
            del self._chunks[place], self._firsts[place]
            self._firsts[0] = b""

    def _split(self, place: int) -> None:
        chunk, half = self._chunks[place], CHUNK_MAX // 2
        new = _Chunk(chunk.keys[half:], chunk.values[half:], chunk.digests[half:])
        del chunk.keys[half:], chunk.values[half:], chunk.digests[half:]
        chunk.total -= new.total
        self._chunks.insert(place + 1, new)
        self._firsts.insert(place + 1, new.keys[0])

    # --- looking ------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many objects."""
        return self._running()[-1][0]

    def get(self, key: bytes) -> bytes | None:
        """The value of one key."""
        if key in self._pending:
            return self._pending[key]
        place, at = self._place(key)
        chunk = self._chunks[place]
        return chunk.values[at] if at < len(chunk.keys) and chunk.keys[at] == key else None

    def rank(self, bound: bytes) -> int:
        """How many keys are below `bound`."""
        running = self._running()
        place, at = self._place(bound)
        return running[place][0] + at

    def items(self, first: int, end: int) -> list[tuple[bytes, bytes]]:
        """The items of these ranks, in order."""
        place, at = self._seek(first)
        found: list[tuple[bytes, bytes]] = []
        while len(found) < end - first and place < len(self._chunks):
            chunk, wanted = self._chunks[place], end - first - len(found)
            found += zip(chunk.keys[at : at + wanted], chunk.values[at : at + wanted], strict=True)
            place, at = place + 1, 0
        return found

    def bound_before(self, rank: int) -> bytes:
        """The shortest bound between the key of `rank` − 1 and that of `rank`, for 0 < rank < len."""
        (below, _), (above, _) = self.items(rank - 1, rank + 1)
        return bound_between(below, above)

    def fingerprint(self, first: int, end: int) -> bytes:
        """Of the items of these ranks."""
        return range_fingerprint(self._sum_before(end) - self._sum_before(first), end - first)

    def _sum_before(self, rank: int) -> int:
        running = self._running()
        place, at = self._seek(rank)
        return running[place][1] + (sum(self._chunks[place].digests[:at]) if at else 0)

    def _running(self) -> list[tuple[int, int]]:
        if self._pending:
            self._fold()
        if self._totals is None:
            counts = accumulate([len(chunk.keys) for chunk in self._chunks], initial=0)
            sums = accumulate([chunk.total for chunk in self._chunks], initial=0)
            self._totals = list(zip(counts, sums, strict=True))
        return self._totals

    def _place(self, bound: bytes) -> tuple[int, int]:
        place = bisect_right(self._firsts, bound) - 1
        return place, bisect_left(self._chunks[place].keys, bound)

    def _seek(self, rank: int) -> tuple[int, int]:
        """The chunk and the place in it of a rank; of the end: a chunk that is not there."""
        running = self._running()
        place = bisect_right(running, (rank, _MASK << 64)) - 1
        return place, rank - running[place][0]


def bound_between(below: bytes, above: bytes) -> bytes:
    """The shortest prefix of `above` that is greater than `below`, for two keys in that order."""
    for at, (left, right) in enumerate(zip(below, above, strict=True)):
        if left != right:
            return above[: at + 1]
    raise InvalidInput("two keys are the same")


def _made(items: list[tuple[bytes, bytes]]) -> _Chunk:
    return _Chunk([k for k, _ in items], [v for _, v in items], [item_digest(k, v) for k, v in items])


def _check(key: bytes, value: bytes) -> None:
    if len(key) != KEY_SIZE or len(value) != VALUE_SIZE:
        raise InvalidInput(
            f"a key has {KEY_SIZE} bytes and a value {VALUE_SIZE}, not {len(key)} and {len(value)}"
        )
