"""The real py-libp2p in virtual time: the same seed, the same run, and what only the real protocol shows."""

from __future__ import annotations

import os
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio

from ainp2p.errors import Closed, InvalidInput, NetworkError
from ainp2p.protocol import channel
from ainp2p.protocol.channel import DEAD_AFTER_S, HEARTBEAT_S
from ainp2p.protocol.context import Context
from ainp2p.protocol.libp2p import Libp2pNetwork, open_network
from ainp2p.protocol.libp2p_host import new_host
from ainp2p.protocol.network import Call
from ainp2p.simulation import Ambient, VirtualClock, Weather, World, run, run_virtual
from ainp2p.simulation.core.clock import EPOCH_MS
from ainp2p.simulation.core.draws import Draws
from ainp2p.simulation.core.trace import Trace
from ainp2p.simulation.wire import libp2p_ambient as ambient
from ainp2p.simulation.wire import libp2p_transport
from ainp2p.simulation.wire.libp2p_transport import PORT, WINDOW_SIZE, End, Machine, MemoryTransport
from ainp2p.simulation.wire.libp2p_world import Libp2pWire
from tests.simulation.test_world import buy, demand_the_ledger_s_invariants, market, work
from tests.threads import lasting_threads

ECHO = "/test/echo/1"
TOPIC = "test"
WINDY = Weather(latency=(0.02, 0.12), loss=0.01)
REDIALLED_S = 30.0  # by then a lost bootstrap peer was dialled again, and gossip has met again


class Town:
    """Hosts on one wire, each bootstrapped from the first; what they hear of a topic."""

    def __init__(self, seed: int = 1, weather: Weather = WINDY) -> None:
        self.clock = VirtualClock()
        self.draws = Draws(seed)
        self.trace = Trace(self.clock, self.draws, keep=50)
        self.wire = Libp2pWire(self.clock, self.draws, self.trace, weather)
        self.networks: dict[int, Libp2pNetwork] = {}
        self.heard: dict[int, list[bytes]] = {}
        self.nursery: trio.Nursery

    def run(self, main: Callable[[Town], Awaitable[None]]) -> Town:
        async def live() -> None:
            async with trio.open_nursery() as self.nursery:
                await main(self)
                self.nursery.cancel_scope.cancel()

        run_virtual(live, seed=1, clock=self.clock)
        return self

    async def add(self, n: int) -> Libp2pNetwork:
        network: Libp2pNetwork = await self.nursery.start(self._live, n)
        return network

    def peer(self, n: int) -> str:
        return self.draws.key(n).peer_id

    async def _live(self, n: int, task_status: Any) -> None:
        context = Context.seeded(str(n), self.clock.now_ms)
        async with self.wire.open(self.draws.key(n), context) as network:
            self.networks[n] = network
            heard = self.heard.setdefault(n, [])

            async def echo(call: Call) -> bytes:
                return call.body

            network.serve(ECHO, echo)
            if n:
                await network.bootstrap([self.wire.address(self.peer(0))])
            task_status.started(network)
            try:
                async with network.subscribe(TOPIC) as feed:
                    async for message in feed:
                        heard.append(message.data)
            except Closed:  # killed
                return

    async def settle(self, count: int) -> None:
        for n in range(count):
            await self.add(n)
        await trio.sleep(REDIALLED_S)

    def who_heard(self, data: bytes) -> set[int]:
        return {n for n, heard in self.heard.items() if data in heard}


async def until(condition: Callable[[], bool], limit_s: float) -> float:
    """How long it takes until it holds, in virtual seconds, to within 0.1 s."""
    began = trio.current_time()
    with trio.fail_after(limit_s):
        while not condition():  # noqa: ASYNC110  # a network tells no event of what it has not yet done
            await trio.sleep(0.1)
    return trio.current_time() - began


# --- the same seed, the same run --------------------------------------------------------------------------


