"""Asking the committee: who its members are as peers, and questions to one, to all, or to a quorum of them.

Used by wallets, and by validators that catch up. What comes back is an answer, not a truth: certificates
are checked by whoever asked. No state is kept but who answered last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import trio

from ainp2p.errors import NetworkError, RemoteError, TimedOut
from ainp2p.ledger.genesis import Genesis
from ainp2p.ledger.messages import BODY_SIZE_MAX, LEDGER_PROTOCOL
from ainp2p.protocol.codec import Message, decode, encode
from ainp2p.protocol.identity import peer_id
from ainp2p.protocol.network import Network, PeerId

LAST_WORD_S = 0.5  # for the slowest, once a quorum has answered: one that is silent delays nobody
ASK_TIMEOUT_S = 5.0  # a validator answers from memory; it is slow only when it is overloaded or gone

A = TypeVar("A", bound=Message)


@dataclass(frozen=True, slots=True)
class Member:
    """A validator as a peer."""

    key: bytes
    peer: PeerId
    weight: int


class Validators:
    """The validators of a genesis, seen from one Network; ourselves are left out of `others`."""

    def __init__(self, network: Network, genesis: Genesis) -> None:
        self.network = network
        self.members = tuple(Member(m.key, peer_id(m.key), m.weight) for m in genesis.validators)
        self.others = tuple(member for member in self.members if member.peer != network.peer_id)
        self._total = sum(member.weight for member in self.members)
        for validator, member in zip(genesis.validators, self.members, strict=True):
            if validator.addresses and member in self.others:
                network.add_addresses(member.peer, tuple(a.decode() for a in validator.addresses))

    def is_member(self, peer: PeerId) -> bool:
        """Whether the peer is one of the validators."""
        return any(member.peer == peer for member in self.members)

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
            yield (decode(body, chunk, size_max=BODY_SIZE_MAX) async for body in chunks)

    async def tell(self, peer: PeerId, message: Message) -> bool:
        """Send one way; False if the peer cannot be reached now (repaired by sync)."""
        try:
            await self.network.send(peer, LEDGER_PROTOCOL, encode(message))
        except (NetworkError, RemoteError):
            return False
        return True


__all__ = ["ASK_TIMEOUT_S", "Member", "Validators"]
