"""Our Locks at sellers: opened on first use, reused, replaced when spent, old or spoilt."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from ainp2p.agents.deposit import Deposit, OnReceipt
from ainp2p.agents.vault import Vault
from ainp2p.errors import InsufficientFunds, InvalidInput
from ainp2p.ledger.wallets.wallet import LockState, Wallet
from ainp2p.protocol.network import Network, PeerId

BUDGETS_PER_DEPOSIT = 10  # a Lock holds so many budgets, if the purse and the policy allow it
LIFE_MS = 24 * 3_600_000  # or as long as the network allows
STEPS_PER_DEPOSIT = 10  # a SETTLE pays at least a tenth, so a Lock's prepaid fee is small
FEES_RESERVED = 64  # least fees, kept back for the SPEND that opens a Lock, and for the next one


@dataclass(slots=True)
class _Opening:
    """A Lock on its way; whoever needs one at this seller waits for it."""

    budget: int
    done: trio.Event = field(default_factory=trio.Event)
    failure: Exception | None = None


class Deposits:
    """All Locks in which we pay. They are opened by tasks of `nursery`, one at a time for each seller.

    A caller that is cancelled meanwhile leaves a Lock behind that the next job uses.
    """

    def __init__(
        self,
        network: Network,
        vault: Vault,
        wallet: Wallet,
        network_id: bytes,
        nursery: trio.Nursery,
        on_receipt: OnReceipt | None = None,
    ) -> None:
        self._on_receipt = on_receipt
        self._network, self._vault, self._wallet, self._nursery = network, vault, wallet, nursery
        self._network_id = network_id
        self._by_seller: dict[bytes, list[Deposit]] = {}
        self._by_peer: dict[PeerId, list[Deposit]] = {}
        self._opening: dict[bytes, _Opening] = {}
        self._watching = False

    def has_room(self, seller: bytes, budget: int) -> bool:
        """Whether a Lock at `seller` is open on which `claim` would return at once."""
        return self._usable(seller, budget, self._margin_ms) is not None

    async def claim(self, seller: bytes, key: bytes, peer: PeerId, budget: int) -> Deposit:
        """A Lock at `seller` (its agent id) with `budget` uain kept for one job: `Deposit.release` it.

        Raises:
            InsufficientFunds: the purse does not hold the budget.
            PolicyRefused: a deposit of this size is above a bound.
            NotFinal, TimedOut: the ledger did not decide in time.
            InvalidInput: the network's rules leave no time to settle any Lock.
        """
        margin = self._margin_ms
        if margin >= self._life_ms:  # else one Lock after the other is opened, and none is used
            raise InvalidInput("Locks live too short on this network to be settled in time")
        while True:
            deposit = self._usable(seller, budget, margin)
            if deposit is not None:
                deposit.claim(budget)
                return deposit
            opening = self._opening.get(seller)
            if opening is None:
                opening = self._opening[seller] = _Opening(budget)
                self._nursery.start_soon(self._open, seller, key, peer, opening)
            await opening.done.wait()
            if opening.failure is not None and opening.budget <= budget:
                raise opening.failure

    def _usable(self, seller: bytes, budget: int, margin_ms: int) -> Deposit | None:
        found = (d for d in self._by_seller.get(seller, ()) if d.usable(budget, margin_ms))
        return next(found, None)

    async def _watch_links(self) -> None:
        """See to it, until cancelled, that no last receipt is lost with its connection."""
        async with self._network.watch_peers() as changes:
            async for change in changes:
                for deposit in self._by_peer.get(change.peer, ()):
                    deposit.link_changed()

    def all(self) -> list[Deposit]:
        """Every Lock that is kept, used or not."""
        return [deposit for deposits in self._by_seller.values() for deposit in deposits]

    async def leave(self) -> None:
        """See to it that each seller holds its last receipt, for a moment, before the network is closed.

        An agent that is cancelled from outside has no network any more, and what it sent last may be lost.
        """
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for deposit in self.all():
                    nursery.start_soon(deposit.leave)

    @property
    def _life_ms(self) -> int:
        # Not the genesis's: a COMMITTEE may change them, and a Lock that lives too long is refused.
        return min(LIFE_MS, self._wallet.parameters.lock_life_ms_max)

    @property
    def _margin_ms(self) -> int:
        """How long a Lock must still live to be used: twice what settling it in time needs."""
        return self._wallet.parameters.margin(self._life_ms) * 2

    async def _open(self, seller: bytes, key: bytes, peer: PeerId, opening: _Opening) -> None:
        """A task of its own: what fails is told to those who wait."""
        try:
            self._drop_old()
            state = await self._open_lock(seller, key, opening.budget)
            await self._vault.use_lock(self._network_id, state.lock)
            deposit = Deposit(self._network, self._vault, state.lock, peer, self._nursery, self._on_receipt)
            self._by_seller.setdefault(seller, []).append(deposit)
            self._by_peer.setdefault(peer, []).append(deposit)
            if not self._watching:
                self._watching = True
                self._nursery.start_soon(self._watch_links)
        except Exception as exc:
            opening.failure = exc
        finally:
            del self._opening[seller]
            opening.done.set()

    async def _open_lock(self, seller: bytes, key: bytes, budget: int) -> LockState:
        async def open_lock(amount: int) -> LockState:
            return await self._wallet.open_lock(
                [(seller, 1)],
                closer=key,
                deposit=amount,
                step=max(1, amount // STEPS_PER_DEPOSIT),
                life_ms=self._life_ms,
                purpose=b"channel",
            )

        amount = await self._size(budget)
        try:
            return await open_lock(amount)
        except InsufficientFunds:  # another payment was quicker: a Lock for this one job may still do
            if amount == budget:
                raise
            return await open_lock(budget)

    async def _size(self, budget: int) -> int:
        """Ten budgets, if the policy and half the purse allow it; the budget at least."""
        available = (await self._wallet.balance()).available
        reserve = FEES_RESERVED * self._wallet.parameters.fee_floor
        if available < budget + reserve:
            raise InsufficientFunds(available, budget + reserve)
        cap = self._vault.policy.per_lock
        wanted = min(BUDGETS_PER_DEPOSIT * budget, (available - reserve) // 2)
        return max(budget, min(wanted, cap) if cap is not None else wanted)

    def _drop_old(self) -> None:
        """Forget Locks whose time has passed; the wallet takes back what is left of them."""
        for seller, deposits in list(self._by_seller.items()):
            for deposit in [d for d in deposits if d.is_over and d.is_idle]:
                deposits.remove(deposit)
                self._by_peer[deposit.seller].remove(deposit)
                deposit.forget()
            if not deposits:
                del self._by_seller[seller]
