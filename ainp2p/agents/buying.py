"""The buying side of an agent: `hire` and `plan`.

Work on a job runs in tasks of the agent's own (`purchase.Purchase`), so that whoever reads the result may
be cancelled at any await.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from ainp2p.agents.attempt import RESUME_TIMEOUT_S
from ainp2p.agents.bargaining import Deal, bargain, honest_only, take_card
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
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.wallets.wallet import Wallet
from ainp2p.protocol import canonical_json
from ainp2p.protocol.background import background
from ainp2p.protocol.crew import Crew
from ainp2p.protocol.messages import SEED_SIZE_MAX, Chunk, Signer
from ainp2p.protocol.negotiation import Buyer as Negotiation
from ainp2p.protocol.negotiation import Task
from ainp2p.protocol.network import Network
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import Choosing, Countering, cheapest, never_counter

Offers = Offer | Sequence[Offer] | Skill
OnJob = Callable[[Job], object]


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
    """What one agent buys; `open_buyer` makes it.

    Attributes:
        deposits: our Locks at sellers.
    """

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
        direct: bool = False,
        on_receipt: OnReceipt | None = None,
        on_job: OnJob | None = None,
        resume_s: float = RESUME_TIMEOUT_S,
    ) -> None:
        self._direct, self._resume_s, self._on_job = direct, resume_s, on_job
        self._network, self._vault, self._wallet, self._signer = network, vault, wallet, signer
        self._network_id, self._models = genesis.network_id, tuple(models)
        self._nursery, self._crew = nursery, Crew(nursery)
        self._directory, self._choosing, self._countering = directory, choosing, countering
        self.deposits = Deposits(network, vault, wallet, genesis.network_id, nursery, on_receipt)

    def hire(
        self,
        offers: Offers,
        input_: dict[str, Any],
        budget: int,
        *,
        max_price: Price | None = None,
        seed: bytes = b"",
    ) -> AbstractAsyncContextManager[Job]:
        """Have one task done; see `Agent.hire`."""
        if len(seed) > SEED_SIZE_MAX:
            raise InvalidInput(f"a seed has at most {SEED_SIZE_MAX} bytes")
        if isinstance(offers, Skill):
            return self._run_here(offers, input_, seed)
        return _Hired(self, offers, input_, budget, max_price, seed)

    def begin(
        self, offers: Offer | Sequence[Offer], input_: dict[str, Any], budget: int, max_price: Price | None,
        seed: bytes,
    ) -> Purchase:  # fmt: skip
        """Start to buy, in a task of our own; `end` it."""
        listed = self._allowed(_listed(offers), budget)
        order = Order(_skill_of(listed), canonical_json.encode(input_), self._wallet.account_id, seed)
        job = Job(order.skill, budget)
        purchase = Purchase(
            job,
            order,
            network=self._network,
            vault=self._vault,
            signer=self._signer,
            claim_deposit=self._claim_deposit,
            resume_s=self._resume_s,
        )

        unasked = self._direct

        async def find_deal(left: int, tried: frozenset[bytes]) -> Deal:
            nonlocal unasked
            offers, direct = [o for o in listed if o.agent not in tried], unasked
            unasked = False  # whoever does not take it is asked, like all others
            return await self._bargain(order, offers, left, max_price, direct=direct)

        purchase.start(self._crew, find_deal)
        return purchase

    async def end(self, purchase: Purchase) -> None:
        """Stop to buy, if it has not ended by itself."""
        await purchase.leave()
        self._learn(purchase.job)
        if self._on_job is not None:
            self._on_job(purchase.job)

    async def plan(self, offers: Offers, input_: dict[str, Any], budget: int) -> Plan:
        """What `hire` with these arguments could cost, and what would forbid it."""
        available = (await self._wallet.balance()).available
        if isinstance(offers, Skill):
            offers.check_input(input_)
            return Plan((), 0, 0, available, ())
        listed = _listed(offers)
        canonical_json.encode(input_)
        best = listed[0]
        units_max = best.price.max_units(budget)
        return Plan(tuple(listed), budget, units_max, available, tuple(self._violations(best, budget)))

    def _allowed(self, listed: list[Offer], budget: int) -> list[Offer]:
        """The offers that this budget and the policy allow; nothing has been signed when it raises."""
        if budget < 1:
            raise InvalidInput("pass budget=, the most uain that this task may cost")
        affordable = [offer for offer in listed if offer.price.max_units(budget) >= 1]
        if not affordable:
            raise _too_little(listed, budget)
        allowed = [offer for offer in affordable if not self._violations(offer, budget)]
        if not allowed:
            raise self._violations(affordable[0], budget)[0]
        return allowed

    def _violations(self, offer: Offer, budget: int) -> list[PolicyRefused]:
        refusals = self._vault.violations(offer.agent, budget)
        cap = self._vault.policy.per_lock
        if cap is not None and budget > cap:
            refusals.append(BudgetExceeded("per_lock", budget, cap))
        return refusals

    async def _bargain(
        self, order: Order, offers: list[Offer], left: int, max_price: Price | None, *, direct: bool
    ) -> Deal:
        offers = self._trusted(offers)
        affordable = [offer for offer in offers if offer.price.max_units(left) >= 1]
        if not offers:
            raise NoOffers(f"nobody is left who offers {order.skill!r}")
        if not affordable:
            raise _too_little(offers, left)
        if direct and self._is_near(affordable[0], left):
            deal = take_card(self._network, self._negotiate(order, affordable, max_price), affordable)
            if deal is not None:
                return deal
        return await bargain(self._network, self._negotiate(order, affordable, max_price), affordable)

    def _is_near(self, offer: Offer, budget: int) -> bool:
        """Whether an award costs nothing but a message if it is refused: we are connected, a Lock is open."""
        return offer.peer in self._network.peers() and self.deposits.has_room(offer.agent, budget)

    def _negotiate(self, order: Order, offers: list[Offer], max_price: Price | None) -> Negotiation:
        return Negotiation(
            self._signer,
            network=self._network_id,
            agent=order.agent,
            task=Task(self._network.context.token_bytes(32), order.skill.encode(), order.input, max_price),
            choosing=honest_only(self._choosing, offers, max_price),
            countering=self._countering,
        )

    def _trusted(self, offers: list[Offer]) -> list[Offer]:
        """Without those whose work we had to reject, if that leaves anybody."""
        if self._directory is None:
            return offers
        seen = self._directory.experiences
        return [offer for offer in offers if not seen.of(offer.agent).is_doubted] or offers

    async def _claim_deposit(self, deal: Deal, budget: int) -> Deposit:
        return await self.deposits.claim(deal.seller, deal.key, deal.peer, budget)

    def _learn(self, job: Job) -> None:
        """Own experience, for the next `find`."""
        if self._directory is None:
            return
        for leg in job.legs:
            if leg.failure or leg.units:  # a job that was left at once tells nothing
                units, ms = (leg.units, leg.elapsed_ms) if not leg.failure else (0, 0)
                ok = not leg.failure
                self._directory.experiences.record(
                    leg.seller, ok=ok, units=units, ms=ms, rejected=leg.rejected
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
            finish: str | None = "canceled"
            failure: Exception | None = None
            try:
                with scope:
                    async with aclosing(skill.run(work, arguments)) as values:
                        async for value in values:
                            made = content_of(value)
                            await job.put_slowly(Chunk(id_, 1, 0, 1, made.kind, made.data, made.tokens, b""))
                    finish = "done"
            except Exception as exc:  # the skill's own: the reader gets it as it is
                finish, failure = None, exc
            finally:
                job.end(finish, failure)

        self._nursery.start_soon(run)
        try:
            yield job
        finally:
            scope.cancel()
            with trio.CancelScope(shield=True):
                await job.ended.wait()


class _Hired:
    """One purchase, as long as its block lasts."""

    __slots__ = ("_args", "_buyer", "_purchase")

    def __init__(self, buyer: Buyer, *args: Any) -> None:
        self._buyer, self._args = buyer, args
        self._purchase: Purchase | None = None

    async def __aenter__(self) -> Job:
        self._purchase = self._buyer.begin(*self._args)
        return self._purchase.job

    async def __aexit__(self, *_: object) -> None:
        assert self._purchase is not None  # __aenter__ made it
        await self._buyer.end(self._purchase)


def _too_little(offers: list[Offer], budget: int) -> BudgetExceeded:
    least = min(offer.price.after(1) for offer in offers)
    return BudgetExceeded("budget", least, budget, "one unit of the cheapest offer costs more")


def _skill_of(listed: list[Offer]) -> str:
    return listed[0].skill.name.decode(errors="replace")


def _listed(offers: Offer | Sequence[Offer]) -> list[Offer]:
    """Offers of one skill, one for each seller."""
    listed = [offers] if isinstance(offers, Offer) else list(offers)
    if not listed:
        raise NoOffers("no offers were given: find some first")
    if len({offer.skill.name for offer in listed}) > 1:
        raise InvalidInput("offers of one hire are for one skill")
    return list({offer.key: offer for offer in reversed(listed)}.values())[::-1]


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
    direct: bool = False,
    on_receipt: OnReceipt | None = None,
    on_job: OnJob | None = None,
    resume_s: float = RESUME_TIMEOUT_S,
) -> AsyncIterator[Buyer]:
    """Buy until the block ends; jobs under way then end, with what was delivered paid."""
    buyer = None
    try:
        async with background() as nursery:
            buyer = Buyer(
                network, genesis, vault, wallet, signer, nursery,
                directory=directory, models=models, choosing=choosing, countering=countering, direct=direct,
                on_receipt=on_receipt, on_job=on_job, resume_s=resume_s,
            )  # fmt: skip
            yield buyer
    finally:
        if buyer is not None:
            await buyer.deposits.leave()  # with what jobs that have just ended have signed
