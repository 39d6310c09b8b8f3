"""Evidence: proof, for anybody, that a party has done what a correct one never does. No I/O.

LEDGER.md, "Evidence" names six offences. Evidence of each carries all that is needed to judge it offline with
the network's id and the committee of its epoch:

    kind               items
    1 TWO_BATCHES      header, signature, header, signature: one height of one epoch; the lower header first
    2 TWO_LOCKS        LOCK, LOCK, operation, operation: one (slot, view); the lower operation's id first
    3 TWO_OPERATIONS   operation, signature, operation, signature: SPENDs of one (account, seq), by one key
    4 BELOW_NEWVIEW    NEWVIEW, a later LOCK or COMMIT below it in the same slot, its operation
    5 FORGOTTEN_COMMIT COMMIT, a later NEWVIEW that reports less or nothing, the COMMIT's operation; or
                       COMMIT, a later HANDOFF record, the operation, `Omission`, attachments …
    6 MALFORMED_LOCK   LOCK, operation

LOCK, COMMIT, NEWVIEW and HANDOFF are encoded `Attested` entries, an operation is its bytes without proofs.

**Size.** A vote names an operation by its id only, so that two LOCKs are for one slot is seen in both
operations' bytes; no shorter proof of what stands at the beginning of hashed bytes exists. Therefore an
operation has at most 29,000 bytes (`OPERATION_SIZE_MAX`), and two of them with everything around fit 60,000.
Of a HANDOFF the record signs the digest; the HANDOFF and the one or two pages that matter are attachments
by themselves, kept as long as the COMMITTEE that names them: they are among the items if they fit, else the
verifier is asked to have them (`attachment_of`).

**A correct party is never provably guilty.** Everything here rests on signatures under the purpose of votes
(or, of an owner, of operations) by the culprit's own key, with network and epoch inside what is signed:

- *Restarts.* A batch leaves its validator only after fsync, and whoever has forgotten its log is silent until
  a quorum has told it that it has not; so nobody correct signs another header at a height that anybody else
  has seen. Entries are compared by their place in one log, hence in the order in which they were decided on.
- *Epochs.* LOCKing x in view 0 of epoch e and y in view 0 of e + 1 is right; heights begin anew. Both halves
  of evidence are therefore verified with the same epoch. An owner's SPENDs do not depend on epochs.
- *Repeats.* The same header under another signature, the same LOCK twice, or with another justification, are
  not two things: headers and operations are compared by their bytes, which are canonical or refused. But a
  vote repeated after a NEWVIEW above it is below that NEWVIEW: a correct validator casts each vote once.
- *Proofs are outside the id.* A LOCK for an operation that somebody showed us under a bad signature proves
  nothing, as the same id may exist with a good one: a signature or its absence never makes a LOCK malformed.
  MALFORMED_LOCK asks whether `parse` refuses the bytes under every shape of proof. A correct validator LOCKs
  only operations that it has parsed itself, also in views where a prepared certificate stands for validity.
- *Releases.* Only bytes that begin as an operation of `VERSION` are judged: what a later release LOCKs is
  never malformed to an older one. The grammar of a version never changes once it is released.
- *NEWVIEW and HANDOFF.* COMMIT(v, x) was sent on prepared(v, x), so every later report is of v or above:
  only one of a lower view, or of none, is less (another operation in v is no less: with more than 1/3 faulty
  both may be prepared). A correct validator that cannot show the certificate after a restart sends neither
  until it can. A Lock that has ended may have left a frontier: its absence there is no omission. The System
  is in no frontier, and a COMMIT on it is in no HANDOFF.
- *Owners.* Any key can sign operations on anybody's account: evidence names the *key* that signed two, not
  the account. What it means for an account is judged where its keys are known: two conflicting operations
  *valid* in a slot make a VOID by views. Guardians (RECOVER) and proposers (COMMITTEE) may sign again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from ainp2p.errors import Error, InvalidOperation, NotYet
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import (
    KEYS_MAX,
    OPERATION_SIZE_MAX,
    SIGN_OPERATION,
    VERSION,
    Close,
    Operation,
    Refund,
    Settle,
    SignedOperation,
    Spend,
    operation_id,
    parse,
)
from ainp2p.ledger.voting.attachments import ATTACHMENT_SIZE_MAX, attachment_id
from ainp2p.ledger.voting.attested import Attested, verify_attested
from ainp2p.ledger.voting.omissions import judge_omission
from ainp2p.ledger.voting.votelog import (
    BATCH_VERSION,
    SIGN_VOTES,
    Commit,
    Entry,
    Handoff,
    Header,
    Lock,
    NewView,
)
from ainp2p.protocol.codec import Bytes32, Message, Uint, encode, fast_decoder
from ainp2p.protocol.identity import verify

TWO_BATCHES, TWO_LOCKS, TWO_OPERATIONS, BELOW_NEWVIEW, FORGOTTEN_COMMIT, MALFORMED_LOCK = 1, 2, 3, 4, 5, 6
EVIDENCE_SIZE_MAX: Final = ATTACHMENT_SIZE_MAX
ITEMS_MAX = 8
_BEGINNING = b"\x97" + encode(VERSION)  # of every operation of this version: an array of seven, the version

SlotId = tuple[bytes, int]  # object, seq
CommitteeOf = Callable[[int], Committee]
AttachmentOf = Callable[[bytes], bytes | None]


class Evidence(Message, frozen=True, tag=4):
    """Proof of an offence, and an attachment; see the module's text. Kept for ever."""

    kind: Uint
    culprit: Bytes32  # the key that signed both halves
    items: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=ITEMS_MAX)]
    epoch: Uint = 0  # of the votes; 0 for TWO_OPERATIONS