async def gossiping(town: Town) -> None:
    """Three hosts meet, ask, gossip, and one is lost."""
    await town.settle(3)
    await town.networks[1].publish(TOPIC, b"news")
    town.networks[1].add_addresses(town.peer(2), town.networks[2].addresses)
    assert await town.networks[1].request(town.peer(2), ECHO, bytes(1000)) == bytes(1000)
    town.wire.kill(town.peer(2))
    await trio.sleep(30)


def test_h1_times_order_and_lengths_repeat_for_a_seed() -> None:
    first, again, other = (Town(seed).run(gossiping) for seed in (1, 1, 2))
    assert first.trace.first_difference(again.trace) is None
    assert first.trace.count > 200
    assert first.trace.hash != other.trace.hash


def in_process(code: str, hash_seed: str) -> str:
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[3],
        env={"PYTHONHASHSEED": hash_seed, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return told.stdout.strip()


@pytest.mark.parametrize("hash_seed", ["0", "random"])
def test_h1_they_repeat_in_any_process(hash_seed: str) -> None:
    code = "from tests.simulation.wire.test_libp2p_world import *\nprint(Town(1).run(gossiping).trace.hash)"
    assert in_process(code, hash_seed) == Town(1).run(gossiping).trace.hash


def test_bytes_do_not_repeat_since_noise_draws_its_ephemeral_keys_from_openssl(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[bytes] = []
    send = End.send

    def note(self: End, kind: str, data: bytes = b"") -> None:
        sent.append(data)
        send(self, kind, data)

    monkeypatch.setattr(End, "send", note)
    Town().run(gossiping)
    first, sent = sent, []
    Town().run(gossiping)
    assert [len(data) for data in first] == [len(data) for data in sent]
    assert first != sent


async def crowded(town: Town) -> None:
    """The first host has more neighbours than a mesh holds, so that gossipsub has to choose."""
    for n in range(15):
        await town.add(n)
    await trio.sleep(5)


def test_h1_a_mutant_that_leaves_sets_in_their_own_order_gives_other_runs_in_other_processes() -> None:
    code = "from tests.simulation.wire.test_libp2p_world import *\n{}print(Town(1).run(crowded).trace.hash)"
    assert len({in_process(code.format(""), seed) for seed in "01"}) == 1
    mutant = code.format("ambient._order_sets = lambda _: None\n")
    assert len({in_process(mutant, seed) for seed in "01"}) == 2


# --- libp2p's clock is the world's ------------------------------------------------------------------------


def modules_that_read(what: Any) -> list[str]:
    """libp2p's modules that have bound this object."""
    return [
        name
        for name, module in sys.modules.items()
        if name.startswith("libp2p.") and any(value is what for value in list(vars(module).values()))
    ]


def demand_that_all_clocks_are_the_world_s() -> None:
    for source in (time, datetime, random, secrets):
        assert modules_that_read(source) == []


async def look_at_clocks(town: Town) -> None:
    from libp2p.kad_dht import common
    from libp2p.pubsub import gossipsub

    await town.settle(2)
    await trio.sleep(70)
    demand_that_all_clocks_are_the_world_s()
    assert gossipsub.time.time() == pytest.approx(EPOCH_MS / 1000 + town.clock.now, rel=0, abs=1e-3)
    assert gossipsub.time.monotonic_ns() == pytest.approx(town.clock.now * 1e9, rel=0, abs=1)
    moment = common.datetime.now(UTC)
    assert moment.timestamp() == pytest.approx(EPOCH_MS / 1000 + town.clock.now, rel=0, abs=1e-3)
    assert isinstance(moment, common.datetime)


def test_all_modules_of_libp2p_read_the_world_s_clock_and_dice_and_the_real_ones_afterwards() -> None:
    from libp2p.peer.id import ID

    town = Town()
    before = [modules_that_read(source) for source in (time, datetime, random, secrets)]
    others = (ID.__hash__, threading.Thread.start, trio.to_thread.run_sync, socket.socket.__init__)
    assert len(before[0]) >= 49
    town.run(look_at_clocks)
    assert [modules_that_read(source) for source in (time, datetime, random, secrets)] == before
    assert others == (ID.__hash__, threading.Thread.start, trio.to_thread.run_sync, socket.socket.__init__)


def test_what_is_replaced_is_put_back_after_a_run_that_failed() -> None:
    town, before = Town(), modules_that_read(time)

    async def fail(town: Town) -> None:
        await town.add(0)
        raise ZeroDivisionError("mine")

    with pytest.raises(BaseExceptionGroup):
        town.run(fail)
    assert modules_that_read(time) == before


@pytest.mark.parametrize("source", [time, datetime, random, secrets])
def test_a_mutant_that_leaves_one_source_as_it_is_is_found(
    monkeypatch: pytest.MonkeyPatch, source: object
) -> None:
    shims = ambient._shims
    monkeypatch.setattr(
        ambient,
        "_shims",
        lambda clock, draws: {k: v for k, v in shims(clock, draws).items() if k != id(source)},
    )
    with pytest.raises(BaseExceptionGroup) as caught:
        Town().run(look_at_clocks)
    assert caught.group_contains(AssertionError)


def test_messages_seen_are_forgotten_in_virtual_time_and_without_a_thread() -> None:
    async def main(town: Town) -> None:
        threads = lasting_threads()
        await town.settle(2)
        await town.networks[0].publish(TOPIC, b"news")
        await trio.sleep(1)
        seen = town.networks[1]._pubsub.seen_messages
        assert (seen.length(), lasting_threads() <= threads) == (1, True)
        await trio.sleep(seen.ttl + 2 * seen.sweep_interval)
        assert seen.length() == 0

    Town().run(main)


# --- what only the real protocol shows --------------------------------------------------------------------


async def partitioned_and_healed(town: Town) -> None:
    await town.settle(6)
    await town.networks[3].publish(TOPIC, b"before")
    await trio.sleep(3)
    assert town.who_heard(b"before") == {0, 1, 2, 4, 5}
    one_side, other_side = ([town.peer(n) for n in side] for side in ((0, 1, 2), (3, 4, 5)))
    town.wire.partition(one_side, other_side)
    await trio.sleep(60)
    await town.networks[0].publish(TOPIC, b"during")
    await trio.sleep(10)
    assert town.who_heard(b"during") == {1, 2}
    town.wire.heal()
    await trio.sleep(REDIALLED_S)
    await town.networks[3].publish(TOPIC, b"after")
    await trio.sleep(3)
    assert town.who_heard(b"after") == {0, 1, 2, 4, 5}


def test_c1_a_gossip_mesh_that_was_partitioned_meets_again_after_healing() -> None:
    Town().run(partitioned_and_healed)


def test_c1_a_mutant_whose_cuts_let_bytes_through_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(End, "arrive", End._hear)
    with pytest.raises(BaseExceptionGroup) as caught:
        Town().run(partitioned_and_healed)
    assert caught.group_contains(AssertionError)


def test_twenty_hosts_all_hear_what_one_of_them_publishes() -> None:
    async def main(town: Town) -> None:
        hosts = [await town.add(n) for n in range(20)]
        for n, host in enumerate(hosts):
            for other in (n + 1, n + 3):
                await host.connect(hosts[other % 20].addresses[0])
        await trio.sleep(10)
        await town.networks[7].publish(TOPIC, b"news")
        await trio.sleep(3)
        assert town.who_heard(b"news") == set(range(20)) - {7}

    Town().run(main)


async def publishing_without_a_mesh(town: Town) -> None:
    await town.settle(20)
    leaf = next(n for n in range(1, 20) if not town.networks[n]._gossip.mesh[TOPIC])  # the hub's is full
    await town.networks[leaf].publish(TOPIC, b"news")
    await trio.sleep(3)
    assert len(town.who_heard(b"news")) > 10  # the hub, and its mesh


def test_a_host_whose_only_neighbour_has_a_full_mesh_is_heard_all_the_same() -> None:
    Town().run(publishing_without_a_mesh)


def test_a_mutant_that_publishes_to_the_mesh_alone_is_heard_by_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from libp2p.pubsub.gossipsub import GossipSub

    town = Town()
    monkeypatch.setattr(GossipSub, "_get_peers_to_send", GossipSub._get_peers_to_send._before_ainp2p)
    with pytest.raises(BaseExceptionGroup) as caught:
        town.run(publishing_without_a_mesh)
    assert caught.group_contains(AssertionError)


def test_a_cut_shorter_than_the_heartbeat_only_delays() -> None:
    async def main(town: Town) -> None:
        await town.settle(2)
        connections = town.networks[1]._swarm.get_connections()
        town.wire.cut(town.peer(0), town.peer(1))
        town.clock.call_later(DEAD_AFTER_S / 2, town.wire.heal)
        began = town.clock.now
        assert await town.networks[1].request(town.peer(0), ECHO, b"late") == b"late"
        assert DEAD_AFTER_S / 2 < town.clock.now - began < DEAD_AFTER_S
        assert town.networks[1]._swarm.get_connections() == connections

    Town().run(main)


def test_a_bootstrap_peer_is_redialled_after_a_reset_of_the_connection() -> None:
    async def main(town: Town) -> None:
        await town.settle(2)
        town.wire.reset(town.peer(0), town.peer(1))
        await until(lambda: town.networks[1].peers() == (), 1)
        assert await until(lambda: town.networks[1].peers() == (town.peer(0),), REDIALLED_S) > 1
        assert await town.networks[0].request(town.peer(1), ECHO, b"again") == b"again"

    Town().run(main)


def test_a_request_after_a_reset_dials_at_once() -> None:
    async def main(town: Town) -> None:
        await town.settle(2)
        town.wire.reset(town.peer(0), town.peer(1))
        await until(lambda: town.networks[1].peers() == (), 1)
        assert await town.networks[1].request(town.peer(0), ECHO, b"again", timeout_s=3) == b"again"

    Town().run(main)


async def falling_silent(town: Town) -> None:
    await town.settle(2)
    town.wire.kill(town.peer(1))
    took_s = await until(lambda: town.networks[0].peers() == (), 3 * DEAD_AFTER_S)
    assert DEAD_AFTER_S - HEARTBEAT_S <= took_s <= DEAD_AFTER_S + 2 * HEARTBEAT_S


def test_a_machine_that_falls_silent_is_noticed_by_our_heartbeat() -> None:
    Town().run(falling_silent)


def test_a_mutant_whose_heartbeat_gives_nobody_up_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "DEAD_AFTER_S", 1e6)
    with pytest.raises(BaseExceptionGroup) as caught:
        Town().run(falling_silent)
    assert caught.group_contains(trio.TooSlowError)


def test_a_process_that_dies_is_noticed_by_its_reset_at_once() -> None:
    async def main(town: Town) -> None:
        await town.settle(2)
        town.wire.kill(town.peer(1), reset=True)
        assert await until(lambda: town.networks[0].peers() == (), 3 * DEAD_AFTER_S) < 1

    Town().run(main)


def test_libp2p_alone_never_notices_a_peer_whose_cable_was_pulled() -> None:
    async def main(town: Town) -> None:
        from libp2p.peer.peerinfo import info_from_p2p_addr
        from multiaddr import Multiaddr

        hosts, addresses = [], []
        for n in range(2):
            machine = town.wire.machines[town.peer(n)] = Machine(town.wire, town.peer(n), town.nursery)
            hosts.append(new_host(town.draws.key(n), [MemoryTransport(machine)]))
            addresses.append(Multiaddr(f"/ip4/{machine.ip}/tcp/{PORT}"))
        alice, bob = hosts
        with ambient.libp2p_in_world(town.clock, town.draws):
            async with alice.run(addresses[:1]), bob.run(addresses[1:]):
                await alice.connect(info_from_p2p_addr(bob.get_addrs()[0]))
                town.wire.pause(town.peer(1))
                await trio.sleep(300)
                (connection,) = alice.get_network().get_connections(bob.get_id())
                assert not connection.is_closed

    Town().run(main)


async def half_open(town: Town) -> None:
    await town.settle(2)
    town.wire.kill(town.peer(0))  # the bootstrap peer; nobody hears of it
    await trio.sleep(1)
    assert town.networks[1].peers() == (town.peer(0),)
    await trio.sleep(2)
    await town.add(0)
    lost_s = await until(lambda: town.networks[1].peers() == (), DEAD_AFTER_S)
    assert lost_s <= HEARTBEAT_S + 1  # its next heartbeat is answered by a reset
    await until(lambda: town.networks[1].peers() == (town.peer(0),), REDIALLED_S)
    assert await town.networks[1].request(town.peer(0), ECHO, b"new life") == b"new life"


def test_a_half_open_connection_is_replaced_after_the_peer_s_machine_has_restarted() -> None:
    Town().run(half_open)


def test_a_mutant_whose_machines_answer_unknown_connections_by_silence_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Libp2pWire, "answers", lambda *_: False)
    with pytest.raises(BaseExceptionGroup) as caught:
        Town().run(half_open)
    assert caught.group_contains(AssertionError)


