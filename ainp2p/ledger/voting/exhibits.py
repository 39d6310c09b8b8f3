"""What votes in contested slots rest on and others have to be shown: attachments and certificates. No I/O.

attachments that came, or that we made ──► loose (bounded) ──an own vote rests on one──► kept on disk
LOCKs counted here, or a certificate that somebody shows ──► prepared; it is reported, and shown again
"""

from __future__ import annotations

from collections import OrderedDict

from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.certificate import (
    build_certificate,
    read_certificate,
    unpack_place,
    verify_final,
    verify_prepared,
)
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.justification import Certified
from ainp2p.ledger.voting.seen_votes import SeenVotes
from ainp2p.ledger.voting.slot import Candidate
from ainp2p.ledger.voting.views import Contest
from ainp2p.ledger.voting.votelog import LOCK
from ainp2p.protocol.codec import encode

LOOSE_MAX = 256  # attachments kept that nothing held rests on: they may come before the entry that names them


class Exhibits:
    """What one validator can show, and what it was shown.

    Attributes:
        seen: signatures of vote batches that were verified a moment ago.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._committee, self._table, self._archive = desk.committee, desk.table, desk.archive
        self._loose: OrderedDict[bytes, bytes] = OrderedDict()
        self.seen = SeenVotes()

    # --- attachments ------------------------------------------------------------------------------

    def attachment(self, id_: bytes) -> bytes | None:
        """A held attachment."""
        return self._loose.get(id_) or self._archive.attachment(id_)

    def lay_open(self, raw: bytes) -> bytes:
        """Hold an attachment for now; returns its id."""
        id_ = attachment_id(raw)
        self._loose[id_] = raw
        if len(self._loose) > LOOSE_MAX:
            self._loose.popitem(last=False)
        return id_

    def keep(self, contest: Contest, raw: bytes) -> bytes:
        """Have an attachment on disk with the own vote that rests on it; returns its id."""
        id_ = attachment_id(raw)
        contest.kept[id_] = self._archive.store(raw)
        return id_

    def show(self, contest: Contest, raw: bytes) -> bytes:
        """The same, and push it to everybody then."""
        id_ = attachment_id(raw)
        contest.kept[id_] = self._archive.attach(raw)
        return id_

    # --- certificates -----------------------------------------------------------------------------

    def certificate(self, candidate: Candidate, view: int) -> bytes | None:
        """The prepared certificate of this view, if its LOCKs are here or somebody has shown it."""
        if candidate.shown is not None and candidate.shown[0] == view:
            return candidate.shown[1]
        count = candidate.counts.get(view << 2 | LOCK)
        if count is None or count.weight < self._committee.quorum:
            return None
        raw = build_certificate(map(unpack_place, count.places), self._archive.batch, self._committee)
        candidate.shown = view, raw
        return raw

    def keep_shown(self, candidate: Candidate, view: int) -> None:
        """Have the certificate on disk that our COMMIT rests on, if it is one that somebody showed.

        Lemma L4 (docs/ledger-proof.md): what we COMMITted on can be shown after a restart.

        Its LOCKs may be in no log that anybody holds, if a log was forked: without it we could never report
        what we COMMITted on after a restart, and would be silent in this slot.
        """
        if candidate.shown is not None and candidate.shown[0] == view:
            self.keep(self._table.contest(candidate.slot), encode(Certified(candidate.shown[1])))

    def take_certificate(self, raw: bytes) -> None:
        """A certificate from anybody.

        Raises:
            Malformed, BadSignature, InvalidOperation: it is not what it seems.
        """
        certificate = read_certificate(raw)
        id_ = certificate.operation
        if self._table.was_decided(id_) or self._archive.find(id_) is not None:
            return
        mask = sum(1 << vote.member for vote in certificate.votes)
        known = self._table.candidates.get(id_)
        if certificate.kind == LOCK and certificate.epoch != self._desk.epoch:
            return  # of a slot that began with it: everybody has it who may vote
        if certificate.kind == LOCK:
            if known is not None and known.shown is not None and known.shown[0] >= certificate.view:
                return
            view, _ = verify_prepared(raw, self._committee, self._desk.epoch, self._desk.state.network)
            self.adopt(id_, view, raw, mask)
            return
        committee = self._desk.state.committee(certificate.epoch)
        network = self._desk.state.network
        view, _ = verify_final(certificate, committee, certificate.epoch, network, self.seen)
        candidate = self.name(id_, mask)
        if candidate is not None and candidate.final is None:
            candidate.final, candidate.certificate = view, raw
            self._desk.room.work.append(candidate)

    def adopt(self, id_: bytes, view: int, raw: bytes, mask: int) -> None:
        """Hold somebody's prepared certificate, which was verified, as if its LOCKs had been counted here."""
        candidate = self.name(id_, mask)
        if candidate is None or (candidate.shown is not None and candidate.shown[0] >= view):
            return
        candidate.shown = view, raw
        candidate.prepared = view if candidate.prepared is None else max(view, candidate.prepared)
        self._desk.room.work.append(candidate)

    def name(self, id_: bytes, mask: int) -> Candidate | None:
        """The candidate with this id, which these members have; None if it was decided."""
        candidate = self._table.name(id_, mask)
        if candidate is not None and candidate.parsed is None:
            self._desk.room.work.append(candidate)
        return candidate


__all__ = ["LOOSE_MAX", "Exhibits"]
