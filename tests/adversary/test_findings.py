"""What the adversary has found, each as small as it could be made."""

from __future__ import annotations

import pytest

from ainp2p.ledger.voting.slot import Candidate
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.voting.waiting import Limits, WaitingRoom
from tests.adversary.run import simulate


def test_two_gated_candidates_that_wait_for_contact_do_not_wake_one_another_ever_more_often() -> None:
    # Each look at one of them set a timer for both: in an outage of 200 s with G = 2 s that makes 2^100.
    room = WaitingRoom(Limits())
    both = [Candidate(bytes([n]) * 32) for n in range(2)]
    held = {candidate.id: candidate for candidate in both}
    room.work.extend(both)
    for now in range(100):
        looks = len(room.work)
        assert looks <= 2
        for _ in range(looks):
            room.work.popleft()
            for candidate in both:
                room.wake_at(candidate, now + 1, held)
        room.run_timers(now + 1)


def test_no_lock_ends_below_a_receipt_whose_own_close_still_waits_for_its_gate() -> None:
    # A CLOSE(923) that had passed its gate was named in NEWVIEWs beside a receipt for 988.
    assert not simulate(22).violation


def test_committees_that_name_other_evidence_of_the_same_offence_are_judged_by_everybody() -> None:
    # Whoever held evidence against a culprit did not keep another piece; two COMMITTEEs that named one each
    # could be judged by their proposers alone, and no epoch began any more.
    assert not simulate(179).violation


def test_a_member_that_has_not_heard_of_a_decision_starts_its_slot_at_view_1_of_the_next_epoch() -> None:
    # The auditor thought that what anybody has decided is handed over to nobody.
    assert not simulate(20584).violation


def test_an_operation_is_valid_when_any_of_its_proofs_is_whichever_was_seen_first() -> None:
    # Proofs are outside an operation's id: the auditor judged a LOCK by the forged one that came before.
    assert not simulate(30139).violation


def test_a_validator_whose_clock_was_ahead_does_not_name_what_only_it_could_lock() -> None:
    # It went on naming its own LOCK, 10,000 s ahead; leaders left it out, and the others were no quorum.
    assert not simulate(30852).violation


def test_a_bond_of_the_union_that_some_have_not_applied_stops_no_committee() -> None:
    # Frozen members waited for a bond that they get with the COMMITTEE only; no epoch began any more.
    # The mutant "a bond that is not here stops its COMMITTEE" is caught at this seed.
    assert not simulate(133).violation


def test_no_lock_ends_below_a_receipt_that_came_between_a_newview_and_its_proposal() -> None:
    # Three had named a CLOSE(77) before an outage; after it they held a receipt for 218, and LOCKed what was
    # picked from their own NEWVIEWs.
    assert not simulate(71151).violation


def test_what_an_epoch_inherits_goes_before_receipts_that_came_later() -> None:
    # A CLOSE was prepared by the weights of one epoch; the auditor counted holders by those of the next.
    assert not simulate(71365).violation


def test_a_handoff_may_have_prepared_what_others_have_decided_against() -> None:
    # A CLOSE was prepared in view 0 at one member; others had decided its rival in view 1, and kept no
    # candidate of a Lock that has ended: they could never judge the COMMITTEE for which a quorum waited.
    assert not simulate(200705).violation


def test_a_vote_is_judged_by_when_it_was_decided_on_not_by_when_its_batch_was_sealed() -> None:
    # The auditor saw contact end between the two.
    assert not simulate(200500).violation


def test_a_member_is_heard_of_by_any_batch_that_is_new_though_its_log_was_longer_before() -> None:
    # The auditor went by heights: the log of a member that had forgotten its own was contact with nobody.
    assert not simulate(201352).violation


def test_a_close_is_gated_by_the_proof_that_a_justification_shows() -> None:
    # Another one with the closer's signature was about; the auditor took the operation for ungated.
    assert not simulate(201037).violation


def test_a_settle_that_a_member_names_and_withholds_is_made_by_those_who_hold_its_receipt() -> None:
    # Three held a receipt for 1,000 and had LOCKed less; a traitor's LOCK named its SETTLE, whose bytes had
    # been lost: they waited for them, and sent no NEWVIEW any more.
    assert not simulate(400191).violation


def test_who_weighs_a_quorum_alone_is_in_contact_with_itself() -> None:
    # Members had left and one of them weighed a quorum: the auditor waited until it heard of somebody.
    assert not simulate(138).violation


def test_an_epochs_end_does_not_wait_by_a_clock_that_was_put_back() -> None:
    # A member whose clock was a day ahead for a moment looked at the closing again a day later; with one
    # traitor the others were no quorum without its HANDOFF.
    assert not simulate(401586).violation


def test_a_blind_member_that_sits_alone_asks_those_who_have_left() -> None:
    # All others had given their seats up: it looked for one of them in the committee, and fell.
    assert not simulate(501034).violation


def test_handoffs_are_asked_of_those_who_have_left_too() -> None:
    # A member that was away came back to a committee of two newcomers: the HANDOFFs that their epoch began
    # with were only with one that had left.
    assert not simulate(501066).violation


def test_mutant_that_asks_only_the_committee_never_begins_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Validator, "_may_hold_handoffs", property(lambda self: self.committee.keys))
    assert simulate(501066).check == "10 liveness"
