"""report.json: everything worth keeping of one run, typed, made from the Board. No I/O but `write`.

The page for people (`ainp2p.swarm.page`) is drawn from this alone, so whatever it shows is in the JSON too.
Integers throughout: milliseconds since the start, microseconds, uain.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ainp2p.errors import InvalidInput
from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board, Task, percentile

VERSION = 1
BIN_MS = 1_000  # tokens/s are counted in bins of this length
POINTS_MAX = 400  # of one balance series; the report stays small whatever the run did
PHASES: tuple[ev.Phase, ...] = ("discover", "negotiate", "first token", "token", "settle")


@dataclass(frozen=True, slots=True)
class Check:
    """One promise of the run."""

    name: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What ran, where."""

    network: str = ""
    model: str = ""
    model_bytes: int = 0
    seed: int = 0
    cores: int = 0
    memory_bytes: int = 0
    sizing: str = ""


@dataclass(frozen=True, slots=True)
class PeerReport:
    """One process. `left` says why it ended (empty: it was still running)."""

    name: str
    role: str
    peer: str
    account: str
    left: str


@dataclass(frozen=True, slots=True)
class DocumentReport:
    """A file that was read (`refused` empty) or not."""

    path: str
    bytes: int
    passages: int
    sentences: int
    refused: str


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One task: what was asked, who did it, what came of it, what it cost."""

    id: str
    skill: str
    subject: str
    buyer: str
    sellers: tuple[str, ...]
    state: str
    finish: str
    units: int
    paid: int
    took_ms: int
    answer: str
    sources: tuple[ev.Source, ...]


@dataclass(frozen=True, slots=True)
class Flow:
    """What one buyer paid one seller."""

    buyer: str
    seller: str
    amount: int
    receipts: int


@dataclass(frozen=True, slots=True)
class Series:
    """(milliseconds since the start, value), in order of time."""

    name: str
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Latency:
    """One phase's nearest-rank percentiles."""

    phase: str
    count: int
    p50_us: int
    p99_us: int


@dataclass(frozen=True, slots=True)
class Kill:
    """The seller that was killed, and what the buyers kept of its work."""

    seller: str
    at_ms: int
    task: str
    takeovers: tuple[ev.TaskTakenOver, ...]
    wallet: ev.WalletReopened | None


@dataclass(frozen=True, slots=True)
class Supply:
    """One validator's count; `difference` is 0 or money was made or lost."""

    validator: str
    minted: int
    balances: int
    credits: int
    locks: int
    burnt: int
    difference: int


@dataclass(frozen=True, slots=True)
class Report:
    """One run of a swarm."""

    version: int
    held: bool
    started_ms: int
    took_ms: int
    setting: Setting
    checks: tuple[Check, ...]
    peers: tuple[PeerReport, ...]
    documents: tuple[DocumentReport, ...]
    tasks: tuple[TaskReport, ...]
    flows: tuple[Flow, ...]
    balances: tuple[Series, ...]
    rates: tuple[Series, ...]
    latencies: tuple[Latency, ...]
    kills: tuple[Kill, ...]
    supply: tuple[Supply, ...]
    notes: tuple[str, ...]


def make_report(board: Board) -> Report:
    """The report of what `board` has seen, at any moment: of an interrupted run too."""
    start = board.first_ms or 0
    return Report(
        version=VERSION,
        held=board.held and board.end is not None and board.end.held,
        started_ms=start,
        took_ms=board.now_ms - start if board.first_ms is not None else 0,
        setting=_setting(board),
        checks=tuple(Check(c.check, c.held, c.detail) for c in board.checks.values()),
        peers=tuple(
            PeerReport(p.name, p.role or "", p.peer, p.account, p.reason) for p in board.peers.values()
        ),
        documents=_documents(board),
        tasks=tuple(_task(task) for task in board.tasks.values()),
        flows=tuple(
            Flow(buyer, seller, paid.amount, paid.receipts)
            for (buyer, seller), paid in sorted(board.payments.items())
        ),
        balances=tuple(
            Series(peer.name, _thin([(at - start, value) for at, value in peer.balances]))
            for peer in board.peers.values()
            if peer.balances
        ),
        rates=_rates(board, start),
        latencies=tuple(
            Latency(phase, len(took), percentile(took, 500), percentile(took, 990))
            for phase in PHASES
            if (took := board.phases.get(phase))
        ),
        kills=tuple(_kill(board, kill, start) for kill in board.kills),
        supply=tuple(_supply(count) for _, count in sorted(board.supply.items())),
        notes=tuple(f"{note.level}: {note.text}" for note in board.notes if note.level != "info"),
    )


