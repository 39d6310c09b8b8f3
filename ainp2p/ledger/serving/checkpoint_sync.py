"""Starting from others' checkpoint: for a validator with an empty disk, or one that was away for too long.

    FetchCheckpoint ─► the System's operations: followed from the genesis, each COMMITTEE by the one before
                    ─► all leaves, on to the disk: their root must be the one that the last COMMITTEE carries
                    ─► kept operations, each with its certificate
                    ─► in one transaction: what was here goes, the checkpoint becomes the base

What was decided after it comes as always (`object_sync`). Nobody is believed: all that is taken follows from
the genesis, by hashes and certificates. Votes of a past epoch bind nobody any more ("a vote log is per
epoch"), so they may go; evidence stays. A crash before the transaction leaves the disk as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ainp2p.errors import Error, InvalidOperation, Malformed
from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import NextCommittee, ParsedOperation
from ainp2p.ledger.rules.state_tree import ACCOUNT, BURNT, CREDIT, LOCK, SYSTEM, Leaf
from ainp2p.ledger.rules.system import epoch_ends_at
from ainp2p.ledger.serving.checkpoint_messages import (
    BODY_SIZE_MAX,
    CHECKPOINT_PROTOCOL,
    CheckpointPage,
    FetchCheckpoint,
)
from ainp2p.ledger.serving.messages import Decided
from ainp2p.ledger.serving.proofs import read_operation
from ainp2p.ledger.store import Decided as Applied
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.checkpoints import DONE, FAILED, Checkpoint, Checkpoints
from ainp2p.ledger.voting.committee_chain import CommitteeChain, end_epoch_id
from ainp2p.ledger.voting.pruning import stays
from ainp2p.protocol.codec import INT_MAX, decode, encode
from ainp2p.protocol.network import Network, PeerId

PAGE_TIMEOUT_S = 10.0
FIRST_WORD_S = 2.0
PATIENCE_S = 900.0  # for one peer's whole checkpoint: at 10 MB/s some 50 million leaves
LEAVES_MAX = 100_000_000  # in one checkpoint
KEPT_PER_LEAF = 2  # an object's last operation, and the SPEND that opened a Lock
_KEPT = 9  # as the kind of a leaf: kept operations wait beside them, under the epoch's negative


async def start_from_checkpoint(
    network: Network, genesis: Genesis, peers: Sequence[PeerId], database: Database, store: Store
) -> int | None:
    """Take over the newest checkpoint that one of these peers can prove, if our epoch is long over.

    Call it before the store is loaded. Returns the epoch that it opens; None if we go on from where we are.

    Raises:
        StorageError: the disk failed.
    """
    system = store.system()
    if epoch_ends_at(system) > network.context.now_ms():
        return None  # nobody can be further
    for peer in network.context.rng.sample(list(peers), len(peers)):
        taking = Taking(genesis, database, store, after=system.epoch)
        try:
            await _fetch(network, peer, taking, system.epoch)
        except Error:
            if database.failed is not None:
                raise  # else it has none, is gone, or lies: the next one
        if taking.complete:
            return taking.install()
        taking.give_up()
    return None


async def _fetch(network: Network, peer: PeerId, taking: Taking, after: int) -> None:
    question = encode(FetchCheckpoint(after))
    with trio.move_on_after(FIRST_WORD_S) as scope:  # when all start at once, nobody answers yet
        async with network.stream(peer, CHECKPOINT_PROTOCOL, question, timeout_s=PAGE_TIMEOUT_S) as chunks:
            async for body in chunks:
                if not taking.began:
                    scope.deadline = trio.current_time() + PATIENCE_S
                taking.take(decode(body, CheckpointPage, size_max=BODY_SIZE_MAX))
                if taking.complete:
                    return


class Taking:
    """One checkpoint on its way to our disk. Its leaves wait there; nothing else changes before `install`.

    Attributes:
        complete: all of it has come.
    """

    def __init__(self, genesis: Genesis, database: Database, store: Store, *, after: int) -> None:
        self._database, self._store, self._after = database, store, after
        self._checkpoints: Checkpoints = store.checkpoints
        self._chain = CommitteeChain.from_genesis(genesis)
        self._network = genesis.network_id
        self._system: list[tuple[ParsedOperation, bytes]] = []
        self._kept = self._leaves = 0
        self._epoch = self._n = 0
        self._last: tuple[int, bytes] = (-1, b"")
        self._checked = False  # the leaves
        self.complete = False

    @property
    def began(self) -> bool:
        """Whether a page has come."""
        return self._epoch > 0

    def take(self, page: CheckpointPage) -> None:
        """Take the next page.

        Raises:
            Malformed, BadSignature, InvalidOperation: it is not what it should be.
            StorageError: the disk failed.
        """
        if not self._epoch:
            self._epoch, self._n = page.epoch, page.n
            if page.epoch <= self._after:
                raise Malformed("a checkpoint that is not newer")
        if page.epoch != self._epoch:
            raise Malformed("pages of two checkpoints")
        for decided in page.system:
            self._take_system(decided)
        if page.leaves:
            self._take_leaves(page.leaves)
        if page.kept or page.is_last:
            self._check()
        for decided in page.kept:
            self._take_kept(decided)
        self.complete = page.is_last

    def give_up(self) -> None:
        """What came was not all, or false: it takes up no room."""
        if self._leaves:
            self._clear()

    def _clear(self) -> None:
        """What an earlier attempt left; a crash from here on leaves leaves that `Pruner` discards."""
        with self._database.transaction():
            for epoch in (self._epoch, -self._epoch):
                while not self._checkpoints.discard(epoch, 10_000):
                    pass
                self._checkpoints.put(Checkpoint(epoch, 0, bytes(32), FAILED))

    def _take_system(self, decided: Decided) -> None:
        parsed = read_operation(decided.operation)
        if isinstance(parsed.operation.body, NextCommittee):
            self._chain.extend(decided.operation, decided.certificate)
        else:  # "each has only one possible id"
            newest = self._chain.newest
            if parsed.id != end_epoch_id(self._network, newest.number, newest.opening):
                raise InvalidOperation("committee-chain", "not the END-EPOCH of the epoch before")
            self._chain.check(decided.certificate, parsed.id)
        if parsed.operation.seq != len(self._system) + 1:
            raise InvalidOperation("committee-chain", "one is missing")
        self._system.append((parsed, decided.certificate))

    def _take_leaves(self, leaves: Sequence[Leaf]) -> None:
        for leaf in leaves:
            if (leaf.kind, leaf.id) <= self._last:
                raise Malformed("leaves out of order")
            self._last = leaf.kind, leaf.id
        if not self._leaves:
            self._check_chain()  # nothing comes to our disk from whoever cannot show that
            self._clear()
        self._leaves += len(leaves)
        if self._checked or self._leaves > LEAVES_MAX:
            raise Malformed("more leaves than any state has")
        with self._database.transaction():
            self._database.executemany(
                "INSERT INTO ledger_leaves VALUES (?, ?, ?, ?)",
                [(self._epoch, leaf.kind, leaf.id, leaf.state) for leaf in leaves],
            )

    def _take_kept(self, decided: Decided) -> None:
        parsed = read_operation(decided.operation)
        if parsed.operation.object == self._network:
            return  # they came first
        self._chain.check(decided.certificate, parsed.id)
        if stays(self._checkpoints, self._epoch, self._network, parsed):
            self._kept += 1
            if self._kept > KEPT_PER_LEAF * self._leaves:
                raise Malformed("more kept operations than there are objects: some come twice")
            with self._database.transaction():
                row = (-self._epoch, _KEPT, self._kept.to_bytes(8, "big"), encode(decided))
                self._database.execute("INSERT INTO ledger_leaves VALUES (?, ?, ?, ?)", row)

    def _check_chain(self) -> None:
        newest = self._chain.newest
        if newest.number != self._epoch or len(self._system) != 2 * self._epoch:
            raise InvalidOperation("committee-chain", "the checkpoint's COMMITTEE is missing")

    def _check(self) -> None:
        """All leaves are here, before anything is kept beside them."""
        if self._checked:
            return
        self._check_chain()
        if self._checkpoints.root(self._epoch) != self._chain.newest.state_root:
            raise InvalidOperation("state-root", "the leaves are not those that the COMMITTEE names")
        self._checked = True

    def install(self) -> int:
        """Make it the base, in one transaction; returns its epoch.

        Raises:
            StorageError: the disk failed, or the leaves say more or less than was ever made.
        """
        base, opening = self._number(), self._system[-1]
        with self._database.transaction():
            self._drop_all()
            self._fill_tables()
            self._number_kept(base.n - len(self._system) + 1 - self._kept)
            self._insert(self._system[:-1], base.n - len(self._system) + 1)
            self._checkpoints.put(base)
            self._database.execute("DELETE FROM ledger_leaves WHERE epoch = ?", (-self._epoch,))
            state, _ = self._store.begin()
            self._store.write_one(Applied(opening[0], state.apply(opening[0]), opening[1]))
            self._note_finals([opening])
        return self._epoch

    def _number(self) -> Checkpoint:
        """Where the COMMITTEE stands in our order: as the other says, so that positions can be compared."""
        least = self._kept + len(self._system)
        n = self._n if least <= self._n <= INT_MAX // 2 else least
        root = self._chain.newest.state_root
        assert root is not None
        return Checkpoint(self._epoch, n, root, DONE)

    def _drop_all(self) -> None:
        for table in (
            "ledger_operations",
            "ledger_accounts",
            "ledger_locks",
            "ledger_ended",
            "ledger_system",
            "ledger_credits",
            "ledger_openings",
            "vote_finals",
            "vote_batches",
            "vote_operations",
            "vote_attachments",
        ):
            self._database.execute(f"DELETE FROM {table}")
        self._database.execute("DELETE FROM vote_floors WHERE member >= 0")
        self._database.execute("DELETE FROM ledger_checkpoints")
        own = (self._epoch, -self._epoch)
        self._database.execute("DELETE FROM ledger_leaves WHERE epoch NOT IN (?, ?)", own)

    def _fill_tables(self) -> None:
        for kind, table in (
            (ACCOUNT, "ledger_accounts"),
            (LOCK, "ledger_locks"),
            (SYSTEM, "ledger_system"),
        ):
            self._database.execute(
                f"INSERT INTO {table} SELECT id, state FROM ledger_leaves WHERE epoch = ? AND kind = ?",
                (self._epoch, kind),
            )
        after = CREDIT, b""
        while credits := [
            leaf for leaf in self._checkpoints.leaves(self._epoch, after) if leaf.kind == CREDIT
        ]:
            rows = [(leaf.id, *self._store.read_credit(leaf.state)) for leaf in credits]
            self._database.executemany("INSERT INTO ledger_credits VALUES (?, ?, ?)", rows)
            after = CREDIT, credits[-1].id
        burnt = self._checkpoints.state_of(self._epoch, BURNT, self._network)
        self._database.execute(
            "UPDATE ledger_meta SET value = ? WHERE key = 'burnt'", (decode(burnt or b"", int),)
        )

    def _number_kept(self, first: int) -> None:
        after = b""
        while rows := self._database.execute(
            "SELECT id, state FROM ledger_leaves WHERE epoch = ? AND id > ? ORDER BY kind, id LIMIT 1000",
            (-self._epoch, after),
        ):
            kept = [decode(raw, Decided) for _, raw in rows]
            self._insert([(read_operation(each.operation), each.certificate) for each in kept], first)
            first, after = first + len(rows), rows[-1][0]

    def _insert(self, operations: Sequence[tuple[ParsedOperation, bytes]], first: int) -> None:
        """Operations that the checkpoint stands for, numbered below it, so that the next ones go on there."""
        self._database.executemany(
            "INSERT INTO ledger_operations VALUES (?, ?, ?, ?, ?, ?)",
            [
                (first + i, p.id, p.operation.object, p.operation.seq, encode(p.signed), certificate)
                for i, (p, certificate) in enumerate(operations)
            ],
        )
        self._store.openings.put(parsed for parsed, _ in operations)
        self._note_finals(operations)

    def _note_finals(self, operations: Sequence[tuple[ParsedOperation, bytes]]) -> None:
        self._database.executemany(
            "INSERT INTO vote_finals VALUES (?, ?, ?, x'', ?)",
            [(p.id, p.operation.object, p.operation.seq, self._epoch) for p, _ in operations],
        )


__all__ = ["Taking", "start_from_checkpoint"]
