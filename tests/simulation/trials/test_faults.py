"""Schedules of faults: as text, drawn from a seed, done to a world and undone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import ainp2p
from ainp2p.errors import InvalidInput
from ainp2p.protocol.network import Call, Network
from ainp2p.simulation import Fault, Profile, Schedule, Weather, World, run
from ainp2p.simulation.trials.faults import KINDS, LIES
from ainp2p.simulation.trials.injecting import Injector
from ainp2p.simulation.trials.profile import MOST
from ainp2p.simulation.wire.lies import Sent
from tests.simulation.test_world import WINDY, buy, demand_the_ledger_s_invariants, work

ECHO = "/test/echo/1"
ONE_OF_EACH = """
    1+2.5 partition a,b/c,d
    1.5 cut a/b
    2+1 pause a
    3+1 crash a; 4+1 kill b; 5 restart c
    6+1 skew a ms=-60000 rate=0.99
    7+1 full a
    8+1 lie a how=garble
    9+1 weather latency=0.01..0.3 loss=0.1 duplicate=0.2 reorder_s=1
"""

# --- as text ------------------------------------------------------------------------------------------------


def test_a_schedule_is_read_from_what_it_prints() -> None:
    schedule = Schedule.parse(ONE_OF_EACH)
    assert {fault.kind for fault in schedule} == set(KINDS)
    assert Schedule.parse(str(schedule)) == schedule
    assert Schedule.parse(schedule.lines) == schedule
    assert str(schedule).startswith("1+2.5 partition a,b/c,d; 1.5 cut a/b; 2+1 pause a")


@given(st.integers(0, 2**64))
def test_whatever_a_profile_draws_can_be_printed_and_read(seed: int) -> None:
    drafts = Profile(kinds=(*MOST, "full", "lie")).plan(random.Random(seed))
    names = ["validator0", "validator1", "seller", "buyer"]
    found = [draft.fault(names, lambda name: name.rstrip("01")) for draft in drafts]
    schedule = Schedule.of(fault for fault in found if fault is not None)
    assert Schedule.parse(str(schedule)) == schedule
    assert all(fault.at_s >= 2 and fault.at_s + (fault.for_s or 0) <= 60.001 for fault in schedule)


def test_a_comment_and_an_empty_line_are_no_faults() -> None:
    assert len(Schedule.parse("# nothing\n\n 1 pause  a ;;")) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("soon pause a", "is no fault; one reads START", id="no time"),
        pytest.param("1 explode a", "no fault is called 'explode'; there are partition", id="no such kind"),
        pytest.param("1 pause", "a pause names nodes, not none", id="nobody"),
        pytest.param("1 partition a,b", "nodes of two sides: a,b/c, not a,b", id="one side"),
        pytest.param("1 pause a/b", "a pause names nodes, not a/b", id="two sides"),
        pytest.param("1 weather a", "a weather names no nodes", id="weather of a node"),
        pytest.param("1 pause a b", "no spaces", id="spaces"),
        pytest.param("1 pause a ms=3", "a pause has no values, not 'ms'", id="foreign value"),
        pytest.param("1 skew a ms=soon", "'soon' is no number", id="no number"),
        pytest.param("1 weather loss=2", "loss is a chance from 0 to 1", id="impossible weather"),
        pytest.param("1 lie a how=badly", "how=mute, how=garble", id="no such lie"),
        pytest.param("1+0 pause a", "lasts longer than 0 s", id="no duration"),
        pytest.param("1.2.3 pause a", "'1.2.3' is no number", id="no number of seconds"),
    ],
)
def test_what_is_no_fault_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        Schedule.parse(text)


@pytest.mark.parametrize(
    "options",
    [{"kinds": ()}, {"kinds": ("explosion",)}, {"every_s": 0}, {"lasting_s": (2, 1)}, {"until_s": 1}],
)
def test_a_profile_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Profile(**options)


@pytest.mark.parametrize("name", ["kinds", "spare", "lies"])
def test_a_text_is_no_list_of_names(name: str) -> None:
    with pytest.raises(InvalidInput, match="is a list of texts"):
        Profile(**{name: "crash*"})  # type: ignore[arg-type]


def test_the_letters_of_a_text_would_spare_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Profile, "__post_init__", lambda profile: None)  # the mutant
    drafts = Profile(kinds=("crash",), spare="validator*").plan(random.Random(1))
    assert drafts
    assert not [each for each in drafts if each.fault(["buyer", "seller"], lambda name: "agent")]


def test_an_unknown_lie_is_refused() -> None:
    with pytest.raises(InvalidInput, match="liars lie in the ways mute, garble"):
        Profile(lies=("white",))


def test_a_profile_spares_whom_it_is_told_to_spare() -> None:
    drafts = Profile(spare=("validator*", "bank")).plan(random.Random(1))
    found = [draft.fault(["validator0", "bank", "a", "b", "c"], lambda name: "agent") for draft in drafts]
    assert {name for fault in found if fault for name in (*fault.who, *fault.whom)} == {"a", "b", "c"}


def test_only_one_validator_lies_in_a_run() -> None:
    profile = Profile(kinds=("lie",), every_s=0.5)
    names = [f"validator{i}" for i in range(4)]
    for seed in range(20):
        found = [draft.fault(names, lambda name: "validator") for draft in profile.plan(random.Random(seed))]
        assert len({fault.who for fault in found if fault is not None}) == 1


@pytest.mark.parametrize("how", LIES)
def test_every_lie_says_something_else_than_was_meant(how: str) -> None:
    lie = LIES[how]()
    sent = [Sent("request", "/p/1", "peer", body) for body in (b"one two", b"three", b"")]
    assert [lie(each) for each in sent] != [each.body for each in sent]


# --- done to a world -------------------------------------------------------------------------------------


async def market(world: World) -> None:
    demand_the_ledger_s_invariants(world)
    for i in range(2):
        world.spawn(f"seller{i}", skills=[work])

    async def shop(agent: ainp2p.Agent) -> None:
        while True:
            try:
                await buy(agent, "a b c")
            except ainp2p.errors.Error:
                world.sometimes("a purchase failed")
            await trio.sleep(2)

    world.spawn("buyer", main=shop)
    await world.run_for(70)


@pytest.mark.parametrize("seed", range(3))
def test_h1_the_faults_of_a_profile_given_as_text_make_the_same_world(seed: int) -> None:
    worlds: list[World] = []

    async def model(world: World) -> None:
        worlds.append(world)
        await market(world)

    profile = Profile(kinds=(*MOST, "full", "lie"))
    drawn = run(model, seed, world={**WINDY, "faults": profile})
    text = str(worlds[0].faults)
    assert text
    given = run(model, seed, world={**WINDY, "faults": text})
    assert (given.hash, str(worlds[1].faults)) == (drawn.hash, text)


def heard_when(faults: str, during: Callable[[World], object] | None = None) -> list[int]:
    """The whole seconds in which b hears a, who sends once a second for 20 s, under these faults."""
    heard: list[int] = []

    async def model(world: World) -> None:
        async def listen(network: Network) -> None:
            async def handle(call: Call) -> bytes:
                heard.append(int(call.body))
                return b""

            network.serve(ECHO, handle)
            await trio.sleep_forever()

        async def talk(network: Network) -> None:
            while True:
                try:
                    await network.send(world.node("b").peer, ECHO, b"%d" % int(world.now))
                except ainp2p.errors.NetworkError:
                    world.sometimes("not sent")
                await trio.sleep(1)

        await world.process("b", listen).ready()
        address = world.wire.address(world.node("b").peer)

        async def connect_and_talk(network: Network) -> None:
            network.add_addresses(world.node("b").peer, (address,))
            await trio.sleep(0.5)
            await talk(network)

        world.process("a", connect_and_talk)
        if during is not None:
            world.every(1, during, world)
        await world.run_for(20)

    run(model, 1, world={"faults": faults})
    return heard


def test_a_partition_ends_when_its_time_is_over_and_what_was_sent_arrives() -> None:
    assert sorted(heard_when("5+4 partition a/b")) == list(range(20))


def test_two_partitions_that_overlap_end_when_the_last_one_ends() -> None:
    at: list[tuple[float, bool]] = []

    def look(world: World) -> None:
        at.append((world.now, world.wire.is_cut(world.node("a").peer, world.node("b").peer)))

    heard_when("3+6 partition a/b; 5+8 partition a,validator0/b; 6+1 cut a/b", look)
    assert [now for now, cut in at if cut] == pytest.approx(range(3, 13))


def test_a_cut_is_one_way() -> None:
    at: list[bool] = []

    def look(world: World) -> None:
        a, b = world.node("a").peer, world.node("b").peer
        at.append(world.wire.is_cut(a, b) and not world.wire.is_cut(b, a))

    heard_when("3+6 cut a/b", look)
    assert any(at)


def test_two_pauses_that_overlap_end_when_the_last_one_ends() -> None:
    at: list[bool] = []
    heard_when(
        "3+6 pause a; 5+8 pause a,b",
        lambda world: at.append(world.wire.is_cut(world.node("a").peer, world.node("b").peer)),
    )
    assert at.count(True) == 10


def test_a_skew_ends_with_the_clock_right_again() -> None:
    at: list[tuple[int, float]] = []
    heard_when(
        "3+6 skew a ms=-60000 rate=0.99",
        lambda world: at.append((world.node("a").skew_ms, world.node("a").rate)),
    )
    assert (at[5], at[15]) == ((-60_000, 0.99), (0, 1.0))


def test_weather_changes_and_changes_back() -> None:
    at: list[Weather] = []
    heard_when("3+6 weather latency=0.2..0.4 loss=0.1", lambda world: at.append(world.wire.weather))
    assert (at[5], at[15]) == (Weather(latency=(0.2, 0.4), loss=0.1), Weather())


RAIN, SNOW, A, B = (Weather(latency=latency) for latency in (0.2, 0.4, 0.1, 0.3))


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        ("3+6 weather latency=0.1", {2: Weather(), 5: A, 10: Weather(), 15: RAIN}),
        ("15+3 weather latency=0.1", {14: RAIN, 16: A, 19: RAIN}),
        ("13+8 weather latency=0.1; 15+2 weather latency=0.3", {14: A, 16: B, 18: A, 22: RAIN}),
        ("13+3 weather latency=0.1; 15+6 weather latency=0.3", {14: A, 16: B, 18: B, 22: RAIN}),
        ("10+5 weather latency=0.1", {11: A, 13: RAIN, 16: RAIN}),  # set while it lasts: that is what holds
        ("13+10 weather latency=0.1; 20+20 weather latency=0.3", {22: B, 24: B, 30: SNOW, 41: SNOW}),
    ],
)
def test_the_end_of_a_storm_brings_back_what_was_there_before_it(
    faults: str, expected: dict[int, Weather]
) -> None:
    """The model has rain from 12 s on, and snow from 25 s on."""
    seen: dict[int, Weather] = {}

    async def model(world: World) -> None:
        world.at(12, setattr, world.wire, "weather", RAIN)
        world.at(25, setattr, world.wire, "weather", SNOW)
        for at_s in expected:
            world.at(at_s, lambda at_s: seen.setdefault(at_s, world.wire.weather), at_s)
        await world.run_for(50)

    run(model, 1, world={"committee": 1, "faults": faults})
    assert seen == expected


def test_a_mute_peer_is_not_heard_and_speaks_again() -> None:
    heard = heard_when("5+4 lie a how=mute")
    assert heard == [0, 1, 2, 3, 4, *range(9, 20)]


@pytest.mark.parametrize("kind", ["crash", "kill", "full"])
def test_a_process_comes_back_when_its_fault_ends(kind: str) -> None:
    async def model(world: World) -> None:
        seller = await world.spawn("seller", skills=[work]).ready()
        world.inject(f"10+5 {kind} seller")
        await world.run_for(12)
        assert seller.alive == (kind == "full")
        assert seller.disk.full == (kind == "full")
        await world.run_for(20)
        assert (seller.lives, seller.disk.full) == (2, False)
        buyer = await world.spawn("buyer").ready()
        assert await buy(buyer.agent, "a b") == "ab"

    assert run(model, 1).marks


@pytest.mark.parametrize("order", ["5+10 kill seller; 8+7 full seller", "5+10 full seller; 8+7 kill seller"])
def test_two_faults_of_a_process_that_end_at_one_instant_start_it_once(order: str) -> None:
    async def model(world: World) -> None:
        seller = await world.spawn("seller", skills=[work]).ready()
        world.inject(order)
        await world.run_for(60)
        assert (seller.alive, seller.disk.full) == (True, False)
        buyer = await world.spawn("buyer").ready()
        assert await buy(buyer.agent, "a b") == "ab"

    run(model, 1)


def test_a_process_that_cannot_be_opened_during_a_partition_is_started_until_it_is() -> None:
    async def model(world: World) -> None:
        seller = await world.spawn("seller", skills=[work]).ready()
        everybody = ",".join(name for name in world.nodes if name != "seller")
        world.inject(f"10+60 partition seller/{everybody}; 11 restart seller")
        await world.run_for(100)
        assert seller.agent
        assert seller.lives > 2

    run(model, 1)


def test_a_fault_of_a_node_that_is_not_there_ends_the_run_and_names_those_that_are() -> None:
    async def model(world: World) -> None:
        await world.run_for(10)

    with pytest.raises(InvalidInput, match="no node is called 'bob'; there are validator0"):
        run(model, 1, world={"faults": "3 pause bob"})


def test_a_buyer_whose_disk_is_full_is_told_so_in_plain_words() -> None:
    async def model(world: World) -> None:
        world.spawn("seller", skills=[work])
        buyer = await world.spawn("buyer").ready()
        await buy(buyer.agent, "a b")
        world.inject("5 full buyer")
        await world.run_for(10)
        seen = []
        for _ in range(3):
            try:
                await buy(buyer.agent, "a b")
            except ainp2p.errors.Error as exc:  # and no group of them
                seen.append(exc)
        assert any(isinstance(exc, ainp2p.errors.StorageError) for exc in seen)

    run(model, 1)


def test_mutant_a_fault_that_is_not_undone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Injector, "_last", lambda self, kind, name=None: Fault(0, 1, "pause", ("a",)))
    at: list[bool] = []
    heard_when(
        "3+6 pause a", lambda world: at.append(world.wire.is_cut(world.node("a").peer, world.node("b").peer))
    )
    assert at.count(True) != 6
