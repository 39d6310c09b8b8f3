from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trio

from ainp2p.errors import InvalidOperation, Refused, RemoteError
from ainp2p.ledger.rules.state_tree import ACCOUNT, CREDIT, verify_path
from ainp2p.ledger.serving import checkpoint_desk, checkpoint_sync
from ainp2p.ledger.serving.checkpoint_desk import CheckpointDesk, refuse_pruned
from ainp2p.ledger.serving.checkpoint_messages import CheckpointPage, FetchCheckpoint, GetLeafProofs, LeafName
from ainp2p.ledger.serving.checkpoint_sync import Taking
from ainp2p.ledger.serving.messages import Decided
from ainp2p.ledger.voting.committee_chain import CommitteeChain
from ainp2p.protocol.codec import decode, encode

from ..pruned import Pair, PrunedDisk
from ..test_wallet_faults import run
from ..voting.test_pruning import live, prove_everything


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    pair = Pair(tmp_path)
    yield pair
    pair.close()


@pytest.fixture
def newcomer(pair: Pair, tmp_path: Path) -> Iterator[PrunedDisk]:
    """An empty disk."""
    disk = PrunedDisk(tmp_path / "newcomer", pair.world)
    yield disk
    disk.database.close()


def lived(pair: Pair, epochs: int = 2) -> None:
    for _ in range(epochs):
        live(pair)
        pair.turn()
    pair.idle()


def desk(pair: Pair) -> CheckpointDesk:
    return CheckpointDesk(pair.pruned.store, trio.Lock())


def pages_of(pair: Pair, after: int = 0) -> list[CheckpointPage]:
    return list(desk(pair).pages(after))


def taking(disk: PrunedDisk, after: int = 0) -> Taking:
    return Taking(disk.world.genesis, disk.database, disk.store, after=after)


def take_all(disk: PrunedDisk, pages: list[CheckpointPage]) -> Taking:
    found = taking(disk)
    for page in pages:
        found.take(page)
    return found


def test_a_newcomer_starts_from_the_checkpoint(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair)
    assert take_all(newcomer, pages_of(pair)).install() == 2
    loaded = newcomer.reopen()
    assert loaded.root() == pair.world.state.root()
    assert loaded.system == pair.world.state.system
    assert loaded.operations == pair.world.state.operations
    assert newcomer.journal.heads() == pair.pruned.journal.heads()
    assert newcomer.done


def test_a_newcomer_goes_on_with_what_was_decided_since(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair)
    pages = pages_of(pair)
    take_all(newcomer, pages).install()
    newcomer.keep_history = False
    newcomer.reopen()
    pair.archive.database.close()
    pair.archive = newcomer  # it takes part from here on
    live(pair)
    pair.turn()
    pair.idle()
    pair.idle_once()
    assert newcomer.reopen().root() == pair.pruned.reopen().root() == pair.world.state.root()


def test_a_newcomer_can_prove_everything_and_serve_the_next_one(
    pair: Pair, newcomer: PrunedDisk, tmp_path: Path
) -> None:
    lived(pair)
    take_all(newcomer, pages_of(pair)).install()
    newcomer.reopen()
    pair.pruned.database.close()
    pair.pruned = newcomer
    prove_everything(pair)
    another = PrunedDisk(tmp_path / "another", pair.world)
    take_all(another, pages_of(pair)).install()
    assert another.reopen().root() == pair.world.state.root()
    another.database.close()


def test_a_disk_that_was_away_too_long_starts_anew_and_keeps_its_evidence(
    pair: Pair, newcomer: PrunedDisk
) -> None:
    live(pair)
    away, pair.archive = pair.archive, newcomer
    away.database.execute("INSERT INTO vote_evidence (evidence) VALUES (x'00')")
    lived(pair, 1)
    pages = pages_of(pair)
    found = Taking(pair.world.genesis, away.database, away.store, after=0)
    for page in pages:
        found.take(page)
    found.install()
    assert away.reopen().root() == pair.world.state.root()
    assert away.rows("vote_evidence") == 1
    assert away.rows("vote_batches") == 0
    away.database.close()


def test_b2_a_crash_before_it_is_whole_leaves_the_disk_as_it_was(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair)
    pages = pages_of(pair)
    empty = newcomer.store.load().root()
    for cut in range(len(pages)):
        take_all(newcomer, pages[:cut])
        assert newcomer.reopen().root() == empty
    take_all(newcomer, pages).install()
    assert newcomer.reopen().root() == pair.world.state.root()


def test_leaves_of_a_crash_are_discarded_by_the_pruner(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair)
    take_all(newcomer, pages_of(pair)[:-1])
    newcomer.reopen()
    for segment in range(1, 5):
        newcomer.write([], [], segment)
    assert newcomer.rows("ledger_leaves") == newcomer.rows("ledger_checkpoints") == 0


