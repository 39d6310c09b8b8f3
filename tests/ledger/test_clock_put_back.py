"""F1: clocks of validators that are put back, by hand or by NTP, while votes wait to be sealed."""

from __future__ import annotations

import pytest
import trio

from ainp2p.ledger.serving.service import ValidatorService
from ainp2p.ledger.voting import validator

from .test_wallet_faults import run
from .town import open_town

HOUR_MS = 3_600_000


async def seconds_to_pay(monkeypatch: pytest.MonkeyPatch, back_ms: int) -> float:
    """How long a payment takes while all validators' clocks are put back after their LOCKs."""
    behind = [0]
    clock = ValidatorService._now_ms
    monkeypatch.setattr(ValidatorService, "_now_ms", lambda self: clock(self) - behind[0])
    async with open_town() as town, town.wallet("alice") as alice:
        await alice.send(town.account("bob"), 1)
        began = trio.current_time()

        async def put_back() -> None:
            await trio.sleep(0.006)  # the operation is LOCKed everywhere, no batch is sealed
            behind[0] = back_ms

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_back)
            await alice.send(town.account("bob"), 2, timeout_s=60)
        return trio.current_time() - began


def test_f1_a_clock_put_back_by_an_hour_silences_no_validator(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(seconds_to_pay, monkeypatch, HOUR_MS) < 2


def test_f1_mutant_a_step_back_that_nobody_notices_delays_votes_by_as_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validator, "CLOCK_STEP_MS", 10**12)
    assert run(seconds_to_pay, monkeypatch, 40_000) > 30


async def seconds_to_pay_after(monkeypatch: pytest.MonkeyPatch, ahead_ms: int) -> float:
    """How long a payment takes that comes while all validators' clocks are ahead for a tenth of a second."""
    ahead = [0]
    clock = ValidatorService._now_ms
    monkeypatch.setattr(ValidatorService, "_now_ms", lambda self: clock(self) + ahead[0])
    async with open_town() as town, town.wallet("alice") as alice:
        await alice.send(town.account("bob"), 1)
        await trio.sleep(3)  # all is decided: nobody is called before its next empty batch
        began, ahead[0] = trio.current_time(), ahead_ms

        async def put_back() -> None:
            await trio.sleep(0.006)
            ahead[0] = 0

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_back)
            await alice.send(town.account("bob"), 2, timeout_s=100)
        return trio.current_time() - began


def test_f1_a_vote_cast_while_the_clock_was_ahead_for_a_moment_does_not_wait_for_that_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run(seconds_to_pay_after, monkeypatch, 60_000) < 2


def test_f1_mutant_a_core_that_was_not_told_of_a_clock_ahead_waits_for_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ValidatorService, "_core_ms", lambda self: self._now_ms())
    assert run(seconds_to_pay_after, monkeypatch, 60_000) > 50


async def refund_with_clocks_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    behind = [0]
    clock = ValidatorService._now_ms
    monkeypatch.setattr(ValidatorService, "_now_ms", lambda self: clock(self) - behind[0])
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        state = await alice.open_lock([(bob.account_id, 1)], bob.account_id, 1000, 10, 20_000)
        await trio.sleep(20.5)

        async def put_back() -> None:
            await trio.sleep(0.5)  # the REFUND is held, and waits for its gates
            behind[0] = 8_000

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_back)
            began = trio.current_time()
            assert not (await alice.refund(state.id, timeout_s=60)).is_open
        # For the validators it had not expired any more: they wait for that once more, and for the gates.
        assert 7 < trio.current_time() - began < 14


def test_f1_gates_and_expiries_wait_by_the_new_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    run(refund_with_clocks_put_back, monkeypatch)
