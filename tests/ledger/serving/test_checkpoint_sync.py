from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from ainp2p.errors import InvalidOperation, Refused, RemoteError, StorageError
from ainp2p.ledger.rules.state_tree import ACCOUNT, CREDIT, Leaf, verify_path
from ainp2p.ledger.serving import checkpoint_desk, checkpoint_sync, paced
from ainp2p.ledger.serving.checkpoint_desk import CheckpointDesk, refuse_pruned
from ainp2p.ledger.serving.checkpoint_messages import CheckpointPage, FetchCheckpoint, GetLeafProofs, LeafName
from ainp2p.ledger.serving.checkpoint_sync import Taking, start_from_checkpoint
from ainp2p.ledger.serving.core_lock import CoreLock
from ainp2p.ledger.serving.messages import Decided
from ainp2p.ledger.voting import checkpoints
from ainp2p.ledger.voting.archive import Archive
from ainp2p.ledger.voting.committee_chain import CommitteeChain
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.context import Context

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
    return CheckpointDesk(pair.pruned.store, CoreLock())


def pages_of(pair: Pair, after: int = 0) -> list[CheckpointPage]:
    return list(desk(pair).pages(FetchCheckpoint(after)))


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
        taking(newcomer).give_up()
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
        raw[:-1] + bytes([raw[-1] ^ 1]) if decode(raw, Leaf).kind == CREDIT else raw for raw in page.leaves
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
    "the last leaves left out": lambda pages: [
        msgspec.structs.replace(page, leaves=page.leaves[:-1]) for page in pages
    ],
    "leaves of a smaller state": lambda pages: [msgspec.structs.replace(p, count=p.count - 1) for p in pages],
    "leaves at another place": lambda pages: [
        msgspec.structs.replace(p, index=p.index + 1) if p.leaves else p for p in pages
    ],
    "no path": lambda pages: [msgspec.structs.replace(p, path=p.path + bytes(32)) for p in pages],
    "no leaves": lambda pages: [p for p in pages if not p.leaves],
    "no kept operations": lambda pages: [p for p in pages if not p.kept],
    "a kept operation left out": lambda pages: [
        msgspec.structs.replace(p, kept=p.kept[:1] + p.kept[2:]) for p in pages
    ],
    "kept operations out of order": lambda pages: [
        msgspec.structs.replace(p, kept=p.kept[::-1]) for p in pages
    ],
    "kept operations twice": lambda pages: [msgspec.structs.replace(p, kept=p.kept * 2) for p in pages],
    "the System twice": lambda pages: [pages[0], *pages],
    "an operation of the System as a kept one": lambda pages: [
        msgspec.structs.replace(p, kept=pages[0].system[:1]) if p.kept else p for p in pages
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
    monkeypatch.setattr(Taking, "_check_leaves", lambda self, part: None)
    monkeypatch.setattr(checkpoint_sync, "verify_range", lambda *args: None)
    with pytest.raises((pytest.fail.Exception, StorageError)):
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
    monkeypatch.setattr(checkpoint_sync.Spine, "root", lambda self, epoch: bytes(32))
    monkeypatch.setattr(checkpoint_sync, "verify_range", lambda *args: None)
    assert rows_after_a_stranger_s_leaves(pair, newcomer) > 0


def kept_rows_of(pair: Pair, newcomer: PrunedDisk, times: int) -> int:
    """A true checkpoint, but for what is kept: that comes again and again."""
    found = taking(newcomer)
    with suppress(RemoteError):
        for page in pages_of(pair):
            for _ in range(times if page.kept else 1):
                found.take(page)
    return newcomer.rows("ledger_leaves WHERE epoch < 0")


def test_kept_operations_that_come_again_and_again_do_not_fill_the_disk(
    pair: Pair, newcomer: PrunedDisk
) -> None:
    lived(pair)
    kept = sum(len(page.kept) for page in pages_of(pair))
    assert kept_rows_of(pair, newcomer, 100) == kept


def rows_of_a_long_history(pair: Pair, newcomer: PrunedDisk) -> int:
    """Everything that was ever decided has a certificate: an archive could send it for days."""
    alice = pair.world.ids["alice"]
    stored = pair.archive.store.history(alice, 1, 1)[0]
    journal = pair.archive.journal
    certificate = Archive(journal, pair.committee, pair.world.state.epoch).certificate(stored.id)
    old = Decided(encode(stored.signed), certificate or b"")
    found = taking(newcomer)
    with suppress(RemoteError):
        for page in pages_of(pair):
            found.take(msgspec.structs.replace(page, kept=(old,)) if page.kept else page)
    return newcomer.rows("ledger_leaves WHERE epoch < 0")


def test_operations_that_prove_nothing_of_the_checkpoint_are_not_taken(
    pair: Pair, newcomer: PrunedDisk
) -> None:
    lived(pair)
    assert rows_of_a_long_history(pair, newcomer) == 0


def test_mutant_whatever_is_certified_is_taken(
    pair: Pair, newcomer: PrunedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(pair)
    monkeypatch.setattr(checkpoint_sync, "stays", lambda *args: True)
    monkeypatch.setattr(Taking, "_check_kept", lambda self, part: None)
    assert rows_of_a_long_history(pair, newcomer) == 1


@pytest.mark.parametrize("lie", ["no kept operations", "a kept operation left out"])
def test_mutant_who_does_not_count_what_is_kept_proves_nothing_to_others(
    pair: Pair, newcomer: PrunedDisk, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    monkeypatch.setattr(Taking, "_check_kept", lambda self, part: None)
    with pytest.raises(pytest.fail.Exception):
        test_a_checkpoint_that_is_not_the_committee_s_is_refused(pair, newcomer, lie)


def test_who_gives_up_a_checkpoint_has_its_room_back(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair)
    found = take_all(newcomer, pages_of(pair)[:-1])
    assert newcomer.rows("ledger_leaves") > 0
    found.give_up()
    assert newcomer.rows("ledger_leaves") == 0


# --- pages ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a small checkpoint has many."""
    monkeypatch.setattr(checkpoints, "CHUNK", 4)
    monkeypatch.setattr(checkpoint_desk, "LEAVES_MAX", 3)
    monkeypatch.setattr(checkpoint_desk, "OPERATIONS_MAX", 1)


def rest(pair: Pair, found: Taking) -> list[CheckpointPage]:
    """What another peer sends to whoever has a part."""
    found.begin()
    return list(desk(pair).pages(decode(encode(found.question()), FetchCheckpoint)))


def false_leaves_on_the_disk(pair: Pair, newcomer: PrunedDisk, first_false: int) -> tuple[int, int]:
    """A liar with the true chain; how many pages of leaves it could send, and how many false rows we have."""
    true = {leaf for page in pages_of(pair) for leaf in page.leaves}
    found, sent = taking(newcomer), 0
    with suppress(RemoteError, InvalidOperation):
        for page in pages_of(pair):
            if page.kept:
                break
            sent += bool(page.leaves)
            found.take(with_any_leaf(page) if page.leaves and sent >= first_false else page)
    leaves = newcomer.store.checkpoints.leaves(2)
    return sent, sum(encode(leaf) not in true for leaf in leaves)


def with_any_leaf(page: CheckpointPage) -> CheckpointPage:
    raw = page.leaves[-1]
    return msgspec.structs.replace(page, leaves=(*page.leaves[:-1], raw[:-1] + bytes([raw[-1] ^ 1])))


@pytest.mark.parametrize("first_false", [1, 2, 3])
def test_the_first_false_page_of_leaves_is_the_last_one_that_is_read(
    pair: Pair, newcomer: PrunedDisk, small_pages: None, first_false: int
) -> None:
    lived(pair)
    assert false_leaves_on_the_disk(pair, newcomer, first_false) == (first_false, 0)


def test_mutant_pages_that_are_taken_without_proof_fill_the_disk_with_lies(
    pair: Pair, newcomer: PrunedDisk, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(pair)
    monkeypatch.setattr(checkpoint_sync, "verify_range", lambda *args: None)
    sent, false = false_leaves_on_the_disk(pair, newcomer, 1)
    assert sent == false > 2


def sent_in_all(pair: Pair, newcomer: PrunedDisk, restart: bool) -> tuple[int, int]:
    """Peers that vanish after each page; (leaves, kept operations) that they sent together."""
    found = taking(newcomer)
    leaves = kept = 0
    while not found.complete:
        pages = rest(pair, found)
        system = sum(bool(page.system) for page in pages)
        for page in pages[: system + 1]:
            found.take(page)
            leaves, kept = leaves + len(page.leaves), kept + len(page.kept)
        if restart and not found.complete:
            newcomer.reopen()
            found = taking(newcomer)
    found.install()
    return leaves, kept


@pytest.mark.parametrize("restart", [False, True], ids=["others go on", "after a restart"])
def test_nothing_that_was_proven_is_fetched_twice(
    pair: Pair, newcomer: PrunedDisk, small_pages: None, restart: bool
) -> None:
    lived(pair)
    pages = pages_of(pair)
    whole = sum(len(page.leaves) for page in pages), sum(len(page.kept) for page in pages)
    assert sent_in_all(pair, newcomer, restart) == whole
    assert newcomer.reopen().root() == pair.world.state.root()


def test_mutant_who_forgets_its_part_fetches_it_again(
    pair: Pair, newcomer: PrunedDisk, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(pair)
    found = take_all(newcomer, pages_of(pair)[:-1])
    assert len(rest(pair, found)) == 1
    monkeypatch.setattr(checkpoint_sync, "parts", lambda *args: [])
    assert len(rest(pair, found)) > 3


def test_a_part_of_which_something_is_gone_is_not_gone_on_with(
    pair: Pair, newcomer: PrunedDisk, small_pages: None
) -> None:
    lived(pair)
    take_all(newcomer, pages_of(pair)[:-1])
    newcomer.database.execute("DELETE FROM ledger_leaves WHERE epoch = 2 AND kind = 0")
    found = taking(newcomer)
    for page in rest(pair, found):
        found.take(page)
    found.install()
    assert newcomer.reopen().root() == pair.world.state.root()


def test_b4_leaves_that_changed_on_our_own_disk_are_fetched_again(
    pair: Pair, newcomer: PrunedDisk, small_pages: None
) -> None:
    lived(pair)
    found = take_all(newcomer, [page for page in pages_of(pair) if page.system or page.leaves])
    newcomer.database.execute("UPDATE ledger_leaves SET state = x'00' WHERE kind = 4")
    with pytest.raises(InvalidOperation, match="state-root"):
        take_rest(pair, found)
    take_rest(pair, found)
    found.install()
    assert newcomer.reopen().root() == pair.world.state.root()


def take_rest(pair: Pair, found: Taking) -> None:
    for page in rest(pair, found):
        found.take(page)


def test_who_goes_on_with_a_part_of_an_older_checkpoint_takes_the_newer_one(
    pair: Pair, newcomer: PrunedDisk, small_pages: None
) -> None:
    lived(pair, 1)
    found = take_all(newcomer, pages_of(pair)[:-1])
    lived(pair, 1)
    take_rest(pair, found)
    assert found.install() == 2
    assert newcomer.reopen().root() == pair.world.state.root()
    assert newcomer.rows("ledger_checkpoints") == 1


# --- from one peer after the other ---------------------------------------------------------------------


Answer = Callable[[FetchCheckpoint], list[CheckpointPage]]


class Peers:
    """A network in which each peer has pages to send; `sent` counts their leaves."""

    def __init__(self, pair: Pair, answers: dict[str, Answer], *, pause_s: float = 0.0) -> None:
        self._answers, self._pause_s = answers, pause_s
        self.context = Context.seeded(3, lambda: pair.world.now)
        self.asked: list[str] = []
        self.sent: dict[str, int] = {}

    @asynccontextmanager
    async def stream(
        self, peer: str, protocol: str, body: bytes, *, timeout_s: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append(peer)
        pages = self._answers[peer](decode(body, FetchCheckpoint))

        async def chunks() -> AsyncIterator[bytes]:
            for page in pages:
                if peer == "slow":
                    await trio.sleep(self._pause_s)
                self.sent[peer] = self.sent.get(peer, 0) + len(page.leaves)
                yield encode(page)

        yield chunks()


def start(pair: Pair, newcomer: PrunedDisk, network: Any) -> tuple[int | None, float]:
    """The epoch that was taken over from these peers, and how many seconds that took."""

    async def main() -> tuple[int | None, float]:
        began = trio.current_time()
        epoch = await start_from_checkpoint(
            network, pair.world.genesis, sorted(network._answers), newcomer.database, newcomer.store
        )
        return epoch, trio.current_time() - began

    found: tuple[int | None, float] = run(main)
    return found


def honest(pair: Pair) -> Answer:
    return lambda question: list(desk(pair).pages(question))


def lying(pair: Pair) -> Answer:
    return lambda question: [
        with_any_leaf(page) if page.leaves else page for page in desk(pair).pages(question)
    ]


def leaving_out(pair: Pair) -> Answer:
    return lambda question: [page for page in desk(pair).pages(question) if not page.kept]


def test_a_liar_with_the_true_chain_is_left_at_its_first_page(
    pair: Pair, newcomer: PrunedDisk, small_pages: None
) -> None:
    lived(pair)
    network = Peers(pair, {"honest": honest(pair), **{f"liar {i}": lying(pair) for i in range(5)}})
    assert start(pair, newcomer, network)[0] == 2
    assert newcomer.reopen().root() == pair.world.state.root()
    assert all(network.sent[peer] <= 3 for peer in network.asked if peer != "honest")


def test_where_everybody_lies_nothing_is_taken_and_nothing_is_left(
    pair: Pair, newcomer: PrunedDisk, small_pages: None
) -> None:
    lived(pair)
    network = Peers(pair, {"a": leaving_out(pair), "b": leaving_out(pair)})
    assert start(pair, newcomer, network)[0] is None
    assert len(network.asked) < 10
    assert newcomer.rows("ledger_leaves") == 0


def test_whoever_drips_pages_is_left(pair: Pair, newcomer: PrunedDisk, small_pages: None) -> None:
    lived(pair)
    network = Peers(pair, {"slow": honest(pair), "the other": honest(pair)}, pause_s=9.0)
    epoch, seconds = start(pair, newcomer, network)
    assert (epoch, seconds < 30) == (2, True)


def test_mutant_each_drop_of_a_checkpoint_is_waited_for(
    pair: Pair, newcomer: PrunedDisk, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(pair)
    monkeypatch.setattr(checkpoint_sync, "FIRST_WORD_S", 10.0)
    monkeypatch.setattr(checkpoint_sync, "LEAST_RATE", 0.001)
    network = Peers(pair, {"slow": honest(pair)}, pause_s=9.0)
    assert start(pair, newcomer, network)[1] > 60


def test_a_checkpoint_of_more_leaves_than_a_message_has_elements_is_read_from_the_wire(
    pair: Pair, newcomer: PrunedDisk
) -> None:
    live(pair)
    for _ in range(25):
        pair.decide(pair.world.spend("alice", [("bob", 1)] * 60))
    pair.turn()
    pair.idle()
    network = Peers(pair, {"honest": honest(pair)})
    assert start(pair, newcomer, network)[0] == 1
    assert newcomer.rows("ledger_credits") > 1_024
    assert newcomer.reopen().root() == pair.world.state.root()


def test_who_shows_an_old_checkpoint_only_delays_the_newest(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair, 1)
    old = pages_of(pair)
    lived(pair, 1)

    def outdated(question: FetchCheckpoint) -> list[CheckpointPage]:
        if question.after >= 1:
            raise Refused("no-checkpoint")
        return old

    network = Peers(pair, {"a": outdated, "b": outdated, "c": outdated, "d": honest(pair)})
    assert start(pair, newcomer, network)[0] == 2
    assert newcomer.reopen().root() == pair.world.state.root()


def test_where_no_place_is_free_it_is_asked_again(pair: Pair, newcomer: PrunedDisk) -> None:
    lived(pair)
    tries = 0

    def crowded(question: FetchCheckpoint) -> list[CheckpointPage]:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Refused("busy")
        return list(desk(pair).pages(question))

    assert start(pair, newcomer, Peers(pair, {"only": crowded}))[0] == 2


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
    pages = desk(pair).pages(FetchCheckpoint(0))
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


class Reading:
    """A stream that is read, a page after each pause (None: never)."""

    def __init__(self, peer: str, pause_s: float | None = None) -> None:
        self.peer, self.body, self._pause_s = peer, encode(FetchCheckpoint(0)), pause_s
        self.pages = 0

    async def send(self, body: bytes) -> None:
        await trio.sleep(10**9 if self._pause_s is None else self._pause_s)
        self.pages += 1


def endless(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> CheckpointDesk:
    """A desk whose checkpoint goes on and on, in pages of 75 kB."""
    page = CheckpointPage(2, 9, leaves=(bytes(15_000),) * 5)
    found = desk(pair)
    monkeypatch.setattr(found, "pages", lambda question: itertools.repeat(page))
    return found


async def seconds_until_a_newcomer_is_served(
    desk: CheckpointDesk, crowd: Sequence[str], pause_s: float | None = None, fast: int = 0
) -> float:
    async with trio.open_nursery() as nursery:

        async def occupy(number: int, peer: str) -> None:
            while True:
                with suppress(Refused):
                    await desk.handle(Reading(peer, 0.1 if number < fast else pause_s))
                await trio.sleep(1)

        for number, peer in enumerate(crowd):
            nursery.start_soon(occupy, number, peer)
            await trio.lowlevel.checkpoint()
        await trio.sleep(0.1)
        began = trio.current_time()
        reading = Reading("newcomer", 0.1)
        while trio.current_time() < began + 600 and not reading.pages:
            with suppress(Refused), trio.move_on_after(1):
                await desk.handle(reading)
            await trio.sleep(0.5)
        waited = trio.current_time() - began
        nursery.cancel_scope.cancel()
    return waited


CROWD = [f"stranger {i}" for i in range(16)]


def test_one_peer_that_reads_nothing_takes_no_place_from_others(pair: Pair) -> None:
    lived(pair)
    assert run(seconds_until_a_newcomer_is_served, desk(pair), ["stranger"] * 100) < 2


def test_a_crowd_that_reads_nothing_loses_its_places(pair: Pair) -> None:
    lived(pair)
    assert run(seconds_until_a_newcomer_is_served, desk(pair), CROWD) < 12


@pytest.mark.parametrize("pause_s", [1.0, 5.0, 25.0])
def test_sixteen_slow_readers_shut_nobody_out(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, pause_s: float
) -> None:
    lived(pair)
    assert run(seconds_until_a_newcomer_is_served, endless(pair, monkeypatch), CROWD, pause_s) < 12


def test_mutant_places_without_an_end_shut_newcomers_out(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(pair)
    monkeypatch.setattr(checkpoint_desk, "GRACE_S", 10**9)
    assert run(seconds_until_a_newcomer_is_served, endless(pair, monkeypatch), CROWD, 5.0) > 500


async def pages_of_a_fast_reader(desk: CheckpointDesk, crowd: int) -> int:
    """How much somebody reads in two minutes among many slow ones that come and go."""
    fast = Reading("fast", 0.1)
    async with trio.open_nursery() as nursery:

        async def come_and_go(peer: str) -> None:
            while True:
                with suppress(Refused):
                    await desk.handle(Reading(peer, 2.0))
                await trio.sleep(0.2)

        async def read() -> None:
            await desk.handle(fast)

        nursery.start_soon(read)
        await trio.sleep(0.1)
        for number in range(crowd):
            nursery.start_soon(come_and_go, f"stranger {number}")
        await trio.sleep(120)
        nursery.cancel_scope.cancel()
    return fast.pages


def test_who_reads_fast_keeps_its_place_whoever_comes(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(pair)
    assert run(pages_of_a_fast_reader, endless(pair, monkeypatch), 60) > 1_000


def test_mutant_whoever_was_there_longest_goes_first(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(pair)
    monkeypatch.setattr(checkpoint_desk, "KEEPS_RATE", 10**12)
    monkeypatch.setattr(paced.Place, "rate", lambda self, now_s: self.began_s)
    with pytest.raises(ExceptionGroup):  # it is told "busy"
        run(pages_of_a_fast_reader, endless(pair, monkeypatch), 60)
