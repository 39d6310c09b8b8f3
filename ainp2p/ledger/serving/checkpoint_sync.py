"""Starting from others' checkpoint: for a validator with an empty disk, or one that was away for too long.

    FetchCheckpoint ─► the System's operations: followed from the genesis, each COMMITTEE by the one before
                    ─► leaves, page by page, each proven under the root that the last COMMITTEE carries
                    ─► kept operations, each with its certificate
                    ─► in one transaction: what was here goes, the checkpoint becomes the base

What was decided after it comes as always (`object_sync`). Nobody is believed: all that is taken follows from
the genesis, by hashes and certificates, before it comes to our disk. So the first page that is false ends a
peer's turn, and the next one goes on from there; so does the next start, if we are killed. Votes of a past
epoch bind nobody any more ("a vote log is per epoch"), so they may go; evidence stays. A crash before the
transaction leaves the disk as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from ainp2p.errors import Error, InvalidOperation, Malformed, Refused, TimedOut
from ainp2p.ledger.database import Database
from ainp2p.ledger.openings import opened
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import NextCommittee, ParsedOperation
from ainp2p.ledger.rules.state_tree import ACCOUNT, LOCK, Leaf, verify_range
from ainp2p.ledger.rules.system import epoch_ends_at
from ainp2p.ledger.serving.checkpoint_install import Installer, Proven
from ainp2p.ledger.serving.checkpoint_messages import (
    BODY_SIZE_MAX,
    CHECKPOINT_PROTOCOL,
    CheckpointPage,
    FetchCheckpoint,
)
from ainp2p.ledger.serving.checkpoint_part import Part, parts
from ainp2p.ledger.serving.messages import Decided
from ainp2p.ledger.serving.proofs import read_operation
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.checkpoints import DONE, Checkpoint
from ainp2p.ledger.voting.committee_chain import CommitteeChain, end_epoch_id
from ainp2p.ledger.voting.pruning import stays
from ainp2p.protocol.codec import INT_MAX, decode, encode, fast_decoder
from ainp2p.protocol.network import Network, PeerId

PAGE_TIMEOUT_S = 10.0
FIRST_WORD_S = 2.0
PATIENCE_S = 900.0  # for one peer; then another one goes on
SLOW_S = 15.0  # of waiting in all; what comes adds to it, up to as much
LEAST_RATE = 16 * 1024  # bytes a second; from whoever is slower, another one takes over
LEAVES_MAX = 100_000_000  # in one checkpoint
BUSY_TRIES, BUSY_PAUSE_S = 5, 2.0  # when nobody has a place for us

_read_leaf = fast_decoder(Leaf)
_read_account = fast_decoder(Account)
_read_lock = fast_decoder(Lock)


async def start_from_checkpoint(
    network: Network, genesis: Genesis, peers: Sequence[PeerId], database: Database, store: Store
) -> int | None:
    """Take over the newest checkpoint that these peers can prove, if our epoch is long over.

    Call it before the store is loaded. Returns the epoch that it opens; None if we go on from where we are.

    Raises:
        StorageError: the disk failed.
    """
    found: int | None = None
    spine = Spine(genesis)
    # Once more after each: the peer may have shown an old one, and others say no more than "no-checkpoint".
    while epoch_ends_at(store.system()) <= network.context.now_ms():  # else nobody can be further
        taking = Taking(genesis, database, store, after=store.system().epoch, spine=spine)
        epoch = await _start(network, peers, database, taking)
        if epoch is None:
            return found
        found = epoch
    return found


async def _start(network: Network, peers: Sequence[PeerId], database: Database, taking: Taking) -> int | None:
    """Ask one after the other, as long as that brings something."""
    tries = BUSY_TRIES
    while True:
        before, busy = taking.progress(), False
        for peer in network.context.rng.sample(list(peers), len(peers)):
            taking.begin()
            try:
                await _fetch(network, peer, taking)
            except Error as exc:
                if database.failed is not None:
                    raise  # else it has none, is gone, or lies: the next one
                busy |= isinstance(exc, Refused) and exc.code == "busy"
            if taking.complete:
                return taking.install()
        if taking.progress() <= before:
            if not busy or not tries:
                taking.give_up()
                return None
            tries -= 1
            await trio.sleep(BUSY_PAUSE_S)


async def _fetch(network: Network, peer: PeerId, taking: Taking) -> None:
    """Take what this peer has, as long as it does not lie and is not slow.

    Raises:
        Error: it does, or is, or has none.
    """
    question = encode(taking.question())
    with trio.move_on_after(PATIENCE_S):
        async with network.stream(peer, CHECKPOINT_PROTOCOL, question, timeout_s=PAGE_TIMEOUT_S) as chunks:
            patience_s = FIRST_WORD_S  # when all start at once, nobody answers yet
            while not taking.complete:
                asked_s = trio.current_time()
                with trio.move_on_after(patience_s) as scope:
                    body = await anext(chunks, None)
                if scope.cancelled_caught:
                    raise TimedOut(f"{peer} sends its checkpoint too slowly")
                if body is None:
                    return
                left_s = patience_s - (trio.current_time() - asked_s) if taking.began else SLOW_S
                patience_s = min(SLOW_S, left_s + len(body) / LEAST_RATE)
                taking.take(decode(body, CheckpointPage, size_max=BODY_SIZE_MAX))


class Spine:
    """The System's operations, as far as they were shown and proven: what every checkpoint rests on."""

    def __init__(self, genesis: Genesis) -> None:
        self.chain = CommitteeChain.from_genesis(genesis)
        self.operations: list[Proven] = []
        self._network = genesis.network_id

    def take(self, decided: Decided) -> None:
        """The next one.

        Raises:
            Malformed, BadSignature, InvalidOperation: it is not.
        """
        parsed = read_operation(decided.operation)
        if parsed.operation.seq != len(self.operations) + 1:
            raise InvalidOperation("committee-chain", "one is missing")
        if isinstance(parsed.operation.body, NextCommittee):
            self.chain.extend(decided.operation, decided.certificate)
        else:  # "each has only one possible id"
            newest = self.chain.newest
            if parsed.id != end_epoch_id(self._network, newest.number, newest.opening):
                raise InvalidOperation("committee-chain", "not the END-EPOCH of the epoch before")
            self.chain.check(decided.certificate, parsed.id)
        self.operations.append((parsed, decided.certificate))

    def root(self, epoch: int) -> bytes:
        """What the COMMITTEE that opened this epoch says that all leaves come to.

        Raises:
            InvalidOperation: it was not shown.
        """
        if len(self.operations) < 2 * epoch:
            raise InvalidOperation("committee-chain", "the checkpoint's COMMITTEE is missing")
        root = self.chain.epoch(epoch).state_root
        assert root is not None
        return root


