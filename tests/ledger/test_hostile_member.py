"""One member of the committee stalls others that catch up: what they lack they get elsewhere, and soon."""

# ruff: noqa: ASYNC110

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from ainp2p.ledger.rules.merkle import MerkleTree
from ainp2p.ledger.serving.catch_up import CatchUp
from ainp2p.ledger.serving.messages import (
    LEDGER_PROTOCOL,
    FetchBatches,
    GetHeights,
    Height,
    Heights,
    PushBatch,
    Question,
)
from ainp2p.ledger.serving.pushing import Pusher
from ainp2p.ledger.serving.service import ValidatorService
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.votelog import BATCH_VERSION, ENTRIES_MAX, Header, lock_entry, sign_batch
from ainp2p.ledger.wallets.submitting import Pending, _Sender
from ainp2p.protocol.codec import encode
from ainp2p.protocol.network import Call, Network, PeerId

from .test_wallet_faults import run
from .town import Town, open_town

LIAR, VICTIM, OTHER = 0, 1, 2


# --- vote logs that drip ----------------------------------------------------------------------------


def drip(liar: ValidatorService, log: bytes, *, pause_s: float) -> None:
    """Claim to have more of a log than anybody, and give its first batch again and again."""

    async def send(call: Call, question: FetchBatches) -> None:
        while True:
            for raw in liar._validator.batches(question.validator, 1, 1):
                await call.send(encode(PushBatch(raw)))
            await trio.sleep(pause_s)

    liar._send_batches = send  # type: ignore[method-assign]
    liar._answers.heights = lambda: Heights((Height(log, 10**6),), 0)  # type: ignore[method-assign]


def answer_late(service: ValidatorService) -> None:
    """So that the liar is always the first to tell its heights."""
    answer = service._answer

    async def late(call: Call, question: Question) -> Any:
        if isinstance(question, GetHeights):
            await trio.sleep(0.2)
        return await answer(call, question)

    service._answer = late  # type: ignore[method-assign]


async def seconds_to_catch_up(root: Path, pause_s: float) -> float:
    async with open_town(root=root) as town, town.wallet("alice") as alice:
        await alice.send(town.account("bob"), 1)
        await town.stop(VICTIM)
        for _ in range(3):
            await alice.send(town.account("bob"), 1)
        await trio.sleep(30)  # until nobody tries to push to the victim what it misses
        log = town.keys[OTHER].public
        drip(town.services[LIAR], log, pause_s=pause_s)
        wanted = town.services[OTHER].heights()[log]
        for index in (2, 3):
            answer_late(town.services[index])
        await town.start(VICTIM)
        began = trio.current_time()
        with trio.move_on_after(100):
            while town.services[VICTIM].heights()[log] < wanted:
                await trio.sleep(0.1)
        return trio.current_time() - began


@pytest.mark.parametrize("pause_s", [4.0, 0.001], ids=["slowly", "fast"])
def test_old_batches_without_end_do_not_keep_a_validator_from_catching_up(
    tmp_path: Path, pause_s: float
) -> None:
    assert run(seconds_to_catch_up, tmp_path, pause_s) < 40


def test_mutant_endless_patience_never_catches_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def patiently(self: CatchUp, peer: PeerId, validator: bytes, height: int) -> None:
        question = FetchBatches(validator, height, 0)
        async with self._validators.stream(peer, question, PushBatch, timeout_s=5.0) as batches:
            async for chunk in batches:
                await self._take_batch(chunk.batch)

    monkeypatch.setattr(CatchUp, "_take_log", patiently)
    assert run(seconds_to_catch_up, tmp_path, 4.0) > 90


# --- operations that do not exist -------------------------------------------------------------------


async def push_votes_for_nothing(town: Town, network: Network) -> None:
    """Twenty full batches of votes for operations that nobody has, and no answer to any question."""

    async def never(call: Call) -> None:
        await trio.sleep_forever()

    network.serve(LEDGER_PROTOCOL, never)
    key, previous = town.keys[LIAR], town.network_id
    for height in range(1, 21):
        leaves = [lock_entry(0, (height * 1000 + i).to_bytes(32, "big")) for i in range(ENTRIES_MAX)]
        header = Header(
            BATCH_VERSION,
            town.network_id,
            0,
            key.public,
            height,
            previous,
            network.context.now_ms(),
            MerkleTree(leaves).root,
            len(leaves),
        )
        batch = sign_batch(header, leaves, key, LIAR)
        previous = batch.id
        committee = Validators(network, town.genesis)
        for member in committee.others:
            await committee.tell(member.peer, PushBatch(batch.raw))


async def seconds_to_pay_by_one_validator(monkeypatch: pytest.MonkeyPatch) -> float:
    """A payment that only one validator is told of, so that the others have to fetch it."""
    async with (
        open_town(running=[1, 2, 3]) as town,
        town.wallet("alice") as alice,
        town.network(town.keys[LIAR]) as network,
    ):
        await push_votes_for_nothing(town, network)
        await trio.sleep(1)
        told = _Sender.add

        def add(self: _Sender, pending: Pending) -> None:
            if self.peer == town.peer(1):
                told(self, pending)

        monkeypatch.setattr(_Sender, "add", add)
        began = trio.current_time()
        await alice.send(town.account("bob"), 1, timeout_s=60)
        return trio.current_time() - began


def test_a_member_that_votes_for_nothing_and_never_answers_delays_no_fetch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pusher, "push_operation", lambda self, encoded: None)
    assert run(seconds_to_pay_by_one_validator, monkeypatch) < 1


def test_mutant_one_round_of_fetches_at_a_time_is_as_slow_as_its_slowest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Pusher, "push_operation", lambda self, encoded: None)
    assign = CatchUp._assign

    def in_rounds(self: CatchUp) -> Any:
        return {} if self._asked else assign(self)

    monkeypatch.setattr(CatchUp, "_assign", in_rounds)
    assert run(seconds_to_pay_by_one_validator, monkeypatch) > 3
