"""Who leads a view of a slot, and which of several operations it is to decide. Pure functions.

LEDGER.md, "Deciding a slot", 4 and 5. Gates and validity are not looked at here: whoever picks passes the
operations that count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import Close, ParsedOperation, Recover, Settle, Spend
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import digest

_ROTATION, _OWNER, _GUARDIANS = range(3)
_SETTLE, _CLOSE, _REFUND = range(3)


def leader(committee: Committee, epoch: int, object_: bytes, seq: int, view: int) -> int:
    """The place in the committee of the member that proposes in this view (1 or above) of this slot.

    Lemma L11 (docs/ledger-proof.md): a correct one comes at least once in n views.
    """
    # "member (view − 1) mod n of the committee sorted by blake2b-256([epoch, object, seq, key])"
    keys = committee.keys
    order = sorted(
        range(len(keys)),
        key=lambda place: digest(b"ainp2p/lead/1", encode((epoch, object_, seq, keys[place]))),
    )
    return order[(view - 1) % len(keys)]


def rank(parsed: ParsedOperation) -> tuple[int, int]:
    """Where an operation stands in `pick`'s order; the lowest first, then the lowest id.

    Lemma L9 (docs/ledger-proof.md): the highest receipt comes first.
    """
    body = parsed.operation.body
    if isinstance(body, Spend):
        return (_OWNER if body.rotate is None else _ROTATION), 0
    if isinstance(body, Recover):
        return _GUARDIANS, 0
    # "Lock: the highest cumulative; among equals SETTLE before CLOSE; REFUND last"
    if isinstance(body, Settle | Close):
        return -body.cumulative, _SETTLE if isinstance(body, Settle) else _CLOSE
    return 0, _REFUND


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two operations that an owner signed for one slot: VOID is decided there."""

    first: ParsedOperation
    second: ParsedOperation


def pick(candidates: Iterable[ParsedOperation]) -> ParsedOperation | Conflict | None:
    """What is decided among these valid operations of one slot; None if there are none.

    Lemma L8 (docs/ledger-proof.md): a VOID takes two operations that the owner signed.
    """
    ordered = sorted({each.id: each for each in candidates}.values(), key=lambda each: (rank(each), each.id))
    if not ordered:
        return None
    # "exactly one owner's operation: that one; two that conflict: VOID"
    if len(ordered) > 1 and all(_is_owners(each) for each in ordered[:2]):
        return Conflict(ordered[0], ordered[1])
    return ordered[0]


def _is_owners(parsed: ParsedOperation) -> bool:
    """Whether the account's current key signed it (a rotation is signed by the next key)."""
    body = parsed.operation.body
    return isinstance(body, Spend) and body.rotate is None


__all__ = ["Conflict", "leader", "pick", "rank"]
