"""What votes rest on, and evidence: keeping it to serve, and fetching what is missing.

    Effects.attachments ──► push to all members
    Effects.missing ──► FetchAttachments from its holders, else from anybody ──► the core, which checks it
    Effects.evidence ──► kept for ever, pushed once, listed for whoever asks; logged once per culprit
    now and then ──► ListEvidence from a member ──► what is not known here

A justification that does not come stops a slot, so what is missing is asked for again, of one after another,
in growing intervals; an attachment that nobody has is given up, and the core may want it again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import trio

from ainp2p.errors import Error, NetworkError, RemoteError
from ainp2p.ledger.serving.limits import Bucket
from ainp2p.ledger.serving.messages import (
    ATTACHMENTS_MAX,
    Attachments,
    EvidenceIds,
    FetchAttachments,
    ListEvidence,
)
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.attachments import EVIDENCE, attachment_id, attachment_tag
from ainp2p.ledger.voting.effects import Evidence, Wanted
from ainp2p.protocol.codec import encode
from ainp2p.protocol.network import PeerId

MISSING_MAX = 1_024  # asked for at once; above it the core asks again later
TRIES_MAX = 8
AGAIN_S = 0.25  # after a round of questions; doubles
PATIENCE_S = 5.0  # for a member's list of evidence; each piece that is news adds a little
NEWS_PATIENCE_S = 0.25
LINES_PER_S = 1.0  # of log about evidence; each culprit has one, and thousands may be found at once

_log = logging.getLogger(__name__)


class Core(Protocol):
    """What the service lets us do with the Validator."""

    async def take_attachment(self, raw: bytes, source: str) -> None:
        """Handle an attachment that was fetched."""


class EvidenceBook:
    """All evidence that is known here, in the order in which it came: "gossiped and kept for ever"."""

    def __init__(self) -> None:
        self._raw: dict[bytes, bytes] = {}  # by attachment id
        self._culprits: set[bytes] = set()
        self._lines = Bucket(LINES_PER_S, 10, 0.0)

    def __len__(self) -> int:
        return len(self._raw)

    def __contains__(self, id_: bytes) -> bool:
        return id_ in self._raw

    def get(self, id_: bytes) -> bytes | None:
        """A piece of evidence as it travels."""
        return self._raw.get(id_)

    def ids(self, after: int, limit: int) -> tuple[bytes, ...]:
        """Ids in the order in which they came."""
        return tuple(self._raw)[after : after + limit]

    def add(self, evidence: Evidence) -> bytes | None:
        """Keep it; returns what travels, or None if it is known or is no attachment."""
        raw = encode(evidence)
        id_ = attachment_id(raw)
        if id_ in self._raw or attachment_tag(raw) != EVIDENCE:
            return None
        self._raw[id_] = raw
        return raw

    def log(self, evidence: Evidence, now_s: float) -> None:
        """One line per culprit, and few of them a second."""
        if evidence.culprit not in self._culprits and self._lines.take(1, now_s):
            self._culprits.add(evidence.culprit)
            _log.warning("evidence of kind %d against %s", evidence.kind, evidence.culprit.hex())


@dataclass(slots=True)
class _Search:
    """One attachment that is missing."""

    holders: tuple[PeerId, ...]
    tries: int = 0
    next_s: float = 0.0


class Attacher:
    """Fetches attachments; `want` may be called at any time."""

    def __init__(self, validators: Validators, core: Core, book: EvidenceBook) -> None:
        self._validators, self._core, self.book = validators, core, book
        self._rng = validators.network.context.rng
        self._searches: dict[bytes, _Search] = {}
        self._news = trio.Event()
        self._listed: dict[PeerId, int] = {}  # how much of a member's list of evidence was looked at

    @property
    def missing(self) -> int:
        """How many are being searched for."""
        return len(self._searches)

    def want(self, missing: Iterable[Wanted]) -> None:
        """Ask for these at once; who is named as a holder is asked before others."""
        for each in missing:
            if len(self._searches) < MISSING_MAX or each.id in self._searches:
                found = (self._validators.peer_of(key) for key in each.holders)
                self._searches[each.id] = _Search(tuple(peer for peer in found if peer is not None))
                self._news.set()

    def came(self, raw: bytes) -> None:
        """An attachment is here, however it came."""
        self._searches.pop(attachment_id(raw), None)

    async def run(self) -> None:
        """Ask until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                for peer, ids in self._assign(trio.current_time()).items():
                    nursery.start_soon(self._fetch, peer, ids)
                due_s = min((search.next_s for search in self._searches.values()), default=float("inf"))
                with trio.move_on_at(due_s):
                    await self._news.wait()
                    self._news = trio.Event()

    def _assign(self, now_s: float) -> dict[PeerId, tuple[bytes, ...]]:
        """Whom to ask for what now; each attachment from one peer at a time."""
        asks: dict[PeerId, list[bytes]] = {}
        for id_, search in list(self._searches.items()):
            if search.next_s > now_s:
                continue
            peer = self._next_peer(search)
            if search.tries >= TRIES_MAX or peer is None:
                del self._searches[id_]
                continue
            if len(asks.setdefault(peer, [])) >= ATTACHMENTS_MAX:
                search.next_s = now_s + AGAIN_S
                continue
            asks[peer].append(id_)
            search.tries += 1
            search.next_s = now_s + AGAIN_S * 2**search.tries
        return {peer: tuple(ids) for peer, ids in asks.items() if ids}

    def _next_peer(self, search: _Search) -> PeerId | None:
        others = [member.peer for member in self._validators.others]
        holders = [peer for peer in search.holders if peer in others]
        if search.tries < len(holders):
            return holders[search.tries]
        return self._rng.choice(others) if others else None

    async def _fetch(self, peer: PeerId, ids: tuple[bytes, ...]) -> bool:
        """Ask one member; True if it gave something that fits."""
        try:
            answer = await self._validators.ask(peer, FetchAttachments(ids), Attachments)
        except (NetworkError, RemoteError):
            return False
        wanted, fits = set(ids), False
        for raw in answer.attachments:
            if raw is not None and attachment_id(raw) in wanted:
                fits = True
                with suppress(Error):  # the core has said no, and that is that
                    await self._core.take_attachment(raw, peer)
        return fits

    async def compare_evidence(self, peer: PeerId) -> None:
        """Learn what a member has against others, from where we stood with it last.

        Its list may have no end, and what it names may be nothing: the next visit goes on from there.
        """
        patience_s = PATIENCE_S
        while patience_s > 0:
            after, asked_s, known = self._listed.get(peer, 0), trio.current_time(), len(self.book)
            try:
                answer = await self._validators.ask(peer, ListEvidence(after), EvidenceIds)
            except (NetworkError, RemoteError):
                return
            unknown = [id_ for id_ in answer.ids if id_ not in self.book]
            for start in range(0, len(unknown), ATTACHMENTS_MAX):
                if trio.current_time() > asked_s + patience_s:
                    return
                if not await self._fetch(peer, tuple(unknown[start : start + ATTACHMENTS_MAX])):
                    return  # asked for again in the next round
            if not answer.ids:
                return
            self._listed[peer] = after + len(answer.ids)
            news = len(self.book) - known
            patience_s -= trio.current_time() - asked_s
            patience_s = min(PATIENCE_S, patience_s + NEWS_PATIENCE_S * (news if news else -1))
