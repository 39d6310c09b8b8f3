"""The world's randomness: any number of independent streams, all from one seed.

Each stream offers what `random.Random` does, made of blake2b in counter mode: about 0.5 KB instead of
the 2.5 KB of a Mersenne twister, so that every agent and every path may have its own. A stream is named;
the same names give the same stream, wherever and in whatever order streams are asked for. Not for real
keys.

`count` is how many draws were taken in all: a position in the world's randomness, written into every
event of the trace.
"""

from __future__ import annotations

import hashlib
import random
import struct
from typing import Any, cast

from ainp2p.errors import InvalidInput
from ainp2p.protocol.identity import Key

_PERSON = b"ainp2p/sim/draws"
_WORDS = struct.Struct("<8Q")
_UNIT = 2.0**-53


class Stream:
    """One source of draws, with the methods of `random.Random`. Made by `Draws.stream`."""

    __slots__ = ("_block", "_blocks", "_draws", "_key", "gauss_next")

    def __init__(self, draws: Draws, key: bytes) -> None:
        self._draws = draws
        self._key = key
        self._block: list[int] = []  # 64-bit words that were not drawn yet, last one first
        self._blocks = 0
        self.gauss_next: float | None = None  # `random.Random.gauss` keeps its second number here

    def random(self) -> float:
        """The next number in [0, 1)."""
        self._draws.count += 1
        block = self._block or self._refill()
        return (block.pop() >> 11) * _UNIT

    def getrandbits(self, k: int) -> int:
        """An integer of `k` random bits."""
        if k < 0:
            raise ValueError("number of bits must be non-negative")
        self._draws.count += 1
        if 0 < k <= 64:
            block = self._block or self._refill()
            return block.pop() >> (64 - k)
        bits = 0
        for _ in range(0, k, 64):
            block = self._block or self._refill()
            bits = bits << 64 | block.pop()
        return bits >> (-k % 64)

    def _refill(self) -> list[int]:
        self._blocks += 1
        block = hashlib.blake2b(self._blocks.to_bytes(8, "little"), key=self._key).digest()
        self._block = words = list(_WORDS.unpack(block))
        return words

    def seed(self, *_: object) -> None:
        """Refused: a stream's seed is the world's."""
        raise InvalidInput("a stream is seeded by its names: ask for one of another name")

    def getstate(self) -> Any:
        """Refused, like `setstate`: run the seed again instead."""
        raise InvalidInput("a stream's state cannot be taken: run the same seed again")

    setstate = seed

    def __reduce__(self) -> Any:
        return self.getstate()


for _name, _method in vars(random.Random).items():
    if callable(_method) and not hasattr(Stream, _name):
        setattr(Stream, _name, _method)
# `_randbelow` is chosen by __init_subclass__ for subclasses; this is the one over `getrandbits`.
Stream._randbelow = random.Random._randbelow_with_getrandbits  # type: ignore[attr-defined]


class Draws:
    """Everything random in one world.

    Attributes:
        seed: what the world was made with.
        count: draws taken so far, by all streams.
    """

    def __init__(self, seed: int | str) -> None:
        self.seed = seed
        self.count = 0
        self._root = hashlib.blake2b(_part(seed), digest_size=32, person=_PERSON).digest()
        self._streams: dict[tuple[str | int | bytes, ...], Stream] = {}

    def derive(self, *names: str | int | bytes) -> bytes:
        """32 bytes that belong to these names, the same every time; no draw is counted."""
        parts = b"".join(map(_part, names))
        return hashlib.blake2b(parts, digest_size=32, key=self._root, person=_PERSON).digest()

    def stream(self, *names: str | int | bytes) -> random.Random:
        """The stream of these names: one object per name, which goes on where it was left."""
        stream = self._streams.get(names)
        if stream is None:
            stream = self._streams[names] = Stream(self, self.derive("stream", *names))
        return cast(random.Random, stream)

    def key(self, name: str | int | bytes) -> Key:
        """The signing key of this name."""
        return Key(self.derive("key", name))

    def token_bytes(self, size: int) -> bytes:
        """`size` bytes of the stream "tokens": what `secrets.token_bytes` is outside."""
        return self.stream("tokens").randbytes(size)


def _part(name: str | int | bytes) -> bytes:
    """One name as bytes that no other name, and no two names, can give."""
    if isinstance(name, str):
        kind, raw = b"s", name.encode("utf-8", "surrogatepass")
    elif isinstance(name, bytes):
        kind, raw = b"b", name
    else:
        kind, raw = b"i", str(int(name)).encode()
    return kind + len(raw).to_bytes(4, "big") + raw
