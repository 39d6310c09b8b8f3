"""A validator with an empty disk that trusts one COMMITTEE: it starts from a chain that has it, or not."""
# ruff: noqa: ASYNC110

from __future__ import annotations

import msgspec
import pytest
import trio

from ainp2p.errors import NetworkError
from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.serving.service import open_validator
from ainp2p.ledger.voting.checkpoints import DONE
from ainp2p.ledger.voting.validator_store import SqliteJournal

from . import town as town_module
from .test_wallet_faults import run
from .town import Town, open_town
from .world import key_of

EPOCH_S = 60


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = msgspec.structs.replace(DEVELOPMENT, epoch_ms=EPOCH_S * 1000)
    monkeypatch.setattr(town_module, "DEVELOPMENT", parameters)


async def until_pruned(town: Town, epoch: int) -> None:
    for validator in town.services.values():
        checkpoints = validator._histories._store.checkpoints
        while [(c.epoch, c.phase) for c in checkpoints.all()][-1:] != [(epoch, DONE)]:
            await trio.sleep(1)


async def newcomer(known: bool) -> int:
    """The epoch in which a validator from nothing begins, whose pin was told rightly or not."""
    with trio.fail_after(20 * EPOCH_S):
        async with open_town() as town, town.wallet("alice") as alice:
            await alice.send(town.account("bob"), 5)
            await until_pruned(town, 2)
            pin = town.services[0]._validator.state.system.head if known else b"p" * 32
            key = key_of("newcomer")
            async with (
                town.network(key) as network,
                open_validator(network, town.genesis, key, None, follow=True, checkpoint=pin) as late,
            ):
                return late._validator.epoch


def test_a_validator_starts_from_a_chain_that_has_the_checkpoint() -> None:
    assert run(newcomer, True) == 2


def test_without_such_a_chain_it_does_not_start() -> None:
    with pytest.raises(NetworkError, match="nobody shows a chain"):
        run(newcomer, False)


def test_mutant_without_the_question_it_believes_any_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    find = SqliteJournal.find
    monkeypatch.setattr(SqliteJournal, "find", lambda self, id_: id_ if id_ == b"p" * 32 else find(self, id_))
    assert run(newcomer, False) == 2
