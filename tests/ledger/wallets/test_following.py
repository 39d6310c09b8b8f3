"""Following committees by asking: forged and stale chains, a checkpoint, a rule that nobody answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio

from ainp2p.errors import InvalidOperation, TimedOut
from ainp2p.ledger.serving.messages import (
    LEDGER_PROTOCOL,
    AskStatus,
    Decided,
    Finals,
    GetHistory,
    History,
    Status,
    Statuses,
    read_question,
)
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.certificate import certificate_epoch, read_certificate, verify_decided
from ainp2p.ledger.voting.committee_chain import CommitteeChain, Epoch
from ainp2p.ledger.wallets.following import Following
from ainp2p.protocol.codec import encode
from ainp2p.protocol.memory import Conditions, MemoryHub, open_memory_network
from ainp2p.protocol.network import Call

from ..certifying import certify, member_keys
from ..test_wallet_faults import run
from ..voting.test_committee_chain import Dynasty
from ..world import key_of

Shows = Callable[[GetHistory], Sequence[tuple[bytes, bytes]]]
X = b"x" * 32


def shows(links: Sequence[tuple[bytes, bytes]]) -> Shows:
    """A validator that knows these links, each at its place of the System's chain."""
    return lambda question: [link for n, link in enumerate(links) if 2 * (n + 1) >= question.objects[0].seq]


class Client:
    """Somebody who follows, and the validators that it talks to."""

    def __init__(self, dynasty: Dynasty, network: Any, pinned: bytes | None) -> None:
        self.validators = Validators(network, dynasty.genesis)
        self.kept: list[int] = []
        self.chain = CommitteeChain.from_genesis(dynasty.genesis)
        self.following = Following(
            self.validators, self.chain, lambda epoch, link: self.kept.append(epoch), pinned=pinned
        )


@asynccontextmanager
async def client(
    dynasty: Dynasty, answers: Sequence[Shows | None], *, pinned: bytes | None = None, epoch: int = 3
) -> AsyncIterator[Client]:
    """The first members answer so (None: not at all); they show X with a certificate of this epoch."""
    hub = MemoryHub(0, Conditions(latency_s=0.01))
    certificate = certify(dynasty.keys[epoch], dynasty.network, X, epoch=epoch)

    def serve(network: Any, answer: Shows) -> None:
        async def handle(call: Call) -> bytes:
            question = read_question(call.body)
            if isinstance(question, AskStatus):
                return encode(Statuses((Status(X, 3, certificate),)))
            assert isinstance(question, GetHistory)
            return encode(History(tuple(Decided(*link) for link in answer(question))))

        network.serve(LEDGER_PROTOCOL, handle)

    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(open_memory_network(hub, key_of("client")))
        for key, answer in zip(dynasty.keys[0], answers, strict=False):
            if answer is not None:
                network = await stack.enter_async_context(open_memory_network(hub, key))
                serve(network, answer)
                ours.add_addresses(network.peer_id, network.addresses)
        yield Client(dynasty, ours, pinned)


@pytest.fixture(scope="module")
def dynasty() -> Dynasty:
    return Dynasty()


def forged_link(dynasty: Dynasty) -> tuple[bytes, bytes]:
    return dynasty.link(0, member_keys(4, "stranger"), body_state_root=b"f" * 32)


async def followed(dynasty: Dynasty, answers: Sequence[Shows | None]) -> tuple[int, list[int], set[bytes]]:
    async with client(dynasty, answers) as found:
        await found.following.catch_up()
        keys = {member.key for member in found.validators.members}
        return found.chain.newest.number, found.kept, keys


def test_the_members_are_those_of_the_newest_committee(dynasty: Dynasty) -> None:
    keys = {key.public for key in dynasty.keys[3]}
    assert run(followed, dynasty, [shows(dynasty.links)]) == (3, [1, 2, 3], keys)


@pytest.mark.parametrize("links", [0, 1, 2])
def test_one_that_knows_more_than_the_others_is_enough(dynasty: Dynasty, links: int) -> None:
    stale = shows(dynasty.links[:links])
    assert run(followed, dynasty, [stale, stale, shows(dynasty.links), stale])[0] == 3


def test_a_forged_chain_is_not_believed(dynasty: Dynasty) -> None:
    keys = {key.public for key in dynasty.keys[0]}
    assert run(followed, dynasty, [shows([forged_link(dynasty)])] * 4) == (0, [], keys)
    assert run(followed, dynasty, [shows([forged_link(dynasty)]), shows(dynasty.links)])[0] == 3


