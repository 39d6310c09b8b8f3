"""The buying side of an agent: `hire` and `plan`.

Work on a job runs in tasks of the agent's own (`purchase.Purchase`), so that whoever reads the result may
be cancelled at any await.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from ainp2p.agents.bargaining import Deal, bargain
from ainp2p.agents.deposit import Deposit, OnReceipt
from ainp2p.agents.deposits import Deposits
from ainp2p.agents.directory import Directory
from ainp2p.agents.job import Job
from ainp2p.agents.models.model import Model
from ainp2p.agents.offers import Offer
from ainp2p.agents.purchase import Order, Purchase
from ainp2p.agents.sale import content_of
from ainp2p.agents.skill import Skill
from ainp2p.agents.vault import Vault
from ainp2p.agents.work import new_work
from ainp2p.errors import BudgetExceeded, InvalidInput, NoOffers, PolicyRefused
from ainp2p.ledger.genesis import Genesis
from ainp2p.ledger.wallet import Wallet
from ainp2p.protocol import canonical_json
from ainp2p.protocol.messages import SEED_SIZE_MAX, Chunk, Signer
from ainp2p.protocol.negotiation import Buyer as Negotiation
from ainp2p.protocol.negotiation import Task
from ainp2p.protocol.network import Network
from ainp2p.protocol.strategies import Choosing, Countering, cheapest, never_counter

Offers = Offer | Sequence[Offer] | Skill


@dataclass(frozen=True, slots=True)
class Plan:
    """What a task could cost at most, and what would forbid it. No money has moved.

    Attributes:
        offers: that would be asked, best first.
        budget: uain; the most that would be signed.
        units_max: of the best offer's unit that the budget buys.
        available: uain in the purse.
        violations: rules of the policy that would refuse it; empty if none.
    """

    offers: tuple[Offer, ...]
    budget: int
    units_max: int
    available: int
    violations: tuple[PolicyRefused, ...]

    @property
    def possible(self) -> bool:
        """Whether `hire` would begin."""
        return not self.violations and self.available >= self.budget


class Buyer:
    """What one agent buys; `open_buyer` makes it."""

    def __init__(
        self,
        network: Network,
        genesis: Genesis,
        vault: Vault,
        wallet: Wallet,
        signer: Signer,
        nursery: trio.Nursery,
        *,
        directory: Directory | None = None,
        models: Sequence[Model] = (),
        choosing: Choosing = cheapest,
        countering: Countering = never_counter,
        on_receipt: OnReceipt | None = None,
    ) -> None:
        self._network, self._vault, self._wallet, self._signer = network, vault, wallet, signer
        self._network_id, self._nursery, self._models = genesis.network_id, nursery, tuple(models)
        self._directory, self._choosing, self._countering = directory, choosing, countering
        self._deposits = Deposits(
            network, vault, wallet, genesis.parameters, genesis.network_id, on_receipt
        )

    @asynccontextmanager
    async def hire(
        self, offers: Offers, input_: dict[str, Any], budget: int, seed: bytes = b""
    ) -> AsyncIterator[Job]:
        """Have one task done; see `Agent.hire`."""
        if len(seed) > SEED_SIZE_MAX:
            raise InvalidInput(f"a seed has at most {SEED_SIZE_MAX} bytes")
        if isinstance(offers, Skill):
            async with self._run_here(offers, input_, seed) as job:
                yield job
            return
        listed = _listed(offers)
        if budget < 1:
            raise InvalidInput("pass budget=, the most uain that this task may cost")
        for refusal in self._vault.violations(listed[0].agent, budget):
            raise refusal
        name = listed[0].skill.name.decode(errors="replace")
        job = Job(name, budget)
        order = Order(name, canonical_json.encode(input_), self._wallet.account_id, seed)
        began = trio.current_time()
        purchase = Purchase(
            job,
            order,
            network=self._network,
            vault=self._vault,
            signer=self._signer,
            open_deposit=self._open_deposit,
        )

        async def find_deal(left: int, failed: frozenset[bytes]) -> Deal:
            return await self._bargain(order, [o for o in listed if o.agent not in failed], left)

        self._nursery.start_soon(purchase.run, find_deal)
        self._nursery.start_soon(purchase.tell_forever)
        try:
            yield job
        finally:
            await purchase.leave()
            self._learn(job, trio.current_time() - began)

    async def plan(self, offers: Offers, input_: dict[str, Any], budget: int) -> Plan:
        """What `hire` with these arguments could cost, and what would forbid it."""
        if isinstance(offers, Skill):
            offers.check_input(input_)
            return Plan((), 0, 0, (await self._wallet.balance()).available, ())
        listed = _listed(offers)
        canonical_json.encode(input_)
        best = listed[0]
        return Plan(
            tuple(listed),
            budget,
            best.price.max_units(budget),
            (await self._wallet.balance()).available,
            tuple(self._vault.violations(best.agent, budget)),
        )

    async def _bargain(self, order: Order, offers: list[Offer], left: int) -> Deal:
        affordable = [offer for offer in offers if offer.price.max_units(left) >= 1]
        if not affordable:
            raise (
                BudgetExceeded("budget", offers[0].price.after(1), left)
                if offers
                else NoOffers(f"nobody is left who offers {order.skill!r}")
            )
        task = Task(self._network.context.token_bytes(32), order.skill.encode(), order.input)
        negotiation = Negotiation(
            self._signer,
            network=self._network_id,
            agent=order.agent,
            task=task,
            choosing=self._choosing,
            countering=self._countering,
        )
        return await bargain(self._network, negotiation, affordable)

    async def _open_deposit(self, deal: Deal, budget: int) -> Deposit:
        return await self._deposits.get(deal.seller, deal.key, deal.peer, budget)

    def _learn(self, job: Job, elapsed_s: float) -> None:
        """Own experience, for the next `find`. Time is told only where one seller did it all."""
        if self._directory is None:
            return
        for leg in job.legs:
            alone = len(job.legs) == 1 and not leg.failure
            self._directory.experiences.record(
                leg.seller,
                ok=not leg.failure,
                units=leg.units if alone else 0,
                ms=int(elapsed_s * 1000) if alone else 0,
            )

    @asynccontextmanager
    async def _run_here(self, skill: Skill, input_: dict[str, Any], seed: bytes) -> AsyncIterator[Job]:
        """Run a skill of our own in this process; it costs nothing."""
        arguments = skill.check_input(input_)
        job = Job(skill.name, 0)
        id_ = self._network.context.token_bytes(32)
        work = new_work(self._models, job=id_, buyer=self._wallet.account_id, seed=seed)
        scope = trio.CancelScope()

        async def run() -> None:
            failure: Exception | None = None
            try:
                with scope:
                    async for value in skill.run(work, arguments):
                        content = content_of(value)
                        await job.into.send(
                            Chunk(id_, 1, 0, 1, content.kind, content.data, content.tokens, b"")
                        )
            except Exception as exc:  # the skill's own: the reader gets it as it is
                failure = exc
            finally:
                job.end(None if failure else "canceled" if scope.cancelled_caught else "done", failure)

        self._nursery.start_soon(run)
        try:
            yield job
        finally:
            scope.cancel()
            with trio.CancelScope(shield=True):
                await job.ended.wait()


def _listed(offers: Offer | Sequence[Offer]) -> list[Offer]:
    listed = [offers] if isinstance(offers, Offer) else list(offers)
    if not listed:
        raise NoOffers("no offers were given: find some first")
    if len({offer.skill.name for offer in listed}) > 1:
        raise InvalidInput("offers of one hire are for one skill")
    return listed


@asynccontextmanager
async def open_buyer(
    network: Network,
    genesis: Genesis,
    vault: Vault,
    wallet: Wallet,
    signer: Signer,
    *,
    directory: Directory | None = None,
    models: Sequence[Model] = (),
    choosing: Choosing = cheapest,
    countering: Countering = never_counter,
    on_receipt: OnReceipt | None = None,
) -> AsyncIterator[Buyer]:
    """Buy until the block ends; `on_receipt` is told of each receipt that is signed."""
    caught: Exception | None = None
    async with trio.open_nursery() as nursery:
        buyer = Buyer(
            network, genesis, vault, wallet, signer, nursery,
            directory=directory, models=models, choosing=choosing, countering=countering,
            on_receipt=on_receipt,
        )  # fmt: skip
        try:
            yield buyer
        except Exception as exc:  # the caller's, not ours: keep it out of the group
            caught = exc
        nursery.cancel_scope.cancel()
    if caught is not None:
        raise caught
