"""A market in memory: a development network's committee, agents that open by name, and what must hold.

Everything runs on trio's jumping clock over a `MemoryHub`. What `Market` checks is seen from outside the
buyers' and sellers' code: what a reader has in hands, what was signed, what the validators say of supply.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio._core import _run

from ainp2p.agents import deposit as deposit_module
from ainp2p.agents.agent import Agent
from ainp2p.agents.development import (
    GENESIS_PROTOCOL,
    committee_seats,
    development_genesis,
    genesis_handler,
)
from ainp2p.agents.job import Job, Leg
from ainp2p.agents.models.model import Model
from ainp2p.agents.models.scripted import ScriptedModel
from ainp2p.agents.offers import Offer
from ainp2p.agents.skill import Skill, skill
from ainp2p.agents.work import Work
from ainp2p.ledger.rules.genesis import DEVELOPMENT_SUPPLY, Genesis
from ainp2p.ledger.serving.faucet import open_faucet
from ainp2p.ledger.serving.service import ValidatorService, open_validator
from ainp2p.protocol import crew
from ainp2p.protocol.context import Context
from ainp2p.protocol.delivery import STEP, WINDOW
from ainp2p.protocol.identity import Key
from ainp2p.protocol.memory import EPOCH_MS, Conditions, MemoryHub, MemoryNetwork, open_memory_network
from ainp2p.protocol.messages import PROTOCOL
from ainp2p.protocol.network import Call, PeerId
from ainp2p.protocol.price import Price
from ainp2p.protocol.storage import INLINE

CALM = Conditions()
AT_REST = (crew.IDLE, "._watch_links")  # tasks that do nothing
Tamper = Callable[[bytes], Awaitable[bytes | None]]
"""What becomes of one thing that a seller sends on a stream; None: nothing is sent."""


@skill("write", price="2/token")
async def write(job: Work, text: str) -> AsyncIterator[object]:
    """Say what the model says."""
    async for token in job.model.stream(text):
        yield token


def words(count: int, word: str = "w") -> str:
    """A text of so many different tokens."""
    return " ".join(f"{word}{i}" for i in range(count))


def writer(count: int, **options: Any) -> ScriptedModel:
    """A model whose every answer has `count` tokens."""
    return ScriptedModel({"": words(count)}, **options)


@dataclass
class Bought:
    """What a reader has in hands after a job, and the job."""

    job: Job
    pieces: list[Any] = field(default_factory=list)
    failure: Exception | None = None

    @property
    def text(self) -> str:
        """All that was read, whatever began anew."""
        return "".join(str(piece) for piece in self.pieces)

    @property
    def last(self) -> Leg:
        """The leg that ended it."""
        return self.job.legs[-1]


class Market:
    """A committee, and agents by name on one hub."""

    def __init__(self, hub: MemoryHub, genesis: Genesis, validators: list[ValidatorService]) -> None:
        self.hub, self.genesis, self.validators = hub, genesis, validators
        self.address = ""
        self.agents: dict[str, Agent] = {}

    def context(self, name: str) -> Context:
        """Where an agent's key and choices come from."""
        return Context.seeded(f"{self.hub.seed}/{name}", lambda: EPOCH_MS + int(trio.current_time() * 1000))

    def key(self, name: str) -> Key:
        """The key of an agent without a home."""
        return Key(self.context(name).token_bytes(32))

    @asynccontextmanager
    async def agent(
        self,
        name: str,
        skills: Sequence[Skill] = (),
        model: str | Model | Sequence[Model] | None = None,
        **options: Any,
    ) -> AsyncIterator[Agent]:
        """An open agent that bootstraps from a validator."""
        agent = Agent(
            name,
            skills=skills,
            model=model,
            bootstrap=[self.address],
            context=self.context(name),
            transport=lambda key: open_memory_network(self.hub, key),
            **options,
        )
        async with agent:
            self.agents[name] = agent
            try:
                yield agent
            finally:
                del self.agents[name]

    def peer(self, name: str) -> PeerId:
        """An open agent's peer id."""
        return self.agents[name].peer_id

    # --- what must hold ----------------------------------------------------------------------------

    def check_supply(self) -> None:
        """V1, as each validator sees it."""
        for validator in self.validators:
            seen = validator.statistics()
            assert seen.balances + seen.credits + seen.locks + seen.burnt == DEVELOPMENT_SUPPLY

    def check_bill(self, bought: Bought, price: str = "2/token") -> None:
        """Never above the budget, and at most a step more than what the reader has in hands."""
        job = bought.job
        assert 0 <= job.paid <= job.budget
        assert job.paid == sum(leg.amount for leg in job.legs)
        units = sum(len(piece.tokens) if "token" in price else 1 for piece in bought.pieces)
        rates = Price.parse(price)
        fixed = rates.fixed() * sum(1 for leg in job.legs if leg.units)
        assert job.paid <= fixed + rates.rate * (units + STEP)

    def check_window(self, *names: str) -> None:
        """V4: a seller has never more than a window unpaid on a Lock."""
        for name in names:
            for till in self.agents[name]._open_parts.seller._tills._tills.values():
                assert till.meter.unpaid <= WINDOW

    async def check_rest(self, *names: str, within_s: float = 90.0) -> None:
        """After a while nothing is held any more: slots, reservations, claims, tasks."""
        with trio.fail_after(within_s):
            while any(self.leftovers(name) for name in names):  # noqa: ASYNC110  # virtual time
                await trio.sleep(1)

    def leftovers(self, name: str) -> list[str]:
        """What an agent still holds."""
        parts = self.agents[name]._open_parts
        seller, buyer, found = parts.seller, parts.buyer, []
        seller._negotiation.expire(seller._now_ms())
        if seller.free != seller.slots or seller._negotiation.open or seller._negotiation._awarded:
            found.append(f"slots: {seller.slots - seller.free}, proposals: {seller._negotiation.open}")
        if seller._sales or seller._idle:
            found.append(f"sales: {len(seller._sales)}")
        if parts.vault.committed:
            found.append(f"reserved: {parts.vault.committed}")
        if any(not deposit.is_idle or deposit._jobs for deposit in buyer.deposits.all()):
            found.append("claims")
        working = [task.name for task in buyer._nursery.child_tasks if not task.name.endswith(AT_REST)]
        if working:
            found.append(f"tasks: {working}")
        return found


