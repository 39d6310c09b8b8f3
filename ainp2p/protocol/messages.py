"""What buyers and sellers say to each other on ``/ainp2p/market/1``.

    buyer                                seller
      CallForProposals  ──request──▶       Proposal | Refusal
      CounterProposal   ──request──▶       Proposal | Refusal          at most ROUNDS_MAX times
      Decline           ──one-way──▶
      Award             ──stream───▶       Accepted | Refusal, Chunk…, Finished      also unasked: DIRECT
      ReceiptNotice     ──one-way──▶
      Cancel            ──one-way──▶
      Resume            ──stream───▶       Chunk…, Finished | Refusal
      StatusRequest     ──request──▶       Status

All but `Chunk`, `ReceiptNotice`, `StatusRequest` and `Status` travel inside `Signed` and name, by its id,
the message that they answer, so that a transcript can be verified later (`transcript.py`). Chunks are
covered by the running hash in the receipts, receipts by their own signature, and the channel proves who
speaks.

Times are integer milliseconds since 1970 on the clock of whoever set them, and are enforced by that clock;
the other side allows CLOCK_SKEW_MAX_MS before it calls something late.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Protocol, TypeVar

import msgspec

from ainp2p.errors import Malformed
from ainp2p.protocol.codec import (
    Bytes32,
    Message,
    Positive,
    Signature,
    Text,
    Uint,
    decode,
    encode,
    fast_decoder,
)
from ainp2p.protocol.identity import digest, verify

PROTOCOL = "/ainp2p/market/1"
PURPOSE = b"ainp2p/market/1"  # of every signature in this dialect

CLOCK_SKEW_MAX_MS = 60_000  # RELIABILITY F1: clocks of honest peers differ by a minute at most
CALL_DEADLINE_MS = 2_000
ROUNDS_MAX = 3  # counter-proposals in one negotiation
WIRE_SIZE_MAX = 1 << 20  # bytes of one request or chunk: the Network's largest body
DIRECT = bytes(32)  # what an award answers that takes no proposal, but says its own terms
INPUT_SIZE_MAX = WIRE_SIZE_MAX - (64 << 10)  # the award around it, and a prefix, need the rest
PREFIX_SIZE_MAX = 24 << 10  # bytes; of text, and again of token ids (6,144 of them)
DATA_SIZE_MAX = WIRE_SIZE_MAX - (64 << 10)
TOKENS_MAX = 256  # ids in one chunk: several windows
SEED_SIZE_MAX = 32
JOBS_PER_NOTICE_MAX = 64

T = TypeVar("T")

_Input = Annotated[bytes, msgspec.Meta(max_length=INPUT_SIZE_MAX)]
_Prefix = Annotated[bytes, msgspec.Meta(max_length=PREFIX_SIZE_MAX)]
_Data = Annotated[bytes, msgspec.Meta(max_length=DATA_SIZE_MAX)]
_Seed = Annotated[bytes, msgspec.Meta(max_length=SEED_SIZE_MAX)]
_Receipt = Annotated[bytes, msgspec.Meta(max_length=1024)]
_Word = Annotated[bytes, msgspec.Meta(max_length=64)]  # codes, finish words, units
_Name = Annotated[bytes, msgspec.Meta(min_length=1, max_length=128)]


class Signer(Protocol):
    """Whatever signs: a `Key`, or the vault."""

    @property
    def public(self) -> bytes:
        """The 32-byte public key."""

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        """A 64-byte signature of `payload` for this purpose only."""


# --- the envelope -------------------------------------------------------------------------------


class Signed(Message, frozen=True, tag=0):
    """A message that can be shown to others: its bytes as they were signed, the key, the signature."""

    body: bytes
    key: Bytes32
    signature: Signature

    @property
    def id(self) -> bytes:
        """What an answer names; an award's id is its job's id."""
        return message_id(self.body)


def message_id(body: bytes) -> bytes:
    """The 32-byte id of a message's encoded body."""
    return _small_id(body) if len(body) <= _REMEMBERED_SIZE_MAX else digest(b"ainp2p/msg/1", body)


_REMEMBERED_SIZE_MAX = 1024  # bytes; 512 such messages are half a MiB


@functools.lru_cache(maxsize=512)  # a message is named by each that answers it, and by its transcript
def _small_id(body: bytes) -> bytes:
    return digest(b"ainp2p/msg/1", body)


def seal(signer: Signer, purpose: bytes, message: Message) -> Signed:
    """Encode and sign a message."""
    body = encode(message)
    return Signed(body, signer.public, signer.sign(purpose, body))


def open_(signed: Signed, purpose: bytes, type_: type[T], *, size_max: int = WIRE_SIZE_MAX) -> T:
    """Verify the signature over the bytes as received, then read them as `type_`.

    Raises:
        BadSignature: it does not fit its key, the purpose or the bytes.
        Malformed: no message of that type.
    """
    verify(signed.key, purpose, signed.body, signed.signature)
    return decode(signed.body, type_, size_max=size_max)


