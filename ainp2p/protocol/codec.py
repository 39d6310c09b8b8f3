"""Canonical MessagePack ↔ frozen, typed messages, with limits that hold before anything is allocated.

A message class derives from `Message`; it travels as an array, its integer tag first. There is one
encoding of each value: `decode` encodes again what it read and compares, so that two different byte
strings can never mean the same message. Verify signatures over the bytes as received.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import msgpack
import msgspec

from ainp2p.errors import Malformed

FRAME_SIZE_MAX = 64 * 1024  # bytes; one libp2p Noise message carries 65,507
ELEMENTS_MAX = 1024  # headers in one message: 1 MiB of empty arrays would otherwise become 73 MiB
DEPTH_MAX = 16  # nested arrays; ours need 6
INT_MAX = 2**63 - 1

Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]
Uint = Annotated[int, msgspec.Meta(ge=0, le=INT_MAX)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=INT_MAX)]
Text = Annotated[bytes, msgspec.Meta(max_length=4096)]  # names and reasons: UTF-8 by custom, bytes by law

T = TypeVar("T")
_encoder = msgspec.msgpack.Encoder()


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of everything that travels or is signed. Subclasses give `tag=<int>`; new fields go at the end.

    Frozen and made from the inside out, messages cannot form a cycle: the garbage collector passes them over.
    """


def encode(message: object) -> bytes:
    """The one canonical encoding of a message, or of a list of plain values."""
    return _encoder.encode(message)


def decode(data: bytes, type_: type[T], *, size_max: int = FRAME_SIZE_MAX) -> T:
    """Read one message of `type_` (a Message class or a union of them).

    Raises:
        Malformed: not canonical MessagePack of that shape, or beyond a limit.
    """
    if len(data) > size_max:
        raise Malformed(f"message of {len(data)} bytes, at most {size_max} are read")
    typed, quick_max = _typed(type_)  # type: ignore[arg-type]  # every type can be hashed
    if len(data) <= quick_max:
        try:
            value: T = typed(data)
        except (msgspec.MsgspecError, ValueError):
            pass  # what is wrong with it is said below, in words that do not depend on the way
        else:
            if _encoder.encode(value) == data:
                return value
    return _decode_plainly(data, type_, size_max)


def _decode_plainly(data: bytes, type_: type[T], size_max: int) -> T:
    """Headers, then plain values, then the type: for whatever the quick way does not accept outright."""
    _check_headers(data)
    try:
        plain = msgpack.unpackb(
            data,
            use_list=True,
            raw=False,
            strict_map_key=True,
            max_array_len=ELEMENTS_MAX,
            max_map_len=0,
            max_bin_len=size_max,
            max_str_len=0,
            max_ext_len=0,
        )
        value = msgspec.convert(plain, type_, strict=True)
    except (msgspec.MsgspecError, msgpack.UnpackException, ValueError) as exc:
        raise Malformed(f"not a {getattr(type_, '__name__', 'known message')}: {exc}") from exc
    if _encoder.encode(value) != data:
        raise Malformed("not the canonical encoding")
    return value


def fast_decoder(type_: type[T], *, size_max: int = FRAME_SIZE_MAX) -> Callable[[bytes], T]:
    """`decode` for one type in which every field says its shape (no `Any`), ready made: the same verdict."""
    typed, short = msgspec.msgpack.Decoder(type_).decode, min(ELEMENTS_MAX, size_max)

    def decode_fast(data: bytes) -> T:
        if len(data) <= short:
            try:
                value = typed(data)
            except (msgspec.MsgspecError, ValueError):
                return decode(data, type_, size_max=size_max)
            if _encoder.encode(value) == data:
                return value
        return decode(data, type_, size_max=size_max)

    return decode_fast


@functools.cache
def _typed(type_: Any) -> tuple[Callable[[bytes], Any], int]:
    """A decoder that makes the type at once, and up to how many bytes of input its word is enough.

    It is bounded by the type where every field says its shape: msgspec compares an array's length with the
    field's before it makes the first element. A type that cannot have more than ELEMENTS_MAX elements may be
    of any size; in a message of at most ELEMENTS_MAX bytes there cannot be more of them, whatever the type.
    """
    import msgspec.inspect  # here: whoever reads no message need not wait for it

    elements = _elements_max(msgspec.inspect.type_info(type_))
    decoder = msgspec.msgpack.Decoder(type_).decode
    if elements is None:
        return decoder, -1
    return decoder, INT_MAX if elements <= ELEMENTS_MAX else ELEMENTS_MAX


def _elements_max(info: Any) -> float | None:
    """How many elements a message of this type has at most; None if a field may be of any shape."""
    from msgspec import inspect as i

    if isinstance(info, i.IntType | i.BoolType | i.NoneType | i.BytesType):
        return 1
    if isinstance(info, i.UnionType):
        return _over(max, [_elements_max(each) for each in info.types])
    if isinstance(info, i.StructType) and info.array_like:
        fields = [_elements_max(each.type) for each in info.fields]
        return _over(sum, [1 if info.tag is None else 2, *fields])
    if isinstance(info, i.VarTupleType | i.ListType):
        item = _elements_max(info.item_type)
        length = math.inf if info.max_length is None else info.max_length
        return None if item is None else 1 + length * item
    if isinstance(info, i.TupleType):
        return _over(sum, [1, *map(_elements_max, info.item_types)])
    return None


def _over(combine: Callable[[list[float]], float], parts: list[float | None]) -> float | None:
    known = [part for part in parts if part is not None]
    return combine(known) if len(known) == len(parts) else None


# First byte of a MessagePack value → (bytes of header, bytes of payload length field). Everything that
# the wire form does not use (maps, strings, floats, extensions) is absent, and so refused.
_BIN = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_INT = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}


def _check_headers(data: bytes) -> None:
    """Walk the headers only: refuse depth, element count and kinds before unpacking allocates anything."""
    at, end, elements = 0, len(data), 0
    open_arrays: list[int] = []  # how many elements each open array still wants
    while at < end:
        elements += 1
        if elements > ELEMENTS_MAX:
            raise Malformed(f"more than {ELEMENTS_MAX} elements")
        first = data[at]
        if first < 0x80 or first >= 0xE0 or (0xC0 <= first <= 0xC3 and first != 0xC1):
            at += 1
        elif first in _BIN:
            width = _BIN[first]
            at += 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "big")
        elif first in _INT:
            at += 1 + _INT[first]
        elif 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
            width = 0 if first < 0xA0 else 2 if first == 0xDC else 4
            count = first & 0x0F if width == 0 else int.from_bytes(data[at + 1 : at + 1 + width], "big")
            at += 1 + width
            if count:
                if len(open_arrays) >= DEPTH_MAX:
                    raise Malformed(f"nested deeper than {DEPTH_MAX}")
                open_arrays.append(count)
                continue
        else:
            raise Malformed(f"byte 0x{first:02x} starts nothing that messages use")
        while open_arrays:
            open_arrays[-1] -= 1
            if open_arrays[-1]:
                break
            open_arrays.pop()