@dataclass(frozen=True, slots=True, order=True)
class Offence:
    """What evidence proves. The same offence with other bytes or in another slot is equal: it counts once."""

    kind: int
    culprit: bytes
    epoch: int

    @property
    def by_validator(self) -> bool:
        """Whether it costs a seat; an owner's costs a VOID and its debt."""
        return self.kind != TWO_OPERATIONS


read_evidence = fast_decoder(Evidence, size_max=EVIDENCE_SIZE_MAX)
_read_attested = fast_decoder(Attested, size_max=1024)
_read_header = fast_decoder(Header, size_max=256)
_read_operation = fast_decoder(Operation, size_max=OPERATION_SIZE_MAX)


def evidence_id(evidence: Evidence) -> bytes:
    """The digest by which a COMMITTEE names it: its name as an attachment."""
    return attachment_id(encode(evidence))


def nothing_attached(_: bytes) -> bytes | None:
    """For whoever holds no attachments."""
    return None


# --- judging ------------------------------------------------------------------------------------------


def verify_evidence(
    evidence: Evidence,
    network: bytes,
    committee_of: CommitteeOf,
    attachment_of: AttachmentOf = nothing_attached,
) -> Offence:
    """Judge evidence; nothing in it is believed that the culprit has not signed.

    Lemma L10 (docs/ledger-proof.md): a party that follows the code is never found guilty.

    Args:
        committee_of: an epoch's committee; raises `InvalidOperation` (or `KeyError`) for an unknown one.
        attachment_of: attachments by their id, for a HANDOFF that is not among the items.

    Raises:
        Malformed: an item is no message of its kind.
        InvalidOperation: rule ``"evidence"``: it proves no offence; ``"epoch"``, ``"member"``.
        BadSignature: the culprit did not sign it.
        NotYet: ``"attachment"``: an attachment is missing.
    """
    judge = _JUDGES.get(evidence.kind)
    if judge is None:
        raise InvalidOperation("evidence", f"of kind {evidence.kind}, which this release does not know")
    if sum(len(item) for item in evidence.items) > EVIDENCE_SIZE_MAX:
        raise InvalidOperation("evidence", "too large to travel")
    if evidence.kind == TWO_OPERATIONS:
        _judge_two_operations(evidence, network)
    else:
        judge(_Case(evidence, network, _committee(evidence.epoch, committee_of), attachment_of))
    return Offence(evidence.kind, evidence.culprit, evidence.epoch)


def offenders(offences: Iterable[Offence]) -> set[bytes]:
    """The keys of the validators among the culprits; an owner's offence costs no seat."""
    return {offence.culprit for offence in offences if offence.by_validator}


