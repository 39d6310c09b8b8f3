"""An agent on a session key: what the delegation of its account lets it do, and out of which purse.

    account ──its key seals a Delegation──► session key ──signs──► cards, the market, CLOSEs: it sells
       └─────an allowance (a SPEND)───────► account of the session key alone ──deposits──► it buys

LEDGER.md: a SPEND needs the account's *current* key, so a session key opens no deposit of the account that it
sells for. If the delegation names receipts among its purposes, the agent buys from the account that the
session key was born with. What a host, or a thief of its key, can cost the owner is thus what it was allowed
beforehand, and no more.

When a tenth of the delegation's time is left that is logged; when it is over the agent's block ends with
`DelegationEnded`, since nobody believes its cards any more.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ainp2p.agents.vault import Vault
from ainp2p.errors import DelegationEnded, InvalidInput
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT
from ainp2p.ledger.wallets.delegation import Delegation
from ainp2p.ledger.wallets.settling import SettlePolicy
from ainp2p.ledger.wallets.wallet import Wallet, open_wallet
from ainp2p.protocol.background import background
from ainp2p.protocol.context import Context
from ainp2p.protocol.network import Network

log = logging.getLogger(__name__)

WARN_LEFT = 10  # one part of so many of a delegation's time is left: its owner is to make another one
LOOK_AGAIN_S = 600.0  # a clock may be set, and a machine may sleep
ALLOWANCE = "allowance"  # in an agent's home: the books of the session key's own account


def may_buy(delegation: Delegation) -> bool:
    """Whether a session key may pay, out of its own account."""
    return SIGN_RECEIPT in delegation.purposes


def refuse_buying(delegation: Delegation) -> None:
    """Raise unless a session key may buy.

    Raises:
        InvalidInput: it may only sell.
    """
    if not may_buy(delegation):
        raise InvalidInput(
            "this delegation lets the session key sell, and not buy: the account's owner makes one with "
            "`ainp2p wallet delegate … --allowance AMOUNT`"
        )


@asynccontextmanager
async def open_allowance(
    network: Network, genesis: Genesis, vault: Vault, home: Path | None, checkpoint: bytes | None
) -> AsyncIterator[Wallet]:
    """The purse from which an agent on a session key buys: the plain account of that key."""
    directory = home and home / ALLOWANCE
    policy = SettlePolicy(heartbeat=False)
    async with open_wallet(
        network, genesis, vault.wallet_signer(), directory, policy=policy, checkpoint=checkpoint
    ) as wallet:
        yield wallet


@asynccontextmanager
async def until_its_end(delegation: Delegation, context: Context, name: str) -> AsyncIterator[None]:
    """Let the block run until the delegation ends.

    Raises:
        DelegationEnded: that is so; the block was cancelled.
    """
    over = False

    async def watch() -> None:
        nonlocal over
        ends_ms, life_ms = delegation.not_after, delegation.not_after - delegation.not_before
        await _sleep_until(ends_ms - life_ms // WARN_LEFT, context)
        left_s = (ends_ms - context.now_ms()) // 1000
        log.warning(
            "agent %r: its delegation ends in %d s, and the agent with it. Its account's owner makes another "
            "one with `ainp2p wallet delegate`; start the agent again with that",
            name,
            max(left_s, 0),
        )
        await _sleep_until(ends_ms, context)
        over = True
        nursery.cancel_scope.cancel()

    async with background() as nursery:
        nursery.start_soon(watch)
        yield
    if over:
        raise DelegationEnded(delegation.not_after)


async def _sleep_until(at_ms: int, context: Context) -> None:
    while (left_ms := at_ms - context.now_ms()) > 0:  # noqa: ASYNC110  nobody tells of a clock that is set
        await trio.sleep(min(left_ms / 1000, LOOK_AGAIN_S))


__all__ = ["ALLOWANCE", "may_buy", "open_allowance", "refuse_buying", "until_its_end"]
