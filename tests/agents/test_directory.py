"""The directory over the network in memory, on trio's jumping clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from ainp2p.agents import directory as directories
from ainp2p.agents.card_table import CardTable
from ainp2p.agents.directory import CardDraft, Directory, open_directory
from ainp2p.errors import InvalidInput, NoOffers, Refused
from ainp2p.ledger.rules.operations import Inception, account_id
from ainp2p.protocol.card import (
    LIFE_MS,
    PROTOCOL,
    RENEW_MS,
    CardPush,
    CardsHeld,
    CardWanted,
    SkillCard,
    decode_card_wire,
)
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key
from ainp2p.protocol.memory import Conditions, MemoryHub, MemoryNetwork, open_memory_network
from ainp2p.protocol.messages import seal
from ainp2p.protocol.network import PeerId
from ainp2p.protocol.price import Price

NETWORK = b"N" * 32


def key(n: int) -> Key:
    return Key(n.to_bytes(32, "big"))


def inception(of: Key) -> Inception:
    return Inception(of.public, bytes(32), (), 0, 0, bytes(32))


def agent(n: int) -> bytes:
    return account_id(NETWORK, inception(key(n)))


def offered(name: str = "summarise", price: str = "2/token", **change: Any) -> SkillCard:
    made = SkillCard(name.encode(), b"", b"{}", b"true", price.encode(), None, 20_000, 1, 1, 64, 32)
    return msgspec.structs.replace(made, **change)


def draft(n: int, *skills: SkillCard) -> CardDraft:
    return CardDraft(agent(n), encode(inception(key(n))), f"agent-{n}", skills or (offered(),))


@asynccontextmanager
async def peer(hub: MemoryHub, n: int, *bootstrap: str) -> AsyncIterator[tuple[MemoryNetwork, Directory]]:
    async with (
        open_memory_network(hub, key(n), bootstrap=bootstrap) as network,
        open_directory(network, NETWORK, key(n)) as directory,
    ):
        yield network, directory


async def until(condition: Any, within_s: float) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110  # the clock jumps
            await trio.sleep(0.05)


async def test_twelve_agents_that_know_one_address_know_each_others_cards_within_ten_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub = MemoryHub(1, Conditions(latency_s=0.02, jitter_s=0.02))
    async with AsyncExitStack() as stack:
        network, first = await stack.enter_async_context(peer(hub, 1))
        everybody = [first]
        await first.announce(draft(1))
        for n in range(2, 13):
            _, directory = await stack.enter_async_context(peer(hub, n, network.addresses[0]))
            await directory.announce(draft(n))
            everybody.append(directory)
        await until(lambda: all(len(each.cards()) == 12 for each in everybody), 10)


async def test_cards_spread_without_gossip_by_comparing_tables(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub = MemoryHub(2, Conditions(loss=0.2, latency_s=0.01))
    async with peer(hub, 1) as (one, first), peer(hub, 2, one.addresses[0]) as (two, second):
        async with peer(hub, 3, two.addresses[0]) as (_, third):  # a chain: 1 - 2 - 3
            await first.announce(draft(1))
            await until(lambda: agent(1) in [card.agent for card in third.cards()], 30)
            assert len(second.cards()) == 1


async def test_a_card_is_renewed_and_lives_on(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub(3)
    async with peer(hub, 1) as (one, first), peer(hub, 2, one.addresses[0]) as (_, second):
        free = iter([1, *[0] * 100])
        await first.announce(lambda: draft(1, offered(free=next(free))))
        await until(lambda: second.cards(), 5)
        before = second.cards()[0]
        await trio.sleep(3 * LIFE_MS / 1000)
        (after,) = second.cards()
        assert after.sequence > before.sequence
        assert (before.skills[0].free, after.skills[0].free) == (1, 0)
        assert first.card == after


async def test_the_card_of_an_agent_that_is_gone_expires(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub(4)
    async with peer(hub, 2) as (two, second):
        async with peer(hub, 1, two.addresses[0]) as (_, first):
            await first.announce(draft(1))
            await until(lambda: second.cards(), 5)
        await trio.sleep(LIFE_MS / 1000 + 1)
        assert second.cards() == []


async def test_find_ranks_offers_and_explains_them(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub(5)
    async with AsyncExitStack() as stack:
        one, buyer = await stack.enter_async_context(peer(hub, 1))
        for n, price in ((2, "5/token"), (3, "2/token"), (4, "9/token"), (5, "3/token + 1/call")):
            _, seller = await stack.enter_async_context(peer(hub, n, one.addresses[0]))
            await seller.announce(draft(n, offered(price=price)))
        await until(lambda: len(buyer.cards()) == 4, 10)
        offers = await buyer.find("summarise", max_price=Price.parse("5/token"))
        assert [str(offer.price) for offer in offers] == ["2/token", "5/token"]
        assert "stated in the card" in offers[0].explain()
        assert [o.agent for o in await buyer.find("summarise", agents=[agent(4)])] == [agent(4)]
        assert len(await buyer.find("summarise", limit=1)) == 1
        with pytest.raises(NoOffers):
            await buyer.find("summarise", speed_min=10**9)
        with pytest.raises(NoOffers):
            await buyer.find("summarise", model=b"m" * 32)


async def test_ones_own_offer_is_not_found(autojump_clock: trio.testing.MockClock) -> None:
    async with peer(MemoryHub(6), 1) as (_, directory):
        await directory.announce(draft(1))
        with pytest.raises(NoOffers, match="known: 0"):
            await directory.find("summarise")


async def test_find_waits_for_the_first_live_offer(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub(7)
    async with peer(hub, 1) as (one, buyer), peer(hub, 2, one.addresses[0]) as (_, seller):
        found: list[Any] = []

        async def find() -> None:
            found.extend(await buyer.find("summarise"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(find)
            await trio.sleep(3)
            assert not found
            await seller.announce(draft(2))
        assert [offer.agent for offer in found] == [agent(2)]


async def test_find_gives_up_after_five_seconds(autojump_clock: trio.testing.MockClock) -> None:
    async with peer(MemoryHub(8), 1) as (_, buyer):
        started = trio.current_time()
        with pytest.raises(NoOffers, match="known: 0"):
            await buyer.find("nothing")
        assert trio.current_time() - started == pytest.approx(5)


async def test_a_seller_that_is_gone_is_not_found_while_its_card_lives(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub = MemoryHub(9)
    async with peer(hub, 1) as (one, buyer):
        async with peer(hub, 2, one.addresses[0]) as (_, seller):
            await seller.announce(draft(2))
            await until(lambda: buyer.cards(), 5)
        assert len(buyer.cards()) == 1
        with pytest.raises(NoOffers, match="known: 1, of these fit: 1, peers asked: 1"):
            await buyer.find("summarise")


@asynccontextmanager
async def one_that_was_left() -> AsyncIterator[tuple[MemoryNetwork, Directory, MemoryNetwork]]:
    """A buyer that knows the card of a seller, and is not connected to it any more."""
    hub = MemoryHub(10)
    async with AsyncExitStack() as stack:
        hub_network, _ = await stack.enter_async_context(peer(hub, 1))
        buying, buyer = await stack.enter_async_context(peer(hub, 2, hub_network.addresses[0]))
        selling, seller = await stack.enter_async_context(peer(hub, 3, hub_network.addresses[0]))
        await seller.announce(draft(3))
        await until(lambda: buyer.cards(), 10)
        await buying.disconnect(selling.peer_id)
        yield buying, buyer, selling


async def test_a_seller_that_is_not_connected_is_dialled_and_found(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with one_that_was_left() as (buying, buyer, selling):
        assert selling.peer_id not in buying.peers()
        (offer,) = await buyer.find("summarise")
        assert offer.peer == selling.peer_id in buying.peers()


async def found_when_the_first_dial_fails(monkeypatch: pytest.MonkeyPatch) -> PeerId:
    """Whom a buyer finds whose first question to the only seller fails."""
    failed: list[PeerId] = []
    ask = Directory._ask_card

    async def unlucky(self: Directory, peer: PeerId) -> bool:
        if peer in failed:
            return await ask(self, peer)
        failed.append(peer)
        self._silent[peer] = trio.current_time()
        return False

    monkeypatch.setattr(Directory, "_ask_card", unlucky)
    async with one_that_was_left() as (_, buyer, _):
        failed.clear()
        return (await buyer.find("summarise"))[0].peer


async def test_a_dial_that_fails_by_chance_is_tried_again_while_nobody_is_there(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await found_when_the_first_dial_fails(monkeypatch)
    assert trio.current_time() < 20


async def test_mutant_who_is_asked_once_only_is_not_found(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Directory, "_ask_again", lambda self, asked: None)
    with pytest.raises(NoOffers):
        await found_when_the_first_dial_fails(monkeypatch)


async def test_a_seller_that_nobody_near_knows_is_found_in_the_dht(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub = MemoryHub(11)
    async with peer(hub, 1) as (_, seller), peer(hub, 2) as (buying, buyer):
        await seller.announce(draft(1))
        await trio.sleep(2)
        assert buying.peers() == ()
        (offer,) = await buyer.find("summarise")
        assert offer.agent == agent(1)


async def test_who_waits_for_offers_finds_a_seller_that_starts_meanwhile(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub, found = MemoryHub(11), []
    async with peer(hub, 1) as (_, seller), peer(hub, 2) as (_, buyer), trio.open_nursery() as nursery:

        async def find() -> None:
            found.extend(await buyer.find("summarise"))

        nursery.start_soon(find)
        await trio.sleep(2)  # the DHT was asked, and knew nobody
        await seller.announce(draft(1))
    assert [offer.agent for offer in found] == [agent(1)]


async def test_a_dead_seller_does_not_hold_up_those_that_live(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub(12)
    async with AsyncExitStack() as stack:
        one, buyer = await stack.enter_async_context(peer(hub, 1))
        _, alive = await stack.enter_async_context(peer(hub, 2, one.addresses[0]))
        dead, sleeper = await stack.enter_async_context(peer(hub, 3, one.addresses[0]))
        await alive.announce(draft(2, offered(price="9/token")))
        await sleeper.announce(draft(3))
        await until(lambda: len(buyer.cards()) == 2, 10)
        hub.pause(dead.peer_id)
        await one.disconnect(dead.peer_id)
        started = trio.current_time()
        assert [offer.agent for offer in await buyer.find("summarise")] == [agent(2)]
        assert trio.current_time() - started < 1


async def test_experience_changes_the_order(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub(13)
    async with AsyncExitStack() as stack:
        one, buyer = await stack.enter_async_context(peer(hub, 1))
        for n, price in ((2, "2/token"), (3, "3/token")):
            _, seller = await stack.enter_async_context(peer(hub, n, one.addresses[0]))
            await seller.announce(draft(n, offered(price=price)))
        await until(lambda: len(buyer.cards()) == 2, 10)
        assert (await buyer.find("summarise"))[0].agent == agent(2)
        for _ in range(3):
            buyer.experiences.record(agent(2), ok=False)
        assert (await buyer.find("summarise"))[0].agent == agent(3)


async def test_forged_and_malformed_cards_are_dropped_and_their_relay_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    hub = MemoryHub(14)
    async with peer(hub, 1) as (one, first), peer(hub, 2, one.addresses[0]) as (two, second):
        await first.announce(draft(1))
        await until(lambda: second.cards(), 5)
        (good,) = second._table
        forged = seal(key(2), b"ainp2p/card/1", msgspec.structs.replace(good.card, sequence=2**62))
        tampered = msgspec.structs.replace(good.signed, signature=bytes(64))
        await two.send(one.peer_id, PROTOCOL, encode(CardPush((forged, tampered))))
        await two.publish(f"ainp2p/{NETWORK.hex()[:16]}/cards", b"garbage")
        await two.publish(f"ainp2p/{NETWORK.hex()[:16]}/cards", encode(forged))
        await trio.sleep(1)
        assert first.cards() == [good.card]
        for body in (b"garbage", encode(CardsHeld(b"12345"))):
            with pytest.raises(Refused, match="malformed"):
                await two.request(one.peer_id, PROTOCOL, body)


async def test_a_replayed_card_does_not_replace_a_newer_one(autojump_clock: trio.testing.MockClock) -> None:
    hub = MemoryHub(15)
    async with peer(hub, 1) as (one, first), peer(hub, 2, one.addresses[0]) as (two, second):
        await first.announce(draft(1, offered(price="2/token")))
        await until(lambda: second.cards(), 5)
        (old,) = [held.signed for held in second._table]
        await first.announce(draft(1, offered(price="9/token")))
        await until(lambda: second.cards()[0].skills[0].price == b"9/token", 10)
        await one.send(two.peer_id, PROTOCOL, encode(CardPush((old,))))
        await trio.sleep(1)
        assert second.cards()[0].skills[0].price == b"9/token"


async def test_a_card_that_others_would_refuse_is_an_error_of_ones_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with peer(MemoryHub(16), 1) as (_, directory):
        with pytest.raises(InvalidInput):
            await directory.announce(draft(1, offered(), offered()))
        with pytest.raises(InvalidInput):
            await directory.announce(draft(2))  # another agent's name under our key


async def test_an_error_in_the_block_comes_out_as_it_is(autojump_clock: trio.testing.MockClock) -> None:
    with pytest.raises(ZeroDivisionError):
        async with peer(MemoryHub(17), 1):
            raise ZeroDivisionError


async def test_mutant_without_the_question_whether_it_lives_a_dead_seller_is_found(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = MemoryHub(18)
    async with peer(hub, 1) as (one, buyer):
        async with peer(hub, 2, one.addresses[0]) as (two, seller):
            await seller.announce(draft(2))
            await until(lambda: buyer.cards(), 5)
        everybody = (two.peer_id,)
        monkeypatch.setattr(one, "peers", lambda: everybody)  # the fault: whoever has a card counts as there
        assert await buyer.find("summarise")


async def test_mutant_without_renewal_a_living_agent_is_forgotten(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "RENEW_MS", 10 * RENEW_MS)
    hub = MemoryHub(19)
    async with peer(hub, 1) as (one, first), peer(hub, 2, one.addresses[0]) as (_, second):
        await first.announce(draft(1))
        await until(lambda: second.cards(), 5)
        await trio.sleep(LIFE_MS / 1000 + 1)
        assert second.cards() == []


async def refused_as_busy(body: bytes, times: int) -> int:
    """How many of so many questions by one peer at once are refused since it asked too much."""
    busy = 0
    hub = MemoryHub(31)
    async with peer(hub, 1) as (one, _), peer(hub, 2, one.addresses[0]) as (two, _):

        async def ask() -> None:
            nonlocal busy
            try:
                await two.request(one.peer_id, PROTOCOL, body)
            except Refused as exc:
                busy += exc.code == "busy"

        async with trio.open_nursery() as nursery:
            for _ in range(times):
                nursery.start_soon(ask)
        await trio.sleep(60)
        assert await two.request(one.peer_id, PROTOCOL, encode(CardWanted()))  # it may again, later
    return busy


@pytest.mark.parametrize(
    ("body", "times"),
    [
        pytest.param(bytes(1 << 20), 12, id="a flood of bytes"),
        pytest.param(encode(CardsHeld(b"")), 160, id="small questions with large answers"),
    ],
)
async def test_e5_one_peer_cannot_make_us_check_or_send_without_end(
    body: bytes, times: int, autojump_clock: trio.testing.MockClock
) -> None:
    assert await refused_as_busy(body, times) > 0


async def test_e5_mutant_without_a_limit_everything_is_answered(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "BYTES_AT_ONCE", 1e12)
    assert await refused_as_busy(encode(CardsHeld(b"")), 160) == 0


async def test_neighbours_that_tell_nothing_new_are_asked_ever_less_often(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    sync = Directory._sync

    async def count(self: Directory, peer_: str) -> bool:
        asked.append(peer_)
        return await sync(self, peer_)

    monkeypatch.setattr(Directory, "_sync", count)
    hub = MemoryHub(14)
    async with open_memory_network(hub, Key(b"v" * 32)) as validator:
        async with peer(hub, 1) as (one, _), peer(hub, 2, one.addresses[0]) as (two, seller):
            await two.connect(validator.addresses[0])
            await seller.announce(draft(2))
            await trio.sleep(600)
    assert asked.count(validator.peer_id) <= 12  # not an agent: once a minute at most
    assert len(asked) <= 60  # two directories for 600 s: 240 at a steady pace of 5 s


async def comparisons_of_a_newcomer(monkeypatch: pytest.MonkeyPatch, neighbours: int) -> int:
    """How many of these, all met at once, are asked for what they know; one seller would be enough."""
    compared = 0
    newcomers: list[Directory] = []
    handle = Directory.handle

    async def counted(self: Directory, call: Any) -> bytes | None:
        nonlocal compared
        compared += self not in newcomers and isinstance(decode_card_wire(call.body), CardsHeld)
        return await handle(self, call)

    monkeypatch.setattr(Directory, "handle", counted)
    hub = MemoryHub(1, Conditions(latency_s=0.02))
    async with AsyncExitStack() as stack:
        addresses: list[str] = []
        for n in range(2, 2 + neighbours):
            network, directory = await stack.enter_async_context(peer(hub, n))
            await directory.announce(draft(n))
            addresses += network.addresses
        network, newcomer = await stack.enter_async_context(peer(hub, 1))
        newcomers.append(newcomer)
        newcomer._table._per_skill_max = 1
        async with trio.open_nursery() as nursery:
            for address in addresses:
                nursery.start_soon(network.connect, address)
        await trio.sleep(3)
        assert newcomer.cards()
    return compared


async def test_who_meets_many_at_once_asks_no_more_of_them_once_enough_is_known(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_at_once = directories.SYNCS_AT_ONCE_MAX
    assert await comparisons_of_a_newcomer(monkeypatch, 16) <= asked_at_once


async def test_mutant_who_does_not_look_again_asks_all_of_them(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Never(CardTable):
        is_full = False

    monkeypatch.setattr(directories, "CardTable", Never)
    assert await comparisons_of_a_newcomer(monkeypatch, 16) >= 16


async def test_a_record_is_made_again_soon_since_a_dht_just_joined_leaves_it_with_nobody(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[float] = []

    async def provide(self: MemoryNetwork, key: bytes) -> None:
        made.append(trio.current_time())

    monkeypatch.setattr(MemoryNetwork, "provide", provide)
    began = trio.current_time()
    async with peer(MemoryHub(15), 1) as (_, seller):
        await seller.announce(draft(1))
        await trio.sleep(3600)
    assert [round(at - began) for at in made] == [0, 1, 5, 21, 85, 341, 1365]


async def compared_at_once(monkeypatch: pytest.MonkeyPatch) -> tuple[int, list[PeerId]]:
    """How many tables are compared at once when twenty neighbours come, one of them twice; and whose."""
    asked, now, most = list[PeerId](), 0, 0

    async def slowly(_: Directory, of: PeerId) -> bool:
        nonlocal now, most
        asked.append(of)
        now += 1
        most = max(most, now)
        await trio.sleep(1)
        now -= 1
        return False

    monkeypatch.setattr(Directory, "_sync", slowly)
    async with peer(MemoryHub(1), 1) as (_, directory):
        for n in [*range(20), 19]:
            directory._sync_soon(f"peer {n}")
        await trio.sleep(30)
    return most, asked


async def test_of_many_neighbours_that_come_at_once_a_few_are_asked_at_a_time(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await compared_at_once(monkeypatch) == (4, [f"peer {n}" for n in range(20)])


async def test_mutant_without_a_bound_all_are_asked_at_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "SYNCS_AT_ONCE_MAX", 1000)
    assert (await compared_at_once(monkeypatch))[0] == 20


async def test_once_a_table_is_full_nobody_more_is_asked(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CardTable, "is_full", True)
    assert await compared_at_once(monkeypatch) == (0, [])
