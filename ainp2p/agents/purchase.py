"""Work on one `Job` from the buyer's side: reserve, bargain, award, go elsewhere if need be.

bargain ─▶ reserve ─▶ deposit ─▶ attempt (award, chunks and receipts) ─▶ finished
   ▲                                 │
   └── the seller failed or cheated ─┘  what was delivered goes to the next one as prefix, if it has the
   └── the reader rejected it: anew      same model; else the result begins anew
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from ainp2p.agents.attempt import RESUME_TIMEOUT_S, Attempt
from ainp2p.agents.bargaining import BUSY_PATIENCE_S, Deal, Later, decline_others
from ainp2p.agents.deposit import Deposit
from ainp2p.agents.job import REJECTED, Job, failure_words
from ainp2p.agents.vault import Vault
from ainp2p.errors import (
    Broken,
    BudgetExceeded,
    Closed,
    Error,
    InsufficientFunds,
    InvalidInput,
    LedgerError,
    NetworkError,
    NoOffers,
    PolicyRefused,
    Refused,
    Rejected,
    RemoteError,
    Unreachable,
)
from ainp2p.protocol.background import background
from ainp2p.protocol.crew import Crew
from ainp2p.protocol.delivery import BUDGET, CANCELED
from ainp2p.protocol.identity import digest
from ainp2p.protocol.messages import (
    PREFIX_SIZE_MAX,
    TOKENS,
    Chunk,
    Signed,
    Signer,
    pack_tokens,
    unpack_tokens,
)
from ainp2p.protocol.network import Network
from ainp2p.protocol.strategies import BUSY, EXPIRED, KNOWN, UNKNOWN

log = logging.getLogger(__name__)

LEAVE_TIMEOUT_S = 3.0  # for the seller's last word when the buyer leaves early
LATER_PAUSE_S = 0.5  # before sellers are asked again: half to one and a half times
CHANCES_MAX = 2  # more that a seller gets in one job after mishaps that are nobody's fault
# Refusals after which a new call to the same seller may do: it was restarted and has forgotten our Lock, the
# Lock is torn, or opening it took longer than the proposal lived.
MISHAPS = frozenset({"lock", UNKNOWN, EXPIRED})
# Refusals that say more of an award without a call than "ask me": Lock, input or seller are faulty.
FAULTS = frozenset({"lock", "input", "internal", "invalid", KNOWN})
GROUNDLESS = "groundless"  # why a seller is stopped that went on from what the reader rejected; not its fault


@dataclass(slots=True)
class Delivered:
    """What has come so far and may be handed on."""

    model: bytes | None = None  # of the sellers that made it: token ids mean the same only for one model
    only_tokens: bool = True
    text: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come."""
        return self.only_tokens and not self.ids

    def add(self, chunk: Chunk, model: bytes | None) -> None:
        """One more chunk, by a seller with this model."""
        self.model = model
        self.only_tokens &= chunk.kind == TOKENS
        self.text.append(chunk.data.decode(errors="replace"))
        self.ids.extend(unpack_tokens(chunk.tokens))

    def prefix_for(self, model: bytes | None) -> tuple[str, bytes] | None:
        """Text and packed ids for a seller with this model to go on from; None: it begins anew."""
        text, ids = "".join(self.text), pack_tokens(self.ids)
        fits = len(text.encode()) <= PREFIX_SIZE_MAX and len(ids) <= PREFIX_SIZE_MAX
        same = self.only_tokens and model is not None and model == self.model
        return (text, ids) if same and fits and self.ids else None


@dataclass(slots=True)
class Order:
    """What is bought, whoever delivers it."""

    skill: str
    input: bytes  # canonical JSON
    agent: bytes  # our agent id
    seed: bytes = b""

    @property
    def what(self) -> bytes:
        """A digest of exactly what is bought, for the breaker on repeated spending."""
        return digest(b"ainp2p/what/1", self.skill.encode(), b"\0", self.input)


Bargain = Callable[[int, frozenset[bytes]], Awaitable[Deal]]
"""(uain left, sellers that failed) → the best deal; raises NoOffers when nobody is left."""
ClaimDeposit = Callable[[Deal, int], Awaitable[Deposit]]


