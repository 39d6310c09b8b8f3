"""The seller's half of the contract net: calls answered, awards taken, slots given. No I/O.

    call ──▶ proposed ──counter──▶ proposed (≤ ROUNDS_MAX times)
                │ expiry, decline      │ award
                ▼                      ▼
              gone                  awarded ──begin: its Lock is good, and a slot free──▶ running ──▶ done

    award, DIRECT: no proposal before it ──its terms are good enough──▶ awarded

To ask costs nothing, so a proposal holds nothing: whoever comes first with money gets the slot, and a crowd
that asks and takes nothing keeps nobody from it. Before a signature is checked nothing is stored; one buyer
has OPEN_PER_BUYER_MAX things open, and all together OPEN_MAX, of which strangers' go first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ainp2p.errors import Malformed, Refused, RemoteError
from ainp2p.protocol.messages import (
    CALL_DEADLINE_MS,
    CLOCK_SKEW_MAX_MS,
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
from ainp2p.protocol.strategies import (
    BUSY,
    EXPIRED,
    KNOWN,
    MISMATCH,
    NO_SUCH_SKILL,
    PRICE,
    ROUNDS,
    TOO_MANY,
    UNKNOWN,
    Answering,
    No,
    Pricing,
    hold_price,
    list_price,
)

OPEN_PER_BUYER_MAX = 8  # RELIABILITY E10
OPEN_MAX = 1024  # proposals, of about 2 KB: all that 100 calls a second lead to in their life
KNOWN_MAX = 4096  # buyers remembered because they have paid
TAKEN_MAX = 4096  # direct awards remembered, about 150 bytes each
REPLAYED_MS = CALL_DEADLINE_MS + 2 * CLOCK_SKEW_MAX_MS  # an honest buyer's award is too late after it
PROPOSAL_LIFE_MS = 10_000  # time to decide and to open a Lock


@dataclass(frozen=True, slots=True)
class Listing:
    """What a seller offers under one name, as on its card."""

    price: Price
    window: int
    step: int
    units_max: int = 0  # the most units of one job; 0: as far as the budget goes
    speed: int = 0  # milli-units per second, measured
    model: bytes | None = None


@dataclass(frozen=True, slots=True)
class Deal:
    """An award that is taken; it has a slot from `Seller.begin` until `Seller.release`."""

    job: bytes  # the award's id
    award: Award
    signed: Signed
    price: Price
    transcript: tuple[Signed, ...]  # from the call, if there was one, to the award

    @property
    def buyer_key(self) -> bytes:
        """Who awarded, and so whose receipts are expected."""
        return self.signed.key


@dataclass(slots=True)
class _Open:
    call: CallForProposals
    proposal: Proposal
    price: Price
    transcript: tuple[Signed, ...]  # ends with the proposal

    @property
    def signed(self) -> Signed:
        return self.transcript[-1]


class _Refuse(Exception):
    """Inside this module: becomes a signed Refusal."""

    def __init__(self, code: str, reason: str = "") -> None:
        self.code, self.reason = code, reason


class Seller:
    """All that one seller has open with any number of buyers."""

    def __init__(
        self,
        signer: Signer,
        *,
        network: bytes,
        agent: bytes,
        slots: int,
        pricing: Pricing = list_price,
        answering: Answering = hold_price,
    ) -> None:
        self.listings: Mapping[bytes, Listing] = {}  # skill → what is offered now; the owner replaces it
        self.slots = slots
        self._signer, self._network, self._agent = signer, network, agent
        self._pricing, self._answering = pricing, answering
        self._open: dict[tuple[bytes, bytes], _Open] = {}  # (buyer's key, task) → its newest proposal
        self._awarded: dict[bytes, bytes] = {}  # job → buyer's key; their Locks are looked at
        self._running: set[bytes] = set()
        self._taken: dict[bytes, int] = {}  # direct awards, the first one first → when they are forgotten
        self._known: dict[bytes, None] = {}  # keys of buyers that have paid, the last one last

    @property
    def free(self) -> int:
        """Slots in which nothing is worked on."""
        return max(0, self.slots - len(self._running))

    @property
    def open(self) -> int:
        """Proposals that may still be awarded."""
        return len(self._open)

    @property
    def load(self) -> int:
        """Slots at work, in percent."""
        return 100 * len(self._running) // max(1, self.slots)

    def handle(self, signed: Signed, peer: bytes, now_ms: int) -> Signed | None:
        """Answer a call or a counter-proposal (a Proposal or a Refusal), or take a Decline (None).

        `peer` is the key that the connection proves.

        Raises:
            RemoteError: forged, of another kind, or relayed for somebody else; nothing is answered.
        """
        message = _opened(signed, peer)
        self.expire(now_ms)
        try:
            match message:
                case CallForProposals():
                    return self._propose(message, signed, now_ms)
                case CounterProposal():
                    return self._counter(message, signed, now_ms)
                case Decline():
                    self._decline(message, peer)
                    return None
        except _Refuse as refusal:
            return self.refusal(signed, refusal.code, refusal.reason)
        raise Malformed(f"a {type(message).__name__} is no request to a seller")

    def award(self, signed: Signed, peer: bytes, now_ms: int) -> Deal | Signed:
        """Take an award: a Deal, or a signed Refusal.

        The caller then checks the Lock that it names, has a slot by `begin`, and answers with `accepted`; or
        with `refusal` and `release`.

        Raises:
            RemoteError: as in `handle`.
        """
        message = _opened(signed, peer)
        if not isinstance(message, Award):
            raise Malformed(f"a {type(message).__name__} is no award")
        self.expire(now_ms)
        before: tuple[Signed, ...] = ()
        try:
            self._check_award(message, signed, now_ms)
            if message.answers == DIRECT:
                price = self._unasked(message, peer, now_ms)
            else:
                held = self._fitting(message, peer)
                price, before = held.price, held.transcript
            self._check_budget(message, price)
        except _Refuse as refusal:
            return self.refusal(signed, refusal.code, refusal.reason)
        if message.answers == DIRECT:
            self._remember(signed.id, now_ms)
        else:
            del self._open[peer, message.task]
        self._awarded[signed.id] = peer
        return Deal(signed.id, message, signed, price, (*before, signed))

    def begin(self, job: bytes) -> None:
        """The Lock of this award is good: it gets a slot.

        Raises:
            Refused: ``busy``: others were faster.
        """
        if not self.free:
            raise Refused(BUSY, "no slot is free any more")
        self._awarded.pop(job, None)
        self._running.add(job)

    def has_paid(self, key: bytes) -> None:
        """Whoever signs with this key has paid us, and is no stranger."""
        self._known.pop(key, None)
        self._known[key] = None
        if len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def accepted(self, deal: Deal, *, input_units: int, window: int) -> Signed:
        """The first thing on an award's stream."""
        return self._seal(Accepted(deal.job, input_units, window))

    def refusal(self, signed: Signed, code: str, reason: str = "") -> Signed:
        """A signed no to any message."""
        return self._seal(Refusal(signed.id, code.encode(), reason.encode()[:4096]))

    def release(self, job: bytes) -> None:
        """The job is over, or its Lock was not good: the slot is free."""
        self._running.discard(job)
        self._awarded.pop(job, None)

    def expire(self, now_ms: int) -> None:
        """Forget proposals whose time is over, and awards that nobody can repeat any more."""
        for key in [key for key, held in self._open.items() if held.proposal.expires <= now_ms]:
            del self._open[key]
        while self._taken and next(iter(self._taken.values())) <= now_ms:
            del self._taken[next(iter(self._taken))]

    # --- inside -----------------------------------------------------------------------------------

    def _propose(self, call: CallForProposals, signed: Signed, now_ms: int) -> Signed:
        if (call.network, call.seller) != (self._network, self._agent):
            raise _Refuse(MISMATCH, "this call is for another agent or network")
        held = self._open.get((signed.key, call.task))
        if held is not None and held.transcript[0] == signed:
            return held.signed  # the answer was lost: the same one again
        if now_ms > call.deadline + CLOCK_SKEW_MAX_MS:
            raise _Refuse(EXPIRED, "the call's deadline has passed")
        listing = self._listing(call.skill)
        if held is None:
            self._make_room(signed.key)
        price = self._priced(self._pricing(call, listing.price, self.load))
        return self._hold(call, listing, price, 0, (signed,), now_ms)

    def _counter(self, counter: CounterProposal, signed: Signed, now_ms: int) -> Signed:
        held = self._open.get((signed.key, counter.task))
        if held is not None and held.transcript[-2] == signed:
            return held.signed
        if held is None or counter.answers != held.signed.id:
            raise _Refuse(UNKNOWN, "it answers no proposal that is open")
        if (counter.buyer, counter.seller) != (held.call.buyer, self._agent):
            raise _Refuse(MISMATCH, "it names other agents than the call")
        if counter.round != held.proposal.round + 1:
            raise _Refuse(MISMATCH, "a round was skipped or comes twice")
        if counter.round > ROUNDS_MAX:
            raise _Refuse(ROUNDS, f"at most {ROUNDS_MAX} counter-proposals are answered")
        if now_ms > counter.deadline + CLOCK_SKEW_MAX_MS:
            raise _Refuse(EXPIRED, "the counter-proposal's deadline has passed")
        listing = self._listing(held.call.skill)
        asked = Price.from_wire(counter.price)
        price = self._priced(self._answering(counter, asked, held.price, listing.price, self.load))
        transcript = (*held.transcript, signed)
        return self._hold(held.call, listing, price, counter.round, transcript, now_ms)

    def _decline(self, decline: Decline, peer: bytes) -> None:
        held = self._open.get((peer, decline.task))
        if held is not None and decline.answers == held.signed.id:
            del self._open[peer, decline.task]

    def _check_award(self, award: Award, signed: Signed, now_ms: int) -> None:
        if signed.id in self._running or signed.id in self._awarded or signed.id in self._taken:
            raise _Refuse(KNOWN, "this award is a job already: resume it")
        if now_ms > award.deadline + CLOCK_SKEW_MAX_MS:
            raise _Refuse(EXPIRED, "the award's deadline has passed")

    def _check_budget(self, award: Award, price: Price) -> None:
        if award.budget < price.after(1):
            raise _Refuse(PRICE, f"the budget does not buy one {price.unit}")
        if not self.free:  # before anybody asks the ledger about its Lock
            raise _Refuse(BUSY, "no slot is free any more")

    def _unasked(self, award: Award, buyer: bytes, now_ms: int) -> Price:
        """The price of an award that takes no proposal, if we would have proposed that, or less."""
        if award.seller != self._agent:
            raise _Refuse(MISMATCH, "this award is for another agent")
        listing, offered = self._listing(award.skill), Price.from_wire(award.price)
        if not offered.like(listing.price):  # terms that the skill knows nothing of could make work unpaid
            raise _Refuse(MISMATCH, "a price with other terms than on the card")
        if (award.window, award.step) != (listing.window, listing.step):
            raise _Refuse(MISMATCH, "another window or step than on the card")
        if listing.units_max and award.units_max > listing.units_max:
            raise _Refuse(MISMATCH, "more units than one job may have")
        self._check_room(buyer)
        call = CallForProposals(
            self._network,
            award.task,
            award.buyer,
            award.seller,
            award.skill,
            input_digest(award.input),
            len(award.input),
            award.units_max,
            award.price,
            now_ms,
        )
        price = self._priced(self._pricing(call, listing.price, self.load))
        if not price.within(offered):
            raise _Refuse(PRICE, f"our price is {price} now")
        return offered

    def _remember(self, award: bytes, now_ms: int) -> None:
        """It uses up no proposal, and would be taken again as long as its deadline lets it."""
        self._taken[award] = now_ms + REPLAYED_MS
        if len(self._taken) > TAKEN_MAX:
            del self._taken[next(iter(self._taken))]

    def _fitting(self, award: Award, buyer: bytes) -> _Open:
        """The proposal that this award takes, if it takes it as it was made."""
        held = self._open.get((buyer, award.task))
        if held is None or award.answers != held.signed.id:
            raise _Refuse(UNKNOWN, "it answers no proposal that is open: it may have expired")
        call, proposal = held.call, held.proposal
        agreed = (proposal.buyer, proposal.seller, proposal.price, proposal.window, proposal.step, call.skill)
        if agreed != (award.buyer, award.seller, award.price, award.window, award.step, award.skill):
            raise _Refuse(MISMATCH, "the award says other terms than the proposal")
        if (call.input, call.input_size) != (input_digest(award.input), len(award.input)):
            raise _Refuse(MISMATCH, "the input is not the one that was called for")
        if proposal.units_max and award.units_max > proposal.units_max:
            raise _Refuse(MISMATCH, "more units than were proposed")
        return held

    def _listing(self, skill: bytes) -> Listing:
        listing = self.listings.get(skill)
        if listing is None:
            raise _Refuse(NO_SUCH_SKILL, "this skill is not offered here")
        return listing

    def _make_room(self, buyer: bytes) -> None:
        """Room for one more proposal; if need be the oldest of a stranger's makes it."""
        self._check_room(buyer)
        if len(self._open) >= OPEN_MAX:
            strangers = (key for key in self._open if key[0] not in self._known)
            del self._open[next(strangers, next(iter(self._open)))]

    def _check_room(self, buyer: bytes) -> None:
        if not self.free:
            raise _Refuse(BUSY, "no slot is free")
        open_ = sum(key == buyer for key, _ in self._open) + sum(k == buyer for k in self._awarded.values())
        if open_ >= OPEN_PER_BUYER_MAX:
            raise _Refuse(TOO_MANY, f"at most {OPEN_PER_BUYER_MAX} proposals are open for one buyer")

    @staticmethod
    def _priced(answer: Price | No) -> Price:
        if isinstance(answer, No):
            raise _Refuse(answer.code, answer.reason)
        return answer

    def _hold(
        self,
        call: CallForProposals,
        listing: Listing,
        price: Price,
        round_: int,
        transcript: tuple[Signed, ...],
        now_ms: int,
    ) -> Signed:
        proposal = Proposal(
            answers=transcript[-1].id,
            task=call.task,
            buyer=call.buyer,
            seller=self._agent,
            round=round_,
            price=price.wire(),
            window=listing.window,
            step=listing.step,
            units_max=listing.units_max,
            speed=listing.speed,
            wait=0,
            model=listing.model,
            expires=now_ms + PROPOSAL_LIFE_MS,
        )
        signed = self._seal(proposal)
        self._open[transcript[0].key, call.task] = _Open(call, proposal, price, (*transcript, signed))
        return signed

    def _seal(self, message: Proposal | Refusal | Accepted) -> Signed:
        return seal(self._signer, PURPOSE, message)


def _opened(signed: Signed, peer: bytes) -> object:
    if signed.key != peer:
        raise RemoteError("a message signed by another key than that of the peer that brings it")
    return open_market(signed)
