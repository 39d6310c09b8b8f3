"""Bodies on a channel: the credit they need, and how they are put together. No I/O."""

from __future__ import annotations

from ainp2p.errors import InvalidInput, Malformed
from ainp2p.protocol.frames import CALL_COST, U32
from ainp2p.protocol.network import BODY_SIZE_MAX


class Grant:
    """Credit that we gave: the peer may begin a body while less than `window` is outstanding."""

    __slots__ = ("_outstanding", "_to_return", "_window")

    def __init__(self, window: int) -> None:
        self._window, self._outstanding, self._to_return = window, 0, 0

    def use(self, cost: int) -> None:
        """The peer begins a body.

        Raises:
            Malformed: it had no credit left.
        """
        self._outstanding += cost
        # The sender begins while credit is left, perhaps with a body that others overtake on the way.
        if self._outstanding > self._window + BODY_SIZE_MAX + CALL_COST:
            raise Malformed("the peer sends without credit")

    def give_back(self, cost: int) -> int:
        """The amount to announce now; 0 while it is too little to be worth a frame."""
        self._to_return += cost
        if self._to_return * 4 < self._window:
            return 0
        amount, self._to_return = self._to_return, 0
        self._outstanding -= amount
        return amount


class Parts:
    """A body that is being put together; it grows only by what has really arrived."""

    __slots__ = ("_arrived", "missing", "size")

    def __init__(self, size: int, first: bytes) -> None:
        self.size, self.missing, self._arrived = size, size - len(first), bytearray(first)

    def add(self, piece: bytes) -> bytes | None:
        """The whole body, once it is."""
        if not piece or len(piece) > self.missing:
            raise Malformed(f"a piece of {len(piece)} bytes where 1 to {self.missing} are missing")
        self._arrived += piece
        self.missing -= len(piece)
        return None if self.missing else bytes(self._arrived)


def check_call(protocol: str, size: int) -> bytes:
    """The protocol id's bytes, if a call to it with a body of `size` bytes can ever be made.

    Raises:
        InvalidInput: the protocol id is empty, too long or not ASCII, or the body is too large.
    """
    if not (1 <= len(protocol) <= 255 and protocol.isascii()):
        raise InvalidInput(f"a protocol id has 1 to 255 ASCII characters, unlike {protocol[:300]!r}")
    check_size(size)
    return protocol.encode()


def check_size(size: int) -> None:
    """Refuse to send what no peer would take; raises InvalidInput."""
    if size > BODY_SIZE_MAX:
        raise InvalidInput(f"a body of {size} bytes, at most {BODY_SIZE_MAX} are sent: split it")


def begin(size: int, first: bytes, room: bool) -> Parts:
    """Check a body's announced size against its first piece, before anything is kept; raises Malformed."""
    if size > BODY_SIZE_MAX or len(first) > size:
        raise Malformed(f"a body of {size} bytes, of which {len(first)} came at once")
    if len(first) < size and (not first or not room):
        raise Malformed("too many bodies at once, or one that does not begin")
    return Parts(size, first)


def read_amount(payload: bytes) -> int:
    """The amount of a credit frame, in bytes; raises Malformed."""
    if len(payload) != U32.size:
        raise Malformed("credit without an amount")
    amount: int = U32.unpack(payload)[0]
    return amount