# --- bargaining ---------------------------------------------------------------------------------


class CallForProposals(Message, frozen=True, tag=1):
    """A buyer asks one seller what it would take for one task; the input itself comes with the award."""

    network: Bytes32
    task: Bytes32  # chosen by the buyer, the same in all calls for one task
    buyer: Bytes32  # agent ids
    seller: Bytes32
    skill: _Name
    input: Bytes32  # `input_digest` of the canonical JSON
    input_size: Uint  # bytes
    units_max: Uint  # the most that will be taken; 0: unknown
    max_price: Text  # a Price as text; empty: no limit is told
    deadline: Uint  # proposals that come later are not considered


class Proposal(Message, frozen=True, tag=2):
    """A seller's answer to a call or to a counter-proposal: its terms stand until `expires`.

    It holds no slot: the first awards with good Locks get those that are free.
    """

    answers: Bytes32
    task: Bytes32
    buyer: Bytes32
    seller: Bytes32
    round: Uint  # 0 answers the call, k the k-th counter-proposal
    price: Text  # a Price as text
    window: Positive  # units delivered and unpaid before the seller waits
    step: Positive  # units between two receipts
    units_max: Uint  # the most that will be delivered; 0: as far as the budget goes
    speed: Uint  # milli-units per second, measured by the seller; 0: unknown
    wait: Uint  # ms before work would begin
    model: Bytes32 | None  # hash of the weights
    expires: Uint  # an award that comes later is refused


class CounterProposal(Message, frozen=True, tag=3):
    """A buyer would take a proposal on these terms."""

    answers: Bytes32
    task: Bytes32
    buyer: Bytes32
    seller: Bytes32
    round: Positive
    price: Text
    deadline: Uint


class Decline(Message, frozen=True, tag=4):
    """A buyer takes another proposal, or none: this one may be forgotten."""

    answers: Bytes32
    task: Bytes32


class Refusal(Message, frozen=True, tag=5):
    """A seller will not."""

    answers: Bytes32
    code: _Word  # see `strategies.REFUSALS`
    reason: Text


class Award(Message, frozen=True, tag=6):
    """A buyer takes a proposal; this message's id is the job's id from here on."""

    answers: Bytes32  # the proposal; zeros: none, the terms are the buyer's own (from a card, say)
    task: Bytes32
    buyer: Bytes32
    seller: Bytes32
    skill: _Name
    price: Text
    window: Positive  # price, window and step as proposed
    step: Positive
    budget: Positive  # uain, a hard cap on this job
    units_max: Positive  # the most units that will be delivered
    lock: Bytes32  # what the receipts are signed against
    input: _Input  # canonical JSON
    prefix: _Prefix  # text that another seller delivered already; empty: from the start
    prefix_tokens: _Prefix  # its token ids, packed
    seed: _Seed  # for sampling; empty: the seller picks
    deadline: Uint  # accept before


class Accepted(Message, frozen=True, tag=7):
    """A seller begins the job; the first thing on an award's stream."""

    answers: Bytes32  # the award
    input_units: Uint  # prompt ids that will be billed under an ``/input`` price
    window: Positive  # now in force: smaller than the award's for a new counterparty


# --- working ------------------------------------------------------------------------------------

TOKENS, TEXT, JSON, BYTES, TIME = range(5)  # what a chunk's data is


class Chunk(Message, frozen=True, tag=8):
    """Part of a job's result. `n` counts over all jobs of the Lock, in the order of sending."""

    job: Bytes32
    n: Positive  # 1, 2, 3, … over all jobs of the Lock
    start: Uint  # units of this job before this chunk
    units: Uint  # in it: token ids, whole seconds since the last chunk, else 1
    kind: Uint  # 0 tokens, 1 text, 2 JSON, 3 bytes, 4 time
    data: _Data  # UTF-8 of tokens and text, canonical JSON, or bytes
    tokens: Annotated[bytes, msgspec.Meta(max_length=4 * TOKENS_MAX)]  # ids, packed (`pack_tokens`)
    logprobs: Annotated[bytes, msgspec.Meta(max_length=2 * TOKENS_MAX)]  # 1/2048 nat, packed; or empty


class Finished(Message, frozen=True, tag=9):
    """The seller's last word on a job, and its signed claim."""

    job: Bytes32
    finish: _Word  # done, budget, loop, canceled; failed: the seller could not
    units: Uint  # delivered
    amount: Uint  # uain for this job; what `loop` leaves unbilled is not in it
    n: Uint  # the job's last chunk; 0: none
    context: Bytes32  # running hash of the Lock after that chunk (the Lock's id when n is 0)
    reason: Text


class Taken(Message, frozen=True):
    """The reader has taken so much of a job; the seller stays at most a step ahead of it."""

    job: Bytes32
    weight: Uint  # units, a chunk without units counting as one


