"""What a model's process and its parent say to each other, and the frames on the pipes between them.

A frame is four bytes of length (big endian) and one MessagePack array whose first element is the
message's tag. Both ends are ours and on one machine: text and floating-point numbers are fine here,
unlike on the network. No I/O.
"""

from __future__ import annotations

import struct

import msgspec

from ainp2p.errors import Malformed

FRAME_SIZE_MAX = 16 << 20  # bytes; 1,000 texts of 4 KiB to embed are 4 MiB
_LENGTH = struct.Struct(">I")

Chat = list[tuple[str, str]]  # (role, content); the role "" is raw text


class Piped(msgspec.Struct, frozen=True, array_like=True):
    """Base of all messages; `id` names the request, chosen by the parent."""


# --- parent to worker ---------------------------------------------------------------------------


class Generate(Piped, frozen=True, tag="generate"):
    """Answer token by token."""

    id: int
    prompt: Chat
    max_tokens: int
    temperature: float = 0.0
    seed: bytes = b""
    prefix: tuple[int, ...] = ()


class Choose(Piped, frozen=True, tag="choose"):
    """Which label follows the prompt?"""

    id: int
    prompt: Chat
    labels: tuple[str, ...]


class Embed(Piped, frozen=True, tag="embed"):
    """Vectors, please."""

    id: int
    texts: tuple[str, ...]


class Count(Piped, frozen=True, tag="count"):
    """How many ids has the prompt?"""

    id: int
    prompt: Chat


class Cancel(Piped, frozen=True, tag="cancel"):
    """The caller has left; nothing more about this request need be sent."""

    id: int


class Ping(Piped, frozen=True, tag="ping"):
    """Is the process there? Answered while it computes."""

    number: int


# --- worker to parent ---------------------------------------------------------------------------


class Ready(Piped, frozen=True, tag="ready"):
    """Loaded, and willing to work from now on."""

    name: str
    hash: bytes
    parameters: int
    kind: str
    context: int
    device: str
    dtype: str
    tokens_max: int  # the memory budget, in ids of cache


class Unusable(Piped, frozen=True, tag="unusable"):
    """This model cannot be loaded; the process ends."""

    reason: str


class Admitted(Piped, frozen=True, tag="admitted"):
    """The request passed its checks; its prompt has `n_in` ids."""

    id: int
    n_in: int


class Working(Piped, frozen=True, tag="working"):
    """A long prompt is being read: there is no token yet, and the process does not hang."""

    id: int


class Made(Piped, frozen=True, tag="made"):
    """One token of an answer."""

    id: int
    token: int
    text: str
    logprob: float | None


class Ended(Piped, frozen=True, tag="ended"):
    """The answer is complete: "stop" or "length"."""

    id: int
    finish: str


class Chosen(Piped, frozen=True, tag="chosen"):
    """Log-probabilities in the order of the labels."""

    id: int
    logprobs: tuple[float, ...]
    n_in: int


class Embedded(Piped, frozen=True, tag="embedded"):
    """One vector per text."""

    id: int
    vectors: tuple[tuple[float, ...], ...]
    n_in: int


class Counted(Piped, frozen=True, tag="counted"):
    """Ids of the prompt."""

    id: int
    n_in: int


class Refusal(Piped, frozen=True, tag="refusal"):
    """This request will not be done; the others go on."""

    id: int
    reason: str


class Pong(Piped, frozen=True, tag="pong"):
    """The process is there."""

    number: int


Request = Generate | Choose | Embed | Count
ToWorker = Request | Cancel | Ping
Event = Admitted | Working | Made | Ended | Chosen | Embedded | Counted | Refusal
FromWorker = Event | Ready | Unusable | Pong

_encoder = msgspec.msgpack.Encoder()
to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def frame(message: Piped) -> bytes:
    """A message as it goes into the pipe.

    Raises:
        Malformed: larger than FRAME_SIZE_MAX.
    """
    body = _encoder.encode(message)
    if len(body) > FRAME_SIZE_MAX:
        raise Malformed(f"message of {len(body)} bytes for the model; at most {FRAME_SIZE_MAX} fit")
    return _LENGTH.pack(len(body)) + body


class Unframer:
    """Bytes in, as they come from the pipe; whole bodies out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what was read."""
        self._buffer += data

    def next_body(self) -> bytes | None:
        """The oldest whole body, or None until more is fed.

        Raises:
            Malformed: the next header announces more than FRAME_SIZE_MAX bytes: this is no frame.
        """
        if len(self._buffer) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack_from(self._buffer)
        if size > FRAME_SIZE_MAX:
            raise Malformed(f"a frame of {size} bytes from the pipe; at most {FRAME_SIZE_MAX} are read")
        end = _LENGTH.size + size
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return body
