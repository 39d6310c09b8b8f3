"""Our Locks at sellers: opened on first use, reused, replaced when spent, old or spoilt."""

from __future__ import annotations

import trio

from ainp2p.agents.deposit import Deposit
from ainp2p.agents.vault import Vault
from ainp2p.errors import InsufficientFunds
from ainp2p.ledger.genesis import Parameters
from ainp2p.ledger.wallet import Wallet
from ainp2p.protocol.network import Network, PeerId

BUDGETS_PER_DEPOSIT = 10  # a Lock holds so many budgets, if the purse and the policy allow it
LIFE_MS = 24 * 3_600_000  # or as long as the network allows
STEPS_PER_DEPOSIT = 10  # a SETTLE pays at least a tenth, so a Lock's prepaid fee is small
FEE_RESERVE = 64  # uain kept back for the fee of the SPEND that opens a Lock, and of the next one


class Deposits:
    """All Locks in which we pay. One task at a time opens a Lock at a seller."""

    def __init__(
        self, network: Network, vault: Vault, wallet: Wallet, parameters: Parameters, network_id: bytes
    ) -> None:
        self._network, self._vault, self._wallet = network, vault, wallet
        self._parameters, self._network_id = parameters, network_id
        self._by_seller: dict[bytes, list[Deposit]] = {}
        self._opening: dict[bytes, trio.Lock] = {}

    async def get(self, seller: bytes, key: bytes, peer: PeerId, budget: int) -> Deposit:
        """A Lock at `seller` (its agent id) from which `budget` uain can be paid.

        Raises:
            InsufficientFunds: the purse does not hold the budget.
            PolicyRefused: a deposit of this size is above a bound.
            NotFinal, TimedOut: the ledger did not decide in time.
        """
        async with self._opening.setdefault(seller, trio.Lock()):
            margin = self._parameters.margin(self._life_ms) * 2
            for deposit in self._by_seller.get(seller, []):
                if deposit.usable(budget, margin):
                    return deposit
            deposit = await self._open(seller, key, peer, budget)
            self._by_seller.setdefault(seller, []).append(deposit)
            return deposit

    @property
    def _life_ms(self) -> int:
        return min(LIFE_MS, self._parameters.lock_life_ms_max)

    async def _open(self, seller: bytes, key: bytes, peer: PeerId, budget: int) -> Deposit:
        amount = await self._size(budget)
        state = await self._wallet.open_lock(
            [(seller, 1)],
            closer=key,
            deposit=amount,
            step=max(1, amount // STEPS_PER_DEPOSIT),
            life_ms=self._life_ms,
            purpose=b"channel",
        )
        await self._vault.use_lock(self._network_id, state.lock)
        return Deposit(self._network, self._vault, state.lock, peer)

    async def _size(self, budget: int) -> int:
        """Ten budgets, if the policy and half the purse allow it; the budget at least."""
        available = (await self._wallet.balance()).available - FEE_RESERVE
        if available < budget:
            raise InsufficientFunds(max(0, available), budget)
        cap = self._vault.policy.per_lock
        wanted = min(BUDGETS_PER_DEPOSIT * budget, available // 2)
        return max(budget, min(wanted, cap) if cap is not None else wanted)