def with_leaf(page: CheckpointPage) -> CheckpointPage:
    """Somebody is richer."""
    leaves = [
        msgspec.structs.replace(leaf, state=leaf.state[:-1] + bytes([leaf.state[-1] ^ 1]))
        if leaf.kind == CREDIT
        else leaf
        for leaf in page.leaves
    ]
    return msgspec.structs.replace(page, leaves=tuple(leaves))


def without_certificate(decided: Decided, other: bytes) -> Decided:
    return Decided(decided.operation, other)


LIES: dict[str, Callable[[list[CheckpointPage]], list[CheckpointPage]]] = {
    "a richer credit": lambda pages: [with_leaf(page) for page in pages],
    "a leaf left out": lambda pages: [
        msgspec.structs.replace(page, leaves=page.leaves[:1] + page.leaves[2:]) for page in pages
    ],
    "leaves twice": lambda pages: [*pages[:2], *pages[1:]],
    "another epoch": lambda pages: [pages[0], *(msgspec.structs.replace(p, epoch=9) for p in pages[1:])],
    "no System": lambda pages: [msgspec.structs.replace(page, system=()) for page in pages],
    "half of the System": lambda pages: [msgspec.structs.replace(p, system=p.system[:2]) for p in pages],
    "END-EPOCH left out": lambda pages: [msgspec.structs.replace(p, system=p.system[1:]) for p in pages],
    "certificates of others": lambda pages: [
        msgspec.structs.replace(
            p, system=tuple(without_certificate(d, p.system[0].certificate) for d in p.system)
        )
        for p in pages
    ],
    "kept without proof": lambda pages: [
        msgspec.structs.replace(
            p, kept=tuple(without_certificate(d, pages[0].system[0].certificate) for d in p.kept)
        )
        for p in pages
    ],
    "an old one": lambda pages: [msgspec.structs.replace(page, epoch=0) for page in pages],
}


@pytest.mark.parametrize("lie", LIES)
def test_a_checkpoint_that_is_not_the_committee_s_is_refused(
    pair: Pair, newcomer: PrunedDisk, lie: str
) -> None:
    lived(pair)
    empty = newcomer.store.load().root()
    with pytest.raises((RemoteError, InvalidOperation)):
        take_all(newcomer, LIES[lie](pages_of(pair)))
    assert newcomer.reopen().root() == empty


def test_a_false_number_of_operations_does_no_harm(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair)
    for false in (0, 2**62):
        pages = [msgspec.structs.replace(page, n=false) for page in pages_of(pair)]
        take_all(newcomer, pages).install()
        assert newcomer.reopen().root() == pair.world.state.root()


def test_a_mutant_that_does_not_check_the_root_is_caught(
    pair: Pair, newcomer: PrunedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Taking, "_check", lambda self: None)
    with pytest.raises(pytest.fail.Exception):
        test_a_checkpoint_that_is_not_the_committee_s_is_refused(pair, newcomer, "a richer credit")


# --- what a liar makes us store --------------------------------------------------------------------


def rows_after_a_stranger_s_leaves(pair: Pair, newcomer: PrunedDisk) -> int:
    """Leaves from somebody who shows no COMMITTEE at all: rows on our disk before that is noticed."""
    page = next(page for page in pages_of(pair) if page.leaves)
    with suppress(RemoteError, InvalidOperation):
        taking(newcomer).take(page)
    return newcomer.rows("ledger_leaves") + newcomer.rows("ledger_checkpoints")


def test_nothing_is_stored_for_whoever_shows_no_chain_of_committees(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair)
    assert rows_after_a_stranger_s_leaves(pair, newcomer) == 0


