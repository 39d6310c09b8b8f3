"""Canonical JSON: the RFC's own vectors, and what is refused."""

from __future__ import annotations

import json
import math
import re
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput, Malformed
from ainp2p.protocol import canonical_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

# RFC 8785, appendix B: IEEE 754 bits and the number's only spelling
NUMBERS = [
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
]


@pytest.mark.parametrize(("bits", "text"), NUMBERS, ids=[text for _, text in NUMBERS])
def test_a_number_is_written_as_the_rfc_says(bits: str, text: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical_json.encode(value) == text.encode()
    assert canonical_json.decode(text.encode()) == value


def test_the_rfcs_example_of_keys_is_sorted_by_utf16() -> None:
    # RFC 8785 §3.2.3
    value = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    keys = list(json.loads(canonical_json.encode(value)))
    assert keys == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_the_rfcs_example_of_text_is_escaped_as_little_as_possible() -> None:
    # RFC 8785 §3.2.2.2
    value = "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/"
    assert canonical_json.encode(value) == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()


@given(JSON)
def test_what_is_written_reads_back_the_same(value: object) -> None:
    data = canonical_json.encode(value)
    assert canonical_json.encode(canonical_json.decode(data)) == data
    assert canonical_json.decode(data) == value


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(math.nan, id="not a number"),
        pytest.param(math.inf, id="infinity"),
        pytest.param(-math.inf, id="minus infinity"),
        pytest.param(2**53, id="an integer that doubles cannot tell from its neighbour"),
        pytest.param("\ud800", id="a lone surrogate"),
        pytest.param({"\udfff": 1}, id="a lone surrogate in a key"),
        pytest.param({1: "one"}, id="a key that is no text"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param({1, 2}, id="a set"),
        pytest.param("x" * canonical_json.SIZE_MAX, id="too large"),
    ],
)
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        canonical_json.encode(value)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_depth_is_bounded_in_both_directions() -> None:
    deep: list[object] = []
    for _ in range(canonical_json.DEPTH_MAX + 1):
        deep = [deep]
    with pytest.raises(InvalidInput):
        canonical_json.encode(deep)
    canonical_json.decode(nested(canonical_json.DEPTH_MAX))
    with pytest.raises(Malformed):
        canonical_json.decode(nested(canonical_json.DEPTH_MAX + 1))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b'{"a":1,"a":1}', id="a key twice"),
        pytest.param(b'{"b":1,"a":1}', id="keys unsorted"),
        pytest.param(b'{"a": 1}', id="a space"),
        pytest.param(b"[1]\n", id="a newline after it"),
        pytest.param(b"NaN", id="not a number"),
        pytest.param(b"[Infinity]", id="infinity"),
        pytest.param(b"-Infinity", id="minus infinity"),
        pytest.param(b"1.0", id="a fraction that is none"),
        pytest.param(b"-0", id="minus zero"),
        pytest.param(b"1E5", id="an exponent that is not needed"),
        pytest.param(b"1e400", id="a number beyond doubles"),
        pytest.param(b"9007199254740993", id="an integer that no double holds"),
        pytest.param(b"1" * 5000, id="an integer of 5000 digits"),
        pytest.param(b'"\\u0041"', id="an escape that is not needed"),
        pytest.param(b'"\\/"', id="an escaped slash"),
        pytest.param(b'"\\ud800"', id="a lone surrogate"),
        pytest.param(b'"\xff"', id="not UTF-8"),
        pytest.param(b"\xef\xbb\xbf1", id="a byte order mark"),
        pytest.param(b"[" * 100_000, id="a bomb of arrays"),
        pytest.param(b'{"a":' * 100_000, id="a bomb of objects"),
        pytest.param(b'"' + b"x" * canonical_json.SIZE_MAX + b'"', id="too large"),
    ],
)
def test_e2_what_is_not_canonical_json_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        canonical_json.decode(data)


def test_brackets_inside_text_are_not_counted_as_depth() -> None:
    text = canonical_json.encode('\\"' + "[{" * 100)
    assert canonical_json.decode(text) == '\\"' + "[{" * 100


@given(st.binary(max_size=200))
def test_e2_random_bytes_are_refused_or_canonical(data: bytes) -> None:
    try:
        value = canonical_json.decode(data)
    except Malformed:
        return
    assert canonical_json.encode(value) == data


def cpu_seconds_for_a_string_without_end() -> float:
    """A string of escaped quotes that never ends: each of them looks like a beginning."""
    began = time.process_time()
    with pytest.raises(Malformed):
        canonical_json.decode(b"[]" * 40 + b'"a\\' * 6_000)  # so many brackets that they are counted
    return time.process_time() - began


def test_e2_a_string_without_end_takes_time_in_proportion_to_its_length() -> None:
    assert cpu_seconds_for_a_string_without_end() < 0.1  # less than a millisecond


def test_e2_mutant_a_pattern_that_tries_each_quote_takes_a_thousand_times_as_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pattern = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
    monkeypatch.setattr(canonical_json, "_BRACKETS", pattern)
    assert cpu_seconds_for_a_string_without_end() > 0.1