class ReceiptNotice(Message, frozen=True, tag=10):
    """The newest receipt of a Lock (the ledger's bytes; empty: none), and how far the readers have come."""

    lock: Bytes32
    receipt: _Receipt
    taken: Annotated[tuple[Taken, ...], msgspec.Meta(max_length=JOBS_PER_NOTICE_MAX)]


class Cancel(Message, frozen=True, tag=11):
    """The buyer wants no more of a job. The seller finishes it and says so with `Finished`."""

    job: Bytes32
    reason: Text


class Resume(Message, frozen=True, tag=12):
    """After a disconnect: send the job's chunks again from `from_n` on and go on with it.

    `from_unit` and the position of the last receipt let a seller that has lost its memory go on, too.
    """

    job: Bytes32
    from_n: Positive  # the first chunk that the buyer lacks
    from_unit: Uint  # units of the job that it has
    receipt: _Receipt  # the newest signed one; empty: none yet
    receipt_n: Uint  # the number of the chunk that it covers; 0: none


class StatusRequest(Message, frozen=True, tag=13):
    """What does the seller hold of this job? Answered only to the job's buyer."""

    job: Bytes32


class Status(Message, frozen=True, tag=14):
    """A job as its seller sees it."""

    job: Bytes32
    state: _Word  # A2A's words: submitted, working, input-required, completed, failed, canceled, rejected
    units: Uint  # delivered
    amount: Uint  # uain for this job so far
    n: Uint  # the Lock's last chunk
    paid_n: Uint  # the chunk that the last accepted receipt covers
    paid: Uint  # uain, cumulative over the Lock


SignedByBuyer = CallForProposals | CounterProposal | Decline | Award | Cancel | Resume
SignedBySeller = Proposal | Refusal | Accepted | Finished
AnySigned = SignedByBuyer | SignedBySeller
Wire = Signed | Chunk | ReceiptNotice | StatusRequest | Status


_decode_wire: Callable[[bytes], Wire] = fast_decoder(  # chunks are many and short
    Wire,  # type: ignore[arg-type]  # a union is no `type`
    size_max=WIRE_SIZE_MAX,
)


decode_signed: Callable[[bytes], Signed] = fast_decoder(Signed, size_max=WIRE_SIZE_MAX)
"""Read one signed message; raises Malformed."""


def decode_wire(data: bytes) -> Wire:
    """Read what came over the market protocol; signatures are the caller's next step.

    Raises:
        Malformed: none of its messages.
    """
    return _decode_wire(data)


def open_market(signed: Signed) -> AnySigned:
    """Verify and read any signed message of this dialect.

    Raises:
        BadSignature, Malformed: as `open_`.
    """
    if len(signed.body) <= _REMEMBERED_SIZE_MAX:
        return _open_remembered(signed)
    return open_(signed, PURPOSE, AnySigned)  # type: ignore[arg-type]  # a union is no `type`


@functools.lru_cache(maxsize=512)  # a message is opened by two or three parts of one agent
def _open_remembered(signed: Signed) -> AnySigned:
    return open_(signed, PURPOSE, AnySigned)  # type: ignore[arg-type]  # a union is no `type`


forget_opened = _open_remembered.cache_clear  # for whoever changes how signatures are verified


# --- packed numbers -----------------------------------------------------------------------------


def input_digest(input_: bytes) -> bytes:
    """How a call names the input that the award will carry."""
    return digest(b"ainp2p/input/1", input_)


def pack_tokens(ids: list[int]) -> bytes:
    """Token ids as 4 bytes each, big-endian.

    Raises:
        Malformed: an id is negative or above 2**32-1.
    """
    return _pack(4, ids)


def unpack_tokens(data: bytes) -> list[int]:
    """The ids behind `pack_tokens`.

    Raises:
        Malformed: not a multiple of 4 bytes.
    """
    return _unpack(4, data)


def pack_logprobs(logprobs: list[float]) -> bytes:
    """Natural log-probabilities (≤ 0) as 2 bytes each in steps of 1/2048 nat; below -31.99 is cut off."""
    return _pack(2, [min(65535, max(0, round(-value * 2048))) for value in logprobs])


def unpack_logprobs(data: bytes) -> list[float]:
    """The log-probabilities behind `pack_logprobs`.

    Raises:
        Malformed: not a multiple of 2 bytes.
    """
    return [-value / 2048 for value in _unpack(2, data)]


def _pack(width: int, values: list[int]) -> bytes:
    try:
        return b"".join(value.to_bytes(width, "big") for value in values)
    except OverflowError as exc:
        raise Malformed(f"a number does not fit {width} bytes") from exc


def _unpack(width: int, data: bytes) -> list[int]:
    if len(data) % width:
        raise Malformed(f"{len(data)} bytes are not packed numbers of {width} bytes each")
    return [int.from_bytes(data[at : at + width], "big") for at in range(0, len(data), width)]
