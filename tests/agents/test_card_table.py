"""The table of cards: newest per agent, none expired, bounded, compared."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ainp2p.agents import card_table
from ainp2p.agents.card_table import KEPT_PER_SKILL_MAX, LAST_MAX, CardTable
from ainp2p.errors import BadSignature, Expired, Malformed, RemoteError
from ainp2p.protocol import card as card_module
from ainp2p.protocol.card import ENTRY_SIZE, LIFE_MS, PURPOSE, PUSH_MAX, sign_card
from ainp2p.protocol.identity import Key
from ainp2p.protocol.messages import Signed, seal
from tests.protocol.test_card import ALICE, MALLORY, NETWORK, NOW, agent_of, bound, card, inception_of, skill


def table(cards_max: int = 100, **options: Any) -> CardTable:
    return CardTable(NETWORK, bound, cards_max=cards_max, **options)


def signed(key: Key = ALICE, **change: Any) -> Signed:
    return sign_card(key, card(key, **change))


def key(n: int) -> Key:
    return Key(n.to_bytes(32, "big"))


def test_a_card_is_added_once_and_found_by_its_skill() -> None:
    known = table()
    held = known.add(signed(), NOW)
    assert held is not None
    assert known.add(signed(), NOW) is None
    assert known.offering(b"summarise") == list(known)
    assert known.offering(b"other") == []
    (kept,) = known
    assert (kept.card, kept.signed) == (held.card, held.signed)
    assert known.get(agent_of(ALICE)) is kept


def test_tables_of_one_process_hold_a_card_once() -> None:
    here, there = table(), table()
    here.add(signed(), NOW)
    there.add(signed(), NOW)
    assert here.get(agent_of(ALICE)) is there.get(agent_of(ALICE))


def opened_for(monkeypatch: pytest.MonkeyPatch, known: CardTable, size: int, times: int) -> int:
    """How often a card of about `size` bytes was read and verified, which came so many times."""
    opened, open_ = list[Signed](), card_module._open

    def counted(each: Signed) -> card_module.Opened:
        opened.append(each)
        return open_(each)

    monkeypatch.setattr(card_module, "_open", counted)
    card_module.forget_opened()
    for _ in range(times):
        known.add(signed(skills=(skill(description=bytes(size)),)), NOW)
    monkeypatch.undo()
    return len(opened)


@pytest.mark.parametrize("size", [pytest.param(100, id="small"), pytest.param(4000, id="large")])
def test_a_card_that_is_held_is_not_verified_again(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    assert opened_for(monkeypatch, table(), size, 3) == 1


def test_mutant_without_names_of_large_cards_they_are_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    known = table()
    monkeypatch.setattr(CardTable, "_is_known_and_large", lambda *_: False)
    assert opened_for(monkeypatch, known, 4000, 3) == 3


def test_a_newer_card_takes_the_place_of_the_older_one() -> None:
    known = table()
    known.add(signed(), NOW)
    newer = signed(sequence=2, skills=(skill(b"translate"),))
    assert known.add(newer, NOW) is not None
    assert len(known) == 1
    assert known.offering(b"summarise") == []
    assert [held.signed for held in known.offering(b"translate")] == [newer]


def test_a_replayed_card_is_refused() -> None:
    known = table()
    known.add(signed(sequence=2), NOW)
    with pytest.raises(Expired, match="replayed"):
        known.add(signed(sequence=1), NOW)
    assert [held.card.sequence for held in known] == [2]


def test_a_second_card_with_the_same_sequence_is_refused() -> None:
    known = table()
    known.add(signed(), NOW)
    with pytest.raises(RemoteError, match="same sequence"):
        known.add(signed(name=b"another"), NOW)
    assert [held.card.name for held in known] == [b"alice"]


def test_a_forged_card_is_refused_and_the_true_one_stays() -> None:
    known = table()
    known.add(signed(), NOW)
    forged = seal(
        MALLORY,
        PURPOSE,
        card(MALLORY, agent=agent_of(ALICE), inception=inception_of(ALICE), sequence=99),
    )
    for bad in (forged, msgspec.structs.replace(signed(sequence=9), signature=bytes(64))):
        with pytest.raises(BadSignature):
            known.add(bad, NOW)
    assert [held.card.sequence for held in known] == [1]


def test_a_known_body_under_a_forged_signature_is_refused() -> None:
    known = table()
    known.add(signed(), NOW)
    with pytest.raises(BadSignature):
        known.add(msgspec.structs.replace(signed(), signature=bytes(64)), NOW)


def test_an_expired_card_is_refused_and_a_held_one_is_forgotten() -> None:
    known = table()
    with pytest.raises(Expired):
        known.add(signed(), NOW + LIFE_MS)
    known.add(signed(), NOW)
    known.expire(NOW + LIFE_MS - 1)
    assert len(known) == 1
    known.expire(NOW + LIFE_MS)
    assert len(known) == 0
    assert known.offering(b"summarise") == []


def test_a_flood_of_one_skill_leaves_the_sellers_of_another() -> None:
    known = table(cards_max=KEPT_PER_SKILL_MAX + 2, per_skill_max=1000)
    known.add(signed(skills=(skill(b"rare"),), expires=NOW + 1), NOW)
    for n in range(1, 2 * KEPT_PER_SKILL_MAX):
        known.add(signed(key(n), skills=(skill(b"common"),)), NOW)
    assert len(known) == KEPT_PER_SKILL_MAX + 2
    assert len(known.offering(b"rare")) == 1


def crowded(salt: bytes = b"salt", near: int = 0, *, order: int = 1) -> CardTable:
    """Ten sellers of one skill came to a table that keeps three; it is connected with one of them."""
    known = table(per_skill_max=3, salt=salt, connected=lambda: (key(near).peer_id,) if near else ())
    for n in list(range(1, 11))[::order]:
        known.add(signed(key(n)), NOW)
    return known


def most_looked_at(monkeypatch: pytest.MonkeyPatch) -> int:
    """Cards looked at for one more, in a flood of which none may go: each alone offers something."""
    known, looked, most = table(per_skill_max=3), 0, 0
    asked = CardTable._is_crowded_everywhere

    def counted(self: CardTable, held: Any) -> bool:
        nonlocal looked
        looked += 1
        return asked(self, held)

    monkeypatch.setattr(CardTable, "_is_crowded_everywhere", counted)
    for n in range(1, LAST_MAX + 20):
        looked = 0
        known.add(signed(key(n), skills=(skill(b"common"), skill(b"of %d" % n))), NOW)
        most = max(most, looked)
    assert len(known) == LAST_MAX + 19
    return most


def test_v10_a_flood_of_cards_that_may_not_go_makes_no_card_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    assert most_looked_at(monkeypatch) == LAST_MAX


def test_v10_mutant_that_looks_at_all_of_them_pays_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_table, "LAST_MAX", 10**6)
    assert most_looked_at(monkeypatch) > LAST_MAX


def test_of_each_skill_so_many_are_kept_whatever_their_order() -> None:
    assert len(crowded()) == 3
    assert crowded().held() == crowded(order=-1).held()
    kept = {held.signed.key for salt in range(20) for held in crowded(bytes([salt]))}
    assert kept == {key(n).public for n in range(1, 11)}  # all are known by somebody


def test_connected_sellers_and_oneself_are_kept_first() -> None:
    for n in range(1, 11):
        assert key(n).public in {held.signed.key for held in crowded(near=n)}
        assert key(n).public in {held.signed.key for held in crowded(salt=key(n).public)}


def test_mutant_without_a_preference_a_connected_seller_is_passed_over() -> None:
    assert any(key(n).public not in {held.signed.key for held in crowded()} for n in range(1, 11))


def test_what_was_passed_over_is_not_sent_again() -> None:
    here, everything = crowded(), table()
    for n in range(1, 11):
        everything.add(signed(key(n)), NOW)
    assert everything.newer_than(here.held()).cards == ()
    assert here.is_full
    assert not everything.is_full
    assert all(here.add(signed(key(n)), NOW) is None for n in range(1, 11))


def test_there_is_room_again_once_cards_have_expired() -> None:
    here, everything = crowded(), table()
    for n in range(1, 11):
        everything.add(signed(key(n), expires=NOW + 2 * LIFE_MS), NOW)
    here.expire(NOW + LIFE_MS)
    assert (len(here), len(everything.newer_than(here.held()).cards)) == (0, 10)


def test_a_seller_of_something_rare_is_kept_with_all_that_it_offers() -> None:
    known = table(per_skill_max=3)
    rare = known.add(signed(key(99), skills=(skill(b"common"), skill(b"rare"))), NOW)
    for n in range(1, 11):
        known.add(signed(key(n), skills=(skill(b"common"),)), NOW)
    assert rare is not None
    kept = known.get(rare.card.agent)
    assert kept is not None
    assert kept.card is rare.card


def test_a_renewal_is_no_news_and_another_price_is() -> None:
    known = table()
    first = known.add(signed(sequence=1, skills=(skill(free=2, speed=1000),)), NOW)
    again = known.add(signed(sequence=2, skills=(skill(free=1, speed=1001),)), NOW)
    other = known.add(signed(sequence=3, skills=(skill(price=b"9/token"),)), NOW)
    assert [held is not None and held.is_news for held in (first, again, other)] == [True, False, True]


def test_where_no_skill_is_crowded_the_first_to_expire_goes() -> None:
    known = table(cards_max=2)
    known.add(signed(key(1), expires=NOW + 10), NOW)
    known.add(signed(key(2), expires=NOW + 5), NOW)
    assert known.add(signed(key(3), expires=NOW + 20, skills=()), NOW) is not None
    assert {held.signed.key for held in known} == {key(1).public, key(3).public}
    assert known.add(signed(key(4), expires=NOW + 1), NOW) is None  # it is the first to go itself


def test_two_tables_compare_and_fetch_what_is_newer() -> None:
    here, there = table(), table()
    here.add(signed(key(1)), NOW)
    here.add(signed(key(2), sequence=5), NOW)
    there.add(signed(key(2), sequence=4), NOW)
    there.add(signed(key(3)), NOW)
    push = here.newer_than(there.held())
    assert not push.more
    for each in push.cards:
        there.add(each, NOW)
    assert len(there) == 3
    assert here.newer_than(there.held()).cards == ()
    assert len(there.newer_than(here.held()).cards) == 1


def test_a_long_answer_comes_in_parts() -> None:
    here, there = table(1000, per_skill_max=1000), table(1000, per_skill_max=1000)
    for n in range(1, PUSH_MAX + 10):
        here.add(signed(key(n)), NOW)
    rounds = 0
    while True:
        push = here.newer_than(there.held())
        rounds += 1
        for each in push.cards:
            there.add(each, NOW)
        if not push.more:
            break
    assert (rounds, len(there)) == (2, PUSH_MAX + 9)


@pytest.mark.parametrize("held", [b"x", bytes(ENTRY_SIZE - 1), bytes(ENTRY_SIZE * 5000)])
def test_e2_a_wrong_list_of_entries_is_refused(held: bytes) -> None:
    with pytest.raises(Malformed):
        table().newer_than(held)


def test_v10_a_flood_does_not_grow_the_table() -> None:
    known = table(cards_max=5)
    for n in range(1, 20):
        known.add(signed(key(n)), NOW)
    assert len(known) == 5
    assert len(known.held()) == 5 * ENTRY_SIZE


def test_mutant_without_the_check_of_sequences_a_replayed_card_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    known = table()
    known.add(signed(sequence=2), NOW)
    monkeypatch.setattr(known, "_held", Forgetful(known._held))  # the fault: nobody remembers what is held
    known.add(signed(sequence=1), NOW)
    assert [held.card.sequence for held in known] == [1]


class Forgetful(dict[bytes, Any]):
    def get(self, *_: object) -> None:
        return None


def flooded(known: CardTable) -> CardTable:
    """A table that knew Alice, after a flood of strangers' cards that each name skills of their own."""
    known.add(signed(expires=NOW + LIFE_MS - 1), NOW)  # she is the first to expire
    for n in range(40):
        known.add(signed(key(n), skills=(skill(b"skill %d" % n),)), NOW)
    return known


def test_e8_a_flood_of_made_up_skills_does_not_drive_out_a_peer_that_is_connected() -> None:
    known = flooded(CardTable(NETWORK, bound, cards_max=20, connected=lambda: (ALICE.peer_id,)))
    assert len(known) == 20
    assert known.get(agent_of(ALICE)) is not None


def test_e8_mutant_without_a_preference_for_those_near_the_flood_wins() -> None:
    known = flooded(CardTable(NETWORK, bound, cards_max=20, connected=tuple))
    assert known.get(agent_of(ALICE)) is None


def test_v10_the_table_is_bounded_in_bytes_as_well() -> None:
    large = [signed(key(n), skills=(skill(b"s", description=bytes(4000)),)) for n in range(10)]
    known = CardTable(NETWORK, bound, size_max=4 * len(large[0].body))
    for each in large:
        known.add(each, NOW)
    assert len(known) == 4
    for held in list(known):
        known.remove(held.card.agent)
    for each in large[:4]:
        assert known.add(each, NOW) is not None
    assert len(known) == 4
