"""HANDOFFs: what goes into one, what is refused, and what a set of them says together."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, InvalidOperation, Malformed
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.voting import handoff as handoffs
from ainp2p.ledger.voting.attachments import ATTACHMENT_SIZE_MAX, attachment_id
from ainp2p.ledger.voting.certificate import CERTIFICATE_SIZE_MAX
from ainp2p.ledger.voting.handoff import (
    Checked,
    Handoff,
    Head,
    Held,
    Leaving,
    Page,
    Prepared,
    SlotId,
    changed_frontier,
    check_handoff,
    check_prepared,
    commits_max,
    frontier_root,
    make_handoff,
    read_handoff,
    unite,
)
from ainp2p.protocol.codec import encode

from ..certifying import COMMIT, LOCK, certify, committee_of, member_keys

NETWORK = b"n" * 32
KEYS = member_keys(4)
COMMITTEE = committee_of(KEYS)
A, B, C = (bytes([letter]) * 32 for letter in b"ABC")
X, Y, Z = (bytes([letter]) * 32 for letter in b"XYZ")
FRONTIER: dict[bytes, Head] = {A: (1, X), B: (3, Y)}


def committees(epoch: int) -> Committee:
    if epoch > 1:
        raise InvalidOperation("epoch", "not known")
    return COMMITTEE


def prepared(operation: bytes, epoch: int = 0, view: int = 0) -> bytes:
    return certify(KEYS, NETWORK, operation, kind=LOCK, epoch=epoch, view=view)


def handed(
    committed: dict[SlotId, bytes] | None = None, more: dict[SlotId, bytes] | None = None, member: int = 0
) -> list[bytes]:
    leaving = Leaving(FRONTIER, committed or {}, more or {})
    return make_handoff(NETWORK, 0, KEYS[member].public, 7, 4, leaving)


def check(
    attachments: list[bytes], epoch: int = 0, network: bytes = NETWORK
) -> tuple[Handoff, dict[SlotId, Prepared]]:
    return check_handoff(attachments[0], network, epoch, KEYS[0].public, attachments[1:], committees)


# --- one ----------------------------------------------------------------------------------------------


def test_a_handoff_says_what_its_member_knows() -> None:
    handoff, slots = check(handed({(A, 2): prepared(X)}, {(C, 1): prepared(Y, view=3)}))
    assert (handoff.height, handoff.frontier_root, handoff.frontier_count) == (7, frontier_root(FRONTIER), 2)
    assert {slot: (p.epoch, p.view, p.operation) for slot, p in slots.items()} == {
        (A, 2): (0, 0, X),
        (C, 1): (0, 3, Y),
    }


def test_slots_that_do_not_fit_go_on_pages() -> None:
    certificate = prepared(X)
    slots = {(i.to_bytes(32, "big"), 1): certificate for i in range(150)}
    attachments = handed(slots)
    assert len(attachments) > 1
    assert all(len(raw) <= ATTACHMENT_SIZE_MAX for raw in attachments)
    handoff, found = check(attachments)
    assert found.keys() == slots.keys()
    assert handoff.more == tuple(attachment_id(page) for page in attachments[1:])


def test_all_that_is_committed_fits_and_the_rest_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handoffs, "PAGES_MAX", 1)
    certificate, room = prepared(X), commits_max(4)
    committed = {(i.to_bytes(32, "big"), 1): certificate for i in range(room)}
    rest = {(bytes([255, i]) + bytes(30), 1): certificate for i in range(100)}
    attachments = handed(committed, rest)
    found = check(attachments)[1]
    assert len(attachments) <= 2
    assert found.keys() == committed.keys()


@pytest.mark.parametrize("members", [1, 4, 31, 64])
def test_the_largest_handoff_can_be_sent_and_read(members: int) -> None:
    """As many of the largest certificates as `commits_max` allows fill no more than PAGES_MAX pages."""
    size = min(members * handoffs._VOTE_SIZE_MAX + 128, CERTIFICATE_SIZE_MAX)
    held = [Held(i.to_bytes(32, "big"), 1, bytes(size)) for i in range(commits_max(members))]
    pages = 0
    while held:
        page, held = handoffs._split(held, handoffs._PAGE_ROOM)
        raw = encode(Page(page))
        assert len(raw) <= ATTACHMENT_SIZE_MAX
        assert handoffs.read_page(raw).prepared == page
        pages += 1
    assert pages <= handoffs.PAGES_MAX
    full = Handoff(NETWORK, 1, A, 1, X, 1, (), (A,) * handoffs.PAGES_MAX)
    assert len(encode(full)) + handoffs._ROOM <= ATTACHMENT_SIZE_MAX


def replaced(attachments: list[bytes], **fields: object) -> list[bytes]:
    return [encode(msgspec.structs.replace(read_handoff(attachments[0]), **fields)), *attachments[1:]]


def test_a_handoff_of_another_network_epoch_or_member_is_refused() -> None:
    for attachments in (
        replaced(handed(), network=A),
        replaced(handed(), epoch=1),
        replaced(handed(), validator=KEYS[1].public),
        handed(member=1),
    ):
        with pytest.raises(InvalidOperation, match="another network, epoch or member"):
            check(attachments)


def test_pages_that_it_does_not_name_are_refused() -> None:
    slots = {(bytes([i]) * 32, 1): prepared(X) for i in range(100)}
    attachments = handed(slots)
    for wrong in (attachments[:1], [*attachments, attachments[-1]], replaced(attachments, more=())):
        with pytest.raises(InvalidOperation, match="other pages"):
            check(wrong)


def test_slots_out_of_order_or_twice_are_refused() -> None:
    held = read_handoff(handed({(A, 2): prepared(X), (B, 4): prepared(Y)})[0]).prepared
    for wrong in (held[::-1], (held[0], held[0])):
        with pytest.raises(InvalidOperation, match="out of order"):
            check(replaced(handed(), prepared=wrong))


def flipped(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def test_a_slot_whose_certificate_prepares_nothing_is_refused() -> None:
    for wrong in (
        certify(KEYS, NETWORK, X, kind=COMMIT),
        certify(KEYS, NETWORK, X, kind=LOCK, members=[0, 1]),
        certify(KEYS, A, X, kind=LOCK),
        certify(member_keys(4, "stranger"), NETWORK, X, kind=LOCK),
        flipped(prepared(X)),
        prepared(X, epoch=1),
        b"garbage",
    ):
        with pytest.raises((InvalidOperation, BadSignature, Malformed)):
            check(handed({(A, 2): wrong}))


def test_a_slot_that_stayed_undecided_for_an_epoch_is_handed_over_once_more() -> None:
    old = check_prepared(prepared(X, epoch=0, view=9), NETWORK, 1, committees)
    new = check_prepared(prepared(Y, epoch=1, view=1), NETWORK, 1, committees)
    assert (old.epoch, old.view) == (0, 9)
    assert old < new  # LEDGER.md: "keyed and ordered by (epoch, view)"


@given(st.binary(max_size=300))
@settings(max_examples=50, deadline=None)
def test_bytes_are_refused_not_stumbled_over(raw: bytes) -> None:
    with pytest.raises((Malformed, InvalidOperation)):
        check([raw])
    with pytest.raises((Malformed, InvalidOperation)):
        check(handed({(A, 2): raw or b"\0"}))


# --- frontiers ----------------------------------------------------------------------------------------


def test_a_frontier_s_root_says_every_head() -> None:
    roots = {
        frontier_root(FRONTIER),
        frontier_root({A: (1, X)}),
        frontier_root({A: (1, X), B: (3, X)}),
        frontier_root({A: (1, X), B: (4, Y)}),
        frontier_root({A: (1, X), C: (3, Y)}),
    }
    assert len(roots) == 5
    assert frontier_root(dict(reversed(FRONTIER.items()))) == frontier_root(FRONTIER)


def test_changes_to_a_frontier_add_and_take_away() -> None:
    assert changed_frontier(FRONTIER, {A: (2, Z), B: (0, B), C: (1, X)}) == {A: (2, Z), C: (1, X)}


# --- a set --------------------------------------------------------------------------------------------


def checked(
    member: int, heads: dict[bytes, Head] | None = None, slots: dict[SlotId, Prepared] | None = None
) -> Checked:
    handoff = Handoff(NETWORK, 0, KEYS[member].public, 1, X, 1, (), ())
    return Checked(bytes([member]) * 32, handoff, slots or {}, heads or {})


def says(operation: bytes, view: int = 0, epoch: int = 0) -> Prepared:
    return Prepared(epoch, view, operation, b"certificate")


def test_a_union_has_every_highest_head() -> None:
    union = unite(
        [checked(0), checked(1, {A: (2, Z)}), checked(2, {A: (0, A), C: (1, X)})], COMMITTEE, FRONTIER
    )
    assert union.heads == {A: (2, Z), C: (1, X)}


def test_a_union_takes_back_what_none_of_its_members_had() -> None:
    """Somebody who decided more than all of them must not count that in."""
    heads = {A: (0, A), B: (2, X)}
    union = unite([checked(m, heads) for m in range(3)], COMMITTEE, FRONTIER)
    assert union.heads == heads


def test_a_union_prepares_the_highest_of_each_undecided_slot() -> None:
    slots = [
        {(A, 2): says(X, view=1), (B, 3): says(Y)},
        {(A, 2): says(Z, view=2)},
        {(A, 2): says(Y, view=9, epoch=0), (C, 1): says(X)},
    ]
    members = [checked(m, slots=s) for m, s in enumerate(slots)]
    assert {slot: p.operation for slot, p in unite(members, COMMITTEE, FRONTIER).prepared.items()} == {
        (A, 2): Y,
        (C, 1): X,  # and (B, 3) is decided
    }


def test_the_epoch_goes_before_the_view() -> None:
    old, new = {(A, 2): says(X, view=9, epoch=0)}, {(A, 2): says(Y, view=1, epoch=1)}
    union = unite([checked(0, slots=old), checked(1, slots=new), checked(2)], COMMITTEE, FRONTIER)
    assert union.prepared[A, 2].operation == Y


def test_a_union_does_not_depend_on_the_order() -> None:
    members = [checked(m, {A: (1 + m, Z)}, {(C, 1): says(X, view=m)}) for m in range(1, 4)]
    assert unite(members, COMMITTEE, FRONTIER) == unite(members[::-1], COMMITTEE, FRONTIER)


def test_a_set_of_no_more_than_two_thirds_is_refused() -> None:
    with pytest.raises(InvalidOperation, match="no quorum"):
        unite([checked(0), checked(1)], COMMITTEE, FRONTIER)
    with pytest.raises(InvalidOperation, match="no quorum"):
        unite([checked(1), checked(2), checked(3)], committee_of(KEYS, [6, 1, 1, 1]), FRONTIER)


def test_a_set_with_a_stranger_or_a_member_twice_is_refused() -> None:
    twice = msgspec.structs.replace(checked(0).handoff, height=2)
    stranger = msgspec.structs.replace(checked(0).handoff, validator=A)
    for wrong in (twice, stranger):
        odd = Checked(Z, wrong, {}, {})
        with pytest.raises(InvalidOperation, match="handoffs"):
            unite([checked(0), checked(1), checked(2), odd], COMMITTEE, FRONTIER)


def test_two_heads_in_one_slot_are_a_fork() -> None:
    for heads in ({A: (1, Z)}, {A: (2, Z)}):
        other = {A: (2, Y)} if heads == {A: (2, Z)} else {}
        with pytest.raises(InvalidOperation, match="fork"):
            unite([checked(0, heads), checked(1, other), checked(2)], COMMITTEE, FRONTIER)


def test_mutant_a_handoff_whose_certificates_nobody_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defence off: a prepared slot that nobody prepared gets through."""
    fake = certify(KEYS, NETWORK, X, kind=LOCK, members=[0])
    with pytest.raises(InvalidOperation):
        check(handed({(A, 2): fake}))
    monkeypatch.setattr(handoffs, "verify_prepared", lambda raw, committee, epoch, network: (0, X))
    assert check(handed({(A, 2): fake}))[1][A, 2].operation == X
