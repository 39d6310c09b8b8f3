"""One buyer's purchases as the view hears of them: found, awarded, delivered, handed on, billed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import trio

from ainp2p.agents.agent import Agent
from ainp2p.agents.job import Job, Piece
from ainp2p.agents.offers import Offer
from ainp2p.errors import Error, InsufficientFunds, NoOffers, PolicyRefused
from ainp2p.protocol.delivery import STEP
from ainp2p.protocol.price import Price
from ainp2p.swarm import events as ev
from ainp2p.swarm.line import Line
from ainp2p.swarm.market import Market

TRIES = 4  # of one purchase; sellers may all be busy, or die
RETRY_S = 0.3  # before the second try, doubled each time
FIND_TIMEOUT_S = 3.0
LOOK_S = 0.25


@dataclass(slots=True)
class Bill:
    """What one task has cost so far."""

    task: str
    units: int = 0
    paid: int = 0
    finish: str = "done"
    sellers: list[str] = field(default_factory=list)


class Errands:
    """Buys, and tells."""

    def __init__(self, name: str, agent: Agent, line: Line, seed: int, market: Market) -> None:
        self.market = market
        self._name, self._agent, self._line = name, agent, line
        self._seed = seed
        self._rng = random.Random(f"{seed}/{name}")
        self._missing: set[str] = set()  # skills that nobody offered a moment ago

    # --- tasks --------------------------------------------------------------------------------------

    def open_task(self, task: str, skill: str, subject: str, units_max: int) -> None:
        """Say that something is wanted."""
        self._line.say(
            ev.TaskOpened(
                at_ms=self._now_ms(),
                task=task,
                buyer=self._name,
                skill=skill,
                subject=subject,
                units_max=units_max,
            )
        )

    def complete(self, bill: Bill, answer: str, sources: tuple[ev.Source, ...]) -> None:
        """Say what came of it, and what it cost."""
        at_ms = self._now_ms()
        self._line.say(
            ev.Answered(
                at_ms=at_ms,
                task=bill.task,
                answer=answer,
                sources=sources,
                units=bill.units,
                paid=bill.paid,
                finish=bill.finish,
            )
        )
        self._line.say(ev.TaskMoved(at_ms=at_ms, task=bill.task, state="completed"))

    def fail(self, bill: Bill, why: Error) -> None:
        """Say that nothing came of it."""
        self._line.say(
            ev.TaskMoved(at_ms=self._now_ms(), task=bill.task, state="failed", detail=str(why)[:500])
        )

    # --- buying -------------------------------------------------------------------------------------

    async def wait_for_market(self) -> None:
        """Return when whoever lives of the sellers offers something; see `Market.is_ready`."""
        while True:
            if self.market.is_ready(self._offering(), trio.current_time()):
                return
            await trio.sleep(LOOK_S)

    def _offering(self) -> set[str]:
        return {card.name.decode(errors="replace") for card in self._agent.directory.cards() if card.skills}

    async def buy_text(self, bill: Bill, skill: str, unit: str, budget: int, **fields: Any) -> str:
        """As `buy`, for a result that is text."""
        return "".join(await self.buy(bill, skill, unit, budget, **fields))

    async def buy(self, bill: Bill, skill: str, unit: str, budget: int, **fields: Any) -> list[Any]:
        """Have one thing done by whoever offers it best; returns all pieces.

        Raises:
            Error: nobody could do it within TRIES, or the purse or the policy forbids it.
        """
        tried = 0
        while True:
            tried += 1
            try:
                return await self._buy_once(bill, skill, unit, budget, fields)
            except (PolicyRefused, InsufficientFunds):
                raise
            except Error:
                if tried == TRIES or skill in self._missing or self.market.lacks(skill):
                    raise
            await trio.sleep(RETRY_S * 2 ** (tried - 1) * (0.5 + self._rng.random()))

    async def _buy_once(
        self, bill: Bill, skill: str, unit: str, budget: int, fields: dict[str, Any]
    ) -> list[Any]:
        began = trio.current_time()
        offers = await self._find(skill)
        self._time(bill, "discover", began)
        began = trio.current_time()
        seed = f"{self._seed}/{bill.task}/{skill}".encode()[:32]
        pieces: list[Any] = []
        async with self._agent.hire(offers, budget=budget, input=fields, seed=seed) as job:
            errand = _Errand(self, bill, skill, unit, job, began)
            restarts = 0
            async for piece in job:
                if job.restarts != restarts:  # another seller could not go on from the first one's part
                    restarts = job.restarts
                    pieces.clear()
                pieces.append(piece)
                errand.delivered(piece)
        errand.ended()
        return pieces

    async def _find(self, skill: str) -> list[Offer]:
        if self.market.lacks(skill):
            raise NoOffers(f"whoever offered {skill!r} has died")
        try:
            offers = await self._agent.find(
                skill, timeout_s=FIND_TIMEOUT_S if skill not in self._missing else 0.5
            )
        except NoOffers:
            self._missing.add(skill)
            raise
        self._missing.discard(skill)
        return offers

    # --- telling ------------------------------------------------------------------------------------

    def _time(self, bill: Bill, phase: ev.Phase, began: float, ended: float | None = None) -> None:
        took_us = int(((ended or trio.current_time()) - began) * 1e6)
        self._line.say(ev.PhaseTimed(at_ms=self._now_ms(), task=bill.task, phase=phase, took_us=took_us))

    def _say(self, event: ev.AnyEvent) -> None:
        self._line.say(event)

    def _now_ms(self) -> int:
        return self._agent.network.context.now_ms()


class _Errand:
    """One purchase while it is delivered."""

    def __init__(self, errands: Errands, bill: Bill, skill: str, unit: str, job: Job, began: float) -> None:
        self._errands, self._bill, self._job, self._unit = errands, bill, job, unit
        self._began, self._skill = began, skill
        self._seller = ""
        self._last_at: float | None = None
        self._legs = 0

    def delivered(self, piece: object) -> None:
        """A piece has come; whoever delivers it may be another one than before."""
        now, job = trio.current_time(), self._job
        seller = job.under_way.seller if job.under_way is not None else job.legs[-1].name
        opened_at = (job.under_way.opened_at if job.under_way is not None else None) or now
        if seller != self._seller:
            self._awarded(seller, opened_at)
        if self._last_at is None:
            self._errands._time(self._bill, "first token", opened_at)
        elif self._unit == "token":
            self._errands._time(self._bill, "token", self._last_at)
        self._last_at = now
        units = len(piece.tokens) if isinstance(piece, Piece) and piece.tokens else 1
        self._errands._say(
            ev.Progress(
                at_ms=self._errands._now_ms(),
                task=self._bill.task,
                seller=self._seller,
                units=units,
                unit=self._unit,
            )
        )

    def _awarded(self, seller: str, opened_at: float) -> None:
        before, self._seller = self._seller, seller
        if not before:
            self._errands._time(self._bill, "negotiate", self._began, opened_at)
        self._errands._say(
            ev.TaskMoved(
                at_ms=self._errands._now_ms(),
                task=self._bill.task,
                state="working",
                seller=self._seller,
                detail=self._skill,
            )
        )
        self._last_at = None

    def ended(self) -> None:
        """The job is over: put it on the bill, and say who went on after whom."""
        job, bill = self._job, self._bill
        bill.units += job.units
        bill.paid += job.paid
        if job.finish not in (None, "done", "budget"):
            bill.finish = str(job.finish)
        for before, after in zip(job.legs, job.legs[1:], strict=False):
            paid_units = before.amount // max(1, getattr(Price.parse(before.price), self._unit, 0) or 1)
            self._errands._say(
                ev.TaskTakenOver(
                    at_ms=self._errands._now_ms(),
                    task=bill.task,
                    seller_before=before.name,
                    seller=after.name,
                    kept=before.units if after.continued else 0,
                    lost=max(0, paid_units - before.units),
                    step=STEP,
                )
            )
