"""One ledger on two disks: one that is pruned at each checkpoint, and one that keeps everything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ainp2p.ledger.database import Database
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation, operation_id, parse
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.rules.system import epoch_ends_at
from ainp2p.ledger.store import Decided, Store
from ainp2p.ledger.voting.certificate import pack_place
from ainp2p.ledger.voting.checkpoints import DONE
from ainp2p.ledger.voting.effects import Record, Records
from ainp2p.ledger.voting.validator_store import SqliteJournal
from ainp2p.ledger.voting.votelog import OwnLog, VoteBatch, commit_entry
from ainp2p.protocol.storage import connect_sqlite

from .world import World, key_of

MEMBERS = ("v1", "v2", "v3", "v4")


class PrunedDisk:
    """A validator's file; it is closed and opened as processes come and go."""

    def __init__(
        self, path: Path, world: World, *, keep_history: bool = False, connect: Any = connect_sqlite
    ) -> None:
        self.path, self.world, self.keep_history, self.connect = path, world, keep_history, connect
        self.segment = 0
        self.open()

    def open(self) -> None:
        self.database = Database(self.path, connect=self.connect)
        self.store = Store(self.database, self.world.genesis, keep_history=self.keep_history)
        self.journal = SqliteJournal(self.database, self.store)

    def reopen(self) -> State:
        """Kill the process, start another one."""
        self.database.close()
        self.open()
        return self.store.load()

    def write(
        self, decided: list[Record], batches: list[VoteBatch], segment: int, keepsakes: Sequence[bytes] = ()
    ) -> None:
        own, others = batches[:1], batches[1:]
        records = Records(segment, own, others, [], decided, [], keepsakes=list(keepsakes))
        self.journal.write(records)

    @property
    def done(self) -> bool:
        """Whether nothing is left to prune."""
        return all(each.phase == DONE for each in self.store.checkpoints.all())

    def rows(self, table: str) -> int:
        count: int = self.database.execute(f"SELECT count(*) FROM {table}")[0][0]
        return count


class Pair:
    """The world, and what two validators have written of it; `certificates` proves every operation."""

    def __init__(self, directory: Path, connect: Any = connect_sqlite) -> None:
        self.world = World(validators=tuple((name, 1) for name in MEMBERS))
        self.world.state.check_committee = lambda parsed: None
        self.network = self.world.network
        self.keys = sorted((key_of(name) for name in MEMBERS), key=lambda key: key.public)
        self.pruned = PrunedDisk(directory / "pruned", self.world, connect=connect)
        self.archive = PrunedDisk(directory / "archive", self.world, keep_history=True)
        self.operations: list[ParsedOperation] = []
        self.segment = 0
        self._open_logs(self.network)

    @property
    def disks(self) -> tuple[PrunedDisk, PrunedDisk]:
        return self.pruned, self.archive

    def _open_logs(self, opening: bytes) -> None:
        epoch = self.world.state.epoch
        self.logs = [OwnLog(key, self.network, epoch, i) for i, key in enumerate(self.keys)]
        for log in self.logs:
            log.resume(0, opening)

    def decide(self, *operations: SignedOperation) -> list[ParsedOperation]:
        """Everybody COMMITs to these, in one batch each, and both disks store them in one write."""
        epoch, applied = self.world.state.epoch, []
        for signed in operations:
            parsed = parse(signed)
            applied.append((parsed, self.world.state.apply(parsed)))
            for log in self.logs:
                log.add(commit_entry(0, parsed.id), self.world.now)
        batches = [log.seal(self.world.now) for log in self.logs]
        records = [
            Record(
                Decided(parsed, changes),
                tuple(pack_place(b.member, b.header.height, position) for b in batches),
                epoch,
            )
            for position, (parsed, changes) in enumerate(applied)
        ]
        self.segment += 1
        for disk in self.disks:
            disk.write(records, batches, self.segment)
        self.operations += [parsed for parsed, _ in applied]
        if self.world.state.epoch != epoch:
            self._open_logs(self.world.state.system.head)
        return [parsed for parsed, _ in applied]

    def turn(self) -> None:
        """The epoch ends, and the next one begins."""
        self.world.now = max(self.world.now, epoch_ends_at(self.world.state.system))
        self.decide(self.world.end_epoch())
        self.decide(self.world.next_committee("v1"))

    def idle(self) -> None:
        """Write empty batches until nothing is left to prune."""
        for _ in range(1_000):
            if self.pruned.done:
                return
            self.idle_once()
        raise AssertionError("pruning does not come to an end")

    def keep(self, attachments: Sequence[bytes]) -> None:
        """Both disks keep these."""
        self.idle_once(attachments)

    def idle_once(self, keepsakes: Sequence[bytes] = ()) -> None:
        self.segment += 1
        batches = [log.seal(self.world.now) for log in self.logs]
        for disk in self.disks:
            disk.write([], batches, self.segment, keepsakes)

    def committee(self, epoch: int) -> Committee:
        return self.world.state.committee(epoch)

    def close(self) -> None:
        for disk in self.disks:
            disk.database.close()


def id_of(signed: SignedOperation) -> bytes:
    return operation_id(signed.raw)
