"""The codec: one encoding per value, and bombs refused before anything is allocated."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc
from contextlib import suppress
from typing import Annotated, Any

import msgpack
import msgspec
import msgspec.inspect
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import Malformed
from ainp2p.protocol import codec
from ainp2p.protocol.codec import (
    DEPTH_MAX,
    ELEMENTS_MAX,
    FRAME_SIZE_MAX,
    INT_MAX,
    Bytes32,
    Message,
    Positive,
    Signature,
    Text,
    Uint,
    decode,
    encode,
)


class Ping(Message, frozen=True, tag=1):
    token: Uint
    note: Text = b""


class Deal(Message, frozen=True, tag=2):
    who: Bytes32
    prices: tuple[Positive, ...]
    first: Ping | None = None
    sealed: bool = False


class Sealed(Message, frozen=True, tag=3):
    body: bytes
    signature: Signature


Known: Any = Ping | Deal | Sealed  # a union is a form and not a type, for mypy
Plain = Any

WHO = bytes(range(32))


# --- there and back -----------------------------------------------------------------------------

VECTORS = {
    "ping": (Ping(7), "930107c400"),
    "ping with a note": (Ping(300, b"hi"), "9301cd012cc4026869"),
    "largest integer": (Ping(INT_MAX), "9301cf7fffffffffffffffc400"),
    "deal": (Deal(WHO, (1, 128, 70000)), "9502c420" + WHO.hex() + "9301cc80ce00011170c0c2"),
    "deal with a message inside": (
        Deal(WHO, (), Ping(1), True),
        "9502c420" + WHO.hex() + "90" + "930101c400" + "c3",
    ),
    "sealed": (Sealed(b"x" * 300, b"s" * 64), "9303c5012c" + b"x".hex() * 300 + "c440" + b"s".hex() * 64),
}


@pytest.mark.parametrize(("message", "expected"), VECTORS.values(), ids=VECTORS.keys())
def test_the_bytes_of_a_message_are_pinned(message: Message, expected: str) -> None:
    assert encode(message).hex() == expected
    assert decode(bytes.fromhex(expected), Known) == message


def test_a_message_of_another_kind_is_malformed() -> None:
    with pytest.raises(Malformed):
        decode(encode(Ping(1)), Deal)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=300)
    | st.sampled_from(
        [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, -32, -33, -128, -129, -32768, -32769]
    ),
    lambda inner: st.lists(inner, max_size=20),
    max_leaves=60,
)


@given(values)
def test_our_encoding_is_that_of_msgpack(value: Plain) -> None:
    """A differential: two independent encoders agree on the shortest form that the standard names."""
    assert encode(value) == msgpack.packb(value, use_bin_type=True)


def shallow(value: Plain, depth: int = 1) -> bool:
    return not isinstance(value, list) or (depth <= DEPTH_MAX and all(shallow(v, depth + 1) for v in value))


@given(values)
def test_what_we_encode_we_decode(value: Plain) -> None:
    data = encode(value)
    if shallow(value) and len(data) <= FRAME_SIZE_MAX:
        assert decode(data, Any) == value
    else:
        with pytest.raises(Malformed):
            decode(data, Any)


@given(st.binary(max_size=80))
def test_random_bytes_are_malformed_or_canonical(data: bytes) -> None:
    try:
        value = decode(data, Any)
    except Malformed:
        return
    assert encode(value) == data


@given(st.sampled_from([encode(message) for message, _ in VECTORS.values()]), st.data())
def test_a_changed_byte_is_malformed_or_another_message(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    changed = data[:at] + bytes([data[at] ^ draw.draw(st.integers(1, 255))]) + data[at + 1 :]
    original = decode(data, Known)
    with suppress(Malformed):
        assert decode(changed, Known) != original


# --- one encoding per value ---------------------------------------------------------------------

SECOND_SPELLINGS = {
    "integer in too many bytes": "9301cc07c400",
    "integer in 8 bytes": "9301cf0000000000000007c400",
    "signed form of a positive integer": "9301d007c400",
    "binary with a 2-byte length": "930107c50000",
    "binary with a 4-byte length": "930107c600000000",
    "array with a 2-byte count": "dc00030107c400",
    "array with a 4-byte count": "dd000000030107c400",
    "optional field left out": "920107",
    "trailing bytes": "930107c40000",
    "second message behind": "930107c400930107c400",
}


@pytest.mark.parametrize("data", SECOND_SPELLINGS.values(), ids=SECOND_SPELLINGS.keys())
def test_a_second_spelling_is_malformed(data: str) -> None:
    with pytest.raises(Malformed):
        decode(bytes.fromhex(data), Ping)


def test_mutant_a_decoder_that_does_not_encode_again_accepts_second_spellings(monkeypatch: Any) -> None:
    class Echo:
        @staticmethod
        def encode(value: object) -> object:
            class Same:
                def __ne__(self, other: object) -> bool:
                    return False

            return Same()

    monkeypatch.setattr(codec, "_encoder", Echo)
    for name in ("integer in too many bytes", "binary with a 2-byte length", "array with a 2-byte count"):
        with pytest.raises(pytest.fail.Exception):
            test_a_second_spelling_is_malformed(SECOND_SPELLINGS[name])


FORBIDDEN = {
    "string": b"\xa1a",
    "string 8": b"\xd9\x01a",
    "map": b"\x80",
    "map 16": b"\xde\x00\x00",
    "map with an integer key": b"\x81\x01\x01",
    "float 32": b"\xca\x3f\x80\x00\x00",
    "float 64": b"\xcb\x3f\xf0" + bytes(6),
    "not a number": b"\xcb\x7f\xf8" + bytes(6),
    "fixed extension": b"\xd4\x40a",
    "timestamp": b"\xd6\xff\x00\x00\x00\x01",
    "extension 8": b"\xc7\x01\x05a",
    "reserved byte": b"\xc1",
    "nothing": b"",
}


@pytest.mark.parametrize("value", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_kinds_that_messages_do_not_use_are_malformed(value: bytes) -> None:
    for data in (value, b"\x91" + value, b"\x93\x01\x07" + value):
        with pytest.raises(Malformed):
            decode(data, Any)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param([1, -1, b""], id="negative where none may be"),
        pytest.param([1, 2**63, b""], id="beyond 63 bits"),
        pytest.param([1, b"7", b""], id="bytes for an integer"),
        pytest.param([1, True, b""], id="true for an integer"),
        pytest.param([1, None, b""], id="nothing for an integer"),
        pytest.param([1, 7, b"x" * 4097], id="text too long"),
        pytest.param([1, 7, b"", 0], id="a field too many"),
        pytest.param([99, 7, b""], id="unknown tag"),
        pytest.param([7, b""], id="no tag"),
        pytest.param([2, WHO[:31], [], None, False], id="31 bytes for 32"),
        pytest.param([2, WHO, [0], None, False], id="zero where positive"),
        pytest.param([2, WHO, [1], None, 0], id="zero for false"),
        pytest.param([3, b"", b"s" * 63], id="63 bytes of signature"),
        pytest.param(7, id="an integer"),
        pytest.param([], id="nothing inside"),
    ],
)
def test_a_value_out_of_its_range_is_malformed(message: Plain) -> None:
    with pytest.raises(Malformed):
        decode(encode(message), Known)


# --- E2: bombs ----------------------------------------------------------------------------------


def array32(count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count)


FULL = FRAME_SIZE_MAX - 5
BOMBS = {
    "array of 4 billion": array32(2**32 - 1),
    "array of 4 billion, some there": array32(2**32 - 1) + b"\xc0" * FULL,
    "binary of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "binary of 4 GiB inside": b"\x92\x01\xc6\xff\xff\xff\xff" + bytes(100),
    "binary longer than the rest": b"\xc5\xff\xff" + bytes(100),
    "64 KiB of nil": array32(FULL) + b"\xc0" * FULL,
    "64 KiB of empty arrays": array32(FULL) + b"\x90" * FULL,
    "64 KiB of empty binaries": array32(FULL // 2) + b"\xc4\x00" * (FULL // 2),
    "64 KiB of arrays in arrays": array32(FULL // 2) + b"\x91\x90" * (FULL // 2),
    "64 KiB of depth": b"\x91" * (FRAME_SIZE_MAX - 1) + b"\xc0",
    "one too deep": b"\x91" * (DEPTH_MAX + 1) + b"\xc0",
    "one element too many": b"\xdc" + struct.pack(">H", ELEMENTS_MAX) + b"\x01" * ELEMENTS_MAX,
    "arrays that double": b"\x92" * 15 + b"\x01" * FULL,
    "headers that never end": b"\x93" * FRAME_SIZE_MAX,
    "one byte too large": b"\xc5\xff\xfe" + bytes(FRAME_SIZE_MAX - 2),
    "1 MiB of empty arrays": array32(1 << 20) + b"\x90" * (1 << 20),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_e2_a_bomb_is_malformed_and_allocates_next_to_nothing(bomb: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            decode(bomb, Any)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200_000  # three times the message, of which a traceback and an error are most


def test_the_limits_themselves_are_allowed() -> None:
    deep = b"\x91" * DEPTH_MAX + b"\xc0"
    assert encode(decode(deep, Any)) == deep
    wide = [1] * (ELEMENTS_MAX - 1)
    assert decode(encode(wide), list) == wide
    large = bytes(FRAME_SIZE_MAX - 3)
    assert decode(encode(large), bytes) == large
    beyond = bytes(FRAME_SIZE_MAX)
    assert decode(encode(beyond), bytes, size_max=2 * FRAME_SIZE_MAX) == beyond


def test_e2_mutant_without_the_walk_over_headers_bombs_get_through(monkeypatch: Any) -> None:
    monkeypatch.setattr(codec, "_check_headers", lambda data: None)
    for name in ("one too deep", "one element too many"):
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            test_e2_a_bomb_is_malformed_and_allocates_next_to_nothing(BOMBS[name])


def test_e2_bombs_inside_valid_messages_are_malformed() -> None:
    rng = random.Random(1)
    pieces = [b"\xc0", b"\x90", b"\x91", b"\x92", b"\xdc\xff\xff", array32(2**31), b"\xc4\x01x", b"\x01"]
    pieces += [b"\xc6\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8, b"\x80", b"\xa0", b"\xc1"]
    for _ in range(2000):
        inside = b"".join(rng.choices(pieces, k=rng.randrange(1, 60)))
        for frame in (b"\x93\x01\x07" + inside, b"\x95\x02\xc4\x20" + WHO + inside):
            try:
                message = decode(frame, Known)
            except Malformed:
                continue
            assert encode(message) == frame


# --- the quick way ------------------------------------------------------------------------------


class Many(Message, frozen=True, tag=4):
    parts: Annotated[tuple[Ping, ...], msgspec.Meta(max_length=300)]


class Endless(Message, frozen=True, tag=5):
    parts: tuple[bytes, ...]


FORMS: Any = Known | Many | Endless
LARGE = st.lists(st.builds(Ping, st.integers(0, INT_MAX), st.binary(max_size=100)), min_size=1, max_size=400)


def verdict(read: Any, data: bytes) -> Any:
    try:
        return read(data)
    except Malformed:
        return Malformed


@given(st.sampled_from([Many, FORMS]), LARGE, st.data())
def test_a_large_message_is_judged_alike_on_both_ways(
    form: Any, parts: list[Ping], draw: st.DataObject
) -> None:
    data = encode(Many(tuple(parts)))
    at = draw.draw(st.integers(0, len(data) - 1))
    for bytes_ in (data, data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :], data[:at]):
        plainly = verdict(lambda bytes_: codec._decode_plainly(bytes_, form, FRAME_SIZE_MAX), bytes_)
        assert verdict(lambda bytes_: decode(bytes_, form), bytes_) == plainly


@pytest.mark.parametrize(
    ("form", "most"),
    [
        (Ping, 4),
        (Sealed, 4),
        (Known, None),  # `Deal` has prices without end
        (Many, 2 + 1 + 300 * 4),
        (Endless, None),
        (Any, None),
    ],
)
def test_the_most_elements_of_a_form_are_known(form: Any, most: int | None) -> None:
    found = codec._elements_max(msgspec.inspect.type_info(form))
    assert found == most or (most is None and found in (None, math.inf))


@pytest.mark.parametrize("form", [Many, Endless], ids=["bounded beyond", "unbounded"])
def test_more_elements_than_are_read_are_refused_whatever_the_form_allows(form: Any) -> None:
    part: Any = Ping(1) if form is Many else b""
    data = encode(form((part,) * (ELEMENTS_MAX // 4 if form is Many else ELEMENTS_MAX)))
    with pytest.raises(Malformed, match="elements"):
        decode(data, form)


def test_mutant_a_quick_way_for_any_form_reads_too_many_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = msgspec.msgpack.Decoder(Endless).decode
    monkeypatch.setattr(codec, "_typed", lambda form: (decoder, INT_MAX))
    data = encode(Endless((b"",) * ELEMENTS_MAX))
    assert decode(data, Endless) == Endless((b"",) * ELEMENTS_MAX)  # so the test above would fail