class Purchase:
    """One job being bought; `run` is the agent's own task, so the reader may be cancelled at any await."""

    def __init__(
        self,
        job: Job,
        order: Order,
        *,
        network: Network,
        vault: Vault,
        signer: Signer,
        claim_deposit: ClaimDeposit,
        resume_s: float = RESUME_TIMEOUT_S,
    ) -> None:
        self._resume_s = resume_s
        self.job, self.order = job, order
        self._network, self._vault, self._signer, self._claim_deposit = network, vault, signer, claim_deposit
        self._scope = trio.CancelScope()
        self._leaving = False
        self._delivered = Delivered()
        self._attempt: Attempt | None = None
        self._was_taken = False  # the last award: it was accepted, or refused by a seller that is to blame
        self._continues = False  # the attempt goes on from what came before it
        self._begins_anew = False  # with the attempt's first chunk: what came before is of no use to it
        self._tried: set[bytes] = set()  # sellers
        self._chances: dict[bytes, int] = {}  # that sellers had beyond the first
        self._reserved: set[bytes] = set()  # sellers for which the vault was asked
        self._beaten_at: float | None = None  # trio's time when others were faster, first
        self._awards: list[bytes] = []  # of the job's legs
        self._read: bytes | None = None  # the award whose piece the reader took last
        self._again: Callable[[], None] = _never
        job.on_taken, job.on_rejected = self._on_taken, self._reject

    # --- the job's life ----------------------------------------------------------------------------

    def start(self, crew: Crew, bargain: Bargain) -> None:
        """Have a task of `crew` buy; another one goes on if what it bought is rejected."""
        self._again = partial(crew.start, self.run, bargain)
        self._again()

    async def run(self, bargain: Bargain) -> None:
        """Buy until the task is done, the budget is used, or nobody is left; ends the job in any case."""
        finish: bytes | None = None
        failure: Exception | None = Closed("the agent was closed while this job was under way")
        try:
            with self._scope:
                finish = await self._buy(bargain)
            if self._scope.cancelled_caught:
                finish = CANCELED
        except Error as exc:
            failure = exc
        except Exception as exc:  # a fault of ours: the reader gets it, the agent goes on
            log.exception("a purchase failed")
            failure = exc
        finally:
            if finish == CANCELED and self.job.is_rejected:
                finish = REJECTED.encode()
            self.job.end(finish.decode() if finish else None, None if finish else failure)

    async def leave(self) -> None:
        """The reader wants no more: what was delivered is paid, the rest is cancelled."""
        self._leaving = True
        if not self.job.ended.is_set():
            with trio.CancelScope(shield=True):
                if self._attempt is not None:
                    with trio.move_on_after(LEAVE_TIMEOUT_S):
                        async with background() as nursery:
                            nursery.start_soon(self._send_cancel, self._attempt)
                            await self.job.ended.wait()
                self._scope.cancel()
                await self.job.ended.wait()
        # The job knows us no more: else a cycle of 30 objects would be left of each to the collector.
        self.job.on_taken, self.job.on_rejected, self._again = None, _too_late, _never

    async def _send_cancel(self, attempt: Attempt) -> None:
        try:
            await attempt.cancel()
        except Error:
            self._scope.cancel()

    async def _buy(self, bargain: Bargain) -> bytes:
        last: Error | None = None
        while not self._leaving:
            left = self.job.budget - self.job.paid
            if left <= 0:
                return self._used_up()
            try:
                deal = await self._find(bargain, left)
            except NoOffers as exc:
                raise self._nobody(exc, last) from last
            except BudgetExceeded:
                if self.job.paid:
                    return self._used_up()  # what is left buys nothing
                raise
            try:
                return await self._leg(deal, left)
            except (NetworkError, RemoteError, LedgerError) as exc:
                last = exc
                if _is_busy(exc) and len(deal.asked) == 1:
                    await self._pause()
            except PolicyRefused as exc:
                if exc.rule != "per_counterparty":
                    raise
                last = exc
        return CANCELED

    def _used_up(self) -> bytes:
        if self.job.is_rejected:
            raise Rejected("what came was rejected, and what is left of the budget buys nothing more")
        return BUDGET

    async def _find(self, bargain: Bargain, left: int) -> Deal:
        """A deal, if need be after waiting for a free slot or a lost seller."""
        began = trio.current_time()
        while True:
            try:
                return await bargain(left, frozenset(self._tried))
            except Later as exc:
                if trio.current_time() >= began + exc.patience_s:
                    raise
            await self._pause()

    async def _pause(self) -> None:
        await trio.sleep(LATER_PAUSE_S * (0.5 + self._network.context.rng.random()))

    # --- one seller --------------------------------------------------------------------------------

    async def _leg(self, deal: Deal, left: int) -> bytes:
        """One seller's part; raises when another one has to go on."""
        self._tried.add(deal.seller)  # unless it gets another chance below
        self._was_taken = True
        reservation, failed = deal.negotiation.task.id, None
        try:
            deposit = await self._secure(deal, left, reservation)
            try:
                finish = await self._work(deal, deposit, left, reservation)
                failed = False
                return finish
            except (NetworkError, RemoteError) as exc:
                failed = None if _is_busy(exc) or not self._was_taken else True
                raise
            finally:
                deposit.release(left)
        finally:
            self._vault.settle(reservation, failed=failed)

    async def _secure(self, deal: Deal, left: int, reservation: bytes) -> Deposit:
        """The policy's consent first, then a Lock; nothing is signed before."""
        try:
            what = None if deal.seller in self._reserved else self.order.what  # not the same again: still it
            self._reserved.add(deal.seller)
            await self._vault.reserve(reservation, deal.seller, left, what)
            return await self._claim_deposit(deal, left)
        except Exception:
            await decline_others(self._network, deal)  # the chosen one among them: no award comes
            raise

    async def _work(self, deal: Deal, deposit: Deposit, left: int, reservation: bytes) -> bytes:
        award, continued = self._award(deal, deposit, left)
        await decline_others(self._network, deal)
        attempt = Attempt(
            self._network,
            self._signer,
            deal,
            deposit,
            award,
            reservation=reservation,
            reader=self,
            resume_s=self._resume_s,
        )
        self._attempt = self.job.under_way = attempt
        self._continues = continued
        self.job.seller, self.job.awarded_at = deal.name, trio.current_time()
        failure = ""
        try:
            finish = await attempt.run()
        except Exception as exc:
            failure = failure_words(exc)
            if isinstance(exc, Refused) and exc.code == "lock":
                deposit.spoil()
            self._was_taken = attempt.opened_at is not None or not _is_not_taken(exc, deal)
            if not self._was_taken and self._is_patient():
                self._tried.discard(deal.seller)
            elif _is_nobodys_fault(exc, attempt):
                self._give_another_chance(deal.seller)
            raise
        finally:
            leg = await attempt.close(failure, continued=continued)
            self._attempt = self.job.under_way = None
            if self._was_taken:  # else it has done nothing
                self.job.legs.append(leg)
                self._awards.append(award.id)
        if attempt.stopped is not None:  # after its last word
            raise attempt.stopped
        return finish

    def _is_patient(self) -> bool:
        """Whether a seller whose slot others took, or whose ledger is slow, is asked again."""
        now = trio.current_time()
        self._beaten_at = now if self._beaten_at is None else self._beaten_at
        return now < self._beaten_at + BUSY_PATIENCE_S

    def _give_another_chance(self, seller: bytes) -> None:
        chances = self._chances[seller] = self._chances.get(seller, 0) + 1
        if chances <= CHANCES_MAX:
            self._tried.discard(seller)

    def _award(self, deal: Deal, deposit: Deposit, left: int) -> tuple[Signed, bool]:
        """The award, and whether it goes on from what was delivered before."""
        prefix = self._delivered.prefix_for(deal.model)
        self._begins_anew = prefix is None and not self._delivered.is_empty
        text, ids = prefix or ("", b"")
        award = deal.negotiation.award(
            deal.bid,
            self._network.context.now_ms(),
            lock=deposit.lock.id,
            budget=left,
            prefix=text,
            prefix_tokens=ids,
            seed=self.order.seed,
        )
        return award, prefix is not None

    # --- the reader --------------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """Pieces that have come and were not read."""
        return self.job.unread

    def deliver(self, chunk: Chunk) -> None:
        """The next chunk of the attempt."""
        assert self._attempt is not None  # it delivers
        if self._attempt.stopped is not None:
            return  # what its reader does not want, brought by another job's stream
        if self._begins_anew:
            self._begins_anew, self._delivered = False, Delivered()
            self.job.begin_anew()
        self._delivered.add(chunk, self._attempt.deal.model)
        self.job.put(chunk)

    def _on_taken(self, chunk: Chunk) -> None:
        self._read = chunk.job
        if self._attempt is not None:
            self._attempt.taken(chunk)

    def _reject(self, reason: str) -> None:
        """The reader says that what came is no good; see `Job.reject`."""
        if self._leaving:
            _too_late(reason)
        attempt, whose = self._attempt, self._read
        if attempt is not None and attempt.units and whose in (None, attempt.award.id):
            if attempt.rejected is not None:
                raise _nothing_came()
            self._tried.add(attempt.deal.seller)
            attempt.reject(reason)
        else:
            index = self._rejectable(whose)
            leg = self.job.legs[index] = self.job.legs[index].as_rejected(reason)
            self._tried.add(leg.seller)
            if self._has_begun_anew_since(index):
                self._read = None
                self.job.drop_older()
                return
            if attempt is not None and self._continues:  # from what is no good
                self._give_another_chance(attempt.deal.seller)
                attempt.stop(Refused(GROUNDLESS, "what it went on from was rejected"))
        self._read, self._delivered, self._begins_anew = None, Delivered(), False
        if self.job.ended.is_set():
            self._scope = trio.CancelScope()
            self._again()
        self.job.take_back()

    def _has_begun_anew_since(self, index: int) -> bool:
        """Whether what comes now is not built upon what that leg delivered."""
        anew = [bool(leg.units) and not leg.continued for leg in self.job.legs[index + 1 :]]
        if self._attempt is not None:
            anew.append(bool(self._attempt.units) and not self._continues)
        return any(anew)

    def _rejectable(self, whose: bytes | None) -> int:
        """Which leg has delivered what the reader took last, or could take.

        Raises:
            InvalidInput: none, or it is rejected already.
        """
        legs = self.job.legs
        found = [i for i, leg in enumerate(legs) if leg.units and whose in (None, self._awards[i])]
        if not found or legs[found[-1]].rejected:
            raise _nothing_came()
        return found[-1]

    def _nobody(self, none_left: NoOffers, last: Error | None) -> Error:
        """Why nobody is left: what the sellers said, if any was tried."""
        if isinstance(last, InsufficientFunds | PolicyRefused) and not self.job.legs:
            return last
        told = [f"{leg.name}: {leg.failure}" for leg in self.job.legs]
        if last is not None and not told:
            told = [failure_words(last)]
        return NoOffers(f"{none_left} (tried before: {'; '.join(told)})") if told else none_left


def _nothing_came() -> InvalidInput:
    return InvalidInput("nothing has come that could be rejected")


def _never() -> None:
    raise AssertionError("`start` comes first")


def _is_busy(failure: Exception) -> bool:
    return isinstance(failure, Refused) and failure.code == BUSY


def _is_not_taken(failure: Exception, deal: Deal) -> bool:
    """Whether a seller refused an award and is not to blame: others were faster, or it was never asked."""
    unasked = isinstance(failure, Refused) and deal.bid.signed is None and failure.code not in FAULTS
    return unasked or _is_busy(failure)


def _too_late(_reason: str) -> None:
    raise Closed("the job's block has ended: what was bought in it is accepted")


def _is_nobodys_fault(failure: Exception, attempt: Attempt) -> bool:
    """Whether the same seller may do it after all: a mishap, or a connection lost before it had accepted."""
    if isinstance(failure, Refused):
        return failure.code in MISHAPS
    return isinstance(failure, Broken | Unreachable) and attempt.opened_at is None