def test_mutant_a_link_that_nobody_verifies_is_noticed(
    dynasty: Dynasty, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unverified(self: CommitteeChain, certificate: bytes, epoch: Epoch) -> bytes:
        return read_certificate(certificate).operation

    monkeypatch.setattr(CommitteeChain, "_final", unverified)
    with pytest.raises(AssertionError):
        test_a_forged_chain_is_not_believed(dynasty)


async def old_word(dynasty: Dynasty) -> bool:
    """Whether the committee of epoch 0 is believed about epoch 3."""
    async with client(dynasty, [shows(dynasty.links)] * 4) as found:
        await found.following.catch_up()
        lie = certify(dynasty.keys[0], dynasty.network, X, epoch=3)
        try:
            found.chain.check(lie, X)
        except Exception:
            return False
        return True


def test_an_old_committee_is_not_believed_for_a_new_epoch(dynasty: Dynasty) -> None:
    assert not run(old_word, dynasty)


def test_mutant_an_old_committee_believed_for_a_new_epoch_is_noticed(
    dynasty: Dynasty, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first(self: CommitteeChain, certificate: bytes, epoch: Epoch) -> bytes:
        oldest, number = self._epochs[0].committee, epoch.number
        return verify_decided(certificate, oldest, number, self.network, self._seen_votes)[1]

    chains = CommitteeChain.check

    def check(self: CommitteeChain, certificate: bytes, operation: bytes) -> Epoch:
        with monkeypatch.context() as patch:
            patch.setattr(CommitteeChain, "_final", first)
            return chains(self, certificate, operation)

    monkeypatch.setattr(CommitteeChain, "check", check)
    with pytest.raises(AssertionError):
        test_an_old_committee_is_not_believed_for_a_new_epoch(dynasty)


async def asked(dynasty: Dynasty) -> tuple[int, int]:
    """An answer names an epoch that is not known: whoever gave it is asked before it is read."""
    async with client(dynasty, [shows(dynasty.links), shows([])]) as found:
        knows, lies = (found.validators.peer_of(key.public) for key in dynasty.keys[0][:2])
        assert knows is not None
        assert lies is not None
        answer = await found.validators.ask(lies, AskStatus((X,)), Statuses)
        with pytest.raises(InvalidOperation, match="not known"):
            found.chain.check(answer.statuses[0].certificate, X)
        before = found.chain.newest.number
        answer = await found.validators.ask(knows, AskStatus((X,)), Statuses)
        return before, found.chain.check(answer.statuses[0].certificate, X).number


def test_who_shows_a_certificate_shows_its_committee(dynasty: Dynasty) -> None:
    assert run(asked, dynasty) == (0, 3)


async def without_answers(dynasty: Dynasty) -> str:
    async with client(dynasty, []) as found:
        with pytest.raises(TimedOut) as caught:
            await found.following.catch_up()
        return str(caught.value)


def test_a_committee_that_never_answers_is_a_clear_error(dynasty: Dynasty) -> None:
    assert "no validator answers" in run(without_answers, dynasty)


# --- a pinned checkpoint ------------------------------------------------------------------------------


def sold(dynasty: Dynasty) -> list[tuple[bytes, bytes]]:
    """Members of epoch 0 have sold their keys: a good certificate over another COMMITTEE{1}."""
    return [dynasty.link(0, body_state_root=b"f" * 32)]


async def pinned(dynasty: Dynasty, answers: Sequence[Shows], pin: bytes | None) -> bytes:
    async with client(dynasty, answers, pinned=pin) as found:
        try:
            await found.following.catch_up()
        except TimedOut:
            assert not found.kept
        with trio.move_on_after(1):
            peer = found.validators.peer_of(dynasty.keys[0][0].public)
            assert peer is not None
            await found.validators.ask(peer, AskStatus((X,)), Statuses)
        return found.chain.newest.opening


def test_sold_keys_forge_nothing_for_whoever_pins(dynasty: Dynasty) -> None:
    pin = dynasty.openings[2]
    assert run(pinned, dynasty, [shows(sold(dynasty)), shows(dynasty.links)], pin) == dynasty.openings[3]


def test_without_the_pinned_checkpoint_no_answer_is_read(dynasty: Dynasty) -> None:
    with pytest.raises(TimedOut, match="pinned checkpoint"):
        run(pinned, dynasty, [shows(sold(dynasty))] * 4, dynasty.openings[2])


def test_links_that_were_kept_are_taken_up_if_they_fit(dynasty: Dynasty) -> None:
    async def restored(links: list[tuple[bytes, bytes]], pin: bytes | None) -> int:
        async with client(dynasty, [], pinned=pin) as found:
            found.following.restore([Decided(*link) for link in links])
            return found.chain.newest.number

    assert run(restored, dynasty.links, None) == 3
    assert run(restored, [*dynasty.links[:2], sold(dynasty)[0]], None) == 2
    assert run(restored, sold(dynasty), None) == 1
    assert run(restored, sold(dynasty), dynasty.openings[2]) == 0
    assert run(restored, dynasty.links, dynasty.openings[2]) == 3


# --- when to ask --------------------------------------------------------------------------------------


async def hinted(dynasty: Dynasty) -> tuple[int, int]:
    """Somebody says again and again that epoch 9 runs; how often that makes us ask, and what we know then."""
    questions = 0

    def counted(question: GetHistory) -> Sequence[tuple[bytes, bytes]]:
        nonlocal questions
        questions += 1
        return []

    async with client(dynasty, [counted]) as found, trio.open_nursery() as nursery:
        nursery.start_soon(found.following.run)
        for _ in range(600):
            await found.following._prepare("liar", Finals((), 9))
            await trio.sleep(1)
        nursery.cancel_scope.cancel()
        return questions, found.chain.newest.number


def test_who_cries_wolf_is_asked_after_ever_longer_pauses(dynasty: Dynasty) -> None:
    questions, known = run(hinted, dynasty)
    assert 2 <= questions < 25
    assert known == 0


@pytest.mark.parametrize("epoch", [0, 1, 127, 128, 255, 256, 65_536, 2**32, 2**40])
def test_a_certificates_epoch_is_read_from_its_first_bytes(dynasty: Dynasty, epoch: int) -> None:
    assert certificate_epoch(certify(dynasty.keys[0], dynasty.network, X, epoch=epoch)) == epoch


@pytest.mark.parametrize("raw", [b"", b"\x95", b"\x95\x02\xcf", b"\xff" * 9])
def test_no_certificate_names_no_epoch(raw: bytes) -> None:
    assert certificate_epoch(raw) == 0
