"""What an epoch begins with: the slots that the one before left prepared. No I/O."""

from __future__ import annotations

from ainp2p.errors import InvalidOperation, RemoteError
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.effects import Effects, Wanted
from ainp2p.ledger.voting.handoff import Handoff, Prepared, SlotId, check_handoff, read_handoff

ASK_AGAIN_MS = 900


class Inheritance:
    """The slots that an epoch starts at view 1 with: from the HANDOFFs that its COMMITTEE names.

    Attributes:
        prepared: slot → certificate; None until all HANDOFFs and pages are here.
        handoffs: those HANDOFFs by their ids, from then on.
    """

    def __init__(self, desk: Desk, handoffs: tuple[bytes, ...]) -> None:
        self._desk = desk
        self._wanted = list(handoffs)
        self._raw: dict[bytes, bytes] = {}
        self._named = handoffs
        self._asked_at = 0
        self.prepared: dict[SlotId, Prepared] | None = None
        self.handoffs: dict[bytes, Handoff] = {}
        self._look()

    def take_attachment(self, raw: bytes) -> bool:
        """Take one that is missing; True once nothing is."""
        if self.prepared is None and attachment_id(raw) in self._wanted:
            self._desk.archive.keepsake(raw)
            self._raw[attachment_id(raw)] = raw
            self._look()
            return self.prepared is not None
        return False

    @property
    def due(self) -> int | None:
        """When to ask for what is missing."""
        return None if self.prepared is not None else self._asked_at

    def clock_put_back(self) -> None:
        """Ask again now."""
        self._asked_at = 0

    def tick(self, now: int, out: Effects, holders: tuple[bytes, ...]) -> None:
        """Ask for what is missing."""
        if self.prepared is None and now >= self._asked_at:
            self._asked_at = now + ASK_AGAIN_MS
            out.missing += [Wanted(id_, holders) for id_ in self._wanted]

    def _fetch(self, id_: bytes) -> bytes | None:
        raw = self._raw.get(id_) or self._desk.archive.attachment(id_)
        if raw is not None:
            self._raw[id_] = raw
        return raw

    def _look(self) -> None:
        self._wanted = [id_ for id_ in self._named if self._fetch(id_) is None]
        pages = [
            page for id_ in self._named if id_ in self._raw for page in read_handoff(self._raw[id_]).more
        ]
        self._wanted += [page for page in pages if self._fetch(page) is None]
        if not self._wanted:
            self.prepared = self._highest()
            self.handoffs = {id_: read_handoff(self._raw[id_]) for id_ in self._named}

    def _highest(self) -> dict[SlotId, Prepared]:
        """A quorum has checked these before it made the COMMITTEE final; slots decided here are over."""
        state, found = self._desk.state, dict[SlotId, Prepared]()
        for id_ in self._named:
            handoff = read_handoff(self._raw[id_])
            pages = [self._raw[page] for page in handoff.more]
            try:
                _, prepared = check_handoff(
                    self._raw[id_],
                    state.network,
                    self._desk.epoch - 1,
                    handoff.validator,
                    pages,
                    state.committee,
                )
            except (RemoteError, InvalidOperation) as exc:
                raise InvalidOperation("handoffs", f"a final COMMITTEE names a bad one: {exc}") from exc
            for slot, each in prepared.items():
                if state.head(slot[0])[0] < slot[1] and (slot not in found or found[slot] < each):
                    found[slot] = each
        return dict(sorted(found.items()))


__all__ = ["Inheritance"]
