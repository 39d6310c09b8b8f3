"""Since when a validator has been in contact with a quorum: gate G of LEDGER.md. No I/O.

An outage must not use up anybody's expiry or lease, so a gated operation waits until contact has lasted.
"""

from __future__ import annotations

from ainp2p.ledger.rules.committee import Committee

GAP_MS = 60_000  # "gaps under 60 s do not reset"


class Contact:
    """When each member was last heard of, and since when that makes a quorum, ourselves included.

    Lemma L13 (docs/ledger-proof.md): a gap of a minute ends contact.

    A member is heard of by a new batch of its own log, at the earlier of its timestamp and our clock: a
    log that is only caught up with later is no contact.
    """

    def __init__(self, committee: Committee, ourselves: int) -> None:
        self._committee = committee
        self._ourselves = {ourselves} if ourselves >= 0 else set[int]()  # -1: we follow, and are no member
        self._last: dict[int, int] = {}
        self._since: int | None = None

    def heard(self, member: int, timestamp: int, now: int) -> None:
        """A new batch of this member's log has arrived, made at `timestamp`."""
        self._expire(now)  # first: whether contact was lost meanwhile does not depend on who ends the gap
        self._last[member] = max(self._last.get(member, 0), min(timestamp, now))
        if self._since is None and self._has_quorum(now):
            self._since = now

    def since(self, now: int) -> int | None:
        """Since when there has been contact with a quorum, or None: there is none now."""
        self._expire(now)
        if self._since is None and self._has_quorum(now):
            self._since = now  # a committee of one is always in contact
        return self._since

    def clock_put_back(self, now: int) -> None:
        """What was heard in a time that has not come yet was heard now, and contact lasts since now."""
        self._last = {member: min(last, now) for member, last in self._last.items()}
        self._since = None if self._since is None else min(self._since, now)

    def _expire(self, now: int) -> None:
        if not self._has_quorum(now):
            self._since = None

    def _has_quorum(self, now: int) -> bool:
        alive = {member for member, last in self._last.items() if now - last < GAP_MS}
        return self._committee.weight_of(alive | self._ourselves) >= self._committee.quorum