def test_a_one_way_cut_ends_the_link_at_the_end_that_hears_nothing_and_so_at_both() -> None:
    async def main(town: Town) -> None:
        await town.settle(2)
        town.wire.cut(town.peer(0), town.peer(1), oneway=True)
        await until(lambda: town.networks[1].peers() == (), 2 * DEAD_AFTER_S)
        await until(lambda: town.networks[0].peers() == (), 2 * DEAD_AFTER_S)
        town.wire.heal(town.peer(0), town.peer(1))
        await until(lambda: town.networks[0].peers() == (town.peer(1),), REDIALLED_S)

    Town().run(main)


@pytest.mark.parametrize("reset", [True, False], ids=["refused by its machine", "no machine answers"])
def test_a_dial_of_the_dead_fails(reset: bool) -> None:
    async def main(town: Town) -> None:
        await town.settle(2)
        town.wire.kill(town.peer(0), reset=reset)
        await until(lambda: town.networks[1].peers() == (), 2 * DEAD_AFTER_S)
        began = town.clock.now
        with pytest.raises(NetworkError):
            await town.networks[1].request(town.peer(0), ECHO, b"hello?", timeout_s=60)
        assert (town.clock.now - began < 1) is reset
        assert town.clock.now - began < 2 * DEAD_AFTER_S

    Town().run(main)


