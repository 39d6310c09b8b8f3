"""What a watchtower holds, and when it has to act. No I/O.

    a receipt is handed over ──on disk──► watched
        expiry minus twice the margin, or the Lock moves and stays below the receipt ──► SETTLE
        too little for a SETTLE, and the Lock has expired ──► CLOSE
        the Lock has ended ──► forgotten
        all places are taken, and a larger deposit comes ──► the smallest one is settled now, and forgotten

A place costs its deposit: what is below the least one is refused, and to drive out others one has to lock up
more than they. Whoever is driven out loses nothing that was handed over: it is paid sooner.

No key is needed: "whoever submits the same receipt makes the same operation, so a watchtower needs no key"
(LEDGER.md). And none of it is worth stealing: a receipt pays whom its Lock pays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from ainp2p.errors import InvalidInput, InvalidReceipt, Refused
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import SignedOperation
from ainp2p.ledger.rules.parameters import Parameters
from ainp2p.ledger.rules.receipts import (
    Release,
    close_operation,
    read_receipt,
    settle_operation,
    verify_receipt,
)
from ainp2p.protocol.codec import Bytes32, Message, Uint, decode
from ainp2p.protocol.network import PeerId

WATCH_PROTOCOL = "/ainp2p/watch/1"
LOCKS_MAX = 1024  # of everybody; what four Follow streams of one validator hold
LOCKS_PER_CLIENT_MAX = 256
LEAVING_MAX = 64  # Locks that are settled before they are forgotten, beside the others
LEAST_DEPOSIT = 100  # uain; a hundred fee floors, of which three at least are burnt
ANSWER_MAX = 200  # Locks in one answer: five elements each, and a message has 1,024 at most
SETTLE, CLOSE = "settle", "close"


class Watch(Message, frozen=True, tag=1):
    """Spread this receipt in time. Answered once it is on the watchtower's disk; a repeat is no error."""

    release: Release


class AskWatched(Message, frozen=True, tag=2):
    """What do you watch for me? Those after this Lock (or empty)."""

    after: Annotated[bytes, msgspec.Meta(max_length=32)]


class AskHeld(Message, frozen=True, tag=3):
    """What do you hold for these Locks, whoever brought it?"""

    locks: Annotated[tuple[Bytes32, ...], msgspec.Meta(min_length=1, max_length=ANSWER_MAX)]


class Watching(Message, frozen=True, tag=20):
    """Answers Watch: the highest receipt for this Lock that is on the disk."""

    lock: Bytes32
    cumulative: Uint
    expiry: Uint  # ms since 1970; until then it is watched


class WatchedLocks(Message, frozen=True, tag=21):
    """Answers AskWatched and AskHeld; for the first, ask for those after the last one until `more` is 0."""

    locks: Annotated[tuple[Watching, ...], msgspec.Meta(max_length=ANSWER_MAX)]
    more: Annotated[int, msgspec.Meta(ge=0, le=1)]


_Question: Any = Watch | AskWatched | AskHeld  # a union is no type[T]


def read_watch(body: bytes) -> Watch | AskWatched | AskHeld:
    """One message to a watchtower.

    Raises:
        Malformed: it is none.
    """
    question: Watch | AskWatched | AskHeld = decode(body, _Question, size_max=16 * 1024)
    return question


@dataclass(slots=True)
class Watched:
    """One Lock that is watched; `lock` is None until validators have been asked after a restart.

    Attributes:
        seen_seq: the Lock's, when the receipt was handed over: if it has moved since, somebody settles.
        leaving: its place has gone to a larger deposit; it is forgotten once it is settled.
    """

    id: bytes
    client: PeerId
    release: Release
    cumulative: int
    lock: Lock | None = None
    life_ms: int = 0
    seen_seq: int = 0
    not_before_ms: float = -math.inf  # after a failure
    leaving: bool = False


