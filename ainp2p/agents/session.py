"""An agent on a session key: what the delegation of its account lets it do, and out of which purse.

    account ──its key seals a Delegation──► session key ──signs──► cards, the market, CLOSEs: it sells
       └─────an allowance (a SPEND)───────► account of the session key alone ──deposits──► it buys

LEDGER.md: a SPEND needs the account's *current* key, so a session key opens no deposit of the account that it
sells for. If the delegation names receipts among its purposes, the agent buys from the account that the
session key was born with. What a host, or a thief of its key, can cost the owner is thus what it was allowed
beforehand, and no more.

When a tenth of the delegation's time is left that is logged; when it is over the agent's block ends with
`DelegationEnded`, since nobody believes its cards any more. Until then a newer one can take its place
(`Agent.renew`), also by a file that the owner replaces (`follow_mandate`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from ainp2p.agents.vault import Vault
from ainp2p.errors import DelegationEnded, Error, InvalidInput
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.receipts import SIGN_RECEIPT
from ainp2p.ledger.wallets.delegation import Delegation, Mandate, SignedDelegation
from ainp2p.ledger.wallets.settling import SettlePolicy
from ainp2p.ledger.wallets.wallet import Wallet, open_wallet
from ainp2p.protocol.background import background
from ainp2p.protocol.codec import decode
from ainp2p.protocol.context import Context
from ainp2p.protocol.network import Network

log = logging.getLogger(__name__)

WARN_LEFT = 10  # one part of so many of a delegation's time is left: its owner is to make another one
LOOK_AGAIN_S = 600.0  # a clock may be set, and a machine may sleep
MANDATE_LOOK_S = 5.0  # between two looks at a file of 400 bytes
MANDATE_SIZE_MAX = 8_192
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


async def give_back(purse: Wallet, account: bytes) -> int:
    """Send what is free in a purse to an account; how much that was. Open deposits stay as they are.

    Raises:
        As `Wallet.send`.
    """
    free = (await purse.balance()).available - purse.parameters.fee_floor - purse.account.debt
    if free <= 0:
        return 0
    await purse.send(account, free)
    return free


# --- how long ---------------------------------------------------------------------------------------------


def check_newer(newer: Delegation, held: Delegation) -> None:
    """Raise unless a delegation can take the place of another one of the same account to the same key.

    Raises:
        InvalidInput: others may have seen the one that is held, and refuse this one.
    """
    if (newer.epoch, newer.not_after) <= (held.epoch, held.not_after):
        raise InvalidInput(
            f"a delegation of epoch {newer.epoch}, until {newer.not_after}, is no newer than what the agent "
            f"runs on: epoch {held.epoch}, until {held.not_after}"
        )


def as_opened(newer: Delegation, buys: bool) -> Delegation:
    """A newer delegation as an agent can use it that runs: one that was opened to sell only has no purse."""
    if buys:
        return newer
    purposes = tuple(purpose for purpose in newer.purposes if purpose != SIGN_RECEIPT)
    return msgspec.structs.replace(newer, purposes=purposes)


class Term:
    """How long an agent on a session key goes on: until its newest delegation ends."""

    def __init__(self, delegation: Delegation, context: Context) -> None:
        self.delegation, self._context = delegation, context
        self._renewed = trio.Event()

    def renew(self, delegation: Delegation) -> None:
        """This one counts from now on."""
        renewed, self.delegation, self._renewed = self._renewed, delegation, trio.Event()
        renewed.set()

    async def reaches(self, at_ms: int) -> bool:
        """Wait for this moment; False if a newer delegation comes before it."""
        renewed = self._renewed
        while (left_ms := at_ms - self._context.now_ms()) > 0:
            with trio.move_on_after(min(left_ms / 1000, LOOK_AGAIN_S)):  # nobody tells of a clock that is set
                await renewed.wait()
                return False
        return True


@asynccontextmanager
async def until_its_end(delegation: Delegation, context: Context, name: str) -> AsyncIterator[Term]:
    """Let the block run until the delegation ends, or the last one that has renewed it.

    Raises:
        DelegationEnded: that is so; the block was cancelled.
    """
    term, over = Term(delegation, context), False

    async def watch() -> None:
        nonlocal over
        while not over:
            ends_ms, begins_ms = term.delegation.not_after, term.delegation.not_before
            if not await term.reaches(ends_ms - (ends_ms - begins_ms) // WARN_LEFT):
                continue
            log.warning(
                "agent %r: its delegation ends in %d s, and the agent with it. Its account's owner makes "
                "another one with `ainp2p wallet delegate`: `serve --delegation FILE` takes it from that "
                "file, a program calls `agent.renew`",
                name,
                max((ends_ms - context.now_ms()) // 1000, 0),
            )
            over = await term.reaches(ends_ms)
        nursery.cancel_scope.cancel()

    async with background() as nursery:
        nursery.start_soon(watch)
        yield term
    if over:
        raise DelegationEnded(term.delegation.not_after)


async def follow_mandate(path: Path, renew: Callable[[SignedDelegation], Awaitable[None]], name: str) -> None:
    """Renew by each mandate that comes into this file. Never returns. What cannot be taken is logged once."""
    refused = b""
    while True:
        raw = _read(path)
        if raw:
            try:
                await renew(decode(raw, Mandate, size_max=MANDATE_SIZE_MAX).delegation)
            except Error as exc:
                if raw != refused:
                    log.warning("agent %r does not go on by what is in %s: %s", name, path, exc)
                refused = raw
        await trio.sleep(MANDATE_LOOK_S)


def _read(path: Path) -> bytes:
    """What is in the file; nothing while it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(MANDATE_SIZE_MAX + 1)
    except OSError:
        return b""


__all__ = [
    "ALLOWANCE",
    "Term",
    "as_opened",
    "check_newer",
    "follow_mandate",
    "give_back",
    "may_buy",
    "open_allowance",
    "refuse_buying",
    "until_its_end",
]