def test_providers_are_found_through_kademlia_after_its_provider_s_reconnection() -> None:
    async def main(town: Town) -> None:
        await town.settle(4)
        await town.networks[1].provide(b"key of 32 bytes, as skills have.")
        town.wire.reset(town.peer(0), town.peer(1))
        await trio.sleep(REDIALLED_S)
        found = await town.networks[3].find_providers(b"key of 32 bytes, as skills have.")
        assert found == [town.peer(1)]

    Town().run(main)


# --- connections are like TCP's ---------------------------------------------------------------------------


def joined(town: Town) -> tuple[End, End]:
    """Both ends of a connection between two hosts without libp2p."""
    ends = []
    machines = [Machine(town.wire, town.peer(n), town.nursery) for n in range(2)]
    for ours, theirs in (machines, machines[::-1]):
        ends.append(End(ours, theirs.peer, (theirs.ip, 1)))
        town.wire.machines[ours.peer] = ours
    ends[0].other, ends[1].other = ends[1], ends[0]
    return ends[0], ends[1]


async def counting(town: Town) -> None:
    ours, theirs = joined(town)
    for n in range(100):
        await ours.write(b"%02d" % n)
    await trio.sleep(1000)
    got = b""
    while len(got) < 200:
        got += await theirs.read(7)
    assert got == b"".join(b"%02d" % n for n in range(100))


