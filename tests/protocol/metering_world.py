"""Two meters joined by hand: jobs' chunks in streams of their own, receipts one way, cuts. For tests."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ainp2p.protocol.buyer_meter import BuyerMeter
from ainp2p.protocol.delivery import Content, Position, Terms
from ainp2p.protocol.messages import TEXT, Chunk, Taken
from ainp2p.protocol.price import Price
from ainp2p.protocol.seller_meter import SellerMeter

LOCK = b"L" * 32
DEPOSIT = 10**6


@dataclass(frozen=True)
class Word:
    """A token."""

    id: int
    text: str = "w"
    logprob: float | None = -0.5


def words(*ids: int) -> list[Word]:
    return [Word(id_) for id_ in ids]


def job_id(number: int) -> bytes:
    return bytes([number]) * 32


def terms(
    number: int = 1,
    price: str = "2/token",
    *,
    budget: int = 10**5,
    units_max: int = 1000,
    step: int = 4,
    window: int = 8,
) -> Terms:
    return Terms(job_id(number), Price.parse(price), budget, units_max, step, window)


def text(data: str = "x") -> Content:
    return Content(TEXT, data.encode())


class Link:
    """Honest shells around both meters, over a connection that can be cut."""

    def __init__(self, *agreed: Terms, known: bool = True, deposit: int = DEPOSIT) -> None:
        self.seller = SellerMeter(LOCK, deposit, known=known)
        self.buyer = BuyerMeter(LOCK, deposit)
        self.streams: dict[bytes, deque[Chunk]] = {}
        self.notices: deque[tuple[Position | None, tuple[Taken, ...]]] = deque()
        self.unread: dict[bytes, list[Chunk]] = {}
        self.connected = True
        for each in agreed:
            self.open(each)

    def open(self, agreed: Terms) -> None:
        self.seller.open_job(agreed)
        self.buyer.open_job(agreed, 0)
        self.streams[agreed.job] = deque()
        self.unread[agreed.job] = []

    # --- the seller's side
    def produce(self, number: int, *ids: int) -> int:
        """Deliver as many of these tokens as may be; returns how many."""
        job = job_id(number)
        if not ids or not self.seller.allowance(job):
            return 0
        chunk, count = self.seller.deliver_tokens(job, words(*ids))
        if self.connected:
            self.streams[job].append(chunk)
        return count

    def hear_notice(self) -> None:
        position, taken = self.notices.popleft()
        for each in taken:
            self.seller.taken(each.job, each.weight)
        if position is not None:
            self.seller.accept(position.cumulative, position.units, position.context)

    # --- the buyer's side
    def arrive(self, number: int) -> list[Chunk]:
        """Let the next chunk of a job's stream arrive; returns what is in order now, of any job."""
        if not self.streams[job_id(number)]:
            return []
        ready = self.buyer.receive(self.streams[job_id(number)].popleft(), 0)
        for chunk in ready:
            self.unread[chunk.job].append(chunk)
        return ready

    def read(self, number: int) -> None:
        if self.unread[job_id(number)]:
            chunk = self.unread[job_id(number)].pop(0)
            self.buyer.taken(chunk.job, max(1, chunk.units))

    def tell(self, *, now: bool = False, pay: bool = True) -> Position | None:
        """Sign what is due and send it with the readers' progress."""
        position = self.buyer.due(now=now) if pay else None
        if position is not None:
            self.buyer.signed_for(position)
        progress = self.buyer.progress()
        if self.connected and (position is not None or progress):
            self.notices.append((position, progress))
        return position

    # --- the world
    def cut(self) -> None:
        self.connected = False
        self.seller.pause()
        self.notices.clear()
        for stream in self.streams.values():
            stream.clear()

    def heal(self) -> None:
        """Reconnect and resume every job, as the shells do: the newest receipt first, then the chunks."""
        self.connected = True
        signed = self.buyer.signed
        taken = tuple(self.buyer.all_progress(job) for job in self.streams)
        if signed.n:
            self.seller.accept(signed.cumulative, signed.units, signed.context) if (
                signed.n > self.seller.paid.n
            ) else None
        for each in taken:
            self.seller.taken(each.job, each.weight)
        for job in self.streams:
            from_n, _ = self.buyer.resume_point(job)
            self.streams[job].extend(self.seller.resume(job, from_n))

    def settle(self) -> None:
        """Deliver, read and sign until nothing moves any more."""
        for _ in range(1000):
            before = (self.buyer.position, self.buyer.signed, self.seller.paid)
            for job in self.streams:
                while self.streams[job]:
                    self.arrive(job[0])
                while self.unread[job]:
                    self.read(job[0])
            self.tell(now=True)
            while self.notices:
                self.hear_notice()
            if before == (self.buyer.position, self.buyer.signed, self.seller.paid):
                return
        raise AssertionError("it never comes to rest")
