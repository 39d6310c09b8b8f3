"""Catching up by comparison and certificates: absence, empty disks, ended Locks, hostile members."""

# ruff: noqa: ASYNC110

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from ainp2p.ledger.serving import catch_up
from ainp2p.ledger.serving import object_sync as module
from ainp2p.ledger.serving.catch_up import CatchUp
from ainp2p.ledger.serving.messages import (
    Decided,
    DecidedPage,
    FetchDecided,
    GetObject,
    History,
    ObjectHead,
    Reconciled,
)
from ainp2p.ledger.serving.object_sync import ObjectSync
from ainp2p.ledger.serving.proofs import Proofs
from ainp2p.ledger.serving.service import ValidatorService
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.wallets.wallet import Wallet
from ainp2p.protocol.codec import encode
from ainp2p.protocol.memory import Trace
from ainp2p.protocol.network import Call

from ..test_wallet_faults import run
from ..town import LIFE_MS, Town, open_town
from ..world import key_of

AWAY = 3


async def pay(wallet: Wallet, town: Town, times: int, to: str = "bob") -> None:
    for _ in range(times):
        await wallet.send(town.account(to), 1)


@pytest.fixture
def no_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither vote logs nor operations are fetched: all that comes, comes by certificate."""

    async def nothing(self: CatchUp, *args: Any) -> bool:
        return False

    monkeypatch.setattr(CatchUp, "_fetch_log", nothing)
    monkeypatch.setattr(CatchUp, "_fetch_operations", nothing)


@pytest.fixture(params=[1_000, 1], ids=["few", "many"])
def both_ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MANY", request.param)


async def come_back(root: Path, lose_disk: bool, before: int = 3, away: int = 20) -> int:
    """How many operations the one that was away has in the end; the others decide five more meanwhile."""
    async with open_town(root=root) as town, town.wallet("alice") as alice, town.wallet("carol") as carol:
        await pay(alice, town, before)
        await town.until_equal(before)
        await town.stop(AWAY)
        if lose_disk:
            shutil.rmtree(root / f"v{AWAY}")
        await pay(alice, town, away)
        await pay(carol, town, 2)
        state = await alice.open_lock([(town.account("bob"), 1)], key_of("bob").public, 1_000, 10, LIFE_MS)
        total = before + away + 3
        await trio.sleep(30)  # until nobody tries to push what it missed
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pay, carol, town, 5)
            await town.start(AWAY)
        with trio.move_on_after(60):
            await town.until_equal(total + 5)
        service = town.services[AWAY]
        assert state.id in service._validator.state.locks or service.decided < total
        assert service.statistics().syncing == 0
        return service.decided - total - 5


@pytest.mark.usefixtures("no_votes", "both_ways")
@pytest.mark.parametrize("lose_disk", [False, True], ids=["away", "empty disk"])
def test_b5_a_node_that_was_away_takes_what_was_decided_while_others_go_on(
    tmp_path: Path, lose_disk: bool
) -> None:
    assert run(come_back, tmp_path, lose_disk) == 0


@pytest.mark.usefixtures("no_votes")
def test_b5_mutant_without_comparing_objects_it_stays_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: ObjectSync, peer: str) -> None:
        return

    monkeypatch.setattr(ObjectSync, "compare_with", nothing)
    assert run(come_back, tmp_path, False) < 0


async def miss_the_end_of_a_lock(root: Path) -> bool:
    """A Lock is open when a validator leaves, and others forget it when it has ended."""
    async with open_town(root=root) as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        state = await alice.open_lock([(bob.account_id, 1)], key_of("bob").public, 1_000, 10, LIFE_MS)
        await bob.lock(state.id)
        await town.until_equal(1)
        await town.stop(AWAY)
        await bob.close(state.id)
        await trio.sleep(30)
        await town.start(AWAY)
        with trio.move_on_after(60):
            await town.until_equal(2)
        return town.services[AWAY].decided == 2


@pytest.mark.usefixtures("no_votes")
def test_a_lock_that_ended_while_a_node_was_away_ends_there_too(tmp_path: Path) -> None:
    assert run(miss_the_end_of_a_lock, tmp_path)


@pytest.mark.usefixtures("no_votes")
def test_mutant_without_asking_for_what_others_do_not_list_it_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ENDED_MAX", 0)
    assert not run(miss_the_end_of_a_lock, tmp_path)


async def lose_and_read(root: Path) -> tuple[int, int, int, int]:
    async with open_town(root=root) as town, town.wallet("alice") as alice:
        await pay(alice, town, 12)
        await town.stop(AWAY)
        shutil.rmtree(root / f"v{AWAY}")
        await town.start(AWAY)
        await town.until_equal(12)
        await trio.sleep(5)
        found = town.services[AWAY].statistics()
        async with town.network(key_of("bob")) as network:
            validators, question = Validators(network, town.genesis), GetObject(town.account("alice"))
            head = await validators.ask(town.peer(AWAY), question, ObjectHead)
        proven = Proofs(town.genesis).account(head)
        return found.behind, found.voting, found.decided, proven.seq


def test_b5_a_node_that_lost_its_disk_casts_no_vote_and_serves_proven_reads(tmp_path: Path) -> None:
    assert run(lose_and_read, tmp_path) == (1, 0, 12, 12)


# --- members that lie, stall, or repeat themselves --------------------------------------------------------


def forge(service: ValidatorService, change: Callable[[Decided], Decided]) -> None:
    histories = service._histories
    history, page = histories.history, histories.page

    def forged_history(question: Any) -> History:
        return History(tuple(map(change, history(question).operations)))

    def forged_page(after: int) -> DecidedPage:
        true = page(after)
        return DecidedPage(tuple(map(change, true.operations)), true.last, true.count)

    histories.history, histories.page = forged_history, forged_page  # type: ignore[method-assign]


def cut_certificate(decided: Decided) -> Decided:
    return Decided(decided.operation, decided.certificate[:-1])


async def seconds_beside(root: Path, corrupt: Callable[[ValidatorService], None]) -> float:
    """How long one that was away takes, when one of the three that it may ask is hostile."""
    async with open_town(root=root) as town, town.wallet("alice") as alice:
        await pay(alice, town, 1)
        await town.until_equal(1)
        await town.stop(AWAY)
        await pay(alice, town, 20)
        await trio.sleep(30)
        corrupt(town.services[0])
        await town.start(AWAY)
        begun = trio.current_time()
        with trio.move_on_after(200):
            while town.services[AWAY].decided < 21:
                await trio.sleep(0.1)
        assert town.services[AWAY].halted is None
        return trio.current_time() - begun


def lies(service: ValidatorService) -> None:
    forge(service, cut_certificate)


def garbage(service: ValidatorService) -> None:
    service._histories.reconcile = lambda message: Reconciled(b"garbage")  # type: ignore[method-assign]


def stalls(service: ValidatorService) -> None:
    async def drip(call: Call, question: FetchDecided) -> None:
        page = service._histories.page(0)
        number = 0
        while True:
            number += 1
            await call.send(encode(DecidedPage(page.operations[:1], number, 10**9)))
            await trio.sleep(1)

    service._send_decided = drip  # type: ignore[method-assign]


@pytest.fixture
def hostile_first(monkeypatch: pytest.MonkeyPatch) -> None:
    compare = ObjectSync.compare_with

    async def others_later(self: ObjectSync, peer: str) -> None:
        await trio.sleep(0 if peer == key_of("validator 0").peer_id else 1)
        await compare(self, peer)

    monkeypatch.setattr(ObjectSync, "compare_with", others_later)


@pytest.mark.usefixtures("no_votes", "both_ways", "hostile_first")
@pytest.mark.parametrize("corrupt", [lies, garbage, stalls])
def test_b5_a_hostile_member_delays_catching_up_by_seconds(
    tmp_path: Path, corrupt: Callable[[ValidatorService], None]
) -> None:
    assert run(seconds_beside, tmp_path, corrupt) < 20


@pytest.mark.usefixtures("no_votes", "hostile_first")
def test_b5_mutant_endless_patience_with_one_that_stalls_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MANY", 1)
    monkeypatch.setattr(module, "PATIENCE_S", 10**6)
    assert run(seconds_beside, tmp_path, stalls) > 100


# --- all together -------------------------------------------------------------------------------------


async def dials_after_a_blackout(root: Path, size: int) -> tuple[float, int]:
    """Ten validators restart in one moment: seconds until all vote, and the most dials in 20 ms."""
    async with open_town(size=size, root=root) as town:
        for index in range(size):
            await town.stop(index)
        town.hub.trace = []
        begun = trio.current_time()
        for index in range(size):
            await town.start(index)
        await town.until_voting()
        took_s = trio.current_time() - begun
        return took_s, most_in(town.hub.trace, 0.02)


def most_in(trace: list[Trace], window_s: float) -> int:
    times = sorted(each.at_s for each in trace if each.what == "dial")
    assert times
    return max(sum(start <= t < start + window_s for t in times) for start in times)


def test_c7_all_nodes_restart_together_and_do_not_dial_in_one_moment(tmp_path: Path) -> None:
    took_s, most = run(dials_after_a_blackout, tmp_path, 10)
    assert took_s < 20
    assert most < 45  # of 90 pairs


def test_c7_mutant_without_jitter_everybody_dials_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "SPREAD_S", 0.0)
    _, most = run(dials_after_a_blackout, tmp_path, 10)
    assert most >= 45