def first_of_each(judged: Iterable[tuple[Offence, Evidence]]) -> list[bytes]:
    """The ids, sorted, of one evidence for each offence (that with the lowest id): what a COMMITTEE names."""
    lowest: dict[Offence, bytes] = {}
    for offence, evidence in judged:
        id_ = evidence_id(evidence)
        lowest[offence] = min(lowest.get(offence, id_), id_)
    return sorted(lowest.values())


def _committee(epoch: int, committee_of: CommitteeOf) -> Committee:
    try:
        return committee_of(epoch)
    except LookupError as exc:
        raise InvalidOperation("epoch", f"the committee of epoch {epoch} is not known") from exc


def _demand(holds: bool, otherwise: str) -> None:
    if not holds:
        raise InvalidOperation("evidence", otherwise)


@dataclass(frozen=True, slots=True)
class _Case:
    """Evidence against a validator, with what it is judged by."""

    evidence: Evidence
    network: bytes
    committee: Committee
    attachment_of: AttachmentOf

    def entry(self, index: int) -> tuple[Entry, Attested]:
        """An attested entry of the culprit's own log."""
        attested = _read_attested(self.item(index))
        entry = verify_attested(attested, self.network, self.evidence.epoch, self.committee)
        culprit = self.committee.keys[attested.member]
        _demand(culprit == self.evidence.culprit, "a vote is not the culprit's")
        return entry, attested

    def item(self, index: int) -> bytes:
        _demand(index < len(self.evidence.items), "an item is missing")
        return self.evidence.items[index]

    def has_items(self, count: int) -> None:
        _demand(len(self.evidence.items) == count, f"{len(self.evidence.items)} items, not {count}")

    def slot(self, index: int, operation: bytes) -> SlotId:
        """The slot of an item that is the operation with this id."""
        raw = self.item(index)
        _demand(operation_id(raw) == operation, "the operation is not the one that was voted for")
        return slot_of(raw, self.network)

    def attachment(self, id_: bytes) -> bytes:
        """An attachment, from the items or from elsewhere."""
        for item in self.evidence.items[4:]:
            if attachment_id(item) == id_:
                return item
        found = self.attachment_of(id_)
        if found is None:
            raise NotYet("attachment", f"{id_.hex()} is needed to judge this")
        _demand(attachment_id(found) == id_, "an attachment is another one")
        return found


def slot_of(raw: bytes, network: bytes) -> SlotId:
    """The slot that an operation's bytes name, whatever else is wrong with them.

    Raises:
        Malformed, InvalidOperation: they are no operation of this version and network.
    """
    operation = _read_operation(raw)
    _demand(operation.version == VERSION, "an operation of another version")
    _demand(operation.network == network, "an operation of another network")
    return operation.object, operation.seq


def first_operation(evidence: Evidence) -> Operation:
    """One of the operations in evidence of TWO_OPERATIONS that was judged."""
    return _read_operation(evidence.items[0])


def may_end(raw: bytes) -> bool:
    """Whether an operation is on a Lock, which may end and then leave a frontier."""
    return isinstance(_read_operation(raw).body, Settle | Close | Refund)


def _judge_two_batches(case: _Case) -> None:
    case.has_items(4)
    first, second = (_signed_header(case, index) for index in (0, 2))
    _demand(case.item(0) < case.item(2), "the same batch twice, or not in their order")
    _demand(first.height == second.height, "two heights")


def _signed_header(case: _Case, index: int) -> Header:
    raw = case.item(index)
    header = _read_header(raw)
    _demand(header.version == BATCH_VERSION, "a batch of another version")
    _demand(header.network == case.network, "a batch of another network")
    _demand(header.epoch == case.evidence.epoch, "a batch of another epoch")
    _demand(header.validator == case.evidence.culprit, "a batch is not the culprit's")
    _demand(header.validator in case.committee.index, "the culprit was no member")
    verify(header.validator, SIGN_VOTES, raw, case.item(index + 1))
    return header


def _judge_two_locks(case: _Case) -> None:
    case.has_items(4)
    (first, _), (second, _) = case.entry(0), case.entry(1)
    if not isinstance(first, Lock) or not isinstance(second, Lock):
        raise InvalidOperation("evidence", "not two LOCKs")
    _demand(first.view == second.view, "two views")
    _demand(first.operation < second.operation, "the same operation twice, or not in their order")
    _demand(case.slot(2, first.operation) == case.slot(3, second.operation), "two slots")


