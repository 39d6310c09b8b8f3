"""What time a SPEND says while clocks differ: F1's rule for owners, and what liars can make of it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import NotFinal, TimedOut
from ainp2p.ledger.rules.genesis import DEVELOPMENT, new_genesis
from ainp2p.ledger.rules.operations import Spend, plain_inception
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.wallets import committee_clock
from ainp2p.ledger.wallets.committee_clock import CommitteeClock
from ainp2p.protocol.identity import peer_id

from ..town import open_town
from ..world import key_of

AHEAD_MS, DAY_MS, START_MS = 60_000, 86_400_000, 1_800_000_000_000
KEYS = [key_of(f"validator {i}") for i in range(4)]
PEERS = [peer_id(key.public) for key in KEYS]


class Clocks:
    """Four validators and our own clock, set by hand; the monotonic one, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch | None = None, ourselves: str = "me") -> None:
        self.ours_ms, self.monotonic_ms = START_MS, 5_000
        genesis = new_genesis(
            "clocks",
            START_MS,
            [(key.public, 1, []) for key in KEYS],
            [(plain_inception(key_of("alice").public), 1000)],
            None,
            DEVELOPMENT,
        )
        network: Any = SimpleNamespace(peer_id=ourselves, add_addresses=lambda peer, addresses: None)
        if monkeypatch is not None:
            monkeypatch.setattr(committee_clock, "_monotonic_ms", lambda: self.monotonic_ms)
        self.clock = CommitteeClock(Validators(network, genesis), lambda: self.ours_ms, lambda: AHEAD_MS)

    def say(self, *off_ms: int | None) -> None:
        """What each validator says, beside the time at which all began; None: nothing."""
        for peer, off in zip(PEERS, off_ms, strict=False):
            if off is not None:
                self.clock.note(peer, START_MS + off)

    def pass_(self, ms: int) -> None:
        self.ours_ms += ms
        self.monotonic_ms += ms


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_as_long_as_clocks_agree_an_operation_says_our_time(clocks: Clocks) -> None:
    clocks.say(-20_000, 10, 20, 20_000)
    assert clocks.clock.is_certain()
    clocks.pass_(3 * DAY_MS)
    assert clocks.clock.is_certain()
    assert clocks.clock.signing_ms() == START_MS + 3 * DAY_MS


@pytest.mark.parametrize("off_ms", [DAY_MS, 31_000, -31_000, -DAY_MS])
def test_a_clock_that_differs_from_the_committees_gives_way_to_it(clocks: Clocks, off_ms: int) -> None:
    clocks.say(0, 0, 0, 0)
    clocks.ours_ms += off_ms
    assert not clocks.clock.is_certain()  # it was set, or the machine slept: ask first
    assert clocks.clock.accept()
    assert clocks.clock.is_certain()  # it is wrong, and the committee has said so: no need to ask each time
    clocks.pass_(7_000)
    assert clocks.clock.signing_ms() == START_MS + 7_000


def test_a_clock_that_was_put_right_is_asked_about_once_more(clocks: Clocks) -> None:
    clocks.ours_ms += DAY_MS
    clocks.say(0, 0, 0, 0)
    assert clocks.clock.accept()
    clocks.ours_ms -= DAY_MS
    assert not clocks.clock.is_certain()
    assert clocks.clock.accept()
    assert clocks.clock.is_certain()
    assert clocks.clock.signing_ms() == START_MS


def test_a_machine_that_slept_believes_the_committee_not_its_monotonic_clock(clocks: Clocks) -> None:
    clocks.say(0, 0, 0, 0)
    clocks.ours_ms += DAY_MS  # the monotonic clock stood still
    assert not clocks.clock.is_certain()
    clocks.clock.forget()
    assert not clocks.clock.is_certain()  # nobody has told anew
    clocks.say(*[DAY_MS] * 4)
    assert clocks.clock.accept()
    assert clocks.clock.signing_ms() == START_MS + DAY_MS


def test_who_has_heard_nobody_is_not_certain(clocks: Clocks) -> None:
    assert clocks.clock.committee_ms() is None
    assert not clocks.clock.is_certain()
    assert not clocks.clock.accept()


