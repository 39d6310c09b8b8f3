"""Pushing to the rest of the committee: one task and one bounded queue per member of the current epoch.

Attachments, operations and own batches. What does not fit, or is lost on the way, is repaired: a vote that
names an unknown operation makes the receiver fetch it, and a batch that comes after a missing one makes it
fetch that.
"""

from __future__ import annotations

from collections import deque

import trio

from ainp2p.ledger.serving.messages import (
    BODY_SIZE_MAX,
    OPERATIONS_MAX,
    PushAttachment,
    PushBatch,
    PushOperations,
)
from ainp2p.ledger.serving.sync import Validators
from ainp2p.protocol.network import PeerId

OPERATIONS_QUEUE_MAX = 4_096
BATCHES_QUEUE_MAX = 64
ATTACHMENTS_QUEUE_MAX = 256  # 15 MB at most
PAUSE_AFTER_FAILURE_S = 0.5
_SIZE_MAX = BODY_SIZE_MAX // 2


class Pusher:
    """Queues towards the other members."""

    def __init__(self, validators: Validators) -> None:
        self._validators = validators
        self._queues: dict[PeerId, _Queue] = {}

    def push_operation(self, encoded: bytes) -> None:
        """Send an encoded SignedOperation to everybody else."""
        for queue in self._all():
            queue.operations.append(encoded)
            queue.news.set()

    def push_batch(self, raw: bytes) -> None:
        """Send a batch of ours to everybody else. It is on disk."""
        for queue in self._all():
            queue.batches.append(raw)
            queue.news.set()

    def push_attachment(self, raw: bytes) -> None:
        """Send an attachment to everybody else, before the votes that rest on it."""
        for queue in self._all():
            queue.attachments.append(raw)
            queue.news.set()

    async def run(self) -> None:
        """Send until cancelled."""
        await self._validators.for_each(self._send_to)

    def _all(self) -> list[_Queue]:
        return [self._queue(peer) for peer in self._validators.stakes]

    def _queue(self, peer: PeerId) -> _Queue:
        if peer not in self._queues:
            self._queues[peer] = _Queue()
        return self._queues[peer]

    async def _send_to(self, peer: PeerId) -> None:
        try:
            await self._empty(peer, self._queue(peer))
        finally:
            del self._queues[peer]  # it has left

    async def _empty(self, peer: PeerId, queue: _Queue) -> None:
        while True:
            message = queue.next_message()
            if message is None:
                queue.news = trio.Event()
                await queue.news.wait()
            elif not await self._validators.tell(peer, message):
                await trio.sleep(PAUSE_AFTER_FAILURE_S)


class _Queue:
    def __init__(self) -> None:
        self.operations: deque[bytes] = deque(maxlen=OPERATIONS_QUEUE_MAX)  # the oldest goes first
        self.attachments: deque[bytes] = deque(maxlen=ATTACHMENTS_QUEUE_MAX)
        self.batches: deque[bytes] = deque(maxlen=BATCHES_QUEUE_MAX)
        self.news = trio.Event()

    def next_message(self) -> PushOperations | PushAttachment | PushBatch | None:
        """Attachments and operations before the votes for them, as many as one message holds."""
        if self.attachments:
            return PushAttachment(self.attachments.popleft())
        if self.operations:
            taken = [self.operations.popleft()]
            size = len(taken[0])
            while self.operations and len(taken) < OPERATIONS_MAX:
                size += len(self.operations[0])
                if size > _SIZE_MAX:
                    break
                taken.append(self.operations.popleft())
            return PushOperations(tuple(taken))
        return PushBatch(self.batches.popleft()) if self.batches else None