JITTERY = Weather(latency=(0.0, 1.0), loss=0.1)


def test_bytes_come_in_order_however_long_each_piece_takes() -> None:
    Town(weather=JITTERY).run(counting)


def test_a_mutant_that_lets_pieces_overtake_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def send(self: End, kind: str, data: bytes = b"") -> None:
        self.wire.clock.call_later(self.wire.delay_s(self), self.other.arrive, kind, data)

    monkeypatch.setattr(End, "send", send)
    with pytest.raises(BaseExceptionGroup) as caught:
        Town(weather=JITTERY).run(counting)
    assert caught.group_contains(AssertionError)


async def waiting_for_a_reader(town: Town) -> None:
    ours, theirs = joined(town)
    await ours.write(bytes(WINDOW_SIZE))
    with trio.move_on_after(100) as scope:
        await ours.write(b"more")
    assert scope.cancelled_caught
    assert len(await theirs.read()) == WINDOW_SIZE
    with trio.fail_after(1):
        await ours.write(b"more")
        assert await theirs.read() == b"more"


def test_a_writer_waits_for_a_reader_that_does_not_read() -> None:
    Town().run(waiting_for_a_reader)


def test_a_mutant_whose_writers_never_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libp2p_transport, "WINDOW_SIZE", float("inf"))
    with pytest.raises(BaseExceptionGroup) as caught:
        Town().run(waiting_for_a_reader)
    assert caught.group_contains(AssertionError)


