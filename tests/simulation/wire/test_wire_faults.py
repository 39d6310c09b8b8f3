"""Faults of the simulated wire: cuts, pauses, kills, restarts, and what dials do meanwhile."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import trio

from ainp2p.errors import Broken, Closed, InvalidInput, TimedOut, Unreachable
from ainp2p.protocol.network import Call, PeerChange
from ainp2p.simulation.wire.dialling import Bootstrap
from ainp2p.simulation.wire.knocking import Knocking
from ainp2p.simulation.wire.network import SimNetwork
from ainp2p.simulation.wire.way import Way
from ainp2p.simulation.wire.weather import Weather
from ainp2p.simulation.wire.wire import Wire
from tests.simulation.wire.wired import ECHO, HANG, HEAR, Town, fails, outcome, wired

# --- cuts ---------------------------------------------------------------------------------------


@wired()
async def test_c2_a_short_cut_delays_and_a_long_one_kills(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.request(bob.peer_id, ECHO, b"")
    answers = []
    for cut_s in (5.0, 15.0):
        town.wire.cut(alice.peer_id, bob.peer_id)

        async def ask() -> None:
            answers.append(await outcome(alice.request(bob.peer_id, ECHO, b"x", timeout_s=30)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(cut_s)
            town.wire.heal()
    assert answers == [b"x", Broken]
    assert await alice.request(bob.peer_id, ECHO, b"again") == b"again"


def test_c2_mutant_an_end_that_never_gives_up_is_found(monkeypatch: Any) -> None:
    monkeypatch.setattr(Way, "_silent", lambda self, holds: None)
    assert fails(test_c2_a_short_cut_delays_and_a_long_one_kills)


def test_c2_mutant_an_end_that_gives_up_after_the_mending_is_found(monkeypatch: Any) -> None:
    def unforgiving(self: Way, holds: int) -> None:
        self.close(Broken("nothing heard"))

    monkeypatch.setattr(Way, "_silent", unforgiving)
    assert fails(test_what_was_sent_into_a_cut_arrives_in_order_after_it)


def test_c2_mutant_what_is_held_and_forgotten_is_found(monkeypatch: Any) -> None:
    def forgetful(self: Way, holds: int) -> None:
        self.held = None

    monkeypatch.setattr(Way, "_release", forgetful)
    assert fails(test_c2_a_short_cut_delays_and_a_long_one_kills)
    assert fails(test_what_was_sent_into_a_cut_arrives_in_order_after_it)


@wired(Weather(latency=(0.1, 2.0)))
async def test_what_was_sent_into_a_cut_arrives_in_order_after_it(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.connect(bob.addresses[0])
    sizes: list[int] = []  # as delivered: handlers of one instant begin in any order
    town.wire.observers.append(lambda message: sizes.append(message.size))
    for n in range(40):
        await alice.send(bob.peer_id, HEAR, bytes(n))
        await trio.sleep(0.3)
        if n in (8, 20):
            town.wire.cut(alice.peer_id, bob.peer_id, oneway=n == 20)
        if n in (14, 21, 23):
            town.wire.heal()
        if n == 22:
            town.wire.cut(alice.peer_id, bob.peer_id)
    await trio.sleep(30)
    assert sizes == list(range(40))


def test_mutant_a_mended_way_that_forgets_what_still_arrives_is_found(monkeypatch: Any) -> None:
    original = Way.arrive

    def overtaking(self: Way, kind: int, asked: Any, body: Any) -> None:
        held = self.held
        if held is not None and not self.cut:
            self.held = None
            original(self, kind, asked, body)
            self.held = held
        else:
            original(self, kind, asked, body)

    monkeypatch.setattr(Way, "arrive", overtaking)
    assert fails(test_what_was_sent_into_a_cut_arrives_in_order_after_it)


@pytest.mark.parametrize("direction", [1, -1], ids=["there", "back"])
def test_c2_a_cut_of_one_direction_is_noticed_by_both(direction: int) -> None:
    @wired(Weather(latency=0.05))
    async def scene(town: Town) -> None:
        bob = await town.peer("bob")
        alice = await town.peer("alice", bob)
        await alice.connect(bob.addresses[0])
        source, target = (alice.peer_id, bob.peer_id)[::direction]
        town.wire.cut(source, target, oneway=True)
        assert await outcome(alice.request(bob.peer_id, ECHO, b"", timeout_s=4)) is TimedOut
        await trio.sleep(7)
        assert (alice.peers(), bob.peers()) == ((), ())
        town.wire.heal()
        assert await alice.request(bob.peer_id, ECHO, b"healed") == b"healed"

    scene()


@wired()
async def test_a_oneway_cut_lets_the_other_direction_through(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.connect(bob.addresses[0])
    town.wire.cut(alice.peer_id, bob.peer_id, oneway=True)
    await bob.send(alice.peer_id, HEAR, b"to alice")
    await alice.send(bob.peer_id, HEAR, b"to bob")
    await trio.sleep(1)
    assert town.heard == [b"to alice"]


@wired()
async def test_c2_a_partition_cuts_only_between_its_sides_and_is_mended_in_parts(town: Town) -> None:
    alice, bob, carol = [await town.peer(name) for name in ("alice", "bob", "carol")]
    for one in (alice, bob, carol):
        for other in (alice, bob, carol):
            one.add_addresses(other.peer_id, other.addresses)
    town.wire.partition([alice.peer_id, bob.peer_id], [carol.peer_id])

    async def ask(one: SimNetwork, other: SimNetwork) -> Any:
        return await outcome(one.request(other.peer_id, ECHO, b"x", timeout_s=2))

    assert [await ask(alice, bob), await ask(alice, carol), await ask(carol, bob)] == [
        b"x",
        Unreachable,
        Unreachable,
    ]
    town.wire.heal(alice.peer_id, carol.peer_id)
    assert [await ask(alice, carol), await ask(carol, bob)] == [b"x", Unreachable]
    town.wire.heal(bob.peer_id)
    assert await ask(carol, bob) == b"x"


@wired(Weather(latency=0.5))
async def test_a_dial_into_a_cut_goes_on_when_it_is_mended_and_fails_after_ten_seconds(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    town.wire.cut(alice.peer_id, bob.peer_id)
    town.clock.call_at(8.0, town.wire.heal)
    assert await alice.request(bob.peer_id, ECHO, b"x", timeout_s=60) == b"x"
    assert trio.current_time() == pytest.approx(8 + 4 * 0.5)
    await alice.disconnect(bob.peer_id)
    await trio.sleep(1)
    start_s = trio.current_time()
    town.wire.cut(bob.peer_id, alice.peer_id, oneway=True)  # only the answer to the dial is lost
    with pytest.raises(Unreachable, match="did not answer within 10 s"):
        await alice.request(bob.peer_id, ECHO, b"x", timeout_s=60)
    assert trio.current_time() == pytest.approx(start_s + 10)
    await trio.sleep(1)
    assert bob.peers() == ()  # it was told that nobody waits for this link
    with pytest.raises(Unreachable, match=r"no connection to .* within 3 s"):
        await alice.request(bob.peer_id, ECHO, b"x", timeout_s=3)


def test_mutant_dials_that_are_not_sent_again_are_found(monkeypatch: Any) -> None:
    monkeypatch.setattr(Knocking, "retry", lambda self: None)
    assert fails(test_a_dial_into_a_cut_goes_on_when_it_is_mended_and_fails_after_ten_seconds)


# --- pauses -------------------------------------------------------------------------------------


@wired(Weather(latency=0.05))
async def test_c5_callers_of_a_peer_that_hangs_time_out_by_their_deadline(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.connect(bob.addresses[0])
    start_s = trio.current_time()
    town.wire.pause(bob.peer_id)
    assert await outcome(alice.request(bob.peer_id, ECHO, b"", timeout_s=2)) is TimedOut
    assert trio.current_time() - start_s == pytest.approx(2)
    async with alice.stream(bob.peer_id, HANG, b"", timeout_s=2) as chunks:
        with pytest.raises(TimedOut, match="within 2 s"):
            await anext(chunks)
    assert trio.current_time() - start_s == pytest.approx(4)
    with pytest.raises(Broken, match="nothing heard for 10 s"):
        await alice.request(bob.peer_id, ECHO, b"", timeout_s=60)
    assert trio.current_time() - start_s == pytest.approx(10)
    assert await outcome(alice.request(bob.peer_id, ECHO, b"", timeout_s=3)) is Unreachable
    await trio.sleep(60)
    town.wire.resume(bob.peer_id)
    assert await alice.request(bob.peer_id, ECHO, b"awake") == b"awake"


def test_c5_mutant_without_the_timer_of_silence_callers_wait_on(monkeypatch: Any) -> None:
    monkeypatch.setattr(Way, "_silent", lambda self, holds: None)
    assert fails(test_c5_callers_of_a_peer_that_hangs_time_out_by_their_deadline)


# --- kills and restarts -------------------------------------------------------------------------


@wired(Weather(latency=0.1))
async def test_a_crashed_machine_is_noticed_by_its_silence(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.connect(bob.addresses[0])
    start_s = trio.current_time()
    town.wire.kill(bob.peer_id)
    with pytest.raises(Broken, match="nothing heard for 10 s"):
        await alice.request(bob.peer_id, ECHO, b"", timeout_s=60)
    assert trio.current_time() == pytest.approx(start_s + 10)
    with pytest.raises(Unreachable, match="did not answer"):
        await alice.request(bob.peer_id, ECHO, b"", timeout_s=60)
    assert trio.current_time() == pytest.approx(start_s + 20)


def test_mutant_a_crash_that_nobody_notices_is_found(monkeypatch: Any) -> None:
    def unnoticed(self: Wire, peer: str, reset: bool = False) -> None:
        self.crashed.add(peer)
        self.networks[peer].shut(tell=False)

    monkeypatch.setattr(Wire, "kill", unnoticed)
    assert fails(test_a_crashed_machine_is_noticed_by_its_silence)


@wired(Weather(latency=0.1))
async def test_a_crashed_process_is_noticed_by_its_reset(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.connect(bob.addresses[0])
    start_s = trio.current_time()
    town.wire.kill(bob.peer_id, reset=True)
    assert await outcome(alice.request(bob.peer_id, ECHO, b"", timeout_s=60)) is Broken
    assert trio.current_time() == pytest.approx(start_s + 0.1)
    with pytest.raises(Unreachable, match="nobody listens"):
        await alice.request(bob.peer_id, ECHO, b"", timeout_s=60)
    assert trio.current_time() == pytest.approx(start_s + 0.3)


@pytest.mark.parametrize("reset", [False, True])
def test_nothing_leaves_the_dead_and_its_own_calls_say_closed(reset: bool) -> None:
    @wired(Weather(latency=0.1))
    async def scene(town: Town) -> None:
        bob = await town.peer("bob")
        alice = await town.peer("alice", bob)
        ended: list[Any] = []

        async def late(call: Call) -> bytes:
            try:
                await trio.sleep(1)
            finally:
                ended.append("handler")
                with trio.CancelScope(shield=True):
                    ended.append(await outcome(bob.send(alice.peer_id, HEAR, b"from the dead")))
            return b"late"

        async def own() -> None:
            ended.append(await outcome(bob.request(alice.peer_id, HANG, b"")))

        bob.serve("/test/late/1", late)
        await alice.connect(bob.addresses[0])
        await bob.send(alice.peer_id, HEAR, b"in time")  # on its way when bob dies: it arrives
        async with trio.open_nursery() as nursery:
            nursery.start_soon(own)
            town.clock.call_later(0.5, town.wire.kill, bob.peer_id, reset)
            assert await outcome(alice.request(bob.peer_id, "/test/late/1", b"", timeout_s=30)) is Broken
        await trio.sleep(5)
        assert sorted(map(str, ended)) == sorted(map(str, [Closed, "handler", Closed]))
        assert town.heard == [b"in time"]
        with pytest.raises(Closed):
            await bob.publish("topic", b"")

    scene()


def test_mutant_a_dead_peer_whose_links_stay_open_is_found(monkeypatch: Any) -> None:
    def only_closed(self: SimNetwork, *, tell: bool = True) -> None:
        self.wire.left(self)
        self.closed = True

    monkeypatch.setattr(SimNetwork, "shut", only_closed)
    with pytest.raises((AssertionError, BaseExceptionGroup, Exception)):
        test_nothing_leaves_the_dead_and_its_own_calls_say_closed(True)


@wired(Weather(latency=0.1))
async def test_a_machine_that_is_back_has_its_address_and_ends_what_others_took_for_links(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.connect(bob.addresses[0])
    town.wire.kill(bob.peer_id)
    again = await town.peer("bob")
    assert again.addresses == bob.addresses
    assert alice.peers() == (bob.peer_id,)
    await alice.send(bob.peer_id, HEAR, b"to the old one")
    await trio.sleep(0.5)
    assert alice.peers() == ()  # answered by a reset
    assert await alice.request(bob.peer_id, ECHO, b"to the new one") == b"to the new one"
    assert town.heard == []


@wired(Weather(latency=0.1))
async def test_a_heartbeat_finds_out_that_a_machine_was_started_anew(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.connect(bob.addresses[0])
    async with alice.watch_peers() as changes:
        assert await anext(changes) == PeerChange(bob.peer_id, connected=True)
        start_s = trio.current_time()
        town.wire.kill(bob.peer_id)
        await town.peer("bob")
        assert await anext(changes) == PeerChange(bob.peer_id, connected=False)
        assert trio.current_time() == pytest.approx(start_s + 3)


@wired(Weather(latency=0.1))
async def test_who_was_started_anew_replaces_its_old_link(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.connect(bob.addresses[0])
    town.wire.kill(alice.peer_id)
    again = await town.peer("alice", bob)
    assert await again.request(bob.peer_id, ECHO, b"new") == b"new"
    await trio.sleep(60)
    assert (again.peers(), bob.peers()) == ((bob.peer_id,), (alice.peer_id,))


@wired()
async def test_a_peer_is_on_a_wire_only_once(town: Town) -> None:
    await town.peer("bob")
    with pytest.raises(InvalidInput, match="already"):
        async with town.wire.open(town.draws.key("bob"), town.context("bob")):
            pass


@wired(Weather(latency=0.1))
async def test_a_reset_breaks_a_link_for_both_at_once(town: Town) -> None:
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.connect(bob.addresses[0])
    town.wire.reset(bob.peer_id, alice.peer_id)
    assert (alice.peers(), bob.peers()) == ((), ())


# --- dials --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_peers_that_dial_each_other_at_once_have_one_link(seed: int) -> None:
    @wired(Weather(latency=(0.01, 1.0), loss=0.1), seed)
    async def scene(town: Town) -> None:
        alice, bob = await town.peer("alice"), await town.peer("bob")
        alice.add_addresses(bob.peer_id, bob.addresses)
        bob.add_addresses(alice.peer_id, alice.addresses)

        async def ask(one: SimNetwork, other: SimNetwork, after_s: float) -> None:
            await trio.sleep(after_s)
            assert await one.request(other.peer_id, ECHO, b"x", timeout_s=30) == b"x"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, alice, bob, 0.0)
            nursery.start_soon(ask, bob, alice, town.draws.stream("test").random())
        assert alice.links[bob.peer_id].other is bob.links[alice.peer_id]

    scene()


def test_mutant_dials_that_both_win_are_found(monkeypatch: Any) -> None:
    original = Knocking._knocked

    def any_dial(self: Knocking, dial: Any) -> None:
        was, dial.live = dial.live, True
        original(self, dial)
        dial.live = was

    monkeypatch.setattr(Knocking, "_knocked", any_dial)
    test = test_peers_that_dial_each_other_at_once_have_one_link
    assert any(fails(functools.partial(test, seed)) for seed in range(20))


@wired(Weather(latency=0.1))
async def test_a_lost_bootstrap_peer_is_dialled_again_and_costs_nothing_meanwhile(town: Town) -> None:
    bob, carol = await town.peer("bob"), await town.peer("carol")
    alice = await town.peer("alice")
    await alice.bootstrap([*bob.addresses, *carol.addresses])
    await trio.sleep(20)
    assert alice.peers() == tuple(sorted([bob.peer_id, carol.peer_id]))
    assert town.clock.pending == 0
    await trio.sleep(3600)
    assert town.clock.pending == 0
    town.wire.reset(alice.peer_id, bob.peer_id)
    assert alice.peers() == (carol.peer_id,)
    await trio.sleep(8)
    assert alice.peers() == tuple(sorted([bob.peer_id, carol.peer_id]))


def test_mutant_bootstrap_peers_that_are_forgotten_are_found(monkeypatch: Any) -> None:
    monkeypatch.setattr(Bootstrap, "check", lambda self: None)
    assert fails(test_a_lost_bootstrap_peer_is_dialled_again_and_costs_nothing_meanwhile)
    assert fails(test_who_is_alone_finds_back_through_remembered_peers)


@wired(Weather(latency=0.1))
async def test_who_is_alone_finds_back_through_remembered_peers(town: Town) -> None:
    bob, carol = await town.peer("bob"), await town.peer("carol")
    alice = await town.peer("alice")
    await alice.bootstrap(bob.addresses)
    await alice.connect(carol.addresses[0])
    town.wire.partition([alice.peer_id], [bob.peer_id, carol.peer_id])
    await trio.sleep(20)
    assert alice.peers() == ()
    town.wire.heal(alice.peer_id, carol.peer_id)
    await trio.sleep(30)
    assert alice.peers() == (carol.peer_id,)
    await alice._close()
    town.wire.heal()
    await trio.sleep(30)
    assert bob.peers() == ()  # who is closed dials nobody
