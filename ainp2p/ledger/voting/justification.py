"""What a leader proposes with: NEWVIEWs of a quorum, and the prepared certificate or the candidates in them.

    NEWVIEWs of a quorum ──► some report a prepared operation ──► the highest one; its certificate is here
                        └──► none does ──► `pick` among their candidates; the candidates' proofs are here

Everybody judges it alike, whatever the own clock says: `verify` checks signatures and says what was
reported, `choose` says which operation follows. The operations' bytes are fetched as operations. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import KEYS_MAX, ParsedOperation, SignedOperation, parse
from ainp2p.ledger.rules.state import is_gated
from ainp2p.ledger.voting.attachments import ATTACHMENT_SIZE_MAX, CERTIFIED, JUSTIFICATION
from ainp2p.ledger.voting.attested import Attested, Check, verify_attested
from ainp2p.ledger.voting.certificate import CERTIFICATE_SIZE_MAX, verify_prepared
from ainp2p.ledger.voting.picking import Conflict, pick
from ainp2p.ledger.voting.votelog import VIEW_MAX, NewView
from ainp2p.protocol.codec import Bytes32, Message, Positive, Signature, Uint, fast_decoder
from ainp2p.protocol.identity import verify as verify_signature

MEMBERS_MAX = 31


class Proof(Message, frozen=True):
    """A candidate, and what is outside its id: "justifications carry their candidates' proofs"."""

    id: Bytes32
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=KEYS_MAX)]
    closer: Signature | None

    def of(self, raw: bytes) -> ParsedOperation:
        """The candidate with these bytes under this proof.

        Raises:
            Malformed, InvalidOperation: they are not well formed together.
        """
        return parse(SignedOperation(raw, self.signatures, self.closer))


class Justification(Message, frozen=True, tag=JUSTIFICATION):
    """NEWVIEWs in the order of their members, candidates in the order of their ids; one of the last two."""

    epoch: Uint
    object: Bytes32
    seq: Positive
    view: Annotated[int, msgspec.Meta(ge=1, le=VIEW_MAX)]
    newviews: Annotated[tuple[Attested, ...], msgspec.Meta(min_length=1, max_length=MEMBERS_MAX)]
    prepared: Annotated[bytes, msgspec.Meta(max_length=CERTIFICATE_SIZE_MAX)] | None
    candidates: Annotated[tuple[Proof, ...], msgspec.Meta(max_length=MEMBERS_MAX)]


class Certified(Message, frozen=True, tag=CERTIFIED):
    """A certificate that travels by itself: of LOCKs beside a NEWVIEW, of COMMITs as the answer to one."""

    certificate: Annotated[bytes, msgspec.Meta(max_length=CERTIFICATE_SIZE_MAX)]


read_justification = fast_decoder(Justification, size_max=ATTACHMENT_SIZE_MAX)
read_certified = fast_decoder(Certified, size_max=ATTACHMENT_SIZE_MAX)

Reports = Mapping[int, NewView]  # by the member's place
Inherited = tuple[bytes, bytes]  # operation, its prepared certificate of an earlier epoch


@dataclass(frozen=True, slots=True)
class Shown:
    """What a justification proves.

    Attributes:
        reports: the NEWVIEWs.
        prepared: (view, operation) of the highest prepared certificate, None if nobody reports one.
    """

    justification: Justification
    reports: Reports
    prepared: tuple[int, bytes] | None


def highest_report(reports: Reports) -> tuple[int, bytes] | None:
    """The highest (view, operation) that is said to be prepared."""
    claims = [claim for report in reports.values() if (claim := claim_of(report)) is not None]
    return max(claims, default=None)


def claim_of(report: NewView) -> tuple[int, bytes] | None:
    """The (view, operation) that a NEWVIEW reports as prepared."""
    if report.prepared is None or report.operation is None:
        return None
    return report.prepared, report.operation


def verify(
    justification: Justification,
    network: bytes,
    committee: Committee,
    check: Check = verify_signature,
    inherited: Inherited | None = None,
) -> Shown:
    """Check all that needs no state: that a quorum sent these NEWVIEWs for this view of this slot.

    Lemma L4 (docs/ledger-proof.md): what a quorum has COMMITted on is among what a quorum reports.

    Args:
        committee: of the justification's epoch.
        inherited: what the slot began its epoch with. It counts as prepared in view 0, in which such a slot
            has no votes.

    Raises:
        Malformed, BadSignature: it was made up.
        InvalidOperation: rule ``"justification"``: it shows too little, or more than it must.
    """
    reports: dict[int, NewView] = {}
    members = [attested.member for attested in justification.newviews]
    if members != sorted(set(members)):
        raise InvalidOperation("justification", "a member is named twice or out of order")
    for attested in justification.newviews:
        entry = verify_attested(attested, network, justification.epoch, committee, check)
        if not isinstance(entry, NewView) or not _is_for(entry, justification):
            raise InvalidOperation("justification", "an entry that is no NEWVIEW of this view of this slot")
        reports[attested.member] = entry
    if committee.weight_of(reports) < committee.quorum:
        raise InvalidOperation("justification", f"weight {committee.weight_of(reports)} is no quorum")
    return Shown(
        justification, reports, _verify_prepared(justification, reports, network, committee, inherited)
    )


def _is_for(entry: NewView, justification: Justification) -> bool:
    return (entry.object, entry.seq, entry.view) == (
        justification.object,
        justification.seq,
        justification.view,
    )


def _verify_prepared(
    justification: Justification,
    reports: Reports,
    network: bytes,
    committee: Committee,
    inherited: Inherited | None,
) -> tuple[int, bytes] | None:
    highest = highest_report(reports)
    if highest is None:
        if justification.prepared is not None:
            raise InvalidOperation("justification", "a prepared certificate that nobody reports")
        _check_candidates(justification, reports)
        return None
    if justification.prepared is None or justification.candidates:
        raise InvalidOperation("justification", "what is prepared comes before every candidate")
    if any(claim[0] == highest[0] and claim != highest for claim in map(claim_of, reports.values()) if claim):
        raise InvalidOperation("justification", "two operations are reported as prepared in one view")
    if inherited is not None and (justification.prepared, highest[1]) == inherited[::-1]:
        shown = 0, inherited[0]
    else:
        shown = verify_prepared(justification.prepared, committee, justification.epoch, network)
    if shown != highest:
        raise InvalidOperation("justification", "its certificate is not the highest one reported")
    return shown


def _check_candidates(justification: Justification, reports: Reports) -> None:
    named = sorted({report.candidate for report in reports.values() if report.candidate is not None})
    if any(report.candidate is None for report in reports.values()):
        raise InvalidOperation("justification", "a NEWVIEW with neither a candidate nor anything prepared")
    if [proof.id for proof in justification.candidates] != named:
        raise InvalidOperation("justification", "its candidates are not those that the NEWVIEWs name")


def choose(
    reports: Reports, candidates: Mapping[bytes, ParsedOperation], committee: Committee
) -> ParsedOperation | Conflict | None:
    """What follows from NEWVIEWs that report nothing prepared; None if only gated ones, too few, are there.

    Lemma L9 (docs/ledger-proof.md): a gated rival counts no more than a gated receipt.

    Args:
        candidates: all that the reports name, with the proofs of the justification.
    """
    # "Gated candidates count only if NEWVIEWs in the justification from more than 1/3 of the total weight
    # name one."
    gated = {id_ for id_, parsed in candidates.items() if is_gated(parsed)}
    naming = committee.weight_of(member for member, report in reports.items() if report.candidate in gated)
    if naming < committee.minority:
        candidates = {id_: parsed for id_, parsed in candidates.items() if id_ not in gated}
    return pick(candidates.values())


__all__ = [
    "Certified",
    "Justification",
    "Proof",
    "Reports",
    "Shown",
    "choose",
    "claim_of",
    "highest_report",
    "read_certified",
    "read_justification",
    "verify",
]