def test_the_end_comes_after_all_that_was_sent() -> None:
    async def main(town: Town) -> None:
        ours, theirs = joined(town)
        await ours.write(b"last words")
        await ours.close()
        assert [await theirs.read(), await theirs.read()] == [b"last words", b""]

    Town().run(main)


def test_bytes_that_come_to_a_closed_end_are_answered_by_a_reset() -> None:
    from libp2p.io.exceptions import ConnectionClosedError

    async def main(town: Town) -> None:
        ours, theirs = joined(town)
        await theirs.close()
        assert await ours.read() == b""
        await ours.write(b"unheard")
        await trio.sleep(1)
        with pytest.raises(ConnectionClosedError):
            await ours.write(b"unheard")

    Town().run(main)


def test_a_connection_breaks_after_too_many_losses_in_a_row() -> None:
    from libp2p.io.exceptions import ConnectionClosedError

    async def main(town: Town) -> None:
        ours, theirs = joined(town)
        await ours.write(b"lost")
        with pytest.raises(ConnectionClosedError):
            await theirs.read()

    Town(weather=Weather(loss=1.0)).run(main)


# --- agents -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["simulated", "libp2p"])
def test_one_model_runs_on_both_wires_and_trades_the_same(wire: str) -> None:
    world = {"weather": Weather(latency=(0.01, 0.05), loss=0.01), "wire": wire}
    result = run(market, 7, world=world)
    assert [(row[1], row[4], row[5], row[8]) for row in result.trades.rows()] == [("buyer", 3, 6, "")] * 3
    assert result.hash == run(market, 7, world=world).hash


def test_a_seller_that_crashed_is_found_again_through_libp2p_after_its_restart() -> None:
    async def model(world: World) -> None:
        demand_the_ledger_s_invariants(world)
        await world.spawn("seller", skills=[work]).ready()
        buyer = await world.spawn("buyer").ready()
        assert await buy(buyer.agent, "a b") == "ab"
        world.crash("seller")
        await world.run_for(20)
        await world.restart("seller").ready()
        assert await buy(buyer.agent, "c", find_s=200) == "c"

    result = run(model, 5, world={"wire": "libp2p"})
    assert [row[5] for row in result.trades.rows()] == [4, 2]


