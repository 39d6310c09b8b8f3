"""A world's ledger: its validators, each a node of its own, and the bank that endows agents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from ainp2p.ledger.rules.genesis import DEVELOPMENT, Genesis, Parameters, new_genesis
from ainp2p.ledger.rules.operations import account_id, plain_inception
from ainp2p.ledger.rules.state import State
from ainp2p.protocol.identity import Key
from ainp2p.protocol.network import Network
from ainp2p.simulation.core.clock import EPOCH_MS
from ainp2p.simulation.node import HOME, Body, Node

if TYPE_CHECKING:
    from ainp2p.ledger.serving.service import ValidatorService
    from ainp2p.ledger.wallets.wallet import Wallet

SUPPLY = 10**15  # uain
BANK = "bank"


def found(keys: list[Key], addresses: list[str], bank: Key, parameters: Parameters = DEVELOPMENT) -> Genesis:
    """The genesis of a world: all its money is the bank's."""
    seats = [(key.public, 1, (address,)) for key, address in zip(keys, addresses, strict=True)]
    return new_genesis("world", EPOCH_MS, seats, [(plain_inception(bank.public), SUPPLY)], None, parameters)


class Committee:
    """The validators of one world, and what they agree on."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._services: dict[str, ValidatorService] = {}

    def body(self, genesis: Callable[[], Genesis]) -> Body:
        """The life of one validator."""

        async def live(node: Node, tell_ready: Callable[[], None]) -> None:
            from ainp2p.ledger.serving.service import open_validator

            context = node.context()
            async with node.transport(context)(node.key) as network:
                async with open_validator(network, genesis(), node.key, HOME / "validator") as service:
                    self._services[node.name] = service
                    try:
                        tell_ready()
                        await trio.sleep_forever()
                    finally:
                        if self._services.get(node.name) is service:
                            del self._services[node.name]

        return live

    @property
    def states(self) -> dict[str, State]:
        """What each validator that runs has decided, by its name; not to be changed."""
        return {name: self._services[name]._validator.state for name in sorted(self._services)}


class Bank:
    """Pays every agent its endowment; payments of one moment share an operation."""

    def __init__(self) -> None:
        self._wallet: Wallet | None = None
        self._open = trio.Event()

    async def run(self, network: Network, genesis: Genesis, key: Key) -> None:
        """Be the bank, until cancelled."""
        from ainp2p.ledger.wallets.wallet import open_wallet

        async with open_wallet(network, genesis, key, None) as self._wallet:
            self._open.set()
            await trio.sleep_forever()

    async def endow(self, genesis: Genesis, key: Key, amount: int) -> None:
        """Pay `amount` uain to the plain account of a key, once for ever."""
        await self._open.wait()
        assert self._wallet is not None
        account = account_id(genesis.network_id, plain_inception(key.public))
        await self._wallet.send(account, amount, note=b"endow:" + account)
