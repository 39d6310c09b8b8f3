"""Validators that prune, over a network: wallets, newcomers and those that were away go on.

Waiting is polling: in virtual time it costs nothing.
"""
# ruff: noqa: ASYNC110

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import trio

from ainp2p.errors import Malformed
from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.serving import checkpoint_sync
from ainp2p.ledger.serving.service import ValidatorService
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.checkpoints import DONE
from ainp2p.ledger.wallets.bundle import all_hold, judge
from ainp2p.ledger.wallets.exporting import export
from ainp2p.ledger.wallets.mirror import Mirror

from . import town as town_module
from .serving.test_object_sync import AWAY
from .test_wallet_faults import run
from .town import Town, open_town
from .world import key_of

EPOCH_S = 120


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = msgspec.structs.replace(DEVELOPMENT, epoch_ms=EPOCH_S * 1000)
    monkeypatch.setattr(town_module, "DEVELOPMENT", parameters)


def kept(service: ValidatorService) -> int:
    """How many operations its disk has."""
    count: int = service._histories._store.database.execute("SELECT count(*) FROM ledger_operations")[0][0]
    return count


async def until_pruned(town: Town, epoch: int) -> None:
    """Wait until every running validator has made the checkpoint of this epoch its base."""
    with trio.fail_after(10 * EPOCH_S):
        for service in town.services.values():
            checkpoints = service._histories._store.checkpoints
            while [(c.epoch, c.phase) for c in checkpoints.all()][-1:] != [(epoch, DONE)]:
                await trio.sleep(1)


async def old_credits() -> tuple[int, int, int]:
    async with open_town() as town, town.wallet("alice") as alice:
        for _ in range(5):
            await alice.send(town.account("bob"), 7)
        await alice.send(town.account("carol"), 1)
        await until_pruned(town, 1)
        before = max(kept(service) for service in town.services.values())
        async with town.wallet("bob") as bob:  # he hears of his credits only now
            with trio.fail_after(60):
                while (await bob.balance()).total < town_module.PURSE + 35:
                    await trio.sleep(1)
            await bob.send(town.account("carol"), 35)
            balance = await bob.balance()
        async with town.wallet("carol") as carol:
            with trio.fail_after(60):
                while (await carol.balance()).total < town_module.PURSE + 36:
                    await trio.sleep(1)
            await carol.send(town.account("alice"), 1)
        return before, balance.total, len(town.services)


def test_a_wallet_proves_credits_whose_makers_are_gone() -> None:
    before, balance, services = run(old_credits)
    assert before == 3  # alice's last SPEND, END-EPOCH and COMMITTEE
    assert town_module.PURSE - 100 < balance < town_module.PURSE
    assert services == 4


def test_a_mutant_wallet_that_asks_for_no_leaf_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Mirror, ids: list[bytes], peers: list[str]) -> None:
        return

    monkeypatch.setattr(Mirror, "_take_old_credits", nothing)
    with pytest.raises((AssertionError, trio.TooSlowError)):
        test_a_wallet_proves_credits_whose_makers_are_gone()


async def start_late(root: Path, lose_disk: bool) -> tuple[set[int], int, int, bool]:
    async with open_town(root=root) as town, town.wallet("alice") as alice:
        await alice.send(town.account("bob"), 5)
        await town.until_equal(1)
        await town.stop(AWAY)
        if lose_disk:
            shutil.rmtree(root / f"v{AWAY}")
        for _ in range(20):
            await alice.send(town.account("bob"), 5)
        await until_pruned(town, 2)
        await alice.send(town.account("bob"), 5)
        await town.start(AWAY)
        await town.until_equal(26)
        away = town.services[AWAY]
        with trio.fail_after(3 * EPOCH_S):
            while not away.voting:
                await trio.sleep(1)
        await alice.send(town.account("carol"), 5)
        await until_pruned(town, away._validator.state.epoch + 1)
        with trio.fail_after(3 * EPOCH_S):
            while not away.voting:
                await trio.sleep(1)
        epochs = {service._validator.state.epoch for service in town.services.values()}
        roots = {service.statistics().state_root for service in town.services.values()}
        return epochs, kept(away), len(roots), away.voting


@pytest.mark.parametrize("lose_disk", [False, True], ids=["away", "empty disk"])
def test_b5_a_node_starts_from_the_checkpoint_of_those_that_prune(tmp_path: Path, lose_disk: bool) -> None:
    epochs, operations, roots, voting = run(start_late, tmp_path, lose_disk)
    assert len(epochs) == 1
    assert operations < 15
    assert roots == 1
    assert voting


async def export_after_pruning(path: Path) -> tuple[bytes, list[bytes]]:
    async with open_town(root=path) as town, town.wallet("alice") as alice:
        for _ in range(3):
            await alice.send(town.account("bob"), 7)
        lock = await alice.open_lock(
            [(town.account("bob"), 1)], key_of("bob").public, 1_000, 10, 3_000_000, purpose=b"test"
        )
        await alice.send(town.account("carol"), 1)
        await until_pruned(town, 2)
        async with town.network(key_of("stranger")) as network:
            validators = Validators(network, town.genesis)
            objects = [town.account("alice"), lock.id]
            return await export(validators, town.genesis, objects), objects


def test_a_bundle_from_pruned_validators_holds(tmp_path: Path) -> None:
    raw, objects = run(export_after_pruning, tmp_path)
    verdicts = judge(raw)
    assert all_hold(verdicts)
    assert [verdict.part for verdict in verdicts] == [
        "genesis",
        "committee 1",
        "committee 2",
        "exhibit 1",
        "exhibit 2",
    ]
    assert [v.facts["kind"] for v in verdicts[3:]] == ["account", "lock"]
    assert len(objects) == 2


def test_b5_a_mutant_that_takes_no_checkpoint_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*args: object) -> None:
        raise Malformed("not taken")

    monkeypatch.setattr(checkpoint_sync.Taking, "take", nothing)
    with pytest.raises((AssertionError, trio.TooSlowError)):
        run(start_late, tmp_path, True)
