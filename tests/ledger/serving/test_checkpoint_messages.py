"""The wire form of `/ainp2p/checkpoint/1`, one message of each kind as hex, and who asks too much."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import Malformed, Refused
from ainp2p.ledger.rules.state_tree import ACCOUNT, LEAF_SIZE_MAX, Leaf, StateProof
from ainp2p.ledger.serving import checkpoint_desk
from ainp2p.ledger.serving import checkpoint_messages as m
from ainp2p.ledger.serving.checkpoint_desk import CheckpointDesk
from ainp2p.ledger.serving.core_lock import CoreLock
from ainp2p.ledger.serving.messages import Decided
from ainp2p.protocol.codec import Message, decode, encode

from ..pruned import Pair
from ..voting.test_pruning import live

A = b"a" * 32
LEAF = Leaf(ACCOUNT, A, b"state")
LEAF_HEX = "9301c420" + "61" * 32 + "c4057374617465"
VECTORS: list[tuple[Message, str]] = [
    (m.GetLeafProofs((m.LeafName(ACCOUNT, A),)), "9201919201c420" + "61" * 32),
    (m.FetchCheckpoint(7), "9402070090"),
    (m.FetchCheckpoint(7, 14, (m.Begun(7, 512, A, 3),)), "9402070e9194" + "07cd0200c420" + "61" * 32 + "03"),
    (m.LeafProofs(3, (StateProof(LEAF, 0, 1, b""), None)), "93030392" + "94" + LEAF_HEX + "0001c400" + "c0"),
    (
        m.CheckpointPage(3, 9, (Decided(b"op", b"cert"),)),
        "99040309" + "9192c4026f70c40463657274" + "9090" + "0000c400",
    ),
    (
        m.CheckpointPage(3, 9, leaves=(encode(LEAF),), index=1, count=2, path=b"p" * 32),
        "99040309" + "90" + "91c42b" + LEAF_HEX + "90" + "0102c420" + "70" * 32,
    ),
]


@pytest.mark.parametrize(("message", "wire"), VECTORS)
def test_the_wire_form_is_what_it_was(message: Message, wire: str) -> None:
    assert encode(message).hex() == wire
    assert decode(bytes.fromhex(wire), type(message)) == message


def test_questions_are_read_and_answers_are_none() -> None:
    for message, wire in VECTORS[:3]:
        assert m.read_question(bytes.fromhex(wire)) == message
    for _, wire in VECTORS[3:]:
        with pytest.raises(Malformed):
            m.read_question(bytes.fromhex(wire))


@given(st.binary(max_size=64))
def test_garbage_is_malformed(body: bytes) -> None:
    try:
        m.read_question(body)
    except Malformed:
        return
    assert body[:2] in (b"\x92\x01", b"\x94\x02")


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(m.GetLeafProofs(()), id="nothing is asked"),
        pytest.param(m.GetLeafProofs((m.LeafName(ACCOUNT, A),) * (m.PROOFS_MAX + 1)), id="too much"),
        pytest.param(m.GetLeafProofs((m.LeafName(9, A),)), id="no such kind"),
        pytest.param(m.GetLeafProofs((m.LeafName(ACCOUNT, b"a"),)), id="a short id"),
        pytest.param(m.FetchCheckpoint(0, 0, (m.Begun(1, 1),) * (m.BEGUN_MAX + 1)), id="many parts"),
    ],
)
def test_what_is_beyond_its_limits_is_refused(message: Message) -> None:
    with pytest.raises(Malformed):
        m.read_question(encode(message))


def test_a_page_of_as_many_leaves_as_there_may_be_can_be_read() -> None:
    page = m.CheckpointPage(3, 9, leaves=(encode(LEAF),) * m.LEAVES_MAX, index=0, count=9, path=bytes(64))
    assert decode(encode(page), m.CheckpointPage, size_max=m.BODY_SIZE_MAX) == page
    largest = encode(Leaf(ACCOUNT, A + b"ix", bytes(LEAF_SIZE_MAX)))
    page = m.CheckpointPage(3, 9, leaves=(largest,))
    assert decode(encode(page), m.CheckpointPage, size_max=m.BODY_SIZE_MAX) == page


# --- the desk as a shell --------------------------------------------------------------------------------


class Asking:
    """A call, and what came back."""

    def __init__(self, body: bytes, peer: str = "peer") -> None:
        self.body, self.peer = body, peer
        self.pages: list[m.CheckpointPage] = []
        self.ready = trio.Event()

    async def send(self, body: bytes) -> None:
        self.pages.append(decode(body, m.CheckpointPage))
        await trio.lowlevel.checkpoint()


class Stuck(Asking):
    """Somebody who reads nothing."""

    async def send(self, body: bytes) -> None:
        self.ready.set()
        await trio.sleep_forever()


def desk_of(path: Path) -> tuple[Pair, CheckpointDesk]:
    pair = Pair(path)
    live(pair)
    pair.turn()
    pair.idle()
    return pair, CheckpointDesk(pair.pruned.store, CoreLock())


async def ask(desk: CheckpointDesk, asking: Asking) -> bytes | None:
    return await desk.handle(asking)


def test_a_checkpoint_is_streamed_to_its_end(tmp_path: Path) -> None:
    async def main() -> list[m.CheckpointPage]:
        pair, desk = desk_of(tmp_path)
        asking = Asking(encode(m.FetchCheckpoint(0)))
        assert await ask(desk, asking) is None
        pair.close()
        return asking.pages

    pages = trio.run(main)
    assert pages[-1].is_last
    assert not any(page.is_last for page in pages[:-1])


def test_garbage_and_floods_are_refused(tmp_path: Path) -> None:
    async def main() -> set[str]:
        pair, desk = desk_of(tmp_path)
        codes = set()
        many = encode(m.GetLeafProofs((m.LeafName(ACCOUNT, A),) * m.PROOFS_MAX))
        for body in (b"garbage", *[many] * 15):
            try:
                await ask(desk, Asking(body))
            except Refused as refused:
                codes.add(refused.code)
        pair.close()
        return codes

    assert trio.run(main) == {"malformed", "busy"}


def test_only_a_few_fetch_at_one_time(tmp_path: Path) -> None:
    async def main() -> str:
        pair, desk = desk_of(tmp_path)
        async with trio.open_nursery() as nursery:
            for number in range(checkpoint_desk.STREAMS_MAX):
                stuck = Stuck(encode(m.FetchCheckpoint(0)), f"peer {number}")
                nursery.start_soon(ask, desk, stuck)
                await stuck.ready.wait()
            with pytest.raises(Refused) as caught:
                await ask(desk, Asking(encode(m.FetchCheckpoint(0))))
            nursery.cancel_scope.cancel()
        await ask(desk, Asking(encode(m.FetchCheckpoint(0))))  # they are gone
        pair.close()
        return caught.value.code

    assert trio.run(main) == "busy"


def test_a_checkpoint_in_the_making_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.ledger.voting.validator_store._IDLE_STEPS", 1)
    monkeypatch.setattr("ainp2p.ledger.voting.pruning.OPERATIONS", 3)
    pair = Pair(tmp_path)
    live(pair)
    pair.turn()

    async def code() -> str:
        try:
            await ask(CheckpointDesk(pair.pruned.store, CoreLock()), Asking(encode(m.FetchCheckpoint(0))))
        except Refused as refused:
            return refused.code
        return "shown"

    codes = []
    while not pair.pruned.done:
        codes.append(trio.run(code))
        pair.idle_once()
    pair.close()
    assert list(dict.fromkeys(codes)) == ["no-checkpoint", "busy", "shown"]