class WatchList:
    """The receipts that a watchtower holds: the highest for each Lock, so many for each client."""

    def __init__(self, network: bytes, parameters: Parameters, least_deposit: int = LEAST_DEPOSIT) -> None:
        """`least_deposit` in uain: smaller ones are not watched."""
        if least_deposit < 0:
            raise InvalidInput("a least deposit is 0 uain or more")
        self._network, self._parameters, self._least = network, parameters, least_deposit
        self._watched: dict[bytes, Watched] = {}
        self._dropped: list[bytes] = []

    def __len__(self) -> int:
        return len(self._watched)

    def __iter__(self) -> Iterator[Watched]:
        return iter(list(self._watched.values()))

    def get(self, lock: bytes) -> Watched | None:
        """What is held for a Lock."""
        return self._watched.get(lock)

    def of(self, client: PeerId) -> list[Watched]:
        """What is held for a client, by Lock."""
        return sorted((w for w in self._watched.values() if w.client == client), key=lambda w: w.id)

    def name(self, release: Release) -> bytes:
        """The Lock that a receipt is for.

        Raises:
            Malformed: no receipt.
            InvalidReceipt: rule ``"network"``.
        """
        receipt = read_receipt(release.body)
        if receipt.network != self._network:
            raise InvalidReceipt("network", "a receipt for another network")
        return receipt.lock

    def put(
        self, client: PeerId, lock: Lock, life_ms: int, release: Release, now_ms: int
    ) -> tuple[Watched, bool]:
        """Hold a receipt for a *final* Lock; what is held now, and whether it is news for the disk.

        Raises:
            InvalidReceipt: rules ``"lock"``, ``"above-deposit"``, ``"ended"``, ``"expired"`` (its margin has
                begun: too late to be of use).
            BadSignature: not of the Lock's authority.
            Refused: ``"deposit"``: it is below the least one; ``"full"``: the client, or everybody, has
                enough, and none of them a smaller deposit.
        """
        receipt = read_receipt(release.body)
        if receipt.lock != lock.id or receipt.network != self._network:
            raise InvalidReceipt("lock", "a receipt for another Lock")
        if receipt.cumulative > lock.deposit:
            raise InvalidReceipt("above-deposit", f"{receipt.cumulative} uain of {lock.deposit}")
        if lock.ended:
            raise InvalidReceipt("ended", "the Lock has ended")
        if now_ms >= lock.expiry - self._parameters.margin(life_ms):
            raise InvalidReceipt("expired", "less than the margin is left: settle it yourself, now")
        verify_receipt(lock, release.body, release.signatures)
        held = self._watched.get(lock.id)
        if held is None:
            self._make_room(client, lock.deposit)
            held = self._watched[lock.id] = Watched(lock.id, client, release, receipt.cumulative)
        elif receipt.cumulative <= held.cumulative:
            return held, False
        held.release, held.cumulative = release, receipt.cumulative
        self.learn(lock, life_ms)
        held.seen_seq = lock.seq
        return held, True

    def restore(self, client: PeerId, release: Release) -> None:
        """Take up what the disk kept; the Lock is not known yet."""
        receipt = read_receipt(release.body)
        self._watched[receipt.lock] = Watched(receipt.lock, client, release, receipt.cumulative)

    def learn(self, lock: Lock, life_ms: int) -> bool:
        """A Lock has this final state; True if it has ended, and is forgotten."""
        held = self._watched.get(lock.id)
        if held is None:
            return False
        if held.lock is None:
            held.seen_seq = lock.seq
        if held.lock is None or lock.seq >= held.lock.seq:
            held.lock, held.life_ms = lock, life_ms
        if held.lock.ended or (held.leaving and not self._can_settle(held)):
            del self._watched[lock.id]
            return True
        return False

    def take_dropped(self) -> list[bytes]:
        """Locks that were forgotten without an operation since the last call: nothing more could be paid."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def due(self, held: Watched) -> tuple[float, str] | None:
        """What is to be done about a Lock, and when (ms); None: nothing, as things are."""
        lock = held.lock
        if lock is None or lock.ended or held.cumulative <= lock.paid:
            return None
        if not self._can_settle(held):
            # LEDGER.md: "a receipt less than a step above `paid` is protected only against gated endings"
            return max(held.not_before_ms, lock.expiry), CLOSE
        if held.leaving:
            return held.not_before_ms, SETTLE
        if lock.seq > held.seen_seq:  # a settlement below ours: a payer that starves its payee, or the payee
            return held.not_before_ms, SETTLE
        # LEDGER.md: "spreads its receipt before expiry minus the larger of 10 min and 5 % of the lifetime"
        at_ms = lock.expiry - 2 * self._parameters.margin(held.life_ms)
        return max(held.not_before_ms, at_ms), SETTLE

    def operation(self, held: Watched, what: str) -> SignedOperation:
        """The operation that is due."""
        assert held.lock is not None
        if what == CLOSE:
            return close_operation(self._network, held.lock, held.release)
        return settle_operation(held.lock, held.release)

    def _can_settle(self, held: Watched) -> bool:
        """Whether a SETTLE would be valid now."""
        assert held.lock is not None
        more = held.cumulative - held.lock.paid
        return more > 0 and (more >= held.lock.step or held.cumulative == held.lock.deposit)

    def _make_room(self, client: PeerId, deposit: int) -> None:
        """For one more; the smallest deposit leaves if there is none, if it is smaller than this."""
        if deposit < self._least:
            raise Refused("deposit", f"{deposit} uain; this watchtower watches {self._least} uain or more")
        staying = [held for held in self._watched.values() if not held.leaving]
        own = [held for held in staying if held.client == client]
        if len(own) >= LOCKS_PER_CLIENT_MAX:
            self._send_off(own, deposit, f"at most {LOCKS_PER_CLIENT_MAX} Locks for one peer")
        elif len(staying) >= LOCKS_MAX:
            self._send_off(staying, deposit, "this watchtower watches as many Locks as it can; try another")

    def _send_off(self, some: list[Watched], deposit: int, why: str) -> None:
        known = [held for held in some if held.lock is not None]
        lowest = min(known, key=_deposit, default=None)
        if lowest is None or _deposit(lowest) >= deposit:
            least = f" (its smallest deposit has {_deposit(lowest)} uain)" if lowest is not None else ""
            raise Refused("full", why + least)
        if sum(held.leaving for held in self._watched.values()) >= LEAVING_MAX:
            raise Refused("full", "others are leaving to make room; ask again in a minute")
        lowest.leaving = True
        if not self._can_settle(lowest):
            del self._watched[lowest.id]
            self._dropped.append(lowest.id)


def _deposit(held: Watched) -> int:
    assert held.lock is not None
    return held.lock.deposit