def test_mutant_leaves_before_the_chain_fill_the_disk(
    pair: Pair, newcomer: PrunedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(pair)
    monkeypatch.setattr(Taking, "_check_chain", lambda self: None)
    assert rows_after_a_stranger_s_leaves(pair, newcomer) > 0


def kept_rows_of(pair: Pair, newcomer: PrunedDisk, times: int) -> int:
    """A true checkpoint, but for what is kept: that comes again and again."""
    found = taking(newcomer)
    with suppress(RemoteError):
        for page in pages_of(pair):
            for _ in range(times if page.kept else 1):
                found.take(page)
    return found._kept


def test_kept_operations_that_come_again_and_again_do_not_fill_the_disk(
    pair: Pair, newcomer: PrunedDisk
) -> None:
    lived(pair)
    leaves = sum(len(page.leaves) for page in pages_of(pair))
    assert kept_rows_of(pair, newcomer, 100) <= 2 * leaves + 1


def test_mutant_kept_operations_without_a_bound_do(
    pair: Pair, newcomer: PrunedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(pair)
    leaves = sum(len(page.leaves) for page in pages_of(pair))
    monkeypatch.setattr(checkpoint_sync, "KEPT_PER_LEAF", 10**9)
    assert kept_rows_of(pair, newcomer, 100) > 4 * leaves


def test_who_gives_up_a_checkpoint_has_its_room_back(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair)
    found = take_all(newcomer, pages_of(pair)[:-1])
    assert newcomer.rows("ledger_leaves") > 0
    found.give_up()
    assert newcomer.rows("ledger_leaves") == 0


# --- what the desk says --------------------------------------------------------------------------------


def test_a_balance_is_proven_under_the_chain_of_committees(pair: Pair) -> None:
    lived(pair, 1)
    base = pair.pruned.store.checkpoints.base
    assert base is not None
    names = [LeafName(leaf.kind, leaf.id) for leaf in pair.pruned.store.checkpoints.leaves(1)]
    answer = desk(pair).prove(GetLeafProofs((*names, LeafName(ACCOUNT, b"n" * 32))))
    chain = CommitteeChain.from_genesis(pair.world.genesis)
    for page in pages_of(pair):
        for decided in page.system[1::2]:
            chain.extend(decided.operation, decided.certificate)
    root = chain.epoch(answer.epoch).state_root
    assert root is not None
    assert answer.proofs[-1] is None
    for name, proof in zip(names, answer.proofs[:-1], strict=True):
        assert proof is not None
        leaf = verify_path(proof, root)
        assert (leaf.kind, leaf.id) == (name.kind, name.id)


def test_before_the_first_checkpoint_there_is_nothing_to_fetch(pair: Pair) -> None:
    live(pair)
    with pytest.raises(Refused, match="no-checkpoint"):
        pages_of(pair)
    assert desk(pair).prove(GetLeafProofs((LeafName(ACCOUNT, b"n" * 32),))).proofs == (None,)


def test_who_has_it_already_is_told_so(pair: Pair) -> None:
    lived(pair)
    with pytest.raises(Refused, match="no-checkpoint"):
        pages_of(pair, after=2)


def test_a_checkpoint_that_is_replaced_meanwhile_ends_early(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair, 1)
    pages = desk(pair).pages(0)
    first = next(pages)
    lived(pair, 1)
    found = take_all(newcomer, [first, *pages])
    assert not found.complete


def test_who_asks_for_what_is_gone_hears_where_it_may_be(pair: Pair) -> None:
    lived(pair)
    assert "--archive" in str(refuse_pruned(pair.pruned.store))
    assert "epoch 2" in str(refuse_pruned(pair.pruned.store))


def test_pages_are_read_from_the_wire_as_they_were(pair: Pair) -> None:
    lived(pair)
    for page in pages_of(pair):
        assert decode(encode(page), CheckpointPage) == page


# --- places -------------------------------------------------------------------------------------------


class Unread:
    """A stream that is asked for, and never read."""

    def __init__(self, peer: str) -> None:
        self.peer, self.body = peer, encode(FetchCheckpoint(0))

    async def send(self, body: bytes) -> None:
        await trio.sleep_forever()


async def seconds_until_a_newcomer_is_served(desk: CheckpointDesk, strangers: list[str]) -> float:
    async with trio.open_nursery() as nursery:

        async def occupy(peer: str) -> None:
            with suppress(Refused):
                await desk.handle(Unread(peer))

        for peer in strangers:
            nursery.start_soon(occupy, peer)
        await trio.sleep(0.1)
        began = trio.current_time()
        while trio.current_time() < began + 600:
            try:
                with trio.move_on_after(1):
                    await desk.handle(Unread("newcomer"))
                break
            except Refused:
                await trio.sleep(1)
        waited = trio.current_time() - began
        nursery.cancel_scope.cancel()
    return waited


def test_one_peer_that_reads_nothing_takes_no_place_from_others(pair: Pair) -> None:
    lived(pair)
    assert run(seconds_until_a_newcomer_is_served, desk(pair), ["stranger"] * 100) < 2


def test_a_crowd_that_reads_nothing_loses_its_places(pair: Pair) -> None:
    lived(pair)
    crowd = [f"stranger {i}" for i in range(100)]
    assert run(seconds_until_a_newcomer_is_served, desk(pair), crowd) < 40


def test_mutant_places_without_an_end_shut_newcomers_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(pair)
    monkeypatch.setattr(checkpoint_desk, "PAGE_TIMEOUT_S", 10**9)
    crowd = [f"stranger {i}" for i in range(100)]
    assert run(seconds_until_a_newcomer_is_served, desk(pair), crowd) > 500
