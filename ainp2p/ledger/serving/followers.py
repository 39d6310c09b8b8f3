"""Who wants to hear of which objects, and what has become final for them since they last listened.

Plain bookkeeping: the service adds finals and takes them out again for one stream at a time. A follower that
does not read is dropped: it will come back, and learn by asking what it missed.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from ainp2p.ledger.rules.locks import ANY_PAYEE
from ainp2p.ledger.rules.operations import Close, NextCommittee, ParsedOperation, Settle, Spend
from ainp2p.ledger.rules.state import State
from ainp2p.protocol.network import PeerId

FOLLOWERS_MAX = 8_192
FOLLOWERS_PER_PEER_MAX = 4
BACKLOG_MAX = 8_192  # operations that one follower has not read


class Follower:
    """One open Follow stream.

    Attributes:
        news: set when there is something to take, or when the follower was dropped.
        dropped: it did not read for too long.
    """

    def __init__(self, peer: PeerId, objects: Iterable[bytes]) -> None:
        self.peer, self.objects = peer, frozenset(objects)
        self.news = trio.Event()
        self.dropped = False
        self._backlog: dict[bytes, None] = {}  # operation ids, oldest first

    def tell(self, operation: bytes) -> None:
        """An operation that concerns it is final."""
        self._backlog[operation] = None
        self.dropped |= len(self._backlog) > BACKLOG_MAX
        self.news.set()

    def peek(self, limit: int) -> list[bytes]:
        """The oldest operations that it was not sent."""
        return [id_ for id_, _ in zip(self._backlog, range(limit), strict=False)]

    def sent(self, operations: Iterable[bytes]) -> None:
        """These were sent."""
        for id_ in operations:
            self._backlog.pop(id_, None)
        if not self._backlog and not self.dropped:
            self.news = trio.Event()


class Followers:
    """All open Follow streams, by object."""

    def __init__(self) -> None:
        self._by_object: dict[bytes, dict[Follower, None]] = {}
        self._per_peer: dict[PeerId, int] = {}

    def __len__(self) -> int:
        return sum(self._per_peer.values())

    def add(self, peer: PeerId, objects: Iterable[bytes]) -> Follower | None:
        """Open a stream; None if there are too many already."""
        if len(self) >= FOLLOWERS_MAX or self._per_peer.get(peer, 0) >= FOLLOWERS_PER_PEER_MAX:
            return None
        follower = Follower(peer, objects)
        self._per_peer[peer] = self._per_peer.get(peer, 0) + 1
        for id_ in follower.objects:
            self._by_object.setdefault(id_, {})[follower] = None
        return follower

    def remove(self, follower: Follower) -> None:
        """Its stream has ended."""
        self._per_peer[follower.peer] -= 1
        if not self._per_peer[follower.peer]:
            del self._per_peer[follower.peer]
        for id_ in follower.objects:
            of_object = self._by_object[id_]
            del of_object[follower]
            if not of_object:
                del self._by_object[id_]

    def announce(self, parsed: ParsedOperation, state: State) -> None:
        """Tell everybody whom this final operation concerns; `state` is the one after it."""
        if not self._by_object:
            return
        for id_ in concerned(parsed, state):
            for follower in self._by_object.get(id_, ()):
                follower.tell(parsed.id)


def concerned(parsed: ParsedOperation, state: State) -> list[bytes]:
    """What a final operation concerns: see `messages.Follow`."""
    operation, body = parsed.operation, parsed.operation.body
    found = {operation.object: None}
    if isinstance(body, Spend):
        found |= {out.account: None for out in body.outs}
        found |= {share.account: None for terms in body.locks for share in terms.beneficiaries}
    elif isinstance(body, NextCommittee):
        bonds = [state.find_lock(id_) for id_ in (*body.burnt_bonds, *body.returned_bonds)]
        found |= {bond.payer: None for bond in bonds if bond is not None}
    elif (lock := state.find_lock(operation.object)) is not None:
        found |= {lock.payer: None} | {share.account: None for share in lock.beneficiaries}
        if isinstance(body, Settle | Close) and ANY_PAYEE in found:
            found[body.context] = None  # a bounty's payee
    return list(found)
