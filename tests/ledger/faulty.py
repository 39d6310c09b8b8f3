"""A Network whose replies get lost, and disks that crash: what happens between two lines of a log.

A lost reply is lost *after* the peer has acted, which is the hard case. A crash keeps what the files held at
that moment, silences the peer, and ends its tasks; whatever those still do goes nowhere.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import trio

from ainp2p.errors import Broken
from ainp2p.protocol.network import REQUEST_TIMEOUT_S, Network, PeerId
from ainp2p.protocol.storage import run_inline


class LossyNetwork:
    """A Network that loses chosen replies: `lose(n)` says whether the n-th (from 1) gets lost."""

    def __init__(self, network: Network, lose: Callable[[int], bool]) -> None:
        self._network, self._lose = network, lose
        self.replies = 0

    @classmethod
    def over(cls, network: Network, lose: Callable[[int], bool]) -> tuple[Network, LossyNetwork]:
        """The wrapper, seen as a Network and as itself."""
        lossy = cls(network, lose)
        return cast(Network, lossy), lossy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    async def request(
        self, peer: PeerId, protocol: str, body: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> bytes:
        answer = await self._network.request(peer, protocol, body, timeout_s=timeout_s)
        self._maybe_lose()
        return answer

    @asynccontextmanager
    async def stream(
        self, peer: PeerId, protocol: str, body: bytes, *, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._network.stream(peer, protocol, body, timeout_s=timeout_s) as chunks:
            yield self._some_of(chunks)

    async def _some_of(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self._maybe_lose()
            yield chunk

    def _maybe_lose(self) -> None:
        self.replies += 1
        if self._lose(self.replies):
            raise Broken("the reply was lost")


class CrashingDisk:
    """Disk work that ends in a crash at its k-th write, before or after the write itself.

    Attributes:
        crashed: set when it has; `image` holds the files then.
        writes: how many writes there were.
    """

    def __init__(
        self, directory: Path, image: Path, at: int, *, after: bool, on_crash: Callable[[], None]
    ) -> None:
        self._directory, self.image = directory, image
        self._at, self._after, self._on_crash = at, after, on_crash
        self.crashed = trio.Event()
        self.writes = 0

    async def __call__(self, job: Callable[[], Any]) -> Any:
        self.writes += 1
        if self.writes == self._at and not self._after:
            self.crash()
        result = await run_inline(job)
        if self.writes == self._at and self._after:
            self.crash()
        return result

    def crash(self) -> None:
        """Keep the files as they are; from here on nothing counts."""
        if not self.crashed.is_set():
            shutil.copytree(self._directory, self.image)
            self.crashed.set()
            self._on_crash()
