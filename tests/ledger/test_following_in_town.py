"""Wallets over epochs, in virtual time: at work, away, from nothing, restarted together with everybody."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from ainp2p.ledger.genesis import DEVELOPMENT

from . import town as town_module
from .test_wallet_faults import run
from .town import Town, open_town

EPOCH_S = 120


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = msgspec.structs.replace(DEVELOPMENT, epoch_ms=EPOCH_S * 1000)
    monkeypatch.setattr(town_module, "DEVELOPMENT", parameters)


async def until_epoch(town: Town, epoch: int) -> None:
    with trio.fail_after(5 * EPOCH_S):
        while any(service.epoch < epoch for service in town.services.values()):  # noqa: ASYNC110
            await trio.sleep(0.5)
    await town.until_voting()


async def pays_over_epochs() -> tuple[list[int], int, int]:
    """A wallet pays in each epoch; what each SPEND names, what came, which epoch it knows."""
    named = []
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        for epoch in range(4):
            await until_epoch(town, epoch)
            await trio.sleep(6)  # a Follow stream's beat
            await alice.send(town.account("bob"), 5, timeout_s=5)
            named.append(alice.account.epoch)
        await trio.sleep(1)
        await bob.refresh()
        return named, (await bob.balance()).available, bob.epoch.number


def test_a_wallet_pays_across_three_epochs() -> None:
    named, received, known = run(pays_over_epochs)
    assert named == [0, 1, 2, 3]
    assert received == town_module.PURSE + 20
    assert known == 3


async def away_over_epochs(root: Path, keeps: bool) -> tuple[int, int, int]:
    """A wallet that is opened again after three epochs; from its disk, or from nothing."""
    async with open_town(root=root) as town:
        async with town.wallet("alice") as alice:
            await alice.send(town.account("bob"), 5)
        await until_epoch(town, 3)
        where = None if keeps else root / "elsewhere"
        async with town.wallet("alice", directory=where) as alice:
            began = trio.current_time()
            await alice.send(town.account("bob"), 6, timeout_s=5)
            took = trio.current_time() - began
            assert took < 1
            known = alice.epoch.number
        async with town.wallet("alice", directory=where) as alice:
            kept = alice.epoch.number  # before anybody has been asked
        return known, kept, alice.account.epoch


@pytest.mark.parametrize("keeps", [True, False], ids=["its disk", "nothing"])
def test_b5_a_wallet_that_was_away_for_three_epochs_pays_at_once(tmp_path: Path, keeps: bool) -> None:
    assert run(away_over_epochs, tmp_path, keeps) == (3, 3, 3)
