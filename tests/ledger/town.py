"""A committee and wallets on an in-memory network, in virtual time: started, stopped and restarted at will.

`open_town` gives a running committee; `town.wallet(name)` opens wallets, each on a network of its own. Disk
work is done inline, so that the clock that jumps cannot run away while a thread writes. Waiting here is
polling: in virtual time it costs nothing.
"""
# ruff: noqa: ASYNC110

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from ainp2p.ledger.rules.genesis import DEVELOPMENT, Faucet, Genesis, new_genesis
from ainp2p.ledger.rules.operations import account_id, plain_inception
from ainp2p.ledger.serving.messages import Statistics
from ainp2p.ledger.serving.service import ValidatorService, open_faucet, open_validator
from ainp2p.ledger.wallets.settling import SettlePolicy
from ainp2p.ledger.wallets.wallet import Wallet, open_wallet
from ainp2p.protocol.identity import Key
from ainp2p.protocol.memory import EPOCH_MS, Conditions, MemoryHub, MemoryNetwork, open_memory_network
from ainp2p.protocol.network import Network
from ainp2p.protocol.storage import INLINE, Files, run_inline

from .world import key_of

PURSE = 1_000_000_000
LIFE_MS = 600_000
CALM = Conditions(latency_s=0.005)
QUIET = SettlePolicy(threshold=10**15, interval_ms=10**12, refund=False, at_close_s=0)


class Town:
    """One network with its people."""

    def __init__(self, hub: MemoryHub, size: int, names: Sequence[str], root: Path | None) -> None:
        self.hub, self.root = hub, root
        self.recruits: set[int] = set()  # validators that the genesis does not know
        self.keys = [key_of(f"validator {i}") for i in range(size)]
        faucet = key_of("faucet")
        self.genesis: Genesis = new_genesis(
            "town",
            EPOCH_MS,
            [(key.public, 1, []) for key in self.keys],
            [(plain_inception(key_of(name).public), PURSE) for name in (*names, "faucet")],
            Faucet(faucet.public, 1_000),
            DEVELOPMENT,
        )
        self.network_id = self.genesis.network_id
        self.services: dict[int, ValidatorService] = {}
        self.networks: dict[str, MemoryNetwork] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._running: dict[int, tuple[trio.CancelScope, trio.Event]] = {}
        self._nursery: trio.Nursery | None = None
        self.disks: dict[int, Any] = {}  # validator → what does its disk work, if not `run_inline`

    def account(self, name: str) -> bytes:
        """The account of a person's plain inception."""
        return account_id(self.network_id, plain_inception(key_of(name).public))

    # --- validators -------------------------------------------------------------------------------

    async def start(self, index: int) -> None:
        """Start a validator; it goes on from its disk."""
        assert self._nursery is not None
        await self._nursery.start(self._validate, index)

    async def recruit(self) -> int:
        """Start a validator without a seat; a bond may bring it one."""
        index = len(self.keys)
        self.keys.append(key_of(f"validator {index}"))
        self.recruits.add(index)
        await self.start(index)
        return index

    async def stop(self, index: int) -> None:
        """Stop a validator in good order."""
        scope, ended = self._running.pop(index)
        scope.cancel()
        await ended.wait()

    async def _validate(self, index: int, task_status: Any) -> None:
        ended = trio.Event()
        with trio.CancelScope() as scope:
            try:
                async with (
                    self.network(self.keys[index]) as network,
                    open_validator(
                        network,
                        self.genesis,
                        self.keys[index],
                        self.directory(f"v{index}"),
                        follow=index in self.recruits,
                        storage=Files(self.disks.get(index, run_inline)),
                    ) as service,
                ):
                    self.services[index] = service
                    self._running[index] = (scope, ended)
                    task_status.started()
                    await trio.sleep_forever()
            finally:
                self.services.pop(index, None)
                ended.set()

    async def until_voting(self) -> None:
        """Wait until every running validator votes."""
        with trio.fail_after(60):
            while not all(service.voting for service in self.services.values()):
                await trio.sleep(0.05)

    async def until_equal(self, decided: int) -> list[Statistics]:
        """Wait until every running validator has decided so many operations; they must agree then."""
        with trio.fail_after(120):
            while any(service.statistics().decided < decided for service in self.services.values()):
                await trio.sleep(0.05)
        found = [service.statistics() for service in self.services.values()]
        assert len({statistics.state_root for statistics in found}) == 1
        for each in found:
            assert each.balances + each.credits + each.locks + each.burnt == self.genesis.supply
        return found

    # --- people -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def network(self, key: Key) -> AsyncIterator[MemoryNetwork]:
        """A network of this key that knows, and is known to, everybody's addresses."""
        async with open_memory_network(self.hub, key) as network:
            for peer, addresses in self._addresses.items():
                network.add_addresses(peer, addresses)
            self._addresses[network.peer_id] = network.addresses
            for other in self.networks.values():
                other.add_addresses(network.peer_id, network.addresses)
            self.networks[network.peer_id] = network
            try:
                yield network
            finally:
                del self.networks[network.peer_id]

    @asynccontextmanager
    async def wallet(
        self, name: str, *, policy: SettlePolicy = QUIET, directory: Path | None = None
    ) -> AsyncIterator[Wallet]:
        """A person's wallet, on a network of its own."""
        async with (
            self.network(key_of(name)) as network,
            self.wallet_on(network, name, policy=policy, directory=directory) as wallet,
        ):
            yield wallet

    @asynccontextmanager
    async def wallet_on(
        self, network: Network, name: str, *, policy: SettlePolicy = QUIET, directory: Path | None = None
    ) -> AsyncIterator[Wallet]:
        """A person's wallet on a network that is there already."""
        async with open_wallet(
            network,
            self.genesis,
            key_of(name),
            directory or self.directory(name),
            policy=policy,
            storage=INLINE,
        ) as wallet:
            yield wallet

    @asynccontextmanager
    async def faucet(self) -> AsyncIterator[Wallet]:
        """The faucet, on a network of its own."""
        async with (
            self.network(key_of("faucet")) as network,
            open_faucet(
                network, self.genesis, key_of("faucet"), self.directory("faucet"), storage=INLINE
            ) as wallet,
        ):
            yield wallet

    def directory(self, name: str) -> Path | None:
        """Where somebody's data is."""
        return self.root / name if self.root is not None else None

    def peer(self, index: int) -> str:
        """A validator's peer id."""
        return self.keys[index].peer_id


@asynccontextmanager
async def open_town(
    *,
    size: int = 4,
    running: Sequence[int] | None = None,
    names: Sequence[str] = ("alice", "bob", "carol"),
    root: Path | None = None,
    conditions: Conditions = CALM,
    seed: int = 0,
) -> AsyncIterator[Town]:
    """A committee that votes."""
    town = Town(MemoryHub(seed, conditions), size, names, root)
    caught: Exception | None = None
    async with trio.open_nursery() as nursery:
        town._nursery = nursery
        try:
            for index in running if running is not None else range(size):
                await town.start(index)
            await town.until_voting()
            yield town
        except Exception as exc:
            caught = exc
        nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught
