"""What validators and wallets say to one another on ``/ainp2p/ledger/1``.

Operations, batches and certificates travel as the raw bytes that were signed: they are opaque here, so this
module knows neither the rules of the ledger nor its votes. Each answer is bounded: lists by the constants
below, bytes by the codec. Every question has one class of answer; `Follow` and `FetchBatches` are streams.

    one-way   PushOperations, PushBatch, PushAttachment                     among the committee
    request   Submit → Statuses          AskStatus → Statuses               wallet → validator
              FetchOperations → Fetched  GetHeights → Heights
              GetObject → ObjectHead     GetCredits → CreditPage
              GetStatistics → Statistics FetchAttachments → Attachments
              ListEvidence → EvidenceIds Reconcile → Reconciled
              GetHistory → History       GetLocksOf → LockIds
              ReconcileFrontier → Reconciled
    stream    Follow → Finals …          FetchBatches → PushBatch …
              FetchDecided → DecidedPage …
    faucet    AskPurse → Purse           on its own protocol, development networks only
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainp2p.ledger.rules.operations import CREDIT_ID_SIZE, OPERATION_SIZE_MAX, CreditId
from ainp2p.ledger.voting.attachments import ATTACHMENT_SIZE_MAX
from ainp2p.protocol.codec import Bytes32, Message, Text, Uint, decode

LEDGER_PROTOCOL = "/ainp2p/ledger/1"
FAUCET_PROTOCOL = "/ainp2p/faucet/1"

SIGNED_SIZE_MAX = OPERATION_SIZE_MAX + 2048  # bytes of an encoded SignedOperation: 17 signatures at most
BATCH_SIZE_MAX = 61 * 1024  # bytes; a vote batch is flushed at 60 KB
CERTIFICATE_SIZE_MAX = 32 * 1024  # bytes; 31 members with a header, a signature and a Merkle path each
BODY_SIZE_MAX = 512 * 1024  # bytes of one message here; well below what a Network carries
OPERATIONS_MAX = 64  # in one message
OBJECTS_MAX = 256  # followed by one stream
CREDITS_PAGE_MAX = 128
VALIDATORS_MAX = 128
FOLLOW_BEAT_S = 30.0  # the longest silence on a Follow stream that has brought something
FOLLOW_BEAT_MAX_S = 240.0  # and on one that has not for long: each chunk without news quadruples it
ATTACHMENTS_MAX = 16  # asked for at once; so many of the largest do not fit, and the answer stops early
EVIDENCE_PAGE_MAX = 1000  # ids; a message has 1,024 elements at most
ADDRESSES_MAX = 8  # of one validator
LOCKS_PAGE_MAX = 256
RECONCILE_SIZE_MAX = 60_000  # bytes of one message of a reconciliation
BATCHES_MAX = 4096  # in one answer to FetchBatches; the caller asks again from where it stands

RawOperation = Annotated[bytes, msgspec.Meta(min_length=1, max_length=SIGNED_SIZE_MAX)]
RawBatch = Annotated[bytes, msgspec.Meta(min_length=1, max_length=BATCH_SIZE_MAX)]
RawCertificate = Annotated[bytes, msgspec.Meta(max_length=CERTIFICATE_SIZE_MAX)]  # empty: not final yet
RawOperations = Annotated[tuple[RawOperation, ...], msgspec.Meta(min_length=1, max_length=OPERATIONS_MAX)]
RawAttachment = Annotated[bytes, msgspec.Meta(min_length=1, max_length=ATTACHMENT_SIZE_MAX)]
RawReconcile = Annotated[bytes, msgspec.Meta(min_length=1, max_length=RECONCILE_SIZE_MAX)]
Ids = Annotated[tuple[Bytes32, ...], msgspec.Meta(min_length=1, max_length=OPERATIONS_MAX)]
Objects = Annotated[tuple[Bytes32, ...], msgspec.Meta(min_length=1, max_length=OBJECTS_MAX)]

# How far an operation has come at one validator (LEDGER.md: "A caller sees three grades").
UNKNOWN, SEEN, LOCKED, FINAL, REFUSED = range(5)
Grade = Annotated[int, msgspec.Meta(ge=UNKNOWN, le=REFUSED)]


class Submit(Message, frozen=True, tag=1):
    """Encoded SignedOperations to decide. A repeat is no error: the answer says how far each has come.

    `everywhere` is 1 if the sender submits to the whole committee itself: then nobody need push them on, and
    whoever misses one fetches it when a vote names it.
    """

    operations: RawOperations
    everywhere: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0


class PushOperations(Message, frozen=True, tag=2):
    """One-way, among the committee: operations that the receiver may lack."""

    operations: RawOperations


class PushBatch(Message, frozen=True, tag=3):
    """One-way, among the committee: a signed vote batch. Also each chunk of FetchBatches."""

    batch: RawBatch


class FetchOperations(Message, frozen=True, tag=4):
    """Give these operations, and their certificates where they are final."""

    ids: Ids


class FetchBatches(Message, frozen=True, tag=5):
    """Stream one validator's vote log of the current epoch from `height` on; nothing of any other."""

    validator: Bytes32
    height: Uint
    epoch: Uint


class GetObject(Message, frozen=True, tag=6):
    """The newest decided state of an Account or a Lock."""

    object: Bytes32


class GetCredits(Message, frozen=True, tag=7):
    """Unconsumed credits of an account in the order of their ids, those after the given one (or empty)."""

    account: Bytes32
    after: Annotated[bytes, msgspec.Meta(max_length=CREDIT_ID_SIZE)]


class GetHeights(Message, frozen=True, tag=8):
    """How many batches of each validator's log are held, and of which epoch?

    `addresses` is where the asker listens, if the genesis does not say so: a COMMITTEE names them with its
    seat. Its key is proven by the channel; an address that is wrong costs a dial.
    """

    addresses: Annotated[tuple[Text, ...], msgspec.Meta(max_length=ADDRESSES_MAX)] = ()


class Follow(Message, frozen=True, tag=9):
    """Stream what becomes final from now on and concerns these objects.

    An operation concerns what it writes, the accounts that it credits, and the payer and the beneficiaries
    of each Lock that it opens, pays or ends. So a wallet that follows its account hears of all its money.
    """

    objects: Objects


class AskStatus(Message, frozen=True, tag=10):
    """How far have these operations come?"""

    ids: Ids


class GetStatistics(Message, frozen=True, tag=11):
    """What a validator says of itself."""


class PushAttachment(Message, frozen=True, tag=12):
    """One-way, among the committee: what votes rest on, or evidence."""

    attachment: RawAttachment


class FetchAttachments(Message, frozen=True, tag=13):
    """Give these attachments: justifications, certificates, handoffs, evidence."""

    ids: Annotated[tuple[Bytes32, ...], msgspec.Meta(min_length=1, max_length=ATTACHMENTS_MAX)]


class ListEvidence(Message, frozen=True, tag=14):
    """Which evidence does this validator have, in the order in which it learnt of it, after so much of it?"""

    after: Uint


class Reconcile(Message, frozen=True, tag=15):
    """A message of a range-based reconciliation over (object → seq, head)."""

    message: RawReconcile


class HistoryFrom(Message, frozen=True):
    """An object's decided operations from this sequence number on."""

    object: Bytes32
    seq: Annotated[int, msgspec.Meta(ge=1)]


class GetHistory(Message, frozen=True, tag=16):
    """Give what was decided on these objects, with certificates."""

    objects: Annotated[tuple[HistoryFrom, ...], msgspec.Meta(min_length=1, max_length=OPERATIONS_MAX)]


class FetchDecided(Message, frozen=True, tag=17):
    """Stream what was decided, with certificates, in the order in which this validator applied it.

    Whatever an operation depends on comes before it. `after` is the number of the last one not wanted.
    """

    after: Uint


class GetLocksOf(Message, frozen=True, tag=18):
    """Open Locks in which an account pays or is paid, or which a key closes or verifies, by id, after one."""

    party: Bytes32
    after: Annotated[bytes, msgspec.Meta(max_length=32)]  # a Lock's id, or empty


class ReconcileFrontier(Message, frozen=True, tag=19):
    """A message of a reconciliation with the frontier of a HANDOFF: every decided head.

    Also, by the name that the member has for that in this epoch, with all of its own heads
    (docs/wire-formats.md, `ainp2p/sees/1`).
    """

    handoff: Bytes32
    message: RawReconcile


class Status(Message, frozen=True):
    """One operation's grade, its certificate if FINAL, the rule that refused it if REFUSED.

    An id does not cover proofs: ``BadSignature`` is said of what came, and the operation may yet be decided.
    """

    id: Bytes32
    grade: Grade
    certificate: RawCertificate = b""
    rule: Text = b""


class Statuses(Message, frozen=True, tag=20):
    """Answers Submit and AskStatus, in the order of the question."""

    statuses: Annotated[tuple[Status, ...], msgspec.Meta(max_length=OPERATIONS_MAX)]


class Decided(Message, frozen=True):
    """An operation with the certificate that makes it final (empty where it is not)."""

    operation: RawOperation
    certificate: RawCertificate


class Fetched(Message, frozen=True, tag=21):
    """Answers FetchOperations in the order of the question, None for what is not held.

    An answer may stop early to stay within its size; ask again for the rest.
    """

    operations: Annotated[tuple[Decided | None, ...], msgspec.Meta(max_length=OPERATIONS_MAX)]


class ObjectHead(Message, frozen=True, tag=22):
    """Answers GetObject.

    Attributes:
        state: the encoded Account or Lock; empty where none is known.
        opening: for a Lock the final SPEND that opened it; else empty.
        last: the operation at the head with its certificate; empty where there is none.
    """

    object: Bytes32
    state: Annotated[bytes, msgspec.Meta(max_length=16 * 1024)]
    opening: Annotated[tuple[Decided, ...], msgspec.Meta(max_length=1)]
    last: Annotated[tuple[Decided, ...], msgspec.Meta(max_length=1)]


class CreditEntry(Message, frozen=True):
    """One unconsumed credit. The operation that made it, whose id starts the credit's, proves it."""

    credit: CreditId
    amount: Uint


class CreditPage(Message, frozen=True, tag=23):
    """Answers GetCredits; ask for those after the last entry until `more` is 0.

    `seq` is the account's at that moment: a page from before its last SPEND shows what that consumed.
    `now_ms` is that moment by the validator's own clock: a wallet signs nothing far ahead of a quorum's.
    """

    entries: Annotated[tuple[CreditEntry, ...], msgspec.Meta(max_length=CREDITS_PAGE_MAX)]
    more: Annotated[int, msgspec.Meta(ge=0, le=1)]
    seq: Uint
    now_ms: Uint = 0


class Height(Message, frozen=True):
    """Batches 1 … height of this validator's log are held."""

    validator: Bytes32
    height: Uint


class Heights(Message, frozen=True, tag=24):
    """Answers GetHeights, of the epoch that runs there; in each epoch logs begin anew."""

    heights: Annotated[tuple[Height, ...], msgspec.Meta(max_length=VALIDATORS_MAX)]
    epoch: Uint


class Finals(Message, frozen=True, tag=25):
    """One chunk of Follow: what has become final since the last one, in order of each object.

    The first chunk is empty and says that nothing will be missed from here on; so is one now and then, ever
    more seldom while there is no news (`follow_beat_s`): who hears nothing for longer follows another one.
    `epoch` is the one that runs there: who knows only an earlier one asks for the COMMITTEEs since.
    """

    operations: Annotated[tuple[Decided, ...], msgspec.Meta(max_length=OPERATIONS_MAX)]
    epoch: Uint = 0


