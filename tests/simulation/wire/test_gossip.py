"""Gossip on the simulated wire: hops, subscribers, loss, duplicates, cuts."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ainp2p.errors import Closed
from ainp2p.simulation.wire import gossip
from ainp2p.simulation.wire.network import SimNetwork
from ainp2p.simulation.wire.weather import CALM, Weather
from tests.simulation.wire.wired import Town, fails, in_town, wired


async def ring(town: Town, size: int) -> list[SimNetwork]:
    """`size` peers, each connected to the next."""
    peers = [await town.peer(f"peer {n}") for n in range(size)]
    for one, other in zip(peers, [*peers[1:], peers[0]], strict=True):
        await one.connect(other.addresses[0])
    return peers


async def arrivals(town: Town, peers: list[SimNetwork], listeners: list[int]) -> dict[int, list[float]]:
    """When each listener hears what peer 0 publishes, in seconds after it."""
    heard: dict[int, list[float]] = {n: [] for n in listeners}

    async def listen(n: int) -> None:
        async with peers[n].subscribe("t") as feed:
            async for _ in feed:
                heard[n].append(round(trio.current_time() - start_s, 6))

    for n in listeners:
        town.nursery.start_soon(listen, n)
    await trio.sleep(1)
    start_s = trio.current_time()
    await peers[0].publish("t", b"news")
    await trio.sleep(30)
    return heard


@wired(Weather(latency=1.0))
async def test_gossip_takes_a_latency_per_hop_and_goes_only_over_subscribers(town: Town) -> None:
    peers = await ring(town, 6)
    assert await arrivals(town, peers, [1, 2, 4, 5]) == {1: [1.0], 2: [2.0], 5: [1.0], 4: [2.0]}
    # peer 3 has not subscribed, and relays nothing; nobody hears anything twice


def test_mutant_a_peer_that_forgets_whom_a_rumour_has_reached_is_found(monkeypatch: Any) -> None:
    original, forgets = gossip.relay, iter(range(3))

    def forgetful(network: SimNetwork, rumour: gossip.Rumour) -> None:
        if next(forgets, None) is not None:
            rumour = gossip.Rumour(rumour.message, network.peer_id)
        original(network, rumour)

    monkeypatch.setattr(gossip, "relay", forgetful)
    assert fails(test_a_ring_hears_everything_once)


@wired(Weather(latency=(0.1, 2.0)))
async def test_a_ring_hears_everything_once(town: Town) -> None:
    peers = await ring(town, 5)
    with trio.fail_after(100):
        heard = await arrivals(town, peers, [0, 1, 2, 3, 4])
    assert [len(heard[n]) for n in range(5)] == [0, 1, 1, 1, 1]


def in_order(got: list[int]) -> bool:
    return got == list(range(100))


def some_twice(got: list[int]) -> bool:
    return len(got) > 120 and set(got) == set(range(100))


def out_of_order(got: list[int]) -> bool:
    return got != sorted(got) and sorted(got) == list(range(100))


def some_missing(got: list[int]) -> bool:
    return 20 < len(got) < 80 and got == sorted(set(got))


@pytest.mark.parametrize(
    ("weather", "check"),
    [
        (CALM, in_order),
        (Weather(duplicate=0.5), some_twice),
        (Weather(reorder_s=1), out_of_order),
        (Weather(latency=(0.0, 1.0)), out_of_order),
        (Weather(loss=0.5), some_missing),
    ],
    ids=["calm", "duplicate", "reorder", "latency", "loss"],
)
def test_c1_gossip_is_duplicated_reordered_and_lost_as_told(weather: Weather, check: Any) -> None:
    async def scene(town: Town) -> None:
        alice, bob = await ring(town, 2)
        town.wire.weather = weather
        got: list[int] = []

        async def listen() -> None:
            async with bob.subscribe("t") as feed:
                async for message in feed:
                    got.append(int(message.data))

        town.nursery.start_soon(listen)
        await trio.sleep(1)
        for n in range(100):
            await alice.publish("t", b"%d" % n)
        await trio.sleep(10)
        assert check(got)

    in_town(scene)


@wired()
async def test_a_slow_reader_loses_the_oldest(town: Town) -> None:
    alice, bob = await ring(town, 2)
    async with bob.subscribe("t") as feed:
        for n in range(1500):
            await alice.publish("t", b"%d" % n)
        await trio.sleep(1)
        assert int((await anext(feed)).data) == 1500 - 1024


@wired(Weather(latency=1.0))
async def test_what_is_lost_in_a_cut_is_brought_by_others(town: Town) -> None:
    peers = await ring(town, 4)
    town.wire.cut(peers[0].peer_id, peers[1].peer_id)
    assert await arrivals(town, peers, [1, 2, 3]) == {3: [1.0], 2: [2.0], 1: [3.0]}


@wired(Weather(latency=1.0))
async def test_what_a_cut_catches_on_its_way_is_lost_and_brought_by_others(town: Town) -> None:
    peers = await ring(town, 4)
    town.clock.call_later(1.5, town.wire.cut, peers[0].peer_id, peers[1].peer_id)
    assert await arrivals(town, peers, [1, 2, 3]) == {3: [1.0], 2: [2.0], 1: [3.0]}


@wired()
async def test_a_closed_network_ends_its_feeds_after_what_was_heard(town: Town) -> None:
    alice, bob = await ring(town, 2)
    ended: list[str] = []

    async def waiting() -> None:
        async with bob.subscribe("quiet") as feed:
            with pytest.raises(Closed):
                await anext(feed)
            ended.append("waiting")

    town.nursery.start_soon(waiting)
    async with bob.subscribe("t") as feed:
        await alice.publish("t", b"last words")
        await trio.sleep(1)
        await bob._close()
        assert (await anext(feed)).data == b"last words"
        with pytest.raises(Closed):
            await anext(feed)
    assert ended == ["waiting"]
    with pytest.raises(Closed):
        async with bob.subscribe("t"):
            pass


@wired()
async def test_a_topic_has_one_reader_at_a_time(town: Town) -> None:
    _, bob = await ring(town, 2)
    async with bob.subscribe("t") as feed:
        with pytest.RaisesGroup(trio.BusyResourceError):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(anext, feed)
                nursery.start_soon(anext, feed)