def test_a_validator_that_does_not_say_the_time_is_not_counted(clocks: Clocks) -> None:
    clocks.clock.note(PEERS[0], 0)
    assert clocks.clock.committee_ms() is None


@pytest.mark.parametrize(("said_ms", "expected_ms"), [(DAY_MS, 0), (-DAY_MS, -DAY_MS)])
def test_fewer_than_a_quorum_can_make_it_earlier_only(clocks: Clocks, said_ms: int, expected_ms: int) -> None:
    clocks.say(said_ms, said_ms)
    assert clocks.clock.accept()
    assert clocks.clock.signing_ms() == START_MS + expected_ms


def test_a_strangers_time_is_not_counted(clocks: Clocks) -> None:
    clocks.clock.note("stranger", START_MS + DAY_MS)
    assert clocks.clock.committee_ms() is None


def test_a_member_counts_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks(monkeypatch, PEERS[3])
    clocks.say(0, 0)
    clocks.ours_ms += DAY_MS
    assert clocks.clock.accept()
    assert clocks.clock.signing_ms() == START_MS


@given(
    st.lists(st.integers(-30_000, 30_000), min_size=3, max_size=3),
    st.integers(-START_MS + 1, 2 * START_MS),
    st.integers(0, 3),
    st.integers(-DAY_MS, DAY_MS),
)
def test_one_liar_of_four_moves_nothing_beyond_what_correct_ones_said(
    true_ms: list[int], lie_ms: int, place: int, ours_ms: int
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        clocks = Clocks(monkeypatch)
        clocks.ours_ms += ours_ms
        clocks.say(*true_ms[:place], lie_ms, *true_ms[place:])
        clocks.clock.accept()
        said = clocks.clock.signing_ms() - START_MS
        assert said <= max(true_ms) + AHEAD_MS // 2  # no later than correct ones will LOCK it
        assert said >= min(true_ms) - AHEAD_MS // 2


# --- in a wallet --------------------------------------------------------------------------------------------


async def test_f1_an_owner_a_day_ahead_signs_what_is_decided_at_once(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        await alice.send(town.account("bob"), 1)
        right = alice.now_ms
        monkeypatch.setattr(alice._clock, "_now_ms", lambda: right() + DAY_MS)
        began = trio.current_time()
        await alice.send(town.account("bob"), 2)
        monkeypatch.undo()
        await alice.send(town.account("bob"), 3)
        assert trio.current_time() - began < 5
        signed = [each.parsed.operation for each in await alice.history()]
        assert all(isinstance(each.body, Spend) for each in signed)
        assert len({each.seq for each in signed}) == len(signed)  # one operation in each slot
        assert max(each.timestamp or 0 for each in signed) <= right() + AHEAD_MS


async def test_f1_mutant_an_owner_that_believes_its_clock_shuts_its_account_for_a_day(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_town() as town, town.wallet("alice") as alice:
        right = alice.now_ms
        with monkeypatch.context() as wrong:
            wrong.setattr(CommitteeClock, "signing_ms", lambda self: right() + DAY_MS)
            with pytest.raises(NotFinal):
                await alice.send(town.account("bob"), 2, timeout_s=5)
        with pytest.raises(TimedOut, match="busy"):
            await alice.send(town.account("bob"), 3, timeout_s=300)


async def test_nothing_is_signed_while_our_clock_is_doubted_and_nobody_tells_the_time(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with open_town(root=tmp_path) as town, town.wallet("alice") as alice:
        await alice.send(town.account("bob"), 1)
        right = alice.now_ms
        monkeypatch.setattr(alice._clock, "_now_ms", lambda: right() + DAY_MS)
        for index in range(4):
            await town.stop(index)
        with pytest.raises(TimedOut, match="nothing was signed"):
            await alice.send(town.account("bob"), 2, timeout_s=30)
        assert alice.statistics().pending == 0
        for index in range(4):
            await town.start(index)
        await alice.send(town.account("bob"), 2, timeout_s=60)
