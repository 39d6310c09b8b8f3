"""Amounts: integers of the smallest unit, with checked arithmetic. Never floats.

1 AIN = 10^6 uain. An amount is 0 … 2^63 − 1; whatever leaves that range is refused, not wrapped.
"""

from __future__ import annotations

from collections.abc import Iterable

from ainp2p.errors import InvalidInput, InvalidOperation
from ainp2p.protocol.codec import INT_MAX

UAIN_PER_AIN = 1_000_000
AMOUNT_MAX = INT_MAX
_DECIMALS = 6


def checked_sum(amounts: Iterable[int]) -> int:
    """The sum of amounts.

    Raises:
        InvalidOperation: rule ``"overflow"``, above 2^63 − 1.
    """
    total = sum(amounts)
    if total > AMOUNT_MAX:
        raise InvalidOperation("overflow", f"{total} uain is above 2^63 - 1")
    return total


def share(total: int, parts: int, parts_sum: int) -> int:
    """⌊total · parts / parts_sum⌋: what a beneficiary has received of `total` in all."""
    return total * parts // parts_sum


def ain_text(amount: int) -> str:
    """An amount for people: ``1.5 AIN``, ``0.000001 AIN``, ``-3 AIN``."""
    sign = "-" if amount < 0 else ""
    whole, rest = divmod(abs(amount), UAIN_PER_AIN)
    fraction = f".{rest:0{_DECIMALS}d}".rstrip("0") if rest else ""
    return f"{sign}{whole}{fraction} AIN"


def amount_from_text(text: str) -> int:
    """uain from ``"250"`` (uain), ``"250uain"`` or ``"1.5ain"``; case and spaces do not matter.

    Raises:
        InvalidInput: no amount, a fraction of a uain, or out of range.
    """
    word = text.strip().lower().replace(" ", "").replace("_", "")
    unit = 1
    if word.endswith("uain"):
        word = word.removesuffix("uain")
    elif word.endswith("ain"):
        word, unit = word.removesuffix("ain"), UAIN_PER_AIN
    whole, point, fraction = word.partition(".")
    digits = _DECIMALS if unit == UAIN_PER_AIN else 0
    well_formed = _is_digits(whole) and (not point or (_is_digits(fraction) and len(fraction) <= digits))
    if not well_formed:
        raise InvalidInput(f"{text!r} is no amount: write 250 (uain), 250uain or 1.5ain")
    amount = int(whole) * unit + (int(fraction.ljust(_DECIMALS, "0")) if point else 0)
    if amount > AMOUNT_MAX:
        raise InvalidInput(f"{text!r} is above 2^63 - 1 uain")
    return amount


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