def _judge_two_operations(evidence: Evidence, network: bytes) -> None:
    items = evidence.items
    _demand(len(items) == 4, f"{len(items)} items, not 4")
    _demand(evidence.epoch == 0, "an owner's offence is of no epoch")
    slots = []
    for raw, signature in (items[:2], items[2:]):
        _demand(len(signature) == 64, "a signature has 64 bytes")
        operation = parse(SignedOperation(raw, (signature,), None)).operation
        _demand(isinstance(operation.body, Spend), "not a SPEND")
        _demand(operation.network == network, "an operation of another network")
        verify(evidence.culprit, SIGN_OPERATION, operation_id(raw), signature)
        slots.append((operation.object, operation.seq))
    _demand(
        operation_id(items[0]) < operation_id(items[2]), "the same operation twice, or not in their order"
    )
    _demand(slots[0] == slots[1], "two slots")


def _judge_below_newview(case: _Case) -> None:
    case.has_items(3)
    (newview, before), (vote, after) = case.entry(0), case.entry(1)
    if not isinstance(newview, NewView) or not isinstance(vote, Lock | Commit):
        raise InvalidOperation("evidence", "not a NEWVIEW and a vote")
    _demand(before.place < after.place, "the vote came before the NEWVIEW")
    _demand(vote.view < newview.view, "the vote is not below the NEWVIEW")
    _demand(case.slot(2, vote.operation) == (newview.object, newview.seq), "two slots")


def _judge_forgotten_commit(case: _Case) -> None:
    (commit, before), (report, after) = case.entry(0), case.entry(1)
    if not isinstance(commit, Commit):
        raise InvalidOperation("evidence", "not a COMMIT")
    _demand(before.place < after.place, "the COMMIT came after the report")
    slot = case.slot(2, commit.operation)
    if isinstance(report, NewView):
        case.has_items(3)
        _demand(slot == (report.object, report.seq), "two slots")
        _demand(report.prepared is None or report.prepared < commit.view, "it reports no less")
    elif isinstance(report, Handoff):
        _judge_handoff(case, slot, commit, report)
    else:
        raise InvalidOperation("evidence", "neither a NEWVIEW nor a HANDOFF")


def _judge_handoff(case: _Case, slot: SlotId, commit: Commit, report: Handoff) -> None:
    epoch = case.evidence.epoch
    # Nobody hands the System over: whoever hands anything over has COMMITted END-EPOCH.
    _demand(slot[0] != case.network, "a HANDOFF says nothing of the System")
    whose = (case.network, epoch, case.evidence.culprit)
    at = (epoch, commit.view)
    judge_omission(case.item(3), report.digest, whose, slot, at, may_end(case.item(2)), case.attachment)


def _judge_malformed_lock(case: _Case) -> None:
    case.has_items(2)
    lock, _ = case.entry(0)
    if not isinstance(lock, Lock):
        raise InvalidOperation("evidence", "not a LOCK")
    _demand(operation_id(case.item(1)) == lock.operation, "the operation is not the one that was voted for")
    _demand(is_malformed(case.item(1)), "the operation is well formed")


def is_malformed(raw: bytes) -> bool:
    """Whether these bytes claim to be an operation of this version and are none, under whatever proof.

    Bytes that do not even claim it are nobody's offence: a later release may know what they are.
    """
    if not raw.startswith(_BEGINNING):
        return False
    for count in range(KEYS_MAX + 1):
        for closer in (None, bytes(64)):
            try:
                parse(SignedOperation(raw, (bytes(64),) * count, closer))
            except Error:
                continue
            return False
    return True


_JUDGES: Final[dict[int, Callable[[_Case], None]]] = {
    TWO_BATCHES: _judge_two_batches,
    TWO_LOCKS: _judge_two_locks,
    TWO_OPERATIONS: lambda case: _judge_two_operations(case.evidence, case.network),
    BELOW_NEWVIEW: _judge_below_newview,
    FORGOTTEN_COMMIT: _judge_forgotten_commit,
    MALFORMED_LOCK: _judge_malformed_lock,
}
