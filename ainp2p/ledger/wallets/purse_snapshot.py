"""A Purse as rows, so that a wallet starts from where it was and not from its first operation. No I/O.

    Purse ──rows_of──► rows on disk ──restore──► Purse, then the operations that came after the snapshot

Credits, Locks and the account are as they were learnt, with certificates, when the snapshot was made; a start
asks validators for what is newer in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

import msgspec

from ainp2p.errors import Malformed
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.serving.messages import RawCertificate
from ainp2p.ledger.wallets.purse import Purse
from ainp2p.protocol.codec import Message, Uint, decode, encode, fast_decoder

ACCOUNT, CREDIT, LOCK, TIMES = range(4)
Row = tuple[int, bytes, bytes]  # kind, id, state
_Flag = Annotated[int, msgspec.Meta(ge=0, le=1)]


class Known(Message, frozen=True):
    """A Lock as the wallet knows it."""

    lock: Lock
    opened_ms: Uint
    certificate: RawCertificate


class Times(Message, frozen=True):
    """Up to `horizon` − 1 what was applied may be forgotten; `newest` is the latest that was applied."""

    horizon: Uint
    newest: Uint
    is_whole: _Flag


_read_known = fast_decoder(Known)


def rows_of(purse: Purse, certificates: Mapping[bytes, bytes]) -> list[Row]:
    """Everything that a purse knows.

    Args:
        certificates: Lock → of its newest operation.
    """
    rows = [(ACCOUNT, purse.id, encode(purse.account))]
    rows += [(CREDIT, id_, encode(amount)) for id_, amount in purse.credits.items()]
    for lock in purse.locks.values():
        known = Known(lock, purse.opened_ms.get(lock.id, 0), certificates.get(lock.id, b""))
        rows.append((LOCK, lock.id, encode(known)))
    times = Times(purse.horizon_ms + 1, purse.newest_ms, int(purse.is_whole))
    return [*rows, (TIMES, b"", encode(times))]


def restore(purse: Purse, rows: Iterable[Row], applied: Iterable[bytes]) -> list[tuple[Lock, bytes]]:
    """Fill a fresh purse; returns its Locks with their certificates.

    Args:
        applied: ids of the operations in the snapshot, the newest last; as many as one likes.

    Raises:
        Malformed: these are no such rows.
    """
    purse.credits.clear()
    found: list[tuple[Lock, bytes]] = []
    times: Times | None = None
    for kind, id_, state in rows:
        if kind == ACCOUNT:
            purse.account = decode(state, Account)
        elif kind == CREDIT:
            purse.credits[id_] = decode(state, int)
        elif kind == LOCK:
            known = _read_known(state)
            purse.take_known(known.lock, known.opened_ms)
            found.append((known.lock, known.certificate))
        else:
            times = decode(state, Times)
    if times is None:
        raise Malformed("a snapshot without its times")
    # Which credits were consumed is not in the rows. Their makers were applied before: they are no news.
    purse.horizon_ms = max(times.horizon - 1, times.newest)
    purse.newest_ms, purse.is_whole = times.newest, bool(times.is_whole)
    for operation in applied:
        purse.remember(operation, times.newest)
    return found


__all__ = ["Row", "restore", "rows_of"]
