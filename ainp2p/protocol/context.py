"""What code above the Network may know of the world: the time and a source of randomness.

Nothing else in the library reads the wall clock or ambient randomness. A simulation passes
its own Context; sleeping and deadlines go through trio, whose clock it replaces.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ainp2p.protocol.storage import FILES, INLINE, Storage


@dataclass(frozen=True, slots=True)
class Context:
    """The world as one agent sees it.

    Attributes:
        now_ms: wall-clock time in integer milliseconds since 1970, UTC.
        token_bytes: n unpredictable bytes, for keys, salts and ids.
        rng: choices that need no secrecy (jitter, which neighbour to ask).
        storage: where databases and small files are kept.
    """

    now_ms: Callable[[], int]
    token_bytes: Callable[[int], bytes]
    rng: random.Random
    storage: Storage = FILES

    def storage_of(self, directory: Path | None) -> Storage:
        """Where data in `directory` is kept; None: in memory, where nothing blocks."""
        return INLINE if directory is None else self.storage

    @classmethod
    def system(cls) -> Context:
        """The real clock and the operating system's randomness."""
        return cls(
            now_ms=lambda: time.time_ns() // 1_000_000,
            token_bytes=secrets.token_bytes,
            rng=random.SystemRandom(),
        )

    @classmethod
    def seeded(cls, seed: int | str, now_ms: Callable[[], int], storage: Storage = INLINE) -> Context:
        """Everything from `seed`: for tests and simulations, never for real keys.

        The disk's work is done in the event loop: a virtual clock must not run on while a thread works.
        """
        rng = random.Random(seed)
        return cls(now_ms=now_ms, token_bytes=rng.randbytes, rng=rng, storage=storage)
