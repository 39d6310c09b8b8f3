"""What the processes of a swarm tell the view: typed events, one JSON object per line.

This is the interface between whoever does something and whoever shows or records it. An event says what
happened, never how it looks. Events travel over local pipes and come out of ``--json`` unchanged; they are
no part of the peers' protocol. Times are integer milliseconds since 1970, durations microseconds, money uain.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

import msgspec

from ainp2p.errors import Malformed

LINE_SIZE_MAX = 1 << 20  # bytes of one event; the longest is an answer with its sources, some 10 KiB

Role = Literal["creator", "validator", "seller", "buyer", "auditor"]
Stage = Literal["started", "done", "asked", "closed", "reopened", "audited"]
Phase = Literal["discover", "negotiate", "first token", "token", "settle"]
TaskState = Literal["submitted", "working", "input-required", "completed", "failed", "canceled", "rejected"]
FINAL_STATES: frozenset[str] = frozenset({"completed", "failed", "canceled", "rejected"})


def _tag(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=_tag):
    """Base of all events. `event` in the JSON is the class's name in lower case with hyphens."""

    at_ms: int


class SwarmStarted(Event, frozen=True, kw_only=True):
    """How many of each there will be, and why that many."""

    model: str
    model_bytes: int
    validators: int
    sellers: int
    buyers: int
    cores: int
    memory_bytes: int
    seed: int
    sizing: str = ""


class NetworkFounded(Event, frozen=True, kw_only=True):
    """There is a genesis: the network's id, shortened, and all the money that it will ever have."""

    network: str
    supply: int


class PeerUp(Event, frozen=True, kw_only=True):
    """A process is on the network. `name` is unique in the swarm and used by all other events."""

    name: str
    role: Role
    peer: str
    pid: int
    account: str = ""


class PeerDown(Event, frozen=True, kw_only=True):
    """A process has ended. `reason`: ``finished``, ``killed``, ``crashed``, …"""

    name: str
    reason: str


class StageReached(Event, frozen=True, kw_only=True):
    """How far a process is: it runs (``started``, with its `pid`), it has bought all that it wanted
    (``done``, ``asked``), all its Locks are closed (``closed``), or it has checked others' (``audited``)."""

    name: str
    stage: Stage
    pid: int = 0


class DocumentRead(Event, frozen=True, kw_only=True):
    """A file of the user's was read."""

    path: str
    bytes: int
    passages: int
    sentences: int


class DocumentRefused(Event, frozen=True, kw_only=True):
    """A file or folder of the user's was not read, and why."""

    path: str
    reason: str


class TaskOpened(Event, frozen=True, kw_only=True):
    """A buyer wants something done. `units_max` bounds the progress (0: unknown)."""

    task: str
    buyer: str
    skill: str
    subject: str
    units_max: int = 0


class TaskMoved(Event, frozen=True, kw_only=True):
    """A task's state changed; `seller` is empty until one was awarded."""

    task: str
    state: TaskState
    seller: str = ""
    detail: str = ""


class Progress(Event, frozen=True, kw_only=True):
    """`units` more of a task have been delivered by a seller. `unit` is a price's: ``token``, ``item``, …"""

    task: str
    seller: str
    units: int
    unit: str = "token"


class ReceiptSigned(Event, frozen=True, kw_only=True):
    """A buyer signed a cumulative receipt: `cumulative` uain of `lock`, `added` of them new."""

    buyer: str
    seller: str
    lock: str
    cumulative: int
    added: int


class BalanceKnown(Event, frozen=True, kw_only=True):
    """What an account holds, as its own wallet sees it."""

    name: str
    available: int
    locked: int
    owed: int


class LockOpened(Event, frozen=True, kw_only=True):
    """A buyer has put a deposit behind its receipts to `payee`, an account."""

    lock: str
    buyer: str
    payee: str
    deposit: int