def to_json(report: Report) -> bytes:
    """The report as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"


def from_json(data: bytes) -> Report:
    """Read a report.json of this version.

    Raises:
        InvalidInput: it is no report, or of another version.
    """
    try:
        report = msgspec.json.decode(data, type=Report)
    except msgspec.MsgspecError as exc:
        raise InvalidInput(f"not a report.json of this version: {exc}") from exc
    if report.version != VERSION:
        raise InvalidInput(f"a report of version {report.version}; this release reads version {VERSION}")
    return report


def write(path: Path, data: bytes) -> None:
    """Put a whole file at `path` or leave what was there: never half of it."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _setting(board: Board) -> Setting:
    start = board.start
    if start is None:
        return Setting()
    return Setting(
        network=board.network,
        model=start.model,
        model_bytes=start.model_bytes,
        seed=start.seed,
        cores=start.cores,
        memory_bytes=start.memory_bytes,
        sizing=start.sizing,
    )


def _documents(board: Board) -> tuple[DocumentReport, ...]:
    read = [DocumentReport(d.path, d.bytes, d.passages, d.sentences, "") for d in board.documents.values()]
    refused = [DocumentReport(d.path, 0, 0, 0, d.reason) for d in board.refused]
    return (*read, *refused)


def _task(task: Task) -> TaskReport:
    answer = task.answer
    return TaskReport(
        id=task.id,
        skill=task.skill,
        subject=task.subject,
        buyer=task.buyer,
        sellers=tuple(task.sellers),
        state=task.state,
        finish=answer.finish if answer else task.detail,
        units=answer.units if answer else task.units,
        paid=answer.paid if answer else 0,
        took_ms=max(task.ended_ms - task.opened_ms, 0) if task.ended_ms is not None else 0,
        answer=answer.answer if answer else "",
        sources=answer.sources if answer else (),
    )


def _kill(board: Board, kill: ev.SellerKilled, start: int) -> Kill:
    return Kill(
        seller=kill.name,
        at_ms=kill.at_ms - start,
        task=kill.task,
        takeovers=tuple(t for t in board.takeovers if t.seller_before == kill.name),
        wallet=next((w for w in board.reopened if w.name == kill.name), None),
    )


def _supply(count: ev.SupplyChecked) -> Supply:
    accounted = count.balances + count.credits + count.locks + count.burnt
    return Supply(
        validator=count.validator,
        minted=count.minted,
        balances=count.balances,
        credits=count.credits,
        locks=count.locks,
        burnt=count.burnt,
        difference=accounted - count.minted,
    )


def _rates(board: Board, start: int) -> tuple[Series, ...]:
    """Tokens per second of each seller, one point per bin from the first to the last delivery of anybody."""
    counts: dict[str, dict[int, int]] = {}
    for delivery in board.tokens:
        bin_ = (delivery.at_ms - start) // BIN_MS
        seller = counts.setdefault(delivery.seller, {})
        seller[bin_] = seller.get(bin_, 0) + delivery.units
    bins = [bin_ for seller in counts.values() for bin_ in seller]
    if not bins:
        return ()
    span = range(min(bins), max(bins) + 1)
    return tuple(
        Series(name, tuple((bin_ * BIN_MS, count.get(bin_, 0) * 1000 // BIN_MS) for bin_ in span))
        for name, count in sorted(counts.items())
    )


def _thin(points: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """At most POINTS_MAX of `points`, first and last among them; what repeats its neighbours goes first."""
    points = sorted(points, key=lambda point: point[0])
    kept = [
        point
        for i, point in enumerate(points)
        if i in (0, len(points) - 1) or not points[i - 1][1] == point[1] == points[i + 1][1]
    ]
    if len(kept) > POINTS_MAX:
        kept = [kept[i * (len(kept) - 1) // (POINTS_MAX - 1)] for i in range(POINTS_MAX)]
    return tuple(kept)
