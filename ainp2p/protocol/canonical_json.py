"""Canonical JSON (RFC 8785): one byte string for each value, for skills' inputs, outputs and schemas.

`encode` writes it; `decode` accepts nothing else, so that the digest of an input names one input. What
JSON cannot say the same way everywhere (NaN, integers beyond 2**53, lone surrogates) is refused.
"""

from __future__ import annotations

import json
import math
import re
from json.encoder import encode_basestring
from typing import Any

from ainp2p.errors import InvalidInput, Malformed

SIZE_MAX = 1 << 20  # bytes
DEPTH_MAX = 32  # nested arrays and objects; a schema of nested lists needs twice its data's depth
INTEGER_MAX = 2**53 - 1  # RFC 7493 §2.2: what every reader represents exactly

# A string, or a bracket outside of one. Possessive, and the closing quote may be missing: else each quote of
# a string that never ends would be tried as a beginning, in time that grows with the square of the length.
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)


def encode(value: Any, *, size_max: int = SIZE_MAX) -> bytes:
    """The canonical bytes of None, bool, int, float, str, and of lists, tuples and dicts of them.

    Raises:
        InvalidInput: the value cannot be said in canonical JSON, or is too deep or too large.
    """
    try:
        data = _text(value, 0).encode()
    except UnicodeEncodeError as exc:
        raise InvalidInput(f"text with a lone surrogate is not Unicode: {exc.object[exc.start]!r}") from exc
    if len(data) > size_max:
        raise InvalidInput(f"{len(data)} bytes of JSON, at most {size_max} can be sent")
    return data


def decode(data: bytes, *, size_max: int = SIZE_MAX) -> Any:
    """Read canonical JSON.

    Raises:
        Malformed: it is not JSON, not canonical, or beyond a limit.
    """
    if len(data) > size_max:
        raise Malformed(f"{len(data)} bytes of JSON, at most {size_max} are read")
    if data.count(b"[") + data.count(b"{") > DEPTH_MAX:
        _check_depth(data)
    try:
        value = _decoder.decode(data.decode())
        again = encode(value, size_max=size_max)
    except (ValueError, RecursionError) as exc:  # JSONDecodeError, UnicodeDecodeError, InvalidInput
        raise Malformed(f"not canonical JSON: {exc}") from exc
    if again != data:
        raise Malformed("not canonical JSON: keys unsorted, spaces, or another spelling of a value")
    return value


def _text(value: Any, depth: int) -> str:
    if depth > DEPTH_MAX:
        raise InvalidInput(f"nested deeper than {DEPTH_MAX}")
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            if abs(value) > INTEGER_MAX:
                raise InvalidInput(f"{value} is beyond 2**53-1: send it as text")
            return str(int(value))
        case float():
            return _number(value)
        case str():
            return encode_basestring(value)
        case list() | tuple():
            return "[" + ",".join(_text(item, depth + 1) for item in value) + "]"
        case dict():
            return "{" + ",".join(_members(value, depth + 1)) + "}"
    raise InvalidInput(f"JSON has no {type(value).__name__}")


def _members(value: dict[Any, Any], depth: int) -> list[str]:
    for key in value:
        if not isinstance(key, str):
            raise InvalidInput(f"a key of a JSON object is text, not {type(key).__name__}")
    # RFC 8785 §3.2.3: sorted as arrays of UTF-16 code units
    names = sorted(value, key=_utf16) if len(value) > 1 else value
    return [f"{encode_basestring(name)}:{_text(value[name], depth)}" for name in names]


def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be")


def _number(value: float) -> str:
    """ECMAScript's Number::toString, which RFC 8785 §3.2.2.3 prescribes."""
    if not math.isfinite(value):
        raise InvalidInput(f"JSON has no {value}")
    if value == 0:
        return "0"  # also for -0
    sign = "-" if value < 0 else ""
    # Python's repr gives the shortest digits that read back as the same double, as ECMAScript wants.
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = (
        len(whole) + int(exponent or 0) - (len(whole + fraction) - len(digits))
    )  # value = 0.digits * 10**point
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    rest = "." + digits[1:] if count > 1 else ""
    return f"{sign}{digits[0]}{rest}e{point - 1:+d}"


def _check_depth(data: bytes) -> None:
    depth = 0
    for match in _BRACKETS.finditer(data):
        first = match[0][:1]
        if first in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise Malformed(f"nested deeper than {DEPTH_MAX}")
        elif first in b"]}":
            depth -= 1


def _integer(text: str) -> int | float:
    if len(text) > 25:
        raise ValueError("a number of more than 25 digits")
    value = int(text)
    return value if abs(value) <= INTEGER_MAX else float(text)  # 1e16 is canonically written without exponent


def _constant(text: str) -> Any:
    raise ValueError(f"JSON has no {text}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return members


_decoder = json.JSONDecoder(parse_int=_integer, parse_constant=_constant, object_pairs_hook=_object)
