"""What time an account's next operation says, when our own clock and the committee's differ. No I/O.

LEDGER.md, "Deciding a slot": an operation is LOCKed only once its timestamp is at most a minute ahead, and
the next slot waits for it. A second operation may never be signed in its place, so one that was signed with
a clock a day ahead keeps the account shut for a day, however soon the clock is put right. Therefore:

    our clock agrees with what validators said ──► our time
    it does not (any more)                     ──► ask them again; nothing is signed before somebody has told
    they have told, and it still does not      ──► their time: the median, of a quorum;
                                                   of fewer only if it is the earlier one

Less than a third lie, so a quorum's median is between two times that correct validators said; fewer may all
lie, but no operation is too old to be decided. Readings go on by the monotonic clock, which nobody sets;
where it stood still (a machine that slept) they are too early, which again is no harm.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from ainp2p.ledger.serving.sync import Validators
from ainp2p.protocol.network import PeerId


class CommitteeClock:
    """The validators' clocks as one wallet has heard them."""

    def __init__(
        self, validators: Validators, now_ms: Callable[[], int], ahead_max_ms: Callable[[], int]
    ) -> None:
        """Know nothing yet.

        Args:
            now_ms: our own clock.
            ahead_max_ms: how far ahead of a validator's clock an operation is still LOCKed.
        """
        self._validators, self._now_ms, self._ahead_max_ms = validators, now_ms, ahead_max_ms
        self._offsets: dict[PeerId, int] = {}  # its clock less the monotonic one, in ms
        self._known_off_ms = 0  # how far ours is off, as the committee has said when it was asked about it

    def note(self, peer: PeerId, now_ms: int) -> None:
        """A validator says what time it is; 0: it does not."""
        if now_ms:
            self._offsets[peer] = now_ms - _monotonic_ms()

    def forget(self) -> None:
        """What was heard is doubted: only what is noted from now on counts."""
        self._offsets.clear()

    def committee_ms(self) -> int | None:
        """The median of what was heard; None if nothing was."""
        heard = self._heard()
        total, below = sum(weight for _, weight in heard.values()), 0
        for time_ms, weight in sorted(heard.values()):
            below += weight
            if 2 * below >= total:
                return time_ms
        return None

    def is_certain(self) -> bool:
        """Whether our clock is as right, or as wrong, as was said when last asked; if not: ask, `accept`."""
        committee_ms = self.committee_ms()
        if committee_ms is None:
            return False
        return abs(self._now_ms() - committee_ms - self._known_off_ms) <= self._tolerance_ms

    def accept(self) -> bool:
        """The committee was asked just now: believe what was heard. False if nobody has answered."""
        committee_ms = self.committee_ms()
        if committee_ms is not None:
            off_ms = self._now_ms() - committee_ms
            self._known_off_ms = off_ms if abs(off_ms) > self._tolerance_ms else 0
        return committee_ms is not None

    def signing_ms(self) -> int:
        """What an operation that is signed now says."""
        committee_ms, now_ms = self.committee_ms(), self._now_ms()
        if committee_ms is None or abs(now_ms - committee_ms) <= self._tolerance_ms:
            return now_ms
        return committee_ms if self._validators.is_quorum(self._heard()) else min(now_ms, committee_ms)

    def _heard(self) -> dict[PeerId, tuple[int, int]]:
        """The time at each member that has told, as it is now, and its weight."""
        heard = {}
        for member in self._validators.members:
            if member.peer == self._validators.network.peer_id:
                heard[member.peer] = self._now_ms(), member.weight
            elif member.peer in self._offsets:
                heard[member.peer] = self._offsets[member.peer] + _monotonic_ms(), member.weight
        return heard

    @property
    def _tolerance_ms(self) -> int:
        """Half of what validators tolerate: the other half is for how far they differ among themselves."""
        return self._ahead_max_ms() // 2


def _monotonic_ms() -> int:
    return int(trio.current_time() * 1000)