class Finalised(Event, frozen=True, kw_only=True):
    """An operation has its commit certificate. `kind`: ``spend``, ``settle``, ``close``, ``refund``."""

    operation: str
    kind: str
    name: str
    amount: int
    took_us: int


class PhaseTimed(Event, frozen=True, kw_only=True):
    """How long one phase of a task took, as the buyer (``settle``: the seller) saw it."""

    task: str
    phase: Phase
    took_us: int


class Source(msgspec.Struct, frozen=True):
    """Where something is said: a file, its lines (1-based, inclusive), the heading above, the words."""

    path: str
    first_line: int
    last_line: int
    heading: str = ""
    quote: str = ""


class Answered(Event, frozen=True, kw_only=True):
    """A task's result with what it rests on and what it cost."""

    task: str
    answer: str
    sources: tuple[Source, ...] = ()
    units: int = 0
    paid: int = 0
    finish: str = "done"


class SellerKilled(Event, frozen=True, kw_only=True):
    """SIGKILL was sent to a seller while it worked on `task` (empty: on none)."""

    name: str
    task: str = ""


class TaskTakenOver(Event, frozen=True, kw_only=True):
    """Another seller goes on. `kept` units were handed on as a prefix; `lost` were paid and not delivered."""

    task: str
    seller_before: str
    seller: str
    kept: int
    lost: int
    step: int


class WalletReopened(Event, frozen=True, kw_only=True):
    """A killed seller's wallet was opened from its disk to settle and close its Locks, and for no more."""

    name: str
    locks: int
    closed: int
    collected: int


class SupplyChecked(Event, frozen=True, kw_only=True):
    """One validator's own count, in uain: `minted` must equal the sum of the next four.
    `state` is the root of its state: equal for all that have decided the same."""

    validator: str
    minted: int
    balances: int
    credits: int
    locks: int
    burnt: int
    state: str = ""


class Checked(Event, frozen=True, kw_only=True):
    """One promise of the run, and whether it held."""

    check: str
    held: bool
    detail: str = ""


class Note(Event, frozen=True, kw_only=True):
    """Words for the person who watches."""

    text: str
    level: Literal["info", "warning", "error"] = "info"


class SwarmEnded(Event, frozen=True, kw_only=True):
    """Nothing follows. `held`: every check did."""

    held: bool


AnyEvent = (
    SwarmStarted
    | NetworkFounded
    | PeerUp
    | PeerDown
    | StageReached
    | DocumentRead
    | DocumentRefused
    | TaskOpened
    | TaskMoved
    | Progress
    | ReceiptSigned
    | BalanceKnown
    | LockOpened
    | Finalised
    | PhaseTimed
    | Answered
    | SellerKilled
    | TaskTakenOver
    | WalletReopened
    | SupplyChecked
    | Checked
    | Note
    | SwarmEnded
)

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[AnyEvent] = msgspec.json.Decoder(AnyEvent)


def to_line(event: AnyEvent) -> bytes:
    """One line of JSON, with its newline."""
    return _encoder.encode(event) + b"\n"


def from_line(line: bytes) -> AnyEvent:
    """Read what `to_line` wrote.

    Raises:
        Malformed: no event, or longer than LINE_SIZE_MAX.
    """
    if len(line) > LINE_SIZE_MAX:
        raise Malformed(f"an event of {len(line)} bytes, at most {LINE_SIZE_MAX} are read")
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise Malformed(f"not an event: {exc}") from exc


def printable(text: str, *, width: int | None = None) -> str:
    """`text` on one line without anything that could steer a terminal; cut to `width` characters.

    Documents and peers choose this text: escape sequences and right-to-left overrides become U+FFFD.
    """
    flat = " ".join(text.split())
    clean = "".join("\ufffd" if unicodedata.category(c) in _UNPRINTABLE else c for c in flat)
    if width is not None and len(clean) > width:
        return clean[: max(width - 1, 0)] + "…"
    return clean


_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


def amount_text(uain: int) -> str:
    """An amount for people: ``1,234 uain``."""
    return f"{uain:,} uain"
