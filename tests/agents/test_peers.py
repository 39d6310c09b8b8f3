"""Peers that are remembered: the file, and an agent whose bootstrap peers come and go."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.agents import peers as peers_module
from ainp2p.agents.agent import Agent
from ainp2p.agents.peers import PEERS_MAX, SAVE_S, chosen_peers, read_peers, remembered_peers, write_peers
from ainp2p.protocol.identity import Key
from ainp2p.protocol.memory import MemoryHub, open_memory_network
from ainp2p.simulation.disks import Disk, SimStorage

Clock = trio.testing.MockClock
ALICE, BOB, CAROL = (Key(bytes([n]) * 32) for n in (1, 2, 3))
PEERS = {BOB.peer_id: ("/memory/bob",), CAROL.peer_id: ("/memory/carol", "/memory/carol2")}


def test_peers_come_back_from_their_file(tmp_path: Path) -> None:
    write_peers(tmp_path / "peers.json", PEERS)
    assert read_peers(tmp_path / "peers.json") == PEERS
    assert [path.name for path in tmp_path.iterdir()] == ["peers.json"]


def test_a_peer_id_at_the_end_of_its_own_address_is_written_once(tmp_path: Path) -> None:
    path, address = tmp_path / "peers.json", f"/ip4/1.2.3.4/tcp/5/p2p/{BOB.peer_id}"
    relayed = f"/ip4/1.2.3.4/tcp/5/p2p/{CAROL.peer_id}/p2p-circuit/p2p/{BOB.peer_id}"
    write_peers(path, {BOB.peer_id: (address, relayed, "/memory/bob")})
    assert path.read_bytes().count(BOB.peer_id.encode()) == 1
    assert read_peers(path) == {BOB.peer_id: (address, relayed, "/memory/bob")}


def test_a_file_with_whole_addresses_is_read(tmp_path: Path) -> None:
    address = f"/ip4/1.2.3.4/tcp/5/p2p/{BOB.peer_id}"
    (tmp_path / "peers.json").write_text(json.dumps({BOB.peer_id: [address]}))
    assert read_peers(tmp_path / "peers.json") == {BOB.peer_id: (address,)}


class Counting(SimStorage):
    """A disk that counts how often a file was written."""

    def __init__(self) -> None:
        super().__init__(Disk(fsync_s=0))
        self.written = 0

    def write(self, path: Path, data: bytes) -> None:
        self.written += 1
        super().write(path, data)


async def written() -> int:
    """How often the file is written in a day in which something changes once, and nothing at its end."""
    files, hub = Counting(), MemoryHub(1)
    context = dataclasses.replace(hub.context(ALICE.peer_id), storage=files)
    async with (
        open_memory_network(hub, ALICE, context=context) as alice,
        remembered_peers(alice, Path("peers.json")),
    ):
        alice.add_addresses(BOB.peer_id, ("/memory/bob",))
        await trio.sleep(12 * 3600)
        alice.add_addresses(CAROL.peer_id, ("/memory/carol",))
        await trio.sleep(12 * 3600)
        return files.written


async def test_the_file_is_not_written_again_while_nothing_changes(autojump_clock: Clock) -> None:
    assert await written() == 2


async def test_mutant_that_takes_nothing_for_the_same_writes_it_again_and_again(
    autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers_module, "_mark", lambda _: object())
    assert await written() > 2


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("{", id="cut off"),
        pytest.param("[]", id="a list"),
        pytest.param('{"nobody": ["/memory/x"]}', id="no peer id"),
        pytest.param(json.dumps({BOB.peer_id: 7}), id="no addresses"),
        pytest.param(json.dumps({BOB.peer_id: {"x": 1}}), id="a table for addresses"),
        pytest.param("[" * 100_000, id="endlessly deep"),
        pytest.param(json.dumps({BOB.peer_id: [7]}), id="an address that is a number"),
        pytest.param(json.dumps({BOB.peer_id: ["x" * 300]}), id="an address without end"),
        pytest.param(" " * (1 << 20) + "{}", id="too large"),
    ],
)
def test_a_file_that_cannot_be_read_is_begun_anew(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "peers.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert read_peers(tmp_path / "peers.json") == {}
    assert "begun anew" in caplog.text


def test_a_disk_that_refuses_costs_no_more_than_the_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        (tmp_path / "file").write_bytes(b"")
        write_peers(tmp_path / "file" / "peers.json", PEERS)
    assert "cannot be written" in caplog.text


def test_what_one_peer_says_of_another_makes_us_forget_nobody(tmp_path: Path) -> None:
    path, good = tmp_path / "peers.json", "/ip4/1.2.3.4/tcp/1"

    said = {BOB.peer_id: ("/dns4/" + "x" * 300, "/dns4/\ufffd", good), CAROL.peer_id: ("\ufffd",)}
    network: Any = SimpleNamespace(known_addresses=said, peers=lambda: frozenset())
    chosen = chosen_peers(network)
    assert chosen == {BOB.peer_id: (good,)}
    write_peers(path, chosen)
    assert read_peers(path) == chosen


def test_the_order_in_which_peers_were_heard_of_is_no_reason_to_write(tmp_path: Path) -> None:
    turned = dict(reversed(PEERS.items()))
    assert list(turned) != list(PEERS)
    assert peers_module._mark(turned) == peers_module._mark(PEERS) != peers_module._mark({})


async def test_those_who_are_connected_are_remembered_first(autojump_clock: Clock) -> None:
    hub = MemoryHub(1)
    async with open_memory_network(hub, ALICE) as alice, open_memory_network(hub, BOB) as bob:
        await alice.connect(bob.addresses[0])
        for n in range(PEERS_MAX + 10):
            alice.add_addresses(Key(n.to_bytes(32, "big")).peer_id, ("/memory/x",))
        chosen = chosen_peers(alice)
        assert len(chosen) == PEERS_MAX
        assert next(iter(chosen)) == BOB.peer_id


async def test_the_file_is_written_now_and_then(tmp_path: Path, autojump_clock: Clock) -> None:
    hub, path = MemoryHub(1), tmp_path / "peers.json"
    async with open_memory_network(hub, ALICE) as alice, remembered_peers(alice, path):
        alice.add_addresses(BOB.peer_id, ("/memory/bob",))
        await trio.sleep(SAVE_S - 1)
        assert not path.exists()
        await trio.sleep(2)
        assert read_peers(path) == {BOB.peer_id: ("/memory/bob",)}


def agent(hub: MemoryHub, name: str, **options: Any) -> Agent:
    return Agent(name, transport=lambda key: open_memory_network(hub, key), **options)


async def meets(agent: Agent, peer: str) -> None:
    with trio.fail_after(30):
        async with agent.network.watch_peers() as changes:
            async for change in changes:
                if change.peer == peer and change.connected:
                    return


async def test_c6_a_lost_bootstrap_peer_is_found_again(autojump_clock: Clock) -> None:
    hub = MemoryHub(1)
    async with agent(hub, "alice") as alice, agent(hub, "bob", bootstrap=[alice.address]) as bob:
        await bob.network.disconnect(alice.peer_id)
        await meets(bob, alice.peer_id)


async def test_c6_an_agent_without_bootstrap_peers_finds_those_that_it_has_met(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    hub = MemoryHub(1)
    async with agent(hub, "alice") as alice:
        write_peers(tmp_path / "peers.json", {alice.peer_id: alice.addresses})
        async with agent(hub, "bob", network=alice.genesis, home=tmp_path, key=BOB) as bob:
            await meets(bob, alice.peer_id)
        assert alice.peer_id in read_peers(tmp_path / "peers.json")
