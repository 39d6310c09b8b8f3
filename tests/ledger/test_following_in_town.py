"""Wallets over epochs, in virtual time: at work, away, from nothing, restarted together with everybody."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from ainp2p.errors import Refused, TimedOut
from ainp2p.ledger.rules.genesis import DEVELOPMENT
from ainp2p.ledger.rules.operations import BOND
from ainp2p.ledger.serving.messages import LEDGER_PROTOCOL, GetHeights, Heights, PushBatch
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.wallets.wallet import LockState, Wallet, open_wallet
from ainp2p.protocol.codec import encode
from ainp2p.protocol.storage import INLINE

from . import town as town_module
from .test_wallet_faults import run
from .town import QUIET, Town, open_town
from .world import key_of

EPOCH_S = 120


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = msgspec.structs.replace(DEVELOPMENT, epoch_ms=EPOCH_S * 1000)
    monkeypatch.setattr(town_module, "DEVELOPMENT", parameters)


async def until_epoch(town: Town, epoch: int) -> None:
    with trio.fail_after(5 * EPOCH_S):
        while any(service.epoch < epoch for service in town.services.values()):  # noqa: ASYNC110
            await trio.sleep(0.5)
    with trio.fail_after(60):
        while not all(service.voting for service in town.services.values() if service.seated):  # noqa: ASYNC110
            await trio.sleep(0.05)


async def bond(town: Town, wallet: Wallet, validator: int, life_s: float) -> LockState:
    """A quarter of all money, which weighs as much as one of four."""
    return await wallet.open_lock(
        [(wallet.account_id, 1)],
        town.keys[validator].public,
        town_module.PURSE,
        town_module.PURSE,
        int(life_s * 1000),
        BOND,
        authority=(town.network_id,),
    )


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


async def joins_and_leaves(root: Path, restart: bool) -> dict[str, object]:
    """Four members, five while a bond lasts, four; a wallet is at work all the time."""
    found: dict[str, object] = {}
    async with open_town(root=root) as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        await bob.send(alice.account_id, 1_000_000)
        fifth = await town.recruit()
        await trio.sleep(5)
        bonded = await bond(town, alice, fifth, life_s=1.5 * EPOCH_S)
        found["before"] = town.services[fifth].seated, town.services[fifth].voting
        await until_epoch(town, 1)
        await trio.sleep(6)  # a Follow stream's beat
        seat = next(seat for seat in alice.epoch.seats if seat.key == town.keys[fifth].public)
        found["where"] = tuple(map(bytes.decode, seat.addresses)) == town.services[fifth]._network.addresses
        found["members"] = len(alice.epoch.seats), town.services[fifth].seated, town.services[fifth].voting
        await bob.send(alice.account_id, 1, timeout_s=5)
        await town.stop(0)  # without the new one's vote nothing more would be final
        await bob.send(alice.account_id, 1, timeout_s=5)
        if restart:
            for index in range(1, 5):
                await town.stop(index)
            for index in range(1, 5):
                await town.start(index)
        await town.start(0)
        await until_epoch(town, 2)
        await trio.sleep(6)
        await bob.send(alice.account_id, 1, timeout_s=5)
        found["after"] = len(bob.epoch.seats), town.services[fifth].seated, town.services[fifth].voting
        found["ended"] = not (await alice.lock(bonded.id)).is_open
        fees = 2 + 2  # the bond's, and for the settlements that it will never see
        found["returned"] = (await alice.balance()).available - town_module.PURSE - 1_000_003 + fees
        found["rights"] = town.services[1]._validators.is_member(town.peer(fifth))
        spent = (await alice.balance()).available - 5
        await alice.send(town.account("bob"), spent, timeout_s=5)
        await town.until_equal(10)
    return found


@pytest.mark.parametrize("restart", [False, True], ids=["at work", "everybody restarts"])
def test_a_fifth_validator_joins_by_a_bond_votes_and_leaves(tmp_path: Path, restart: bool) -> None:
    assert run(joins_and_leaves, tmp_path, restart) == {
        "before": (False, False),
        "where": True,
        "members": (5, True, True),
        "after": (4, False, False),
        "ended": True,
        "returned": 0,
        "rights": False,
    }


async def gives_its_seat_up(root: Path) -> dict[str, object]:
    """Five members of the genesis, one of which leaves; a wallet is at work all the time."""
    found: dict[str, object] = {}
    names = ("alice", "bob", "validator 4")
    async with (
        open_town(size=5, names=names, root=root) as town,
        town.network(key_of("passing")) as passing,  # the member's own is in use
        town.wallet_on(passing, "validator 4") as leaver,
        town.wallet("alice") as alice,
    ):
        network, life_ms = town.network_id, 2 * EPOCH_S * 1000
        waiver = await leaver.open_lock(
            [(network, 1)], town.keys[4].public, 1, 1, life_ms, BOND, authority=(network,)
        )
        found["before"] = town.services[4].seated, len(alice.epoch.seats)
        await until_epoch(town, 1)
        await trio.sleep(6)  # a Follow stream's beat
        found["after"] = town.services[4].seated, len(alice.epoch.seats)
        await town.stop(4)
        await alice.send(town.account("bob"), 1, timeout_s=5)
        await town.stop(3)  # of four, one may fail; of five, with one gone, none could
        await alice.send(town.account("bob"), 1, timeout_s=5)
        await town.start(3)
        for epoch in range(2, 2 + life_ms // (EPOCH_S * 1000) + 1):
            await until_epoch(town, epoch)
        await trio.sleep(6)
        await alice.send(town.account("bob"), 1, timeout_s=5)
        found["for ever"] = len(alice.epoch.seats), (await leaver.lock(waiver.id)).is_open
    return found


def test_a_member_of_the_genesis_gives_its_seat_up_and_the_others_go_on(tmp_path: Path) -> None:
    assert run(gives_its_seat_up, tmp_path) == {
        "before": (True, 5),
        "after": (False, 4),
        "for ever": (4, True),
    }


async def tells(told: tuple[bytes, ...], bonded: bool) -> bool:
    """Whether a validator remembers where somebody says that it listens."""
    async with open_town() as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        stranger = key_of("validator 4")
        town.keys.append(stranger)
        if bonded:
            await bob.send(alice.account_id, 1_000_000)
            await bond(town, alice, 4, life_s=EPOCH_S)
            await trio.sleep(1)
        async with town.network(stranger) as network:
            validators = Validators(network, town.genesis)
            await validators.ask(town.peer(0), GetHeights(told), Heights)
        return stranger.public in town.services[0]._validator.addresses


OWN = f"/memory/x/p2p/{key_of('validator 4').peer_id}".encode()


@pytest.mark.parametrize(
    ("told", "bonded", "believed"),
    [
        pytest.param((OWN,), True, True, id="its own, with a bond"),
        pytest.param((OWN,), False, False, id="without a bond"),
        pytest.param((OWN, b"/memory/x/p2p/12D3KooWother"), True, False, id="another's"),
    ],
)
def test_a_validator_tells_of_itself_where_it_listens(
    told: tuple[bytes, ...], bonded: bool, believed: bool
) -> None:
    assert run(tells, told, bonded) == believed


async def pushed_by_who_left(root: Path) -> str:
    """What a member of the last epoch is told when it pushes after its bond has run out."""
    async with open_town(root=root) as town, town.wallet("alice") as alice, town.wallet("bob") as bob:
        await bob.send(alice.account_id, 1_000_000)
        fifth = await town.recruit()
        await bond(town, alice, fifth, life_s=1.5 * EPOCH_S)
        await until_epoch(town, 2)
        network = town.services[fifth]._network
        await town.services[fifth]._validators.ask(town.peer(0), GetHeights(), Heights)
        try:
            await network.request(town.peer(0), LEDGER_PROTOCOL, encode(PushBatch(b"x")))
        except Refused as exc:
            return exc.code
        return ""


def test_who_has_left_pushes_nothing_any_more(tmp_path: Path) -> None:
    assert run(pushed_by_who_left, tmp_path) == "not-a-member"


async def opens_with_a_checkpoint(known: bool) -> int:
    """A wallet from nothing that trusts the COMMITTEE of epoch 1 alone; the epoch in which it pays."""
    async with open_town() as town, town.wallet("alice") as alice:
        await until_epoch(town, 2)
        await alice.send(town.account("bob"), 5, timeout_s=5)
        pin = alice._proofs.chain.epoch(1).opening if known else b"p" * 32
        async with (
            town.network(key_of("bob")) as network,
            open_wallet(
                network, town.genesis, key_of("bob"), None, policy=QUIET, checkpoint=pin, storage=INLINE
            ) as bob,
        ):
            await bob.send(alice.account_id, 1, timeout_s=5)
            return bob.account.epoch


def test_a_wallet_with_a_pinned_checkpoint_pays_after_it() -> None:
    assert run(opens_with_a_checkpoint, True) == 2


def test_a_wallet_whose_checkpoint_nobody_shows_pays_nothing() -> None:
    with pytest.raises(TimedOut):
        run(opens_with_a_checkpoint, False)
