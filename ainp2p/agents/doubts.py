"""Asking the ledger who speaks for an account now: cards do not show recoveries and later rotations.

    a card of an account whose key can change ──► is it long since we asked? ──► look_up ──► Standing.learn

Most accounts are born with one key for ever, and are never asked about. The others are asked about one after
the other, never twice in a short time, so that nobody who makes cards up can make us ask without end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from ainp2p.agents.standing import Standing
from ainp2p.errors import Error
from ainp2p.ledger.rules.accounts import Account
from ainp2p.protocol.card import Card
from ainp2p.protocol.context import Context
from ainp2p.protocol.messages import Signed

DOUBTS_MAX = 64  # accounts that wait to be asked about; who is left out is asked about with its next card
PAUSE_S = 0.1  # between two

LookUp = Callable[[bytes], Awaitable[Account | None]]
"""The newest proven state of an account; None, or an Error: the ledger tells nothing."""


class Doubts:
    """Accounts about which the ledger is asked; `settled` is told of each, with the card that led to it."""

    def __init__(
        self,
        standing: Standing,
        look_up: LookUp,
        settled: Callable[[Card, Signed], None],
        nursery: trio.Nursery,
        context: Context,
    ) -> None:
        self._standing, self._look_up, self._settled = standing, look_up, settled
        self._nursery, self._context = nursery, context
        self._waiting: dict[bytes, tuple[Card, Signed]] = {}
        self._asking = False

    def consider(self, card: Card, signed: Signed, *, believed: bool) -> None:
        """Ask about a well-signed card's account, if that may tell something new."""
        if len(self._waiting) >= DOUBTS_MAX or card.agent in self._waiting:
            return
        if not self._standing.is_doubtful(card, self._context.now_ms(), believed=believed):
            return
        self._waiting[card.agent] = card, signed
        if not self._asking:  # else the one task that asks comes to it, be it in its pause
            self._asking = True
            self._nursery.start_soon(self._ask)

    async def _ask(self) -> None:
        while self._waiting:
            agent, (card, signed) = next(iter(self._waiting.items()))
            try:
                account = await self._look_up(agent)
            except Error:
                account = None
            del self._waiting[agent]
            self._standing.learn(agent, account, self._context.now_ms())
            self._settled(card, signed)
            await trio.sleep(PAUSE_S)
        self._asking = False


__all__ = ["Doubts", "LookUp"]
