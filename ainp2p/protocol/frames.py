"""The frames of a channel: layout, kinds, limits and the events they become. Values only, no state.

A channel is one ordered byte stream between two peers. Each frame is an 11-byte header and a payload:

    u16 payload length (at most PAYLOAD_MAX) | u8 kind | u64 call | payload          (big-endian)

    kind            from     call      payload
    1 REQUEST       caller   new id    u32 body size | u8 n | n bytes protocol id | first piece of the body
    2 STREAM        caller   new id    the same; the answer is any number of chunks
    3 ONE_WAY       caller   new id    the same; there is no answer
    4 CALL_MORE     caller   its id    next piece of the call's body, not empty
    5 ANSWER        callee   its id    u32 body size | first piece; closes a REQUEST
    6 CHUNK         callee   its id    u32 body size | first piece; one item of a STREAM
    7 REPLY_MORE    callee   its id    next piece of the answer or chunk, not empty
    8 END           callee   its id    empty; closes a STREAM
    9 REFUSE        callee   its id    u8 n | n bytes code (ASCII) | reason (UTF-8, ≤ 1,024 bytes); closes
    10 CANCEL       caller   its id    empty; closes
    11 CREDIT       caller   its id    u32: so many bytes more of this stream's chunks may be sent
    12 CHUNK_CREDIT any      0         u32: the same for the chunks of all streams together
    13 CALL_CREDIT  any      0         u32: so many bytes more of calls may be sent
    14 PING         any      token     empty
    15 PONG         any      token     empty

Each side numbers its own calls from 1; which side's number is meant follows from the kind. A body of at
most BODY_SIZE_MAX bytes whose first frame does not hold it whole goes on in MORE frames; other frames may
come between, so that a large body never blocks a small one. The u16 length makes a huge frame unsayable.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import msgspec

REQUEST: Final = 1
STREAM: Final = 2
ONE_WAY: Final = 3
CALL_MORE: Final = 4
ANSWER: Final = 5
CHUNK: Final = 6
REPLY_MORE: Final = 7
END: Final = 8
REFUSE: Final = 9
CANCEL: Final = 10
CREDIT: Final = 11
CHUNK_CREDIT: Final = 12
CALL_CREDIT: Final = 13
PING: Final = 14
PONG: Final = 15

HEADER = struct.Struct("!HBQ")
CALL_HEAD = struct.Struct("!HBQIB")  # header, body size and length of the protocol id in one go
CALL_SIZES = struct.Struct("!IB")  # the same without the header
REPLY_HEAD = struct.Struct("!HBQI")
U32 = struct.Struct("!I")

PAYLOAD_MAX: Final = 60_000  # bytes; with its header well inside one Noise message of 65,507
WRITE_SIZE_MAX: Final = 65_507  # one yamux frame = one Noise message: 65,535 - 16 (MAC) - 12 (yamux header)
REASON_SIZE_MAX: Final = 1024
CODE_SIZE_MAX: Final = 64

# What a call or chunk counts for besides its bytes, so that empty ones are not free: about what the
# receiver keeps for it (a task with its stack; a queue entry).
CALL_COST: Final = 4096
CHUNK_COST: Final = 128


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of protocol version 1: both sides use the same, and each holds the other to them."""

    open_calls: int = 256  # requests and streams in flight per direction
    bodies_at_once: int = 8  # bodies sent in pieces at the same time: reassembly holds at most 8 MiB
    call_window: int = 8 << 20  # bytes (and costs) of calls whose handlers have not finished
    chunk_window: int = 8 << 20  # bytes (and costs) of chunks that readers have not taken, all streams
    stream_window: int = 256 << 10  # the same for one stream
    queue: int = 4 << 20  # bytes waiting to be written above which new calls of ours wait
    # Bytes waiting to be written above which the peer is cut off: it asks and does not read. An honest
    # peer can cause 256 small answers, one chunk window and one call queue: below 32 MiB.
    queue_hard: int = 32 << 20


LIMITS: Final = Limits()


class Called(msgspec.Struct, frozen=True):
    """The peer calls us; `kind` is REQUEST, STREAM or ONE_WAY."""

    call: int
    kind: int
    protocol: str
    body: bytes


class Answered(msgspec.Struct, frozen=True):
    """The answer to a request of ours, which it closes."""

    call: int
    body: bytes


class Chunk(msgspec.Struct, frozen=True):
    """The next item of a stream of ours; say `taken` when its reader has it."""

    call: int
    body: bytes


class Ended(msgspec.Struct, frozen=True):
    """A stream of ours is complete."""

    call: int


class WasRefused(msgspec.Struct, frozen=True):
    """The peer said no to a request or stream of ours, which this closes."""

    call: int
    code: str
    reason: str


class Cancelled(msgspec.Struct, frozen=True):
    """The peer has lost interest in its call; stop the handler, then say `finish`."""

    call: int


Event = Called | Answered | Chunk | Ended | WasRefused | Cancelled
