"""Asking the committee: who its members are as peers, and questions to one, to all, or to a quorum of them.

Used by wallets, and by validators that catch up. What comes back is an answer, not a truth: certificates
are checked by whoever asked. The members are those of one epoch: `follow` is told of the next by whoever
knows (`following` for clients, its own state for a validator); tasks that serve each member change with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from ainp2p.errors import NetworkError, RemoteError, TimedOut
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import Seat
from ainp2p.ledger.serving.messages import BODY_SIZE_MAX, LEDGER_PROTOCOL
from ainp2p.protocol.codec import Message, decode, encode
from ainp2p.protocol.identity import peer_id
from ainp2p.protocol.network import Network, PeerId

LAST_WORD_S = 0.5  # for the slowest, once a quorum has answered: one that is silent delays nobody
ASK_TIMEOUT_S = 5.0  # a validator answers from memory; it is slow only when it is overloaded or gone
FORMER_MAX = 64  # members of earlier epochs that are remembered, since they may know the history

A = TypeVar("A", bound=Message)


@dataclass(frozen=True, slots=True)
class Member:
    """A validator as a peer."""

    key: bytes
    peer: PeerId
    weight: int


class Validators:
    """The validators of one epoch, seen from one Network: at first those of the genesis.

    Attributes:
        epoch: whose members they are.
        members: all of them.
        others: without ourselves.
        former: members of earlier epochs that have no seat now, those that left last at the end.
        stakes: the others' weights, by peer; always the same dict.
        changed: set when the members change; then there is a new event.
        prepare: awaited for each answer before it is handed out (`following`).
    """

    def __init__(self, network: Network, genesis: Genesis) -> None:
        self.network = network
        self.members: tuple[Member, ...] = ()
        self.others: tuple[Member, ...] = ()
        self.former: tuple[Member, ...] = ()
        self.stakes: dict[PeerId, int] = {}
        self.changed = trio.Event()
        self.prepare: Callable[[PeerId, Message], Awaitable[None]] | None = None
        self._peers: dict[bytes, PeerId] = {}  # by key, of everybody who ever had a seat
        self._while: dict[trio.CancelScope, PeerId] = {}
        self.follow(0, [Seat(m.key, m.weight, m.addresses) for m in genesis.validators])

    def follow(self, epoch: int, seats: Iterable[Seat]) -> None:
        """From now on the members are those of this epoch; who left has a member's rights no more."""
        seats, before = tuple(seats), self.others
        self.epoch = epoch
        for seat in seats:
            self._peers.setdefault(seat.key, peer_id(seat.key))
        self.members = tuple(Member(seat.key, self._peers[seat.key], seat.weight) for seat in seats)
        self.others = tuple(member for member in self.members if member.peer != self.network.peer_id)
        self._total = sum(member.weight for member in self.members)
        self.stakes.clear()
        self.stakes.update((member.peer, member.weight) for member in self.others)
        former = {member.peer: member for member in (*self.former, *before) if member.peer not in self.stakes}
        self.former = tuple(former.values())[-FORMER_MAX:]
        for seat in seats:
            if seat.addresses and self._peers[seat.key] in self.stakes:
                addresses = tuple(address.decode(errors="replace") for address in seat.addresses)
                self.network.add_addresses(self._peers[seat.key], addresses)
        for scope, peer in list(self._while.items()):
            if peer not in self.stakes:
                scope.cancel()
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    @contextmanager
    def while_member(self, peer: PeerId) -> Iterator[None]:
        """The block ends when this one leaves the committee."""
        with trio.CancelScope() as scope:
            self._while[scope] = peer
            if peer not in self.stakes:
                scope.cancel()
            try:
                yield
            finally:
                del self._while[scope]

    async def for_each(self, task: Callable[[PeerId], Awaitable[None]]) -> None:
        """Run a task for each of the others; it begins and is cancelled as they come and go."""
        running: dict[PeerId, trio.CancelScope] = {}

        async def one(peer: PeerId, scope: trio.CancelScope) -> None:
            with scope:
                await task(peer)

        async with trio.open_nursery() as nursery:
            while True:
                changed = self.changed
                for peer in [peer for peer in running if peer not in self.stakes]:
                    running.pop(peer).cancel()
                for peer in [peer for peer in self.stakes if peer not in running]:
                    running[peer] = trio.CancelScope()
                    nursery.start_soon(one, peer, running[peer])
                await changed.wait()

    def peer_of(self, key: bytes) -> PeerId | None:
        """Who has this vote key, now or in an earlier epoch; None if nobody had."""
        return self._peers.get(key)

    def is_member(self, peer: PeerId) -> bool:
        """Whether the peer is one of the validators of this epoch."""
        return peer in self.stakes or (
            peer == self.network.peer_id and any(member.peer == peer for member in self.members)
        )

    def key_of(self, peer: PeerId) -> bytes | None:
        """The vote key of a validator's peer id."""
        return next((member.key for member in self.members if member.peer == peer), None)

    def is_minority(self, peers: Iterable[PeerId]) -> bool:
        """Whether these members have more than 1/3 of the total weight: one of them is correct."""
        return 3 * self._weight(peers) > self._total

    def is_quorum(self, peers: Iterable[PeerId]) -> bool:
        """Whether these members have more than 2/3 of the total weight."""
        return 3 * self._weight(peers) > 2 * self._total

    def _weight(self, peers: Iterable[PeerId]) -> int:
        held = set(peers)
        return sum(member.weight for member in self.members if member.peer in held)

    async def ask(
        self, peer: PeerId, question: Message, answer: type[A], *, timeout_s: float = ASK_TIMEOUT_S
    ) -> A:
        """One question to one validator.

        Raises:
            NetworkError, Refused: no answer.
            Malformed: the answer is none.
        """
        found = await self.ask_plainly(peer, question, answer, timeout_s=timeout_s)
        if self.prepare is not None:
            await self.prepare(peer, found)
        return found

    async def ask_plainly(
        self, peer: PeerId, question: Message, answer: type[A], *, timeout_s: float = ASK_TIMEOUT_S
    ) -> A:
        """As `ask`, and nothing is prepared: for what prepares.

        Raises:
            As `ask`.
        """
        body = await self.network.request(peer, LEDGER_PROTOCOL, encode(question), timeout_s=timeout_s)
        return decode(body, answer, size_max=BODY_SIZE_MAX)

    async def ask_all(
        self,
        question: Message,
        answer: type[A],
        *,
        timeout_s: float = ASK_TIMEOUT_S,
        last_word_s: float = ASK_TIMEOUT_S,
    ) -> list[tuple[PeerId, A]]:
        """The same question to all others at once; the answers that came in time, in the order they came.

        Args:
            last_word_s: the rest has so long once a quorum has answered: for those who need no more.

        Raises:
            TimedOut: nobody answered.
        """
        answers: list[tuple[PeerId, A]] = []
        problems: list[str] = []

        async def ask_one(peer: PeerId) -> None:
            try:
                answers.append((peer, await self.ask(peer, question, answer, timeout_s=timeout_s)))
            except (NetworkError, RemoteError) as exc:
                problems.append(f"{peer}: {exc}")
            if self.is_quorum(peer for peer, _ in answers):
                soon = trio.current_time() + last_word_s
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, soon)

        async with trio.open_nursery() as nursery:
            for member in self.others:
                nursery.start_soon(ask_one, member.peer)
        if not answers:
            raise TimedOut("no validator answers: " + "; ".join(problems))
        return answers

    @asynccontextmanager
    async def stream(
        self, peer: PeerId, question: Message, chunk: type[A], *, timeout_s: float
    ) -> AsyncIterator[AsyncIterator[A]]:
        """A question that is answered by many chunks; `timeout_s` bounds the wait for each."""
        async with self.network.stream(
            peer, LEDGER_PROTOCOL, encode(question), timeout_s=timeout_s
        ) as chunks:
            yield self._prepared(peer, chunks, chunk)

    async def _prepared(self, peer: PeerId, chunks: AsyncIterator[bytes], chunk: type[A]) -> AsyncIterator[A]:
        async for body in chunks:
            found = decode(body, chunk, size_max=BODY_SIZE_MAX)
            if self.prepare is not None:
                await self.prepare(peer, found)
            yield found

    async def tell(self, peer: PeerId, message: Message) -> bool:
        """Send one way; False if the peer cannot be reached now (repaired by sync)."""
        try:
            await self.network.send(peer, LEDGER_PROTOCOL, encode(message))
        except (NetworkError, RemoteError):
            return False
        return True


__all__ = ["ASK_TIMEOUT_S", "Member", "Validators"]
