"""The contract of `Network`, on all implementations.

For sockets, and beside them in memory, the clock is the real one; waits have generous limits and no test
depends on speed. The simulated network, and libp2p in memory, run in virtual time. What takes long
(heartbeats, cuts, pauses) is tested in test_memory.py, tests/simulation/wire/test_wire_faults.py and
test_libp2p_world.py, on clocks that jump.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.errors import Broken, Closed, InvalidInput, NetworkError, Refused, TimedOut, Unreachable
from ainp2p.protocol.caller import Caller
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key
from ainp2p.protocol.libp2p import open_network
from ainp2p.protocol.linked_network import LinkedNetwork
from ainp2p.protocol.memory import MemoryHub, open_memory_network
from ainp2p.protocol.network import BODY_SIZE_MAX, Call, Network, PeerChange, Published
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.draws import Draws
from ainp2p.simulation.core.kernel import run_virtual
from ainp2p.simulation.core.trace import Trace
from ainp2p.simulation.wire.ends import End
from ainp2p.simulation.wire.libp2p_world import Libp2pWire
from ainp2p.simulation.wire.network import SimNetwork
from ainp2p.simulation.wire.wire import Wire

ECHO = "/test/echo/1"
COUNT = "/test/count/1"
HANG = "/test/hang/1"
SOON_S = 30.0  # a real network's answers are awaited so long

Net = LinkedNetwork | SimNetwork
Opener = Callable[[int], Awaitable[Net]]


def in_virtual_time(main: Callable[[], Awaitable[Any]], *, clock: Any, instruments: Any) -> Any:
    """What pytest-trio runs a simulated test with."""

    async def with_instruments() -> Any:
        for instrument in instruments:
            trio.lowlevel.add_instrument(instrument)
        return await main()

    assert clock is None
    return run_virtual(with_instruments, seed=1)


def opening_of(kind: str) -> Callable[[Key], AbstractAsyncContextManager[Any]]:
    """How a peer's network is opened; all of one test can reach each other."""
    if kind == "libp2p":
        return open_network
    if kind == "memory":
        hub = MemoryHub()
        return lambda key: open_memory_network(hub, key)
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, VirtualClock)
    draws = Draws(1)
    wires: dict[str, type[Wire | Libp2pWire]] = {"simulation": Wire, "libp2p in memory": Libp2pWire}
    wire = wires[kind](clock, draws, Trace(clock, draws))
    return lambda key: wire.open(key, Context.seeded(key.peer_id, clock.now_ms))


SIMULATED = [
    pytest.param(kind, marks=pytest.mark.trio(run=in_virtual_time))
    for kind in ("simulation", "libp2p in memory")
]


@pytest.fixture(params=["memory", "libp2p", *SIMULATED])
async def open_peer(request: Any) -> AsyncIterator[Opener]:
    """Opens the network of the n-th peer; all are closed at the end of the test."""
    opening, stop = opening_of(request.param), trio.Event()

    async def hold(n: int, task_status: Any) -> None:
        async with opening(Key(bytes([n]) * 32)) as network:
            task_status.started(network)
            await stop.wait()

    async with trio.open_nursery() as nursery:

        async def opener(n: int) -> Net:
            network: Net = await nursery.start(hold, n)
            return network

        yield opener
        stop.set()


@pytest.fixture
async def pair(open_peer: Opener) -> tuple[Net, Net]:
    """Alice, and Bob who serves; Alice knows Bob's address."""
    alice, bob = await open_peer(1), await open_peer(2)
    bob.serve(ECHO, echo)
    bob.serve(COUNT, count)
    bob.serve(HANG, hang)
    alice.add_addresses(bob.peer_id, bob.addresses)
    return alice, bob


async def echo(call: Call) -> bytes:
    return call.body


async def count(call: Call) -> None:
    for n in range(int(call.body)):
        await call.send(b"%d" % n)


