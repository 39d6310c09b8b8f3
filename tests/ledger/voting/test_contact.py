from __future__ import annotations

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.voting.contact import GAP_MS, Contact
from tests.ledger.world import NOW

KEYS = tuple(bytes([i]) * 32 for i in range(4))
FOUR = Committee(KEYS, (1, 1, 1, 1))


def test_contact_begins_when_a_quorum_with_ourselves_was_heard() -> None:
    contact = Contact(FOUR, 0)
    contact.heard(1, NOW, NOW)
    assert contact.since(NOW) is None
    contact.heard(2, NOW + 5, NOW + 5)
    assert contact.since(NOW + 9) == NOW + 5


def test_weights_count_and_not_heads() -> None:
    contact = Contact(Committee(KEYS, (5, 1, 1, 3)), 0)
    contact.heard(1, NOW, NOW)
    contact.heard(2, NOW, NOW)
    assert contact.since(NOW) == NOW


def test_one_validator_alone_is_always_in_contact() -> None:
    assert Contact(Committee(KEYS[:1], (1,)), 0).since(NOW) == NOW


def test_gaps_under_a_minute_do_not_reset() -> None:
    contact = Contact(FOUR, 0)
    for at in range(NOW, NOW + 10 * GAP_MS, GAP_MS - 1):
        contact.heard(1, at, at)
        contact.heard(2, at, at)
    assert contact.since(NOW + 10 * GAP_MS) == NOW


def test_a_gap_of_a_minute_resets_whoever_ends_it() -> None:
    contact = Contact(FOUR, 0)
    for member in (1, 2):
        contact.heard(member, NOW, NOW)
    late = NOW + GAP_MS
    contact.heard(1, late, late)
    assert contact.since(late) is None
    contact.heard(3, late + 1, late + 1)
    assert contact.since(late + 1) == late + 1


def test_an_old_log_that_is_caught_up_with_is_no_contact() -> None:
    contact = Contact(FOUR, 0)
    for member in (1, 2, 3):
        contact.heard(member, NOW - GAP_MS, NOW)
    assert contact.since(NOW) is None


def test_a_clock_that_is_ahead_does_not_lengthen_contact() -> None:
    contact = Contact(FOUR, 0)
    for member in (1, 2):
        contact.heard(member, NOW + 10**9, NOW)
    assert contact.since(NOW) == NOW
    assert contact.since(NOW + GAP_MS) is None


def test_another_members_contact_does_not_shorten_ours() -> None:
    contact = Contact(FOUR, 0)
    contact.heard(1, NOW, NOW)
    contact.heard(2, NOW, NOW)
    contact.heard(2, NOW - 30_000, NOW + 1)  # a batch that comes late
    assert contact.since(NOW + GAP_MS - 1) == NOW


def test_mutant_contact_that_never_expires_is_noticed() -> None:
    class Forgetless(Contact):
        def _expire(self, now: int) -> None:
            pass

    contact = Forgetless(FOUR, 0)
    for member in (1, 2):
        contact.heard(member, NOW, NOW)
    assert contact.since(NOW + GAP_MS) == NOW  # and the tests above would fail
