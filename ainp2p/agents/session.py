"""An agent on a session key: what the delegation of its account lets it do, and out of which purse.

    account ──its key seals a Delegation──► session key ──signs──► cards, the market, CLOSEs: it sells
       └─────an allowance (a SPEND)───────► account of the session key alone ──deposits──► it buys

LEDGER.md: a SPEND needs the account's *current* key, so a session key opens no deposit of the account that it
sells for. If the delegation names receipts among its purposes, the agent buys from the account that the
session key was born with. What a host, or a thief of its key, can cost the owner is thus what it was allowed
beforehand, and no more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ainp2p.agents.vault import Vault
from ainp2p.errors import InvalidInput
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT
from ainp2p.ledger.wallets.delegation import Delegation
from ainp2p.ledger.wallets.settling import SettlePolicy
from ainp2p.ledger.wallets.wallet import Wallet, open_wallet
from ainp2p.protocol.network import Network

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


__all__ = ["ALLOWANCE", "may_buy", "open_allowance", "refuse_buying"]