async def hang(call: Call) -> None:
    await trio.sleep_forever()


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what a network does on its own; only a limit, no pace, depends on time."""
    with trio.fail_after(SOON_S):
        while not condition():  # noqa: ASYNC110  # a network tells no event of what it has not yet done
            await trio.sleep(0.01)


def test_all_networks_have_every_method_of_the_interface() -> None:
    from ainp2p.protocol.libp2p import Libp2pNetwork
    from ainp2p.protocol.memory import MemoryNetwork

    names = [name for name in vars(Network) if not name.startswith("_")]
    assert len(names) > 12
    for network in (Libp2pNetwork, MemoryNetwork, SimNetwork):
        assert [name for name in names if not hasattr(network, name)] == []


# --- requests -----------------------------------------------------------------------------------


async def test_a_request_is_answered_and_its_sender_is_known(pair: Any) -> None:
    alice, bob = pair

    async def who(call: Call) -> bytes:
        return call.peer.encode() + b" " + call.body

    bob.serve("/test/who/1", who)
    assert await alice.request(bob.peer_id, "/test/who/1", b"hi") == alice.peer_id.encode() + b" hi"


async def test_both_ends_may_ask_over_one_channel(pair: Any) -> None:
    alice, bob = pair
    alice.serve(ECHO, echo)
    await alice.request(bob.peer_id, ECHO, b"")
    assert await bob.request(alice.peer_id, ECHO, b"back") == b"back"
    assert (alice.peers(), bob.peers()) == ((bob.peer_id,), (alice.peer_id,))


@pytest.mark.parametrize("size", [0, 1, 59_900, 60_001, 200_000, BODY_SIZE_MAX])
async def test_bodies_of_every_size_come_back_whole(pair: Any, size: int) -> None:
    alice, bob = pair
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    assert await alice.request(bob.peer_id, ECHO, body, timeout_s=SOON_S) == body


async def test_a_body_above_the_limit_is_refused_here(pair: Any) -> None:
    alice, bob = pair
    with pytest.raises(InvalidInput, match="split it"):
        await alice.request(bob.peer_id, ECHO, bytes(BODY_SIZE_MAX + 1))


async def test_many_requests_at_once_are_all_answered(pair: Any) -> None:
    alice, bob = pair
    answers: dict[int, bytes] = {}

    async def ask(n: int) -> None:
        answers[n] = await alice.request(bob.peer_id, ECHO, b"%d" % n, timeout_s=SOON_S)

    async with trio.open_nursery() as nursery:
        for n in range(1000):  # four times what a channel holds open
            nursery.start_soon(ask, n)
    assert answers == {n: b"%d" % n for n in range(1000)}


async def test_a_handler_that_answers_nothing_answers_empty(pair: Any) -> None:
    alice, bob = pair

    async def nothing(call: Call) -> None:
        return None

    bob.serve("/test/nothing/1", nothing)
    assert await alice.request(bob.peer_id, "/test/nothing/1", b"x") == b""


async def test_what_a_handler_refuses_is_told_to_the_caller(pair: Any) -> None:
    alice, bob = pair

    async def no(call: Call) -> bytes:
        raise Refused("too-poor", "come back with more")

    bob.serve("/test/no/1", no)
    with pytest.raises(Refused) as caught:
        await alice.request(bob.peer_id, "/test/no/1", b"")
    assert (caught.value.code, caught.value.reason) == ("too-poor", "come back with more")


async def test_an_unserved_protocol_is_refused(pair: Any) -> None:
    alice, bob = pair
    with pytest.raises(Refused) as caught:
        await alice.request(bob.peer_id, "/test/unknown/1", b"")
    assert caught.value.code == "no-such-protocol"


async def test_a_failing_handler_is_refused_as_internal_and_harms_nobody(pair: Any, caplog: Any) -> None:
    alice, bob = pair

    async def fail(call: Call) -> bytes:
        raise ZeroDivisionError("secret detail")

    bob.serve("/test/fail/1", fail)
    with pytest.raises(Refused) as caught:
        await alice.request(bob.peer_id, "/test/fail/1", b"")
    assert caught.value.code == "internal"
    assert "secret" not in caught.value.reason
    lines = [record for record in caplog.records if record.name.startswith("ainp2p")]
    assert len(lines) == 1
    assert await alice.request(bob.peer_id, ECHO, b"still here") == b"still here"


async def test_an_answer_above_the_limit_is_refused_as_internal(pair: Any) -> None:
    alice, bob = pair

    async def huge(call: Call) -> bytes:
        return bytes(BODY_SIZE_MAX + 1)

    bob.serve("/test/huge/1", huge)
    with pytest.raises(Refused) as caught:
        await alice.request(bob.peer_id, "/test/huge/1", b"")
    assert caught.value.code == "internal"


async def test_a_request_without_an_answer_times_out_at_its_deadline(pair: Any) -> None:
    alice, bob = pair
    await alice.request(bob.peer_id, ECHO, b"")
    start = trio.current_time()
    with pytest.raises(TimedOut, match=r"within 0\.4 s"):
        await alice.request(bob.peer_id, HANG, b"", timeout_s=0.4)
    assert 0.4 <= trio.current_time() - start < SOON_S


async def test_a_second_handler_of_a_protocol_is_refused(pair: Any) -> None:
    _, bob = pair
    with pytest.raises(InvalidInput, match="already served"):
        bob.serve(ECHO, echo)


# --- streams ------------------------------------------------------------------------------------


async def test_a_stream_brings_all_chunks_in_order(pair: Any) -> None:
    alice, bob = pair
    async with alice.stream(bob.peer_id, COUNT, b"500") as chunks:
        assert [int(chunk) async for chunk in chunks] == list(range(500))


async def test_large_chunks_come_whole_and_in_order(pair: Any) -> None:
    alice, bob = pair
    sizes = [10, 300_000, 0, BODY_SIZE_MAX, 59_996, 59_997, 1]

    async def sized(call: Call) -> None:
        for n, size in enumerate(sizes):
            await call.send(bytes([n]) * size)

    bob.serve("/test/sized/1", sized)
    async with alice.stream(bob.peer_id, "/test/sized/1", b"", timeout_s=SOON_S) as chunks:
        got = [chunk async for chunk in chunks]
    assert [(len(chunk), chunk[:1]) for chunk in got] == [
        (size, bytes([n]) if size else b"") for n, size in enumerate(sizes)
    ]


async def test_a_slow_reader_holds_its_sender_back_and_nobody_else(pair: Any) -> None:
    alice, bob = pair
    sent = 0

    async def flood(call: Call) -> None:
        nonlocal sent
        for _ in range(1000):
            await call.send(bytes(20_000))
            sent += 1

    bob.serve("/test/flood/1", flood)
    async with alice.stream(bob.peer_id, "/test/flood/1", b"", timeout_s=SOON_S) as chunks:
        await anext(chunks)
        for n in range(300):
            assert await alice.request(bob.peer_id, ECHO, b"%d" % n) == b"%d" % n
        assert sent < 40  # 256 KiB of credit, not 20 MB
        for _ in range(499):
            assert len(await anext(chunks)) == 20_000


async def test_chunks_of_several_tasks_of_a_handler_all_arrive(pair: Any) -> None:
    alice, bob = pair

    async def many(call: Call) -> None:
        async def part(n: int) -> None:
            for _ in range(20):
                await call.send(bytes([n]) * 30_000)

        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(part, n)

    bob.serve("/test/many/1", many)
    async with alice.stream(bob.peer_id, "/test/many/1", b"", timeout_s=SOON_S) as chunks:
        got = sorted([chunk[0] async for chunk in chunks])
    assert got == [n for n in range(5) for _ in range(20)]


async def test_a_refusal_after_some_chunks_arrives_after_them(pair: Any) -> None:
    alice, bob = pair

    async def some(call: Call) -> None:
        await call.send(b"one")
        raise Refused("no-more")

    bob.serve("/test/some/1", some)
    async with alice.stream(bob.peer_id, "/test/some/1", b"") as chunks:
        assert await anext(chunks) == b"one"
        with pytest.raises(Refused, match="no-more"):
            await anext(chunks)


async def test_leaving_a_stream_cancels_its_handler(pair: Any) -> None:
    alice, bob = pair
    ended = trio.Event()

    async def endless(call: Call) -> None:
        try:
            while True:
                await call.send(b"more")
        finally:
            ended.set()

    bob.serve("/test/endless/1", endless)
    async with alice.stream(bob.peer_id, "/test/endless/1", b"") as chunks:
        assert await anext(chunks) == b"more"
    with trio.fail_after(SOON_S):
        await ended.wait()


async def test_the_users_exception_leaves_a_stream_as_it_came(pair: Any) -> None:
    alice, bob = pair
    with pytest.raises(ValueError, match="mine"):
        async with alice.stream(bob.peer_id, COUNT, b"5"):
            raise ValueError("mine")


async def test_a_stream_waits_for_each_chunk_only_so_long(pair: Any) -> None:
    alice, bob = pair

    async def one_then_none(call: Call) -> None:
        await call.send(b"one")
        await trio.sleep_forever()

    bob.serve("/test/stall/1", one_then_none)
    async with alice.stream(bob.peer_id, "/test/stall/1", b"", timeout_s=0.5) as chunks:
        assert await anext(chunks) == b"one"
        with pytest.raises(TimedOut):
            await anext(chunks)


async def test_asking_a_streaming_protocol_for_one_answer_is_refused(pair: Any) -> None:
    alice, bob = pair
    with pytest.raises(Refused) as caught:
        await alice.request(bob.peer_id, COUNT, b"3")
    assert caught.value.code == "not-a-stream"


async def test_a_call_cannot_be_used_after_its_handler_has_returned(pair: Any) -> None:
    alice, bob = pair
    kept: list[Call] = []

    async def keep(call: Call) -> bytes:
        kept.append(call)
        return b""

    bob.serve("/test/keep/1", keep)
    await alice.request(bob.peer_id, "/test/keep/1", b"")
    with pytest.raises(Closed):
        await kept[0].send(b"late")


# --- one-way ------------------------------------------------------------------------------------


async def test_one_way_messages_arrive(pair: Any) -> None:
    alice, bob = pair
    heard: list[bytes] = []

    async def hear(call: Call) -> None:
        heard.append(call.body)

    bob.serve("/test/hear/1", hear)
    for n in range(300):
        await alice.send(bob.peer_id, "/test/hear/1", b"%03d" % n)
    await eventually(lambda: len(heard) == 300)
    assert sorted(heard) == [b"%03d" % n for n in range(300)]


async def test_one_way_messages_are_held_back_while_their_handlers_are_busy(pair: Any) -> None:
    alice, bob = pair
    go = trio.Event()
    started = 0

    async def slow(call: Call) -> None:
        nonlocal started
        started += 1
        await go.wait()

    bob.serve("/test/slow/1", slow)
    sent = 0
    with trio.move_on_after(1):
        for _ in range(30):
            await alice.send(bob.peer_id, "/test/slow/1", bytes(1_000_000))
            sent += 1
    assert sent < 12  # 8 MiB of credit, not 30 MB
    assert await alice.request(bob.peer_id, ECHO, b"small ones pass") == b"small ones pass"
    go.set()
    await eventually(lambda: started == sent)


# --- cancelling ---------------------------------------------------------------------------------


async def test_cancelled_requests_do_no_harm(pair: Any) -> None:
    alice, bob = pair
    await alice.connect(bob.addresses[0], timeout_s=SOON_S)
    for n in range(600):  # more than a channel holds open
        with trio.move_on_after(0):
            await alice.request(bob.peer_id, HANG, b"%d" % n)
    assert await alice.request(bob.peer_id, ECHO, b"alive", timeout_s=SOON_S) == b"alive"


async def test_a_cancelled_request_cancels_its_handler(pair: Any) -> None:
    alice, bob = pair
    started, ended = trio.Event(), trio.Event()

    async def wait(call: Call) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    bob.serve("/test/wait/1", wait)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.request, bob.peer_id, "/test/wait/1", b"")
        with trio.fail_after(SOON_S):
            await started.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(SOON_S):
        await ended.wait()


async def use_everything(alice: Net, bob: Net) -> None:
    """One of everything that awaits, for cancelling it anywhere."""
    await alice.request(bob.peer_id, ECHO, bytes(150_000), timeout_s=SOON_S)
    await alice.send(bob.peer_id, ECHO, b"one way")
    async with alice.stream(bob.peer_id, COUNT, b"20", timeout_s=SOON_S) as chunks:
        async for _ in chunks:
            pass
    async with alice.subscribe("topic"), bob.subscribe("topic"):
        await alice.publish("topic", b"news")
    await alice.provide(b"k" * 32)
    await alice.find_providers(b"k" * 32)
    async with alice.watch_peers() as changes:
        await anext(changes)
    await alice.disconnect(bob.peer_id)
    await alice.connect(bob.addresses[0], timeout_s=SOON_S)


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when a task has made so many steps: one for each await that really waits."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self.task, self.scope, self.steps_left = task, scope, step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.steps_left -= 1
            if self.steps_left < 0:
                self.scope.cancel()


async def cancelled_at(step: int, alice: Net, bob: Net) -> bool:
    """Use everything, cancelled at the given step; whether there was such a step."""
    with trio.CancelScope() as scope:
        instrument = CancelAtStep(trio.lowlevel.current_task(), scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await use_everything(alice, bob)
            return False
        except NetworkError:
            return True  # e.g. it used a channel that the step before was about to close
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return True


async def test_g3_cancelling_at_every_await_does_no_harm(pair: Any) -> None:
    alice, bob = pair
    step = 0
    while await cancelled_at(step, alice, bob):
        assert await alice.request(bob.peer_id, ECHO, b"alive", timeout_s=SOON_S) == b"alive"
        step += 1
    assert step > 5  # the simulation's, which waits only where it must; libp2p's are thirty


async def test_g3_mutant_a_caller_that_forgets_to_cancel_fills_the_channel(
    pair: Any, monkeypatch: Any
) -> None:
    alice, bob = pair
    monkeypatch.setattr(Caller, "cancel", lambda self, call: None)
    monkeypatch.setattr(End, "forget", lambda self, asked: None)
    await alice.connect(bob.addresses[0], timeout_s=SOON_S)
    for n in range(600):
        with trio.move_on_after(0):
            await alice.request(bob.peer_id, HANG, b"%d" % n)
    with pytest.raises(TimedOut):
        await alice.request(bob.peer_id, ECHO, b"alive", timeout_s=0.5)


# --- peers --------------------------------------------------------------------------------------


async def test_connecting_returns_the_peers_id(pair: Any) -> None:
    alice, bob = pair
    assert await alice.connect(bob.addresses[0]) == bob.peer_id
    assert await alice.connect(bob.addresses[0]) == bob.peer_id
    assert alice.peers() == (bob.peer_id,)


@pytest.mark.parametrize(
    "address", ["", "/ip4/127.0.0.1/tcp/1", "127.0.0.1:1", "/ip4/127.0.0.1/tcp/1/p2p/xx"]
)
async def test_an_address_without_a_peer_id_is_refused(pair: Any, address: str) -> None:
    alice, _ = pair
    with pytest.raises(InvalidInput):
        await alice.connect(address)


async def test_a_peer_without_a_known_address_is_unreachable(pair: Any) -> None:
    alice, _ = pair
    with pytest.raises(Unreachable, match="no address"):
        await alice.request(Key(b"z" * 32).peer_id, ECHO, b"")


async def test_we_are_unreachable_for_ourselves(pair: Any) -> None:
    alice, _ = pair
    with pytest.raises(Unreachable, match="itself"):
        await alice.request(alice.peer_id, ECHO, b"")


async def test_an_address_that_leads_to_another_peer_is_unreachable(pair: Any) -> None:
    alice, bob = pair
    stranger = Key(b"z" * 32).peer_id
    wrong = bob.addresses[0].replace(bob.peer_id, stranger)
    with pytest.raises(Unreachable):
        await alice.connect(wrong, timeout_s=SOON_S)


async def test_an_address_where_nobody_listens_is_unreachable(pair: Any, open_peer: Opener) -> None:
    alice, bob = pair
    where = bob.addresses[0].rpartition("/p2p/")[0]
    nowhere = where.rsplit("/", 1)[0] + "/1"  # port 1
    with pytest.raises(Unreachable):
        await alice.connect(f"{nowhere}/p2p/{Key(b'y' * 32).peer_id}", timeout_s=SOON_S)


async def test_the_caller_of_a_peer_that_goes_away_hears_of_it(pair: Any, open_peer: Opener) -> None:
    alice, bob = pair
    ended = trio.Event()

    async def ask() -> None:
        with pytest.raises(Broken):
            await alice.request(bob.peer_id, HANG, b"", timeout_s=SOON_S)
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await eventually(lambda: bool(bob.peers()))
        await bob.disconnect(alice.peer_id)
        with trio.fail_after(SOON_S):
            await ended.wait()


async def test_after_a_disconnect_a_call_connects_again(pair: Any) -> None:
    alice, bob = pair
    await alice.request(bob.peer_id, ECHO, b"")
    await alice.disconnect(bob.peer_id)
    assert alice.peers() == ()
    await alice.disconnect(bob.peer_id)  # no error
    assert await alice.request(bob.peer_id, ECHO, b"again", timeout_s=SOON_S) == b"again"


async def test_who_was_dialled_may_dial_back_later(pair: Any) -> None:
    alice, bob = pair
    alice.serve(ECHO, echo)
    await alice.request(bob.peer_id, ECHO, b"")
    await eventually(lambda: alice.peer_id in bob.peers())

    async def addresses_known() -> None:
        with trio.fail_after(SOON_S):
            while True:
                try:
                    assert await bob.request(alice.peer_id, ECHO, b"hello") == b"hello"
                    return
                except NetworkError:
                    await trio.sleep(0.05)

    await bob.disconnect(alice.peer_id)
    await addresses_known()


async def test_peers_that_come_and_go_are_seen(pair: Any, open_peer: Opener) -> None:
    alice, bob = pair
    await alice.request(bob.peer_id, ECHO, b"")
    async with alice.watch_peers() as changes:
        with trio.fail_after(SOON_S):
            assert await anext(changes) == PeerChange(bob.peer_id, connected=True)
            carol = await open_peer(3)
            await carol.connect(alice.addresses[0])
            assert await anext(changes) == PeerChange(carol.peer_id, connected=True)
            await alice.disconnect(bob.peer_id)
            assert await anext(changes) == PeerChange(bob.peer_id, connected=False)


async def test_peers_that_dial_each_other_at_once_both_get_through(open_peer: Opener) -> None:
    alice, bob = await open_peer(1), await open_peer(2)
    for one, other in ((alice, bob), (bob, alice)):
        one.serve(ECHO, echo)
        one.add_addresses(other.peer_id, other.addresses)

    async def ask(one: Net, other: Net) -> None:
        for n in range(200):
            assert await one.request(other.peer_id, ECHO, b"%d" % n, timeout_s=SOON_S) == b"%d" % n

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, alice, bob)
        nursery.start_soon(ask, bob, alice)
    assert (alice.peers(), bob.peers()) == ((bob.peer_id,), (alice.peer_id,))


async def test_many_callers_share_one_dial(pair: Any) -> None:
    alice, bob = pair
    links: list[int] = []

    async def ask() -> None:
        await alice.request(bob.peer_id, ECHO, b"")
        links.append(id((alice.links if isinstance(alice, SimNetwork) else alice._links)[bob.peer_id]))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert len(set(links)) == 1


# --- gossip and records -------------------------------------------------------------------------


async def hear(chunks: AsyncIterator[Published]) -> Published:
    with trio.fail_after(SOON_S):
        return await anext(chunks)


async def publish_until_heard(source: Net, feed: Any, topic: str, data: bytes) -> Published:
    """Gossip is best effort: a subscription takes a moment to be known."""
    heard: list[Published] = []

    async def publish() -> None:
        while not heard:
            await source.publish(topic, data)
            await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        heard.append(await hear(feed))
        nursery.cancel_scope.cancel()
    return heard[0]


async def test_a_subscriber_hears_what_others_publish(pair: Any) -> None:
    alice, bob = pair
    await alice.connect(bob.addresses[0])
    async with bob.subscribe("news") as feed:
        assert await publish_until_heard(alice, feed, "news", b"extra") == Published(
            "news", b"extra", alice.peer_id
        )


async def test_a_subscriber_never_hears_itself(pair: Any) -> None:
    alice, bob = pair
    await alice.connect(bob.addresses[0])
    async with alice.subscribe("news") as at_alice, bob.subscribe("news") as at_bob:
        await publish_until_heard(alice, at_bob, "news", b"from alice")
        assert (await publish_until_heard(bob, at_alice, "news", b"from bob")).sender == bob.peer_id


async def test_topics_are_apart_and_subscribers_of_one_both_hear(pair: Any) -> None:
    alice, bob = pair
    await alice.connect(bob.addresses[0])
    async with bob.subscribe("a") as one, bob.subscribe("a") as two, bob.subscribe("b") as other:
        await publish_until_heard(alice, one, "a", b"to a")
        assert (await hear(two)).data == b"to a"
        assert (await publish_until_heard(alice, other, "b", b"to b")).data == b"to b"


async def test_news_travels_over_a_subscriber_in_between(open_peer: Opener) -> None:
    alice, bob, carol = [await open_peer(n) for n in (1, 2, 3)]
    await alice.connect(bob.addresses[0])
    await carol.connect(bob.addresses[0])
    async with bob.subscribe("news"), carol.subscribe("news") as feed:
        assert (await publish_until_heard(alice, feed, "news", b"far")).sender == alice.peer_id


async def test_a_topic_can_be_left_and_joined_again(pair: Any) -> None:
    alice, bob = pair
    await alice.connect(bob.addresses[0])
    for n in range(3):
        async with bob.subscribe("news") as feed:
            heard = await publish_until_heard(alice, feed, "news", b"%d" % n)
            assert heard.topic == "news"


async def test_providers_are_found_and_can_then_be_called(open_peer: Opener) -> None:
    alice, bob, carol = [await open_peer(n) for n in (1, 2, 3)]
    carol.serve(ECHO, echo)
    await alice.connect(bob.addresses[0])
    await carol.connect(bob.addresses[0])
    await carol.provide(b"\x01" * 32)
    with trio.fail_after(SOON_S):
        while (found := await alice.find_providers(b"\x01" * 32)) != [carol.peer_id]:
            assert found == []
            await carol.provide(b"\x01" * 32)
    assert await alice.request(carol.peer_id, ECHO, b"found you", timeout_s=SOON_S) == b"found you"
    assert await alice.find_providers(b"\x02" * 32) == []


# --- closing ------------------------------------------------------------------------------------


async def test_a_closed_network_says_so(pair: Any) -> None:
    alice, bob = pair
    await alice.request(bob.peer_id, ECHO, b"")
    await alice._close()
    with pytest.raises(Closed):
        await alice.request(bob.peer_id, ECHO, b"")
    with pytest.raises(Closed):
        await alice.publish("news", b"")
    with pytest.raises(Closed):
        alice.serve("/test/late/1", echo)


async def test_closing_ends_what_is_under_way(pair: Any) -> None:
    alice, bob = pair
    ended: list[str] = []

    async def ask() -> None:
        with pytest.raises(Closed):
            await alice.request(bob.peer_id, HANG, b"", timeout_s=SOON_S)
        ended.append("request")

    async def read() -> None:
        async with alice.subscribe("news") as feed:
            with pytest.raises(Closed):
                await anext(feed)
        ended.append("feed")

    async def watch() -> None:
        async with alice.watch_peers() as changes:
            await anext(changes)
            await anext(changes)
            with pytest.raises(Closed):
                await anext(changes)
        ended.append("watch")

    with trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            for job in (ask, read, watch):
                nursery.start_soon(job)
            await eventually(lambda: bool(bob.peers()))
            await trio.testing.wait_all_tasks_blocked(0.05)
            await alice._close()
    assert sorted(ended) == ["feed", "request", "watch"]


async def test_what_was_sent_before_closing_still_arrives(open_peer: Opener, pair: Any) -> None:
    alice, bob = pair
    heard: list[int] = []

    async def hear_size(call: Call) -> None:
        heard.append(len(call.body))

    bob.serve("/test/last/1", hear_size)
    for _ in range(5):
        await alice.send(bob.peer_id, "/test/last/1", bytes(300_000))
    await alice._close()
    await eventually(lambda: len(heard) == 5)


async def test_a_peer_that_was_told_of_bootstrap_is_connected_at_once(open_peer: Opener, pair: Any) -> None:
    alice, bob = pair
    await alice.bootstrap((bob.addresses[0],))
    assert alice.peers() == (bob.peer_id,)


async def test_bootstrap_goes_on_without_those_who_are_down(open_peer: Opener, pair: Any) -> None:
    alice, bob = pair
    gone = bob.addresses[0].replace(bob.peer_id, Key(b"y" * 32).peer_id)
    with trio.fail_after(SOON_S):
        await alice.bootstrap((gone,))
    assert alice.peers() == ()
    with pytest.raises(InvalidInput):
        await alice.bootstrap(("nonsense",))
