"""A validator's answers, made from what its core holds. No I/O but the core's own reading.

Every answer stays within its bounds by stopping early; the caller asks again for the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ainp2p.errors import LedgerError, NotYet, RemoteError
from ainp2p.ledger.openings import opened
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.rules.state import Supply
from ainp2p.ledger.serving.attaching import EvidenceBook
from ainp2p.ledger.serving.lock_index import LockIndex
from ainp2p.ledger.serving.messages import (
    BODY_SIZE_MAX,
    CREDITS_PAGE_MAX,
    EVIDENCE_PAGE_MAX,
    FINAL,
    LOCKS_PAGE_MAX,
    REFUSED,
    UNKNOWN,
    Attachments,
    CreditEntry,
    CreditPage,
    Decided,
    EvidenceIds,
    Fetched,
    GetCredits,
    GetLocksOf,
    Height,
    Heights,
    LockIds,
    ObjectHead,
    Statistics,
    Status,
    Statuses,
)
from ainp2p.ledger.voting.validator import Validator
from ainp2p.protocol.codec import encode

ANSWER_SIZE_MAX = BODY_SIZE_MAX // 2  # bytes; stop adding here, one more item always fits
_RULE_SIZE_MAX = 64
JUST_OPENED_MAX = 8_192  # Locks; a second's, until the disk knows them
_COUNTING_S_PER_OBJECT = 9e-5  # thirty times what it takes


class Answers:
    """Reads one Validator for others.

    Attributes:
        locks: who is concerned by which open Locks.
            Whoever applies operations tells `note`.
    """

    def __init__(
        self,
        validator: Validator,
        book: EvidenceBook | None = None,
        opening_of: Callable[[bytes], bytes | None] = lambda lock: None,
    ) -> None:
        """Prepare; `opening_of` finds the id of the SPEND that opened a Lock on disk (`Openings.of`)."""
        self._validator = validator
        self._book = book if book is not None else EvidenceBook()
        self._opening_of = opening_of
        self._just_opened: dict[bytes, bytes] = {}  # Lock → SPEND; maybe not on disk yet
        self.locks = LockIndex()
        for lock in validator.state.locks.values():
            self.locks.take(lock)
        self._counted: tuple[int, Supply, bytes] | None = None  # decided, supply, root
        self._count_again_s = 0.0  # not sooner: counting takes as long as there are objects

    def note(self, parsed: ParsedOperation) -> None:
        """An operation is final."""
        self.locks.note(parsed)
        for id_ in opened(parsed):
            self._just_opened[id_] = parsed.id
            if len(self._just_opened) > JUST_OPENED_MAX:
                del self._just_opened[next(iter(self._just_opened))]

    def status(self, id_: bytes, refused: LedgerError | RemoteError | None = None) -> Status:
        """How far an operation has come; `refused` is what the core said when it was handed over."""
        if refused is not None:
            rule = getattr(refused, "rule", None) or type(refused).__name__
            # "Not now" is no refusal: a wallet that took it for one would sign a second one in this slot.
            grade = UNKNOWN if isinstance(refused, NotYet) else REFUSED
            return Status(id_, grade, b"", str(rule).encode()[:_RULE_SIZE_MAX])
        grade = self._validator.status(id_)
        certificate = self._validator.certificate(id_) if grade == FINAL else None
        return Status(id_, grade, certificate or b"")

    def statuses(self, ids: Iterable[bytes]) -> Statuses:
        """How far these operations have come."""
        return bounded(self.status(id_) for id_ in ids)

    def decided(self, id_: bytes) -> Decided | None:
        """An operation that is held, with its certificate if it is final."""
        signed = self._validator.operation(id_)
        if signed is None:
            return None
        return Decided(encode(signed), self._validator.certificate(id_) or b"")

    def fetched(self, ids: Iterable[bytes]) -> Fetched:
        """Operations by id."""
        found: list[Decided | None] = []
        size = 0
        for id_ in ids:
            decided = self.decided(id_)
            found.append(decided)
            size += len(decided.operation) + len(decided.certificate) if decided is not None else 0
            if size > ANSWER_SIZE_MAX:
                break
        return Fetched(tuple(found))

    def object_head(self, id_: bytes) -> ObjectHead:
        """The newest decided state of an object, and the operations that prove it."""
        state = self._validator.state
        found = state.accounts.get(id_) or state.find_lock(id_)
        if found is None:
            return ObjectHead(id_, b"", (), ())
        opened_by = self._just_opened.get(id_) or self._opening_of(id_)
        opening = self.decided(opened_by) if opened_by is not None else None
        last = self.decided(found.head) if found.seq else None
        return ObjectHead(id_, encode(found), _maybe(opening), _maybe(last))

    def credit_page(self, question: GetCredits, now_ms: int) -> CreditPage:
        """Unconsumed credits of an account, a page at a time."""
        state = self._validator.state
        credits = state.credits_of(question.account)
        ids = sorted(id_ for id_ in credits if id_ > question.after)
        page = tuple(CreditEntry(id_, credits[id_]) for id_ in ids[:CREDITS_PAGE_MAX])
        return CreditPage(page, int(len(ids) > len(page)), state.head(question.account)[0], now_ms)

    def locks_of(self, question: GetLocksOf) -> LockIds:
        """Open Locks that concern somebody, a page at a time."""
        ids, more = self.locks.page(question.party, question.after, LOCKS_PAGE_MAX)
        return LockIds(ids, int(more))

    def heights(self) -> Heights:
        """How many batches of each validator are held."""
        heights = tuple(Height(key, height) for key, height in self._validator.heights().items())
        return Heights(heights, self._validator.epoch)

    def attachments(self, ids: Iterable[bytes]) -> Attachments:
        """Attachments by id."""
        found: list[bytes | None] = []
        size = 0
        for id_ in ids:
            raw = self._validator.attachment(id_) or self._book.get(id_)
            found.append(raw)
            size += len(raw or b"")
            if size > ANSWER_SIZE_MAX:
                break
        return Attachments(tuple(found))

    def evidence(self, after: int) -> EvidenceIds:
        """What is known against anybody."""
        return EvidenceIds(self._book.ids(after, EVIDENCE_PAGE_MAX))

    def statistics(self, validator: bytes, peers: int, now_s: float, syncing: int = 0) -> Statistics:
        """Figures of this validator; supply and root are counted anew only after something was decided.

        Where there is much to count they are those of a moment ago, with the number decided then: however
        many ask, counting takes a few per cent of the time.
        """
        core, state = self._validator.statistics(), self._validator.state
        if self._counted is None or (self._counted[0] != core.decided and now_s >= self._count_again_s):
            self._counted = core.decided, state.supply(), state.root()
            objects = len(state.accounts) + len(state.locks) + len(state.credits)
            self._count_again_s = now_s + objects * _COUNTING_S_PER_OBJECT
        decided, supply, root = self._counted
        return Statistics(
            validator=validator,
            network=state.network,
            decided=decided,
            pending=core.candidates,
            height=core.height,
            peers=peers,
            balances=supply.balances,
            credits=supply.credits,
            locks=supply.locks,
            burnt=supply.burnt,
            state_root=root,
            behind=int(core.behind),
            voting=int(core.voting),
            syncing=syncing,
        )


def bounded(statuses: Iterable[Status]) -> Statuses:
    """As many as one answer carries, with their certificates; those of a large committee fill it."""
    found: list[Status] = []
    size = 0
    for status in statuses:
        found.append(status)
        size += len(status.certificate) + len(status.rule) + 64
        if size > ANSWER_SIZE_MAX:
            break
    return Statuses(tuple(found))


def _maybe(decided: Decided | None) -> tuple[Decided, ...]:
    return () if decided is None else (decided,)
