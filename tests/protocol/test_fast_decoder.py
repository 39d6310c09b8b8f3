"""H4: the quick decoder and the careful one give the same verdict on everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import msgpack
import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import Malformed
from ainp2p.protocol.codec import Bytes32, Message, Uint, decode, encode, fast_decoder


class Leaf(Message, frozen=True, tag=1):
    id: Bytes32
    amount: Uint


class Tree(Message, frozen=True, tag=2):
    leaves: Annotated[tuple[Leaf, ...], msgspec.Meta(max_length=3)]
    note: bytes
    maybe: Uint | None


class Envelope(Message, frozen=True):
    body: Leaf | Tree
    rest: tuple[bytes, ...]


careful = lambda raw: decode(raw, Envelope)  # noqa: E731  # beside the quick one it reads better so
quick = fast_decoder(Envelope)


def verdict(read: Callable[[bytes], Envelope], raw: bytes) -> Envelope | str:
    try:
        return read(raw)
    except Malformed as exc:
        return str(exc)


LEAVES = st.builds(Leaf, st.binary(min_size=31, max_size=33), st.integers(-1, 2**64 - 1))
TREES = st.builds(
    Tree, st.lists(LEAVES, max_size=4).map(tuple), st.binary(max_size=40), st.none() | st.integers(0, 2**63)
)
ENVELOPES = st.builds(Envelope, LEAVES | TREES, st.lists(st.binary(max_size=20), max_size=4).map(tuple))
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text()
    | st.floats(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=12,
)


@given(ENVELOPES)
def test_h4_on_messages_right_and_nearly_right(envelope: Envelope) -> None:
    raw = encode(envelope)
    assert verdict(quick, raw) == verdict(careful, raw)


@settings(max_examples=300)
@given(ENVELOPES, st.data())
def test_h4_on_messages_with_a_changed_missing_or_added_byte(envelope: Envelope, data: st.DataObject) -> None:
    raw = encode(envelope)
    at = data.draw(st.integers(0, len(raw)))
    new = data.draw(st.binary(max_size=2))
    cut = data.draw(st.integers(0, 2))
    raw = raw[:at] + new + raw[at + cut :]
    assert verdict(quick, raw) == verdict(careful, raw)


@given(ANYTHING)
def test_h4_on_any_messagepack(value: Any) -> None:
    raw = msgpack.packb(value)
    assert verdict(quick, raw) == verdict(careful, raw)


@given(st.binary(max_size=80))
def test_h4_on_any_bytes(raw: bytes) -> None:
    assert verdict(quick, raw) == verdict(careful, raw)


def test_a_long_message_is_read_as_well_and_a_too_long_one_is_not() -> None:
    envelope = Envelope(Leaf(bytes(32), 5), (bytes(5_000),))
    assert quick(encode(envelope)) == envelope
    many = encode(Envelope(Leaf(bytes(32), 5), (b"",) * 1_100))
    assert "elements" in str(verdict(quick, many))
    small = fast_decoder(Envelope, size_max=100)
    assert "at most 100" in str(verdict(small, encode(envelope)))


def test_h4_a_mutant_that_does_not_encode_again_is_caught() -> None:
    typed = msgspec.msgpack.Decoder(Envelope)
    raw = bytes.fromhex("92 9301c420") + bytes(32) + bytes.fromhex("cc05 90")  # 5, in two bytes
    assert typed.decode(raw).body == Leaf(bytes(32), 5)
    assert verdict(quick, raw) == verdict(careful, raw) == "not the canonical encoding"