def follow_beat_s(quiet: int) -> float:
    """The longest silence after so many chunks in a row, but for the first, that had no operation."""
    return min(FOLLOW_BEAT_S * 4.0 ** min(max(quiet, 0), 16), FOLLOW_BEAT_MAX_S)


class Statistics(Message, frozen=True, tag=26):
    """Answers GetStatistics. Supply is in uain and adds up to the genesis' grants (invariant 1).

    Attributes:
        decided: operations decided since the genesis.
        pending: operations held and not decided.
        behind: 1 if its disk forgot votes, so that it casts none in this epoch.
        voting: 1 while it casts votes; 0 until it has learnt that its disk forgot none.
        syncing: operations that others have decided and that are still to be fetched, as far as is known.
    """

    validator: Bytes32
    network: Bytes32
    decided: Uint
    pending: Uint
    height: Uint
    peers: Uint
    balances: Uint
    credits: Uint
    locks: Uint
    burnt: Uint
    state_root: Bytes32
    behind: Annotated[int, msgspec.Meta(ge=0, le=1)]
    voting: Annotated[int, msgspec.Meta(ge=0, le=1)]
    syncing: Uint = 0


class Attachments(Message, frozen=True, tag=27):
    """Answers FetchAttachments in the order of the question, None for what is not held; may stop early."""

    attachments: Annotated[tuple[RawAttachment | None, ...], msgspec.Meta(max_length=ATTACHMENTS_MAX)]


class EvidenceIds(Message, frozen=True, tag=28):
    """Answers ListEvidence: ids of attachments; as many as fit, so ask again after the last."""

    ids: Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=EVIDENCE_PAGE_MAX)]


class Reconciled(Message, frozen=True, tag=29):
    """Answers Reconcile and ReconcileFrontier, with the next message of the reconciliation."""

    message: RawReconcile


class History(Message, frozen=True, tag=32):
    """Answers GetHistory: object after object, in order of each; it stops where the answer is full."""

    operations: Annotated[tuple[Decided, ...], msgspec.Meta(max_length=OPERATIONS_MAX)]


class DecidedPage(Message, frozen=True, tag=33):
    """One chunk of FetchDecided.

    Attributes:
        last: the number of its last operation; of the last one that there is, if it is empty.
        count: how many there are in all.
    """

    operations: Annotated[tuple[Decided, ...], msgspec.Meta(max_length=OPERATIONS_MAX)]
    last: Uint
    count: Uint


class LockIds(Message, frozen=True, tag=34):
    """Answers GetLocksOf; ask for those after the last one until `more` is 0. GetObject proves each."""

    locks: Annotated[tuple[Bytes32, ...], msgspec.Meta(max_length=LOCKS_PAGE_MAX)]
    more: Annotated[int, msgspec.Meta(ge=0, le=1)]


class AskPurse(Message, frozen=True, tag=30):
    """A development network's newcomer asks for its purse; once per peer, a repeat gets the same answer."""

    account: Bytes32


class Purse(Message, frozen=True, tag=31):
    """Answers AskPurse: the final operation whose credit is the purse."""

    operation: Bytes32
    amount: Uint


Question = (
    Submit
    | PushOperations
    | PushBatch
    | FetchOperations
    | FetchBatches
    | GetObject
    | GetCredits
    | GetHeights
    | Follow
    | AskStatus
    | GetStatistics
    | PushAttachment
    | FetchAttachments
    | ListEvidence
    | Reconcile
    | GetHistory
    | FetchDecided
    | ReconcileFrontier
    | GetLocksOf
)


def read_question(body: bytes) -> Question:
    """One message to a validator.

    Raises:
        Malformed: it is none, or beyond a limit.
    """
    return decode(body, Question, size_max=BODY_SIZE_MAX)  # type: ignore[arg-type]  # a union is no type[T]
