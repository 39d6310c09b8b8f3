"""Saying in time that the owner is alive, so that guardians cannot take the account. A task of the wallet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from ainp2p.errors import Error
from ainp2p.ledger.wallets.wallet_keys import BEATS_PER_LEASE, beat_due_ms

if TYPE_CHECKING:
    from ainp2p.ledger.wallets.wallet import Wallet

RETRIES_PER_BEAT = 4  # while a heartbeat is due and does not become final


async def keep_beating(wallet: Wallet) -> None:
    """Send a heartbeat whenever a third of the lease is over without an operation; until cancelled."""
    while True:
        account = wallet.account
        due_ms = beat_due_ms(account)
        retry_s = max(1.0, account.lease / BEATS_PER_LEASE / RETRIES_PER_BEAT / 1000)
        if due_ms is None or not wallet.is_owner:
            await trio.sleep(retry_s)  # guardians have it; it may come back to us
        elif wallet.now_ms() < due_ms:
            await trio.sleep((due_ms - wallet.now_ms()) / 1000)
        else:
            await _beat(wallet, retry_s)


async def _beat(wallet: Wallet, retry_s: float) -> None:
    try:
        await wallet.balance()  # on the newest state: perhaps something has been said meanwhile
        if wallet.now_ms() >= (beat_due_ms(wallet.account) or 0):
            await wallet.beat(timeout_s=retry_s)
    except Error:  # no money, no network, no quorum: what was signed is sent again by itself
        await trio.sleep(retry_s)
