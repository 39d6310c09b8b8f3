"""A validator with an empty disk that trusts one COMMITTEE: it starts from a chain that has it, or not."""
# ruff: noqa: ASYNC110

from __future__ import annotations

import msgspec
import pytest
import trio

from ainp2p.errors import InvalidInput, NetworkError
from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.serving.pinned_start import PinnedStart
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


# --- before it can be shown -----------------------------------------------------------------------------


async def starts(down: bool, here_after_s: float, wait_s: float = 600.0, known: bool = True) -> str:
    """What a validator told last that was started before the others' checkpoint was there.

    Args:
        down: nobody answers.
        here_after_s: from when on the others have it.
    """
    told: list[str] = []
    async with open_town() as town, town.network(key_of("newcomer")) as network:
        while town.services[0].epoch < 1:
            await trio.sleep(0.05)
        pin = town.services[0]._validator.state.system.head if known else b"p" * 32
        for index in range(4 if down else 0):
            await town.stop(index)
        here_s, taken = trio.current_time() + here_after_s, 0

        async def take() -> None:
            nonlocal taken
            taken += trio.current_time() >= here_s

        start = PinnedStart(pin, lambda: taken > 0, take, wait_s, told.append)
        with trio.fail_after(10 * EPOCH_S):
            try:
                await start.run(network, town.genesis)
            except NetworkError as exc:
                told.append(str(exc))
        return told[-1] if told else ""


def test_a_validator_that_comes_before_the_checkpoint_waits_and_says_so() -> None:
    told = run(starts, False, 100.0)
    assert "waiting for the checkpoint" in told
    assert "have not made its checkpoint yet" in told


def test_it_waits_for_others_that_are_starting_too() -> None:
    told = run(starts, True, 100.0)
    assert "waiting for the checkpoint" in told
    assert "no validator answers" in told


def test_it_waits_no_longer_than_it_was_told_and_says_what_to_do() -> None:
    told = run(starts, False, 100.0, 50.0)
    assert told.startswith("no checkpoint after 50 s")
    assert "--wait" in told


def test_what_is_in_nobodys_chain_is_not_waited_for() -> None:
    assert "compare its id" in run(starts, False, 100.0, 600.0, False)


def test_what_can_be_taken_at_once_is_not_waited_for() -> None:
    assert run(starts, True, 0.0) == ""


def test_the_genesis_is_a_checkpoint_that_everybody_has() -> None:
    async def from_the_genesis() -> int:
        async with open_town() as town, town.network(key_of("newcomer")) as network:
            pin, key = town.network_id, key_of("newcomer")
            async with open_validator(
                network, town.genesis, key, None, follow=True, checkpoint=pin
            ) as service:
                return service.epoch

    assert run(from_the_genesis) == 0


def test_an_archive_takes_no_checkpoint_over() -> None:
    async def archive() -> None:
        async with open_town() as town, town.network(key_of("newcomer")) as network:
            async with open_validator(
                network, town.genesis, key_of("newcomer"), None, archive=True, checkpoint=b"p" * 32
            ):
                pass

    with pytest.raises(InvalidInput, match="archive"):
        run(archive)


def test_mutant_a_start_that_does_not_wait_fails_before_the_checkpoint_is_made() -> None:
    assert run(starts, False, 100.0, 0.0).startswith("no checkpoint after 0 s")
