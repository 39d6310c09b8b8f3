"""What happens in a world, written into the tables of its result while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ainp2p.protocol.identity import id_text
from ainp2p.simulation.results.results import REJECTED, new_table

if TYPE_CHECKING:
    from ainp2p.agents.job import Job
    from ainp2p.simulation.node import Node

MINUTE_S = 60.0


class Collector:
    """The five tables, as they grow.

    Attributes:
        trades, metrics, marks: rows and counts so far.
    """

    def __init__(self, world: Any) -> None:
        self.trades, self.metrics = new_table("trades"), new_table("metrics")
        self.marks: Counter[str] = Counter()
        self._world = world
        self._names: dict[bytes, str] = {}  # agent id → node
        self._earned: Counter[str] = Counter()
        self._spent: Counter[str] = Counter()
        self._bought: Counter[str] = Counter()
        self._sold: Counter[str] = Counter()
        self._minute_s = 0.0
        self._of_minute: dict[tuple[str, str], list[int]] = {}
        self._messages = {self._minute_s: self._of_minute}  # minute → protocol, kind → count, size

    def knows(self, node: Node, agent_id: bytes) -> None:
        """This agent is that node."""
        self._names[agent_id] = node.name

    def on_job(self, node: Node) -> Callable[[Job], None]:
        """What the agent of a node is to call with each job that it bought."""

        def ended(job: Job) -> None:
            units = amount = elapsed_ms = 0
            seller = price = ""
            self._bought[node.name] += 1
            for leg in job.legs:
                name = self._names.get(leg.seller) or id_text(leg.seller)
                self.sold(name, leg.amount, done=not leg.failure)
                if leg.rejected:
                    part = leg.units, leg.amount, leg.price, leg.elapsed_ms
                    self._row(node.name, name, job.skill, *part, REJECTED)
                    continue
                seller, price = name, leg.price
                units, amount, elapsed_ms = (
                    units + leg.units,
                    amount + leg.amount,
                    elapsed_ms + leg.elapsed_ms,
                )
            if not job.is_rejected or units or amount:
                self._row(node.name, seller, job.skill, units, amount, price, elapsed_ms, _why(job))

        return ended

    def sold(self, seller: str, amount: int, *, done: bool) -> None:
        """What a seller got for one job, or for its part of one."""
        self._earned[seller] += amount
        self._sold[seller] += done

    def traded(
        self, buyer: str, seller: str, skill: str, units: int, amount: int, price: str, elapsed_ms: int,
        failure: str,
    ) -> None:  # fmt: skip
        """A row of trades, and the buyer's side of it."""
        self._bought[buyer] += 1
        self._row(buyer, seller, skill, units, amount, price, elapsed_ms, failure)

    def _row(
        self, buyer: str, seller: str, skill: str, units: int, amount: int, price: str, elapsed_ms: int,
        failure: str,
    ) -> None:  # fmt: skip
        """A part of what a buyer bought last."""
        self._spent[buyer] += amount
        self._world.trace.note("trade", buyer, seller, units, amount, failure)
        self.trades.append_row(
            (
                self._world.now, buyer, seller, skill, units, amount, price, elapsed_ms, failure,
                f"{buyer}/{self._bought[buyer]}",
            )
        )  # fmt: skip

    def message(self, message: Any) -> None:
        """An observer of the wire."""
        if message.at_s >= self._minute_s + MINUTE_S:
            self._minute_s = message.at_s // MINUTE_S * MINUTE_S
            self._of_minute = self._messages[self._minute_s] = {}
        kind = (message.protocol, message.kind)
        counts = self._of_minute.get(kind)
        if counts is None:
            counts = self._of_minute[kind] = [0, 0]
        counts[0] += 1
        counts[1] += message.size

    def tables(self, nodes: list[Node], balances: dict[str, int]) -> dict[str, Any]:
        """All five, at the end."""
        agents, messages, marks = new_table("agents"), new_table("messages"), new_table("marks")
        for node in nodes:
            if node.role == "validator":
                continue
            name = node.name
            agents.append_row(
                (
                    name, node.role, node.balance, balances.get(name, 0), self._earned[name],
                    self._spent[name], self._bought[name], self._sold[name], node.born_s, node.died_s,
                )
            )  # fmt: skip
        for at_s, of_minute in self._messages.items():
            for (protocol, kind), (count, size) in sorted(of_minute.items()):
                messages.append_row((at_s, protocol, kind, count, size))
        for name, count in sorted(self.marks.items()):
            marks.append_row((name, count))
        return {
            "trades": self.trades,
            "agents": agents,
            "messages": messages,
            "metrics": self.metrics,
            "marks": marks,
        }


def _why(job: Job) -> str:
    """Why a job was not done; empty if it was. Who left before anything came got nothing done."""
    if job.is_rejected:
        return REJECTED
    if job.finish == "canceled" and not job.units:
        return "left"
    if job.finish is not None:
        return ""
    return type(job.failure).__name__ if job.failure is not None else "failed"
