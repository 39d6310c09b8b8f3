"""The buyer's half of the contract net for one task: call, compare, counter, award. No I/O.

    for each seller:  call ──▶ (waiting) ──▶ proposed ──counter──▶ (waiting) … ──▶ proposed | refused
    once all have answered, or at the deadline:  best ──▶ award one, decline the others
    or, unasked:  unasked, the terms of a card ──▶ award

Answers that are forged, late or answer something else are refused one by one and never spoil the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from ainp2p.errors import Expired, InvalidInput, Malformed, RemoteError
from ainp2p.protocol.card import SkillCard
from ainp2p.protocol.messages import (
    CALL_DEADLINE_MS,
    DIRECT,
    PURPOSE,
    ROUNDS_MAX,
    Accepted,
    Award,
    CallForProposals,
    CounterProposal,
    Decline,
    Proposal,
    Refusal,
    Signed,
    Signer,
    input_digest,
    open_market,
    seal,
)
from ainp2p.protocol.price import Price
from ainp2p.protocol.strategies import Bid, Choosing, Countering, cheapest, never_counter


@dataclass(frozen=True, slots=True)
class Task:
    """What a buyer wants done."""

    id: bytes  # 32 bytes of its own choosing
    skill: bytes
    input: bytes  # canonical JSON
    max_price: Price | None = None  # proposals above it are not considered
    tell_price: bool = False  # whether sellers learn `max_price`
    units_max: int = 0  # 0: unknown


@dataclass(slots=True)
class _Thread:
    """What was said between us and one seller."""

    agent: bytes
    deadline: int
    transcript: list[Signed]
    round: int = 0
    bid: Bid | None = None
    refusal: Refusal | None = None
    waiting: bool = True


class Buyer:
    """One task's negotiation with any number of sellers, each named by its key."""

    def __init__(
        self,
        signer: Signer,
        *,
        network: bytes,
        agent: bytes,
        task: Task,
        choosing: Choosing = cheapest,
        countering: Countering = never_counter,
    ) -> None:
        self.task = task
        self._signer, self._network, self._agent = signer, network, agent
        self._choosing, self._countering = choosing, countering
        self._threads: dict[bytes, _Thread] = {}
        self._awarded: bytes | None = None

    def call(self, seller: bytes, key: bytes, now_ms: int) -> Signed:
        """The call for proposals to one seller: its agent id and its key.

        Raises:
            InvalidInput: it was called already.
        """
        if key in self._threads:
            raise InvalidInput("each seller is called once per task")
        task, deadline = self.task, now_ms + CALL_DEADLINE_MS
        told = task.max_price.wire() if task.max_price is not None and task.tell_price else b""
        signed = self._seal(
            CallForProposals(
                self._network,
                task.id,
                self._agent,
                seller,
                task.skill,
                input_digest(task.input),
                len(task.input),
                task.units_max,
                told,
                deadline,
            )
        )
        self._threads[key] = _Thread(seller, deadline, [signed])
        return signed

    def unasked(self, seller: bytes, key: bytes, card: SkillCard, now_ms: int) -> Bid:
        """What a seller's card says, to be awarded without a call; the seller may refuse the award.

        Raises:
            InvalidInput: it was called already.
            Malformed: terms that no proposal could have.
        """
        if key in self._threads:
            raise InvalidInput("each seller is called once per task")
        deadline = now_ms + CALL_DEADLINE_MS
        proposal = Proposal(
            DIRECT, self.task.id, self._agent, seller, 0, card.price, card.window, card.step,
            units_max=0, speed=card.speed, wait=0, model=card.model, expires=deadline,
        )  # fmt: skip
        bid = Bid(key, proposal, None, _price(proposal), self.task.units_max)
        self._threads[key] = _Thread(seller, deadline, [], bid=bid, waiting=False)
        return bid

    def handle(self, signed: Signed, key: bytes, now_ms: int) -> Signed | None:
        """Take a seller's answer; returns a counter-proposal for it, or None when this seller is done.

        Raises:
            Expired: it came after the deadline, or offers what has expired.
            RemoteError: forged, or not an answer to what was asked. The seller is out of this task.
        """
        thread = self._threads.get(key)
        if thread is None or not thread.waiting:
            raise RemoteError("an answer that nobody waits for")
        thread.waiting = False
        if now_ms > thread.deadline:
            thread.bid = None  # whatever the seller said, what it proposed before is not open any more
            raise Expired("the answer came after its deadline")
        try:
            message = self._opened(signed, key, thread)
            if isinstance(message, Proposal):
                thread.bid = self._bid(message, signed, thread, now_ms)
        except RemoteError:
            thread.bid = None
            raise
        thread.transcript.append(signed)
        if isinstance(message, Refusal):  # of a counter-proposal: the proposal before it stands
            thread.refusal = message
            return None
        return self._counter(thread, now_ms)

    def silent(self, key: bytes) -> None:
        """No answer will come from this seller: it is unreachable, or broke the protocol."""
        thread = self._threads[key]
        if thread.waiting:
            thread.waiting, thread.bid = False, None

    @property
    def waiting(self) -> bool:
        """Whether answers are still expected (until `deadline` at most)."""
        return any(thread.waiting for thread in self._threads.values())

    @property
    def deadline(self) -> int:
        """When no further answer is waited for (ms)."""
        return max((thread.deadline for thread in self._threads.values() if thread.waiting), default=0)

    def bids(self, now_ms: int) -> list[Bid]:
        """Proposals that can be awarded now, by cost, time and key."""
        found = [
            thread.bid
            for thread in self._threads.values()
            if thread.bid is not None
            and thread.bid.proposal.expires > now_ms
            and self._affordable(thread.bid)
        ]
        return sorted(found, key=lambda bid: (bid.cost, bid.time_ms, bid.key))

    def refusals(self) -> dict[bytes, Refusal]:
        """Who refused, and why."""
        return {key: thread.refusal for key, thread in self._threads.items() if thread.refusal is not None}

    def best(self, now_ms: int) -> Bid | None:
        """The proposal that the strategy chooses among those that can be awarded."""
        return self._choosing(self.bids(now_ms))

    def award(
        self,
        bid: Bid,
        now_ms: int,
        *,
        lock: bytes,
        budget: int,
        prefix: str = "",
        prefix_tokens: bytes = b"",
        seed: bytes = b"",
    ) -> Signed:
        """Award the task; its id is the job's. `budget` is a hard cap in uain.

        Raises:
            InvalidInput: awarded already, not a proposal of this task, or the budget does not buy one unit.
        """
        thread = self._threads.get(bid.key)
        if self._awarded is not None or thread is None or thread.bid != bid:
            raise InvalidInput("award one of this task's proposals, once")
        units = bid.price.max_units(budget)
        for bound in (bid.proposal.units_max, self.task.units_max):
            units = min(units, bound) if bound else units
        if units < 1:
            raise InvalidInput(f"a budget of {budget} uain does not buy one {bid.price.unit} at {bid.price}")
        proposal = bid.proposal
        signed = self._seal(
            Award(
                answers=bid.id,
                task=self.task.id,
                buyer=self._agent,
                seller=proposal.seller,
                skill=self.task.skill,
                price=proposal.price,
                window=proposal.window,
                step=proposal.step,
                budget=budget,
                units_max=units,
                lock=lock,
                input=self.task.input,
                prefix=prefix.encode(),
                prefix_tokens=prefix_tokens,
                seed=seed,
                deadline=now_ms + CALL_DEADLINE_MS,
            )
        )
        self._awarded = bid.key
        thread.transcript.append(signed)
        return signed

    def accepted(self, signed: Signed, key: bytes) -> Accepted | Refusal:
        """Read the seller's answer to the award. After a refusal another may be awarded.

        Raises:
            RemoteError: forged, or no answer to the award.
        """
        if key != self._awarded:
            raise RemoteError("an answer to an award that this seller did not get")
        thread = self._threads[key]
        message = self._opened(signed, key, thread)
        if not isinstance(message, Accepted | Refusal):
            raise Malformed("the answer to an award is Accepted or Refusal")
        thread.transcript.append(signed)
        if isinstance(message, Refusal):
            self._awarded, thread.bid, thread.refusal = None, None, message
        return message

    def declines(self) -> list[tuple[bytes, Signed]]:
        """For every seller whose proposal is not taken: its key, and what tells it so."""
        return [
            (key, self._seal(Decline(thread.bid.id, self.task.id)))
            for key, thread in self._threads.items()
            if thread.bid is not None and thread.bid.signed is not None and key != self._awarded
        ]

    def transcript(self, key: bytes) -> tuple[Signed, ...]:
        """All that was said between us and one seller, in order."""
        return tuple(self._threads[key].transcript)

    # --- inside -----------------------------------------------------------------------------------

    def _opened(self, signed: Signed, key: bytes, thread: _Thread) -> Proposal | Refusal | Accepted:
        if signed.key != key:
            raise RemoteError("an answer signed by another key than the seller's")
        message = open_market(signed)
        if not isinstance(message, Proposal | Refusal | Accepted):
            raise Malformed(f"a seller does not answer with {type(message).__name__}")
        if message.answers != thread.transcript[-1].id:
            raise RemoteError("an answer to something that was not asked")
        return message

    def _bid(self, proposal: Proposal, signed: Signed, thread: _Thread, now_ms: int) -> Bid:
        named = (proposal.task, proposal.buyer, proposal.seller, proposal.round)
        if named != (self.task.id, self._agent, thread.agent, thread.round):
            raise RemoteError("a proposal that names another task, agent or round")
        price = _price(proposal)
        if proposal.expires <= now_ms:
            raise Expired("a proposal that has expired before it came")
        return Bid(signed.key, proposal, signed, price, self.task.units_max)

    def _affordable(self, bid: Bid) -> bool:
        return self.task.max_price is None or bid.price.within(self.task.max_price)

    def _counter(self, thread: _Thread, now_ms: int) -> Signed | None:
        if thread.bid is None or thread.round >= ROUNDS_MAX:
            return None
        price = self._countering(thread.bid, self.task.max_price, thread.round + 1)
        if price is None or price == thread.bid.price:
            return None
        thread.round += 1
        thread.deadline, thread.waiting = now_ms + CALL_DEADLINE_MS, True
        proposal = thread.bid.proposal
        signed = self._seal(
            CounterProposal(
                thread.bid.id,
                self.task.id,
                self._agent,
                proposal.seller,
                thread.round,
                price.wire(),
                thread.deadline,
            )
        )
        thread.transcript.append(signed)
        return signed

    def _seal(self, message: CallForProposals | CounterProposal | Award | Decline) -> Signed:
        return seal(self._signer, PURPOSE, message)


def _price(proposal: Proposal) -> Price:
    """Of terms that both sides can work by."""
    if proposal.window < proposal.step:
        raise Malformed("a window below its step would stop both sides for ever")
    return Price.from_wire(proposal.price)
