"""Epochs that end while validators talk over a network: all together, one away, one without its disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
import trio

from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.serving import service
from ainp2p.ledger.serving.object_sync import ObjectSync

from . import town as town_module
from .serving.test_object_sync import AWAY
from .test_wallet_faults import run
from .town import Town, open_town

EPOCH_S = 120


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = msgspec.structs.replace(DEVELOPMENT, epoch_ms=EPOCH_S * 1000)
    monkeypatch.setattr(town_module, "DEVELOPMENT", parameters)


def epochs(town: Town) -> set[int]:
    return {service._validator.state.epoch for service in town.services.values()}


async def two_epochs() -> tuple[set[int], bool]:
    async with open_town() as town, town.wallet("alice") as alice:
        await alice.send(town.account("bob"), 5)
        await trio.sleep(2.5 * EPOCH_S)
        await town.until_equal(5)
        return epochs(town), all(service.voting for service in town.services.values())


def test_epochs_end_and_begin_over_the_network() -> None:
    assert run(two_epochs) == ({2}, True)


async def away_over_epochs(root: Path, lose_disk: bool) -> tuple[set[int], bool, int]:
    async with open_town(root=root) as town, town.wallet("alice") as alice:
        await alice.send(town.account("bob"), 5)
        await town.until_equal(1)
        await town.stop(AWAY)
        if lose_disk:
            shutil.rmtree(root / f"v{AWAY}")
        await trio.sleep(2.2 * EPOCH_S)
        await town.start(AWAY)
        with trio.move_on_after(120):
            await town.until_equal(5)
        await trio.sleep(60)
        away = town.services[AWAY]
        return epochs(town), away.voting, away.decided


@pytest.mark.parametrize("lose_disk", [False, True], ids=["away", "empty disk"])
def test_b5_a_node_that_was_away_over_two_epochs_follows_the_committees(
    tmp_path: Path, lose_disk: bool
) -> None:
    found, _, decided = run(away_over_epochs, tmp_path, lose_disk)
    assert found == {2}
    assert decided == 5


def test_b5_mutant_without_certificates_it_stays_in_its_old_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(self: ObjectSync, peer: str) -> None:
        return

    async def no_start(*args: object) -> None:
        return

    monkeypatch.setattr(ObjectSync, "compare_with", nothing)
    monkeypatch.setattr(service, "start_from_checkpoint", no_start)  # the other way to come back
    with pytest.raises((AssertionError, trio.TooSlowError)):
        test_b5_a_node_that_was_away_over_two_epochs_follows_the_committees(tmp_path, False)
