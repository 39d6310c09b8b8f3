"""A small town for the reliability rows: four validators, two sellers, a buyer; what they must keep.

`storm` is what 2,000 seeds run on every submission: 100 virtual seconds, faults of all kinds in the first 60.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import trio

import ainp2p
from ainp2p.agents.agent import Agent
from ainp2p.errors import Error, InsufficientFunds
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.receipts import Receipt
from ainp2p.ledger.voting.evidence import Evidence
from ainp2p.protocol.codec import decode
from ainp2p.simulation import Profile, World, money_is_conserved, nobody_is_overdrawn, validators_agree
from ainp2p.simulation.node import Node
from ainp2p.simulation.trials.profile import MOST

PRICE = 2
WINDOW = 64  # units that a seller may have delivered and not been paid for
STORM = Profile(kinds=(*MOST, "full", "lie"), every_s=4.0, until_s=60.0)
QUIET_S = 100.0  # by then all that was begun has ended


@ainp2p.skill("work", price=f"{PRICE}/item")
async def work(job: Any, text: str) -> Any:
    """A word at a time."""
    for word in text.split():
        yield word


@ainp2p.skill("work", price=f"{PRICE}/item")
async def slow_work(job: Any, text: str) -> Any:
    """A word a second."""
    for word in text.split():
        yield word
        await trio.sleep(1)


def accused(world: World) -> set[bytes]:
    """The keys against which any validator holds evidence."""
    books = [service._evidence for service in world.committee._services.values()]
    raws = [book.get(id_) for book in books if len(book) for id_ in book.ids(0, 100)]
    return {decode(raw, Evidence).culprit for raw in raws if raw is not None}


def nobody_is_accused(world: World) -> None:
    """V6, V7: who keeps the rules leaves no evidence against itself, across restarts."""
    assert not accused(world), "there is evidence against somebody, and everybody keeps the rules"


def keep_the_ledger(world: World) -> None:
    """V1 to V3, in every read."""
    for invariant in (money_is_conserved, nobody_is_overdrawn, validators_agree):
        world.check(invariant)


def equal(world: World) -> bool:
    """V9: all validators are there, and have decided the same."""
    states = list(world.states.values())
    told = {
        (
            tuple(sorted((id_, account.seq, account.head) for id_, account in state.accounts.items())),
            tuple(sorted((id_, lock.seq, lock.head) for id_, lock in state.locks.items())),
        )
        for state in states
    }
    return len(states) == len(world.committee.nodes) and len(told) == 1


async def settled(world: World, within_s: float) -> None:
    """Wait until all validators have decided the same.

    Raises:
        AssertionError: they have not in this time.
    """
    until = world.now + within_s
    while not equal(world):
        assert world.now < until, f"V9: the validators still differ {within_s} s after the last fault"
        await world.run_for(0.5)


@dataclass
class Payments:
    """Payments to accounts of nobody, each under a note of its own, and which of them were called final.

    Attributes:
        asked, final: (account, amount) of each note.
    """

    asked: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)
    final: set[bytes] = field(default_factory=set)

    async def pay(self, agent: Agent, to: bytes, amount: int, note: bytes, *, timeout_s: float = 10) -> None:
        """Pay once: under the same note until it is final, or refused for want of money."""
        self.asked[note] = (to, amount)
        try:
            await agent.wallet.send(to, amount, note=note, timeout_s=timeout_s)
        except InsufficientFunds:
            del self.asked[note]
            return
        self.final.add(note)

    def never_twice(self, world: World) -> None:
        """At no validator has more arrived than was sent; one that lags may have less."""
        self._compare(world, set())

    def exactly_once(self, world: World) -> None:
        """V6: what was called final has arrived everywhere, and nothing arrived twice.

        Raises:
            AssertionError: some account has more or less, at some validator.
        """
        self._compare(world, self.final)

    def _compare(self, world: World, arrived: set[bytes]) -> None:
        least, most = Counter[bytes](), Counter[bytes]()
        for note, (to, amount) in self.asked.items():
            most[to] += amount
            least[to] += amount if note in arrived else 0
        for name, state in world.states.items():
            got = Counter[bytes]()
            for credit in state.credits.values():
                got[credit.account] += credit.amount
            for to in most:
                assert least[to] <= got[to] <= most[to], (
                    f"{name}: {got[to]} uain arrived, {least[to]} called final, {most[to]} ever sent"
                )


def receiver(i: int) -> bytes:
    """One of the accounts of nobody."""
    return bytes([200 + i % 50]) * 32


@dataclass
class Receipts:
    """What a buyer has signed: the highest receipt of each Lock."""

    highest: dict[bytes, int] = field(default_factory=dict)

    def __call__(self, receipt: Receipt, lock: Lock) -> None:
        assert receipt.cumulative >= self.highest.get(lock.id, 0), "V4: receipts only grow"
        self.highest[lock.id] = receipt.cumulative

    def none_paid_more(self, world: World) -> None:
        """V4: a Lock never pays more than its payer signed for."""
        for name, state in world.states.items():
            for id_, lock in state.locks.items():
                if id_ in self.highest:
                    assert lock.paid <= self.highest[id_], (
                        f"V4: {name} shows {lock.paid} uain paid, {self.highest[id_]} were signed"
                    )


async def buy(agent: Agent, text: str, *, budget: int = 100, find_s: float = 20) -> str:
    """One job, read to its end."""
    offers = await agent.find("work", timeout_s=find_s)
    async with agent.hire(offers, text=text, budget=budget) as job:
        return str(await job.result())  # after a takeover the last beginning alone


async def storm(world: World) -> None:
    """A buyer that buys and pays all the time, whatever happens; then calm, and all must be well again."""
    keep_the_ledger(world)
    world.check(nobody_is_accused, every_s=5)
    payments, receipts = Payments(), Receipts()
    world.check(payments.never_twice, every_s=5)
    world.check(receipts.none_paid_more, every_s=5)
    for i in range(2):
        world.spawn(f"seller{i}", skills=[work])
    bought: list[float] = []
    numbers = itertools.count()

    async def shop(agent: Agent) -> None:
        rng = world.rng("shop", world.node("buyer").lives)
        while True:
            words = [f"w{rng.randrange(100)}" for _ in range(rng.randint(1, 9))]
            try:
                assert await buy(agent, " ".join(words)) == "".join(words)
                bought.append(world.now)
                world.sometimes("bought")
            except Error:
                world.sometimes("a purchase failed")
            to, amount, note = receiver(rng.randrange(50)), rng.randint(1, 99), b"%d" % next(numbers)
            while True:
                try:
                    await payments.pay(agent, to, amount, note)
                    world.sometimes("paid")
                    break
                except Error:
                    world.sometimes("a payment took long")
                    if agent_is_gone(world, agent):
                        return
                    await trio.sleep(1)
            await trio.sleep(2 + 2 * rng.random())

    world.spawn("buyer", main=shop, on_receipt=receipts)
    await world.run_for(QUIET_S - world.now)
    await settled(world, 30)
    payments.exactly_once(world)
    ahead = any(f.kind == "skew" and "buyer" in f.who and f.skew()[0] > 0 for f in world.faults)
    world.sometimes("the buyer's clock was ahead", ahead)
    assert bought, "nothing was ever bought"
    assert bought[-1] > STORM.until_s, "nothing was bought any more after the faults"
    world.sometimes("a seller came back", any(world.node(f"seller{i}").lives > 1 for i in range(2)))
    world.sometimes("a validator came back", any(node.lives > 1 for node in world.committee.nodes))


def agent_is_gone(world: World, agent: Agent) -> bool:
    """Whether this is an agent of a life that has ended."""
    node: Node = world.node("buyer")
    return not node.alive or node._agent is not agent
