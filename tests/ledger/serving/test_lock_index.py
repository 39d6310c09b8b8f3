from __future__ import annotations

from typing import Any

import pytest

from ainp2p.ledger.rules.operations import parse
from ainp2p.ledger.rules.receipts import close_operation, refund_operation
from ainp2p.ledger.serving.lock_index import LockIndex

from ..town import LIFE_MS, PURSE, open_town
from ..wallets.test_wallet import CONTEXT, payer
from ..world import World, key_of


def test_a_lock_is_found_by_whom_it_concerns_until_it_ends() -> None:
    world, index = World(), LockIndex()
    signed = world.spend("alice", locks=[world.terms(), world.terms("carol")])
    index.note(parse(signed))
    first, second = world.do(signed).locks
    parties = (world.ids["alice"], key_of("alice session").public)
    for party in parties:
        assert index.page(party, b"", 9) == (tuple(sorted((first.id, second.id))), False)
    for name, lock in (("bob", first), ("carol", second)):
        for party in (world.ids[name], key_of(name).public):
            assert index.page(party, b"", 9) == ((lock.id,), False)
    index.note(parse(close_operation(world.network, first, None, key_of("bob"))))
    assert index.page(world.ids["bob"], b"", 9) == ((), False)
    index.note(parse(refund_operation(world.network, second)))
    assert index.count(world.ids["alice"]) == 0
    assert not index._by_party
    assert not index._parties


def test_pages_are_in_order_and_whole() -> None:
    world, index = World(), LockIndex()
    for _ in range(3):
        signed = world.spend("alice", locks=[world.terms()] * 3)
        index.note(parse(signed))
        world.do(signed)
    seen: list[bytes] = []
    more = True
    while more:
        page, more = index.page(world.ids["bob"], seen[-1] if seen else b"", 2)
        seen += page
    assert len(seen) == len(set(seen)) == 9
    assert seen == sorted(seen)


async def test_a_payee_finds_a_lock_that_it_never_heard_of(autojump_clock: Any) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        state = await alice.open_lock([(town.account("bob"), 1)], key_of("bob").public, 1_000, 10, LIFE_MS)
        async with town.wallet("bob") as bob:
            assert await bob.locks() == []
            assert [found.id for found in await bob.discover_locks()] == [state.id]
            await bob.accept(payer(town, state).sign(100, 1, CONTEXT))
            await bob.close(state.id)
            assert (await bob.balance()).available == PURSE + 100


async def test_mutant_an_index_that_forgets_hides_the_lock(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LockIndex, "note", lambda *_: None)
    async with open_town() as town, town.wallet("alice") as alice:
        await alice.open_lock([(town.account("bob"), 1)], key_of("bob").public, 1_000, 10, LIFE_MS)
        async with town.wallet("bob") as bob:
            assert await bob.discover_locks() == []


# --- Locks that name the System, or a validator, and are no bonds ---------------------------------------


def looked_at_for_a_bond(index: LockIndex) -> tuple[int, bool]:
    """Of 5,000 Locks that an attacker opened under the System's name: how many are gone through."""
    system, validator, bond = b"s" * 32, b"v" * 32, b"\xff" * 32
    for i in range(5_000):
        index._add(i.to_bytes(32, "big"), (i.to_bytes(32, "big"), system))
    index._add(bond, (system, validator))
    found = list(index.common(validator, system))
    return len(index._by_party[validator]), found == [bond]


def test_a_bond_is_found_among_locks_that_an_attacker_opened_under_the_system_s_name() -> None:
    assert looked_at_for_a_bond(LockIndex()) == (1, True)


def test_mutant_the_first_page_of_the_system_s_locks_hides_the_bond(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_page(self: LockIndex, party: bytes, other: bytes) -> list[bytes]:
        return [id_ for id_ in self.page(other, b"", 4_096)[0] if id_ in self._by_party[party]]

    monkeypatch.setattr(LockIndex, "common", first_page)
    assert not looked_at_for_a_bond(LockIndex())[1]