@asynccontextmanager
async def found_market(seed: int | str = 0, conditions: Conditions = CALM) -> AsyncIterator[Market]:
    """Four validators and a faucet; supply is checked at the end, whatever happened.

    The scheduler, the weather and all keys come from `seed`.
    """
    hub = MemoryHub(seed, conditions)
    context = Context.seeded(f"{seed}/committee", lambda: EPOCH_MS + int(trio.current_time() * 1000))
    seats = committee_seats(context, None)
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())  # fails if trio has renamed either
        patch.setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
        patch.setattr(_run, "_r", random.Random(seed))
        patch.setattr(deposit_module, "CONFIRM_AFTER_S", 30.0)  # for `check_rest` to be soon
        networks = [await stack.enter_async_context(open_memory_network(hub, seat.key)) for seat in seats]
        where = [(seat.key, network.addresses) for seat, network in zip(seats, networks, strict=True)]
        genesis = development_genesis(where, context.now_ms())
        validators = []
        for seat, network in zip(seats, networks, strict=True):
            network.serve(GENESIS_PROTOCOL, genesis_handler(genesis))
            opened = open_validator(network, genesis, seat.key, None, storage=INLINE)
            validators.append(await stack.enter_async_context(opened))
        faucet = open_faucet(networks[0], genesis, seats[0].key, None, storage=INLINE)
        await stack.enter_async_context(faucet)
        market = Market(hub, genesis, validators)
        market.address = networks[1].addresses[0]
        yield market
        market.check_supply()


async def buy(
    agent: Agent,
    offers: Sequence[Offer] | Offer | Skill,
    *,
    budget: int = 600,
    stop_after: int | None = None,
    pause_s: float = 0.0,
    **input_: Any,
) -> Bought:
    """Hire and read, to the end or for `stop_after` pieces."""
    bought: Bought | None = None
    async with agent.hire(offers, budget=budget, input=input_ or {"text": "go"}) as job:
        bought = Bought(job)
        try:
            if stop_after != 0:
                async for piece in job:
                    bought.pieces.append(piece)
                    if len(bought.pieces) == stop_after:
                        break
                    if pause_s:
                        await trio.sleep(pause_s)
        except Exception as exc:
            bought.failure = exc
    return bought


def tamper(agent: Agent, change: Tamper) -> None:
    """Make a seller send something else than it would."""
    network = agent.network
    assert isinstance(network, MemoryNetwork)
    honest = network._handlers[PROTOCOL]

    async def handle(call: Call) -> bytes | None:
        return await honest(_Tampered(call, change))

    network._handlers[PROTOCOL] = handle


class _Tampered:
    """A call whose chunks pass through `change`."""

    def __init__(self, call: Call, change: Tamper) -> None:
        self._call, self._change = call, change
        self.peer, self.body = call.peer, call.body

    async def send(self, chunk: bytes) -> None:
        changed = await self._change(chunk)
        if changed is not None:
            await self._call.send(changed)
