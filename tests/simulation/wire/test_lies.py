"""Lying peers: what is rewritten, what is swallowed, what no lie can do."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ainp2p.errors import TimedOut
from ainp2p.simulation.wire import gossip
from ainp2p.simulation.wire.ends import End
from ainp2p.simulation.wire.lies import Rewrite, Sent, told
from ainp2p.simulation.wire.network import SimNetwork
from tests.simulation.wire.wired import COUNT, ECHO, HEAR, Town, fails, outcome, wired


async def pair(town: Town, rewrite: Rewrite) -> tuple[SimNetwork, SimNetwork]:
    """Alice, and Bob who lies; they are connected."""
    bob = await town.peer("bob")
    alice = await town.peer("alice", bob)
    await alice.connect(bob.addresses[0])
    town.wire.lie(bob.peer_id, rewrite)
    return alice, bob


def only(kind: str, said: Any) -> Rewrite:
    """Lies about messages of one kind."""
    return lambda sent: said if sent.kind == kind else sent.body


@pytest.mark.parametrize(
    ("said", "left"), [(b"x", [b"x"]), (None, []), ([], []), ([b"x", b"y"], [b"x", b"y"])]
)
def test_a_lie_is_other_bytes_nothing_or_several_messages(said: Any, left: list[bytes]) -> None:
    assert told(lambda sent: said, Sent("send", HEAR, "peer", b"truth")) == left


@wired()
async def test_an_answer_is_rewritten_and_honest_again_later(town: Town) -> None:
    seen: list[Sent] = []

    def rewrite(sent: Sent) -> bytes:
        seen.append(sent)
        return b"lie"

    alice, bob = await pair(town, rewrite)
    assert await alice.request(bob.peer_id, ECHO, b"truth") == b"lie"
    assert seen == [Sent("answer", ECHO, alice.peer_id, b"truth")]
    town.wire.lie(bob.peer_id, None)
    assert await alice.request(bob.peer_id, ECHO, b"truth") == b"truth"


@wired()
async def test_a_swallowed_answer_and_a_swallowed_request_time_out(town: Town) -> None:
    alice, bob = await pair(town, lambda sent: None)
    assert await outcome(alice.request(bob.peer_id, ECHO, b"", timeout_s=2)) is TimedOut
    assert await outcome(bob.request(alice.peer_id, ECHO, b"", timeout_s=2)) is TimedOut
    assert await alice.request(alice_hears(town, bob), ECHO, b"honest", timeout_s=2) == b"honest"


def alice_hears(town: Town, bob: SimNetwork) -> str:
    town.wire.lie(bob.peer_id, None)
    return bob.peer_id


@wired()
async def test_calls_and_chunks_are_repeated(town: Town) -> None:
    alice, bob = await pair(town, lambda sent: [sent.body, sent.body])
    await bob.send(alice.peer_id, HEAR, b"twice")
    assert await bob.request(alice.peer_id, ECHO, b"asked twice") == b"asked twice"
    await trio.sleep(1)
    assert town.heard == [b"twice", b"twice"]
    async with alice.stream(bob.peer_id, COUNT, b"3") as chunks:
        assert [int(chunk) async for chunk in chunks] == [0, 0, 1, 1, 2, 2]
    assert (bob.asked, alice.serving) == ({}, {})


@wired()
async def test_what_is_swallowed_costs_no_credit(town: Town) -> None:
    alice, bob = await pair(town, only("send", None))
    for _ in range(3000):  # 8 MiB are 2,000 calls of 4 KiB
        await bob.send(alice.peer_id, HEAR, b"")
    assert await bob.request(alice.peer_id, ECHO, b"room") == b"room"


def test_mutant_swallowed_calls_that_cost_credit_are_found(monkeypatch: Any) -> None:
    original = End._open

    def costly(self: End, asked: Any, body: bytes) -> None:
        self.call_credit -= 4096 if self.network.rewrite is not None else 0
        original(self, asked, body)

    monkeypatch.setattr(End, "_open", costly)
    assert fails(test_what_is_swallowed_costs_no_credit)


@wired()
async def test_a_peer_that_is_started_anew_still_lies(town: Town) -> None:
    _, bob = await pair(town, only("answer", b"lie"))
    town.wire.kill(bob.peer_id, reset=True)
    again = await town.peer("bob")
    carol = await town.peer("carol", again)
    assert await carol.request(again.peer_id, ECHO, b"truth") == b"lie"


@wired()
async def test_gossip_of_its_own_is_rewritten_for_each_neighbour_and_others_only_swallowed(
    town: Town,
) -> None:
    peers = [await town.peer(f"peer {n}") for n in range(4)]  # a liar in the middle of a star
    liar, *others = peers
    heard: dict[str, list[bytes]] = {other.peer_id: [] for other in others}

    async def listen(network: SimNetwork) -> None:
        async with network.subscribe("t") as feed:
            async for message in feed:
                heard[network.peer_id].append(message.data)

    for network in peers:
        town.nursery.start_soon(listen, network) if network is not liar else None
    for other in others:
        await liar.connect(other.addresses[0])
    async with liar.subscribe("t"):
        town.wire.lie(liar.peer_id, lambda sent: sent.target.encode())
        await liar.publish("t", b"truth")
        await trio.sleep(1)
        assert heard == {other.peer_id: [other.peer_id.encode()] for other in others}
        await others[0].publish("t", b"relayed")  # signed by its origin: altered, it is dropped
        await trio.sleep(1)
        assert all(len(messages) == 1 for messages in heard.values())
        town.wire.lie(liar.peer_id, lambda sent: sent.body)
        await others[0].publish("t", b"relayed")
        await trio.sleep(1)
        assert [len(messages) for messages in heard.values()] == [1, 2, 2]


def test_mutant_a_relay_that_may_rewrite_others_is_found(monkeypatch: Any) -> None:
    original = gossip._tell_lies

    def forging(network: SimNetwork, ours: End, rumour: Any) -> bool:
        forged = gossip.Rumour(
            type(rumour.message)("t", rumour.message.data, network.peer_id), network.peer_id
        )
        return original(network, ours, forged)

    monkeypatch.setattr(gossip, "_tell_lies", forging)
    assert fails(test_gossip_of_its_own_is_rewritten_for_each_neighbour_and_others_only_swallowed)
