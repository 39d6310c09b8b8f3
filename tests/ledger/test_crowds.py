"""Crowds and floods at a running validator."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from ainp2p.errors import Error, Refused
from ainp2p.ledger.serving import limits
from ainp2p.ledger.serving.limits import Limits
from ainp2p.ledger.serving.messages import AskStatus, Statuses
from ainp2p.ledger.serving.sync import Validators
from ainp2p.protocol.linked_network import LinkedNetwork, place_prefix

from .test_wallet_faults import run
from .town import Town, open_town
from .world import key_of

IDS = tuple(bytes([i]) * 32 for i in range(1, 65))


async def flood_one(town: Town, name: str, seconds: float) -> tuple[int, float | None]:
    """5,000 questions a second: how often "busy" was said, and when the channel was closed."""
    busy, closed_at = 0, None
    async with town.network(key_of(name)) as network:
        validators = Validators(network, town.genesis)
        begun = trio.current_time()

        async def ask() -> None:
            nonlocal busy, closed_at
            try:
                await validators.ask(town.peer(0), AskStatus(IDS), Statuses)
            except Refused:
                busy += 1
            except Error:
                pass

        async def watch() -> None:
            nonlocal closed_at
            async with network.watch_peers() as changes:
                async for change in changes:
                    if not change.connected and closed_at is None:
                        closed_at = trio.current_time() - begun

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            while trio.current_time() - begun < seconds and closed_at is None:
                for _ in range(8):
                    nursery.start_soon(ask)
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
    return busy, closed_at


async def flood_and_pay() -> tuple[int, float | None, float]:
    async with open_town() as town, town.wallet("alice") as alice:
        await alice.balance()
        found: list[Any] = []
        begun_s, took_s = 0.0, 0.0
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                found.extend(await flood_one(town, "flooder", 10))

            nursery.start_soon(flood)
            await trio.sleep(1)
            begun_s = trio.current_time()
            await alice.send(town.account("bob"), 1)
            took_s = trio.current_time() - begun_s
        return found[0], found[1], took_s


def test_e4_a_flooder_is_told_busy_then_cut_within_five_seconds_and_others_are_served() -> None:
    busy, closed_at, took_s = run(flood_and_pay)
    assert busy > 0
    assert closed_at is not None
    assert closed_at < 5
    assert took_s < 0.2


def test_e4_mutant_who_is_only_told_busy_is_never_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Limits, "is_flooding", lambda self, peer, now_s: False)
    busy, closed_at, _ = run(flood_and_pay)
    assert busy > limits.BUSY_BURST
    assert closed_at is None


async def answered_to_a_crowd(place: str) -> int:
    """Sixty peers, each with one message of 64 ids, again and again for a moment."""
    async with open_town(size=1) as town:
        town.services[0]._place_of = lambda peer: place
        answered = 0
        for number in range(60):
            for _ in range(70):
                try:
                    town.services[0]._charge(f"peer {number}", AskStatus(IDS))
                    answered += 1
                except Refused:
                    break
        return answered


def test_e4_many_peers_of_one_place_are_one_crowd() -> None:
    burst = limits.BURST / len(IDS)  # what one peer has
    assert run(answered_to_a_crowd, "192.0.2.0/24") <= limits.PLACE_FACTOR * burst
    assert run(answered_to_a_crowd, "") <= limits.TOTAL_FACTOR * burst


def test_e4_mutant_without_places_a_crowd_gets_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PLACE_FACTOR", 1e9)
    assert run(answered_to_a_crowd, "192.0.2.0/24") > 4 * limits.BURST / len(IDS)


@pytest.mark.parametrize(
    ("host", "prefix"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/48"),
        ("", ""),
        ("localhost", ""),
    ],
)
def test_a_place_is_a_prefix_of_addresses(host: str, prefix: str) -> None:
    assert place_prefix(host) == prefix


async def test_a_network_in_memory_knows_no_places(autojump_clock: Any) -> None:
    async with open_town(size=1) as town, town.network(key_of("alice")) as network:
        assert isinstance(network, LinkedNetwork)
        await network.connect(town.networks[town.peer(0)].addresses[0])
        assert network.place_of(town.peer(0)) == ""
        assert network.place_of("nobody") == ""