class Taking:
    """A checkpoint on its way to our disk, from one peer after the other; the rest changes with `install`.

    Attributes:
        complete: all of it has come.
    """

    def __init__(
        self, genesis: Genesis, database: Database, store: Store, *, after: int, spine: Spine | None = None
    ) -> None:
        """Go on with what the disk has."""
        self._database, self._store, self._after = database, store, after
        self._checkpoints = store.checkpoints
        self._network = genesis.network_id
        self._spine = spine or Spine(genesis)
        self._part: Part | None = None
        self._n = 0
        self._checked = False  # all leaves
        self.complete = False

    def question(self) -> FetchCheckpoint:
        """What we lack."""
        known = parts(self._database, self._checkpoints, self._after)
        return FetchCheckpoint(self._after, len(self._spine.operations), tuple(part.begun for part in known))

    def progress(self) -> int:
        """How much is here of everything; after a lie was found it may be less than before."""
        known = parts(self._database, self._checkpoints, self._after)
        return len(self._spine.operations) + sum(part.leaves + part.kept for part in known)

    def begin(self) -> None:
        """From here on another peer's pages come: what it has may be another epoch's."""
        self._part = None
        self._checked = False

    @property
    def began(self) -> bool:
        """Whether this peer has sent a page."""
        return self._part is not None

    def take(self, page: CheckpointPage) -> None:
        """Take the next page.

        Raises:
            Malformed, BadSignature, InvalidOperation: it is not what it should be.
            StorageError: the disk failed.
        """
        if self._part is None:
            if page.epoch <= self._after:
                raise Malformed("a checkpoint that is not newer")
            self._part, self._n = Part(self._database, self._checkpoints, page.epoch), page.n
        if page.epoch != self._part.epoch:
            raise Malformed("pages of two checkpoints")
        for decided in page.system:
            if len(self._spine.operations) == 2 * page.epoch:
                raise Malformed("more of the System than the checkpoint rests on")
            self._spine.take(decided)
        if page.leaves:
            self._take_leaves(self._part, page)
        if page.kept or page.is_last:
            self._check_leaves(self._part)
        if page.kept:
            self._take_kept(self._part, page.kept)
        if page.is_last:
            self._check_kept(self._part)
        self.complete = page.is_last

    def give_up(self) -> None:
        """Nobody has the rest: what came takes up no room."""
        for part in parts(self._database, self._checkpoints, self._after):
            part.clear()

    def _take_leaves(self, part: Part, page: CheckpointPage) -> None:
        if page.index != part.leaves or page.count > LEAVES_MAX:
            raise Malformed("not the leaves that come next, or more than any state has")
        # Nothing comes to our disk from whoever cannot show the chain, and these leaves under its end.
        verify_range(page.leaves, page.index, page.count, page.path, self._spine.root(part.epoch))
        part.add_leaves([_read_leaf(raw) for raw in page.leaves], page.count)

    def _take_kept(self, part: Part, kept: Sequence[Decided]) -> None:
        found: list[tuple[ParsedOperation, Decided]] = []
        last = part.last
        for decided in kept:
            parsed = read_operation(decided.operation)
            if (parsed.operation.object, parsed.operation.seq) <= last:
                raise Malformed("kept operations out of order")
            last = parsed.operation.object, parsed.operation.seq
            self._spine.chain.check(decided.certificate, parsed.id)
            if last[0] == self._network or not stays(self._checkpoints, part.epoch, self._network, parsed):
                raise Malformed("an operation that proves nothing of the checkpoint")
            found.append((parsed, decided))
        part.add_kept(found)

    def _check_leaves(self, part: Part) -> None:
        """All leaves are here, and our disk has them as they came."""
        if self._checked:
            return
        root = self._spine.root(part.epoch)
        if not part.leaves or part.leaves != part.count:
            raise Malformed("leaves are missing")
        if self._checkpoints.root(part.epoch) != root:
            part.clear()
            raise InvalidOperation("state-root", "the leaves are not those that the COMMITTEE names")
        self._checked = True

    def _check_kept(self, part: Part) -> None:
        """Every account and open Lock has its last operation, every Lock the one that opened it."""
        heads = [(_read_account(leaf.state).seq, leaf.id) for leaf in part.all_leaves(ACCOUNT)]
        locks = [(_read_lock(leaf.state).seq, leaf.id) for leaf in part.all_leaves(LOCK)]
        missing = any(seq and not part.has_kept(id_, seq) for seq, id_ in heads + locks)
        if missing or self._openings(part) != len(locks):
            part.clear_kept()
            raise Malformed("operations that prove accounts or Locks were left out")

    def _openings(self, part: Part) -> int:
        made = (id_ for kept in part.all_kept() for id_ in opened(read_operation(kept.operation)))
        return sum(self._checkpoints.state_of(part.epoch, LOCK, id_) is not None for id_ in made)

    def install(self) -> int:
        """Make it the base, in one transaction; returns its epoch.

        Raises:
            StorageError: the disk failed, or the leaves say more or less than was ever made.
        """
        part = self._part
        assert part is not None
        system = self._spine.operations[: 2 * part.epoch]
        # Where the COMMITTEE stands in our order: as the other says, so that positions can be compared.
        least = part.kept + len(system)
        n = self._n if least <= self._n <= INT_MAX // 2 else least
        base = Checkpoint(part.epoch, n, self._spine.root(part.epoch), DONE)
        Installer(self._network, self._database, self._store, base).install(system, part.kept)
        return part.epoch


__all__ = ["Spine", "Taking", "start_from_checkpoint"]