# --- what is refused --------------------------------------------------------------------------------------


def ending(main: Callable[[Town], Awaitable[None]]) -> Ambient:
    with pytest.raises(Ambient) as caught:
        Town().run(main)
    return caught.value


def test_a_socket_that_libp2p_would_open_ends_the_world_even_if_libp2p_swallows_it() -> None:
    async def main(town: Town) -> None:
        from libp2p.transport.tcp.tcp import TCP
        from multiaddr import Multiaddr

        await town.add(0)
        with pytest.raises((Exception, trio.Cancelled)):
            await TCP().dial(Multiaddr("/ip4/127.0.0.1/tcp/9"))
        await trio.sleep(1)

    error = ending(main)
    assert "socket" in error.source or "getaddrinfo" in error.source
    assert "libp2p/transport/tcp/tcp.py:" in error.where
    assert "in-memory transport" in error.remedy


def test_a_thread_that_the_adapter_would_use_ends_the_world() -> None:
    async def main(town: Town) -> None:
        await town.add(0)
        async with open_network(town.draws.key(9)):  # sockets, and a thread that imports
            pass

    error = ending(main)
    assert error.source == "trio.to_thread.run_sync"
    assert "ainp2p/protocol/libp2p.py:" in error.where


def test_a_thread_that_libp2p_would_start_ends_the_world() -> None:
    async def main(town: Town) -> None:
        from libp2p.rcmgr import prometheus_exporter

        await town.add(0)
        code = "import threading\nthreading.Thread(target=print).start()"
        exec(compile(code, prometheus_exporter.__file__, "exec"), vars(prometheus_exporter))

    assert ending(main).source == "threading.Thread"


def test_a_mutant_that_refuses_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ambient, "_refuse_threads_and_sockets", lambda *_: None)

    async def main(town: Town) -> None:
        from libp2p.transport.tcp.tcp import TCP
        from multiaddr import Multiaddr

        await TCP().create_listener(print).listen(Multiaddr("/ip4/127.0.0.1/tcp/0"))  # a real port

    Town().run(main)  # no Ambient: the tests above would fail


def test_threads_and_sockets_of_others_are_none_of_its_business() -> None:
    async def main(town: Town) -> None:
        await town.add(0)
        thread = threading.Thread(target=os.getpid)
        thread.start()
        thread.join()
        socket.socket().close()

    Town().run(main)


def test_an_address_with_a_name_is_unreachable_without_a_resolver() -> None:
    async def main(town: Town) -> None:
        alice = await town.add(0)
        with pytest.raises(NetworkError, match="transport"):
            await alice.connect(f"/dns4/example.org/tcp/4001/p2p/{town.peer(1)}")

    Town().run(main)


@pytest.mark.parametrize(
    ("refused", "words"),
    [
        (lambda town: town.wire.lie(town.peer(0), lambda sent: None), "encrypted"),
        (lambda town: setattr(town.wire, "weather", Weather(duplicate=0.1)), "TCP hides both"),
        (lambda town: setattr(town.wire, "weather", Weather(reorder_s=1)), "TCP hides both"),
    ],
    ids=["lies", "duplicates", "another order"],
)
def test_what_encryption_and_tcp_rule_out_is_refused(refused: Callable[[Town], object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        refused(Town())


def test_a_peer_that_is_here_already_is_refused() -> None:
    async def main(town: Town) -> None:
        await town.add(0)
        with pytest.raises(InvalidInput, match="already"):
            async with town.wire.open(town.draws.key(0), Context.seeded("0", town.clock.now_ms)):
                pass

    Town().run(main)


def test_a_wire_of_another_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'tcp'"):
        World(1, wire="tcp")  # type: ignore[arg-type]  # what is tested
