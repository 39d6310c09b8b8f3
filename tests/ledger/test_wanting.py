"""Whom a validator asks for operations that votes name, and for which it asks nobody."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from ainp2p.ledger.serving import catch_up as catch_up_module
from ainp2p.ledger.serving.catch_up import PATIENCE_S, CatchUp
from ainp2p.ledger.serving.messages import OPERATIONS_MAX
from ainp2p.ledger.voting.effects import Wanted

KEYS = tuple(bytes([at]) * 32 for at in range(4))
MEMBERS = tuple(SimpleNamespace(key=key, peer=f"peer-{key[0]}", weight=1) for key in KEYS)


class Core:
    """Counts how often it is asked."""

    def __init__(self, held: set[bytes]) -> None:
        self.held, self.asked, self.backlogged = held, 0, False

    def holds(self, id_: bytes) -> bool:
        self.asked += 1
        return id_ in self.held


def asking(wanted: int, held: int = 0) -> tuple[CatchUp, Core]:
    """A validator, the first member, that wants so many operations, the first of which have come."""
    context = SimpleNamespace(rng=random.Random(1))
    network = SimpleNamespace(context=context)
    validators: Any = SimpleNamespace(
        members=MEMBERS,
        others=MEMBERS[1:],
        network=network,
        peer_of={member.key: member.peer for member in MEMBERS}.get,
    )
    ids = [at.to_bytes(32, "big") for at in range(wanted)]
    core: Any = Core(set(ids[:held]))
    unused: Any = None
    catch_up = CatchUp(validators, core, KEYS[0], unused, unused)
    catch_up._wanted = {each.id: each.holders for each in (Wanted(id_, KEYS[:2]) for id_ in ids)}
    return catch_up, core


def test_a_holder_is_asked_for_as_many_as_one_question_holds() -> None:
    catch_up, _ = asking(OPERATIONS_MAX + 5)
    assert {peer: len(ids) for peer, ids in catch_up._assign().items()} == {"peer-1": OPERATIONS_MAX}
    assert len(catch_up._wanted) == 5


def test_without_a_known_holder_anybody_is_asked() -> None:
    catch_up, _ = asking(100)
    catch_up._wanted = dict.fromkeys(catch_up._wanted, ())
    asks = catch_up._assign()
    assert asks.keys() == {"peer-1", "peer-2", "peer-3"}
    assert sum(map(len, asks.values())) == 100


def test_who_has_not_answered_is_not_asked_again() -> None:
    catch_up, _ = asking(10)
    catch_up._asked = {"peer-1"}
    assert catch_up._assign() == {}
    assert len(catch_up._wanted) == 10


def test_while_nobody_can_be_asked_what_is_wanted_is_not_gone_through() -> None:
    catch_up, core = asking(1_000)
    catch_up._asked = {member.peer for member in MEMBERS[1:]}
    assert catch_up._assign() == {}
    assert core.asked == 0


def test_what_has_come_is_not_asked_for() -> None:
    catch_up, _ = asking(10, held=7)
    (ids,) = catch_up._assign().values()
    assert len(ids) == 3
    assert not catch_up._wanted


def test_mutant_asking_for_what_has_come_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Core, "holds", lambda self, id_: False)
    with pytest.raises(AssertionError):
        test_what_has_come_is_not_asked_for()


@pytest.mark.parametrize(("backlogged", "asked_at_s"), [(False, 0.0), (True, PATIENCE_S)])
async def test_what_is_wanted_is_asked_for_at_once_or_after_a_while_if_much_waits_here(
    autojump_clock: trio.testing.MockClock, backlogged: bool, asked_at_s: float
) -> None:
    assert await when_asked(backlogged, arrives=False) == [asked_at_s]


async def test_what_comes_meanwhile_is_not_asked_for(autojump_clock: trio.testing.MockClock) -> None:
    assert await when_asked(backlogged=True, arrives=True) == []


async def test_mutant_without_patience_others_are_asked_for_what_is_about_to_come(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up_module, "PATIENCE_S", 0.0)
    assert await when_asked(backlogged=True, arrives=True) == [0.0]


async def when_asked(backlogged: bool, *, arrives: bool) -> list[float]:
    """When others are asked for an operation that a vote names; it may come by itself after 0.3 s."""
    catch_up, core = asking(0)
    core.backlogged = backlogged
    times: list[float] = []

    async def ask(peer: str, question: Any, answer: Any) -> Any:
        await trio.lowlevel.checkpoint()
        times.append(trio.current_time() - begun_s)
        return SimpleNamespace(operations=[None])

    setattr(catch_up._validators, "ask", ask)  # noqa: B010  # instead of a network
    begun_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(catch_up._fetch_forever)
        catch_up.want([Wanted(bytes(32), KEYS[:2])], ())
        await trio.sleep(0.3)
        if arrives:
            core.held.add(bytes(32))
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    return times
