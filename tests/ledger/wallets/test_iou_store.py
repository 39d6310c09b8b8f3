from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ainp2p.errors import InvalidReceipt
from ainp2p.ledger.wallets.iou import IouBook, Party, SignedLine, new_line, sign_line
from ainp2p.ledger.wallets.iou_store import Ious, open_ious, settle_ious
from ainp2p.protocol.codec import encode
from ainp2p.protocol.storage import INLINE

from ..town import PURSE, Town, open_town
from ..world import key_of
from .test_wallet import until_available

CONTEXT = b"c" * 32


def signed_line(town: Town) -> SignedLine:
    parties = [Party(town.account(name), key_of(name).public, 1_000) for name in ("alice", "bob")]
    line = new_line(town.network_id, parties[0], parties[1], b"s" * 32)
    keys = {key_of(name).public: key_of(name) for name in ("alice", "bob")}
    first, second = (sign_line(line, keys[p.key]) for p in line.parties)
    return SignedLine(encode(line), (first, second))


def opened(town: Town, name: str, directory: Path | None = None) -> Any:
    return open_ious(directory, town.network_id, town.account(name), key_of(name), storage=INLINE)


async def owe(alice: Ious, bob: Ious, amount: int) -> bytes:
    """Alice owes bob so much more; the line."""
    (line,) = alice.books
    await bob.accept(line, await alice.promise(line, amount, 0, CONTEXT))
    return line


async def begin(town: Town, *people: Ious) -> None:
    for ious in people:
        await ious.open(signed_line(town))


async def test_a_line_is_settled_once_a_committee_is_reachable(autojump_clock: Any) -> None:
    async with (
        open_town() as town,
        opened(town, "alice") as alice,
        opened(town, "bob") as bob,
        town.wallet("alice") as payer,
        town.wallet("bob") as payee,
    ):
        await begin(town, alice, bob)
        await owe(alice, bob, 400)
        (settlement,) = await settle_ious(payer, alice)
        assert await bob.take_settlement(payee, settlement) == 400
        assert await bob.take_settlement(payee, settlement) == 0  # told twice
        assert alice.balance == bob.balance == 0
        await until_available(payee, PURSE + 400)
        await owe(alice, bob, 1_000)  # there is credit again


async def test_books_survive_a_restart_and_settle_once(autojump_clock: Any, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    async with open_town(root=tmp_path) as town:
        async with opened(town, "alice", a) as alice, opened(town, "bob", b) as bob:
            await begin(town, alice, bob)
            line = await owe(alice, bob, 400)
            await alice.accept(line, await bob.promise(line, 150, 0, CONTEXT))
        async with opened(town, "alice", a) as alice, opened(town, "bob", b) as bob:
            assert (alice.balance, bob.balance) == (-250, 250)
            with pytest.raises(InvalidReceipt, match="limit"):
                await alice.promise(line, 751, 0, CONTEXT)
            async with town.wallet("alice") as payer:
                (settlement,) = await settle_ious(payer, alice)
        async with (
            opened(town, "alice", a) as alice,
            opened(town, "bob", b) as bob,
            town.wallet("alice") as payer,
            town.wallet("bob") as payee,
        ):
            assert await settle_ious(payer, alice) == [settlement]  # told again, not paid again
            assert await bob.take_settlement(payee, settlement) == 250
            await until_available(payee, PURSE + 250)
            assert alice.balance == bob.balance == 0


async def test_a_crash_after_the_lock_finds_the_same_lock(
    autojump_clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_town(root=tmp_path) as town, town.wallet("alice") as payer:
        async with opened(town, "alice", tmp_path / "a") as alice, opened(town, "bob") as bob:
            await begin(town, alice, bob)
            await owe(alice, bob, 400)
            monkeypatch.setattr(alice, "_keep_settlement", _crash)
            with pytest.raises(RuntimeError):
                await settle_ious(payer, alice)
        async with opened(town, "alice", tmp_path / "a") as alice:
            assert alice.balance == -400  # nothing was noted
            await settle_ious(payer, alice)
            assert len(await payer.locks()) == 1
            assert alice.balance == 0


async def _crash(*_: object) -> None:
    raise RuntimeError("the power is cut")


async def test_mutant_a_settlement_without_its_note_is_paid_twice(
    autojump_clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_town(root=tmp_path) as town, town.wallet("alice") as payer:
        open_lock = payer.open_lock

        async def without_note(*args: Any, note: bytes, **more: Any) -> Any:
            return await open_lock(*args, **more)

        monkeypatch.setattr(payer, "open_lock", without_note)
        async with opened(town, "alice", tmp_path / "a") as alice, opened(town, "bob") as bob:
            await begin(town, alice, bob)
            await owe(alice, bob, 400)
            monkeypatch.setattr(alice, "_keep_settlement", _crash)
            with pytest.raises(RuntimeError):
                await settle_ious(payer, alice)
        async with opened(town, "alice", tmp_path / "a") as alice:
            await settle_ious(payer, alice)
            assert len(await payer.locks()) == 2


async def test_mutant_an_iou_that_is_not_journalled_is_forgotten(
    autojump_clock: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_town() as town:
        async with opened(town, "alice") as alice, opened(town, "bob", tmp_path) as bob:
            await begin(town, alice, bob)

            async def forget(*_: object) -> None:
                return None

            monkeypatch.setattr(bob, "_keep", forget)
            await owe(alice, bob, 400)
        async with opened(town, "bob", tmp_path) as bob:
            assert bob.balance == 0


async def test_an_unknown_line_is_refused(autojump_clock: Any) -> None:
    async with open_town() as town, opened(town, "alice") as alice:
        with pytest.raises(InvalidReceipt, match="line"):
            await alice.promise(b"l" * 32, 1, 0, CONTEXT)
        first = await alice.open(signed_line(town))
        assert await alice.open(signed_line(town)) is first
        assert isinstance(first, IouBook)
