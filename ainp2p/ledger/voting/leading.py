"""What a view's leader does: it justifies what follows from a quorum's NEWVIEWs, and PROPOSEs it. No I/O.

LEDGER.md, "Deciding a slot", 4: "With a quorum of NEWVIEWs it PROPOSEs the value of the highest prepared
certificate, else `pick`." What others make of it is in `judging`.
"""

from __future__ import annotations

from ainp2p.errors import LedgerError, RemoteError
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.voting.attested import attest
from ainp2p.ledger.voting.confirming import candidate_of, confirm
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.exhibits import Exhibits
from ainp2p.ledger.voting.justification import Justification, Proof, choose, claim_of, highest_report
from ainp2p.ledger.voting.slot import Slot, SlotId
from ainp2p.ledger.voting.views import Contest, Heard
from ainp2p.ledger.voting.votelog import NewView, propose_entry
from ainp2p.protocol.codec import encode

LEADER_AHEAD_MS = 60_000  # "or that is more than 60 s ahead"


class Leading:
    """One validator as a leader."""

    def __init__(self, desk: Desk, exhibits: Exhibits) -> None:
        self._desk, self._exhibits = desk, exhibits
        self._committee, self._table, self._archive = desk.committee, desk.table, desk.archive

    def lead(self, slot_id: SlotId, slot: Slot, contest: Contest, now: int) -> None:
        """PROPOSE in the view that a quorum has entered, if it is ours."""
        view = contest.entered
        if view == 0 or contest.proposed >= view or slot.promised > view:
            return
        if self._desk.leader(slot_id, view) != self._desk.member:
            return
        made = self._justify(slot_id, contest.in_view(view), view, now)
        if made is None:
            return
        value, raw = made
        contest.proposed = view
        digest = self._exhibits.show(contest, raw)
        self._exhibits.lay_open(raw)
        self._desk.log.add(propose_entry(view, value, digest, *slot_id), now)

    def _justify(
        self, slot_id: SlotId, heard: dict[int, Heard], view: int, now: int
    ) -> tuple[bytes, bytes] | None:
        """(operation, encoded justification), or None while these NEWVIEWs do not lead to one."""
        reports = {member: each.report for member, each in heard.items()}
        certificate = None
        while certificate is None and (claim := highest_report(reports)) is not None:
            candidate = self._table.candidates.get(claim[1])
            certificate = self._exhibits.certificate(candidate, claim[0]) if candidate is not None else None
            # What cannot be shown is left out, and so is what contradicts the one that can.
            reports = {
                member: report
                for member, report in reports.items()
                if (other := claim_of(report)) is None
                or (certificate is None and other != claim)
                or (certificate is not None and (other == claim or other[0] < claim[0]))
            }
        proofs: tuple[Proof, ...] = ()
        if certificate is not None:
            assert claim is not None
            held = self._table.candidates.get(claim[1])
            if held is None or held.parsed is None:
                return None
            value = claim[1]
        else:
            candidates = self._servable(slot_id, reports, now)
            reports = {m: report for m, report in reports.items() if report.candidate in candidates}
            candidates = {
                id_: candidates[id_] for id_ in {report.candidate or b"" for report in reports.values()}
            }
            chosen = choose(reports, candidates, self._committee)
            if chosen is None:
                return None
            value = candidate_of(self._desk, chosen).id
            proofs = tuple(
                Proof(id_, candidates[id_].signed.signatures, candidates[id_].signed.closer)
                for id_ in sorted(candidates)
            )
        if self._committee.weight_of(reports) < self._committee.quorum:
            return None
        newviews = tuple(
            attest(self._archive.batch(member, heard[member].height), heard[member].position)
            for member in sorted(reports)
        )
        made = Justification(self._desk.epoch, *slot_id, view, newviews, certificate, proofs)
        return value, encode(made)

    def _servable(
        self, slot_id: SlotId, reports: dict[int, NewView], now: int
    ) -> dict[bytes, ParsedOperation]:
        """The candidates of these NEWVIEWs that we can confirm ourselves, and serve."""
        found: dict[bytes, ParsedOperation] = {}
        for report in reports.values():
            candidate = self._table.candidates.get(report.candidate or b"")
            if candidate is None or candidate.parsed is None or candidate.slot != slot_id:
                continue
            try:
                confirm(self._desk, candidate.parsed, now, LEADER_AHEAD_MS, proof_verified=candidate.verified)
            except (LedgerError, RemoteError):
                continue
            found[candidate.id] = candidate.parsed
        return found


__all__ = ["LEADER_AHEAD_MS", "Leading"]
