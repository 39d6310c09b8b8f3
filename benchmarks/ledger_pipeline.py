"""How many operations one validator of four decides per second of CPU: signatures, votes, state and disk.

The other three validators' vote batches, and all operations, are made beforehand. What is timed is what one
validator does for each operation: parse it, verify its owner's signature, check it, LOCK, COMMIT, sign and
write its own batches, open the others', count eight votes, apply, and store it with its certificate's parts.
Nothing of the network. `verify` is the same machine's bare Ed25519 verification, the ceiling.

The same for one of thirty-one, by turns with it: most of what that adds is reading 54 more votes.

    python -m benchmarks.ledger_pipeline [--accounts 1024] [--rounds 5] [--no-large] [--profile] [--json]
"""

from __future__ import annotations

import argparse
import cProfile
import json
import operator
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nacl.bindings

from ainp2p.ledger.database import Database
from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.genesis import DEVELOPMENT, new_genesis
from ainp2p.ledger.rules.merkle import MerkleTree
from ainp2p.ledger.rules.operations import (
    SignedOperation,
    operation_id,
    parse,
    plain_inception,
    sign_operation,
)
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.serving.garbage import collect_rarely
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.effects import Effects
from ainp2p.ledger.voting.validator import Validator
from ainp2p.ledger.voting.validator_store import SqliteJournal
from ainp2p.ledger.voting.votelog import (
    BATCH_VERSION,
    ENTRIES_MAX,
    Header,
    commit_entry,
    lock_entry,
    sign_batch,
)
from ainp2p.protocol.identity import Key

NOW = 1_700_000_000_000  # ms
VALIDATORS = 4
FAN_OUT = 64  # accounts that one granted account funds
LARGE = 31
GOAL = 10_000  # decided operations per CPU-second
GOAL_LARGE = 2.0  # times what an operation costs at n = 4


def seeded_key(*parts: object) -> Key:
    return Key(repr(parts).encode().ljust(32, b".")[:32])


class Scene:
    """A network, its accounts, and rounds of operations in which each account spends once."""

    def __init__(self, account_count: int, validators: int = VALIDATORS) -> None:
        keys = (seeded_key("v", i) for i in range(validators))
        self.validators = sorted(keys, key=lambda key: key.public)
        self.funders = [seeded_key("f", i) for i in range(-(-account_count // FAN_OUT))]
        self.people = [seeded_key("p", i) for i in range(account_count)]
        self.genesis = new_genesis(
            "benchmark",
            NOW,
            [(key.public, 1, []) for key in self.validators],
            [(plain_inception(key.public), 10**9) for key in self.funders],
            None,
            DEVELOPMENT,
        )
        self.network = self.genesis.network_id
        self.truth = State(self.genesis)  # what the operations are made against

    def _account(self, key: Key) -> accounts.Account:
        unopened = accounts.unopened_account(self.network, plain_inception(key.public))
        return self.truth.accounts.get(unopened.id, unopened)

    def spend(
        self, key: Key, outs: Sequence[tuple[bytes, int]], credits: dict[bytes, int] | None = None
    ) -> SignedOperation:
        account = self._account(key)
        operation = accounts.spend(
            account,
            self.truth.credits_of(account.id) if credits is None else credits,
            self.genesis.parameters,
            network=self.network,
            now_ms=NOW,
            outs=outs,
            inception=None if account.seq else plain_inception(key.public),
        )
        signed = sign_operation(operation, key)
        self.truth.apply(parse(signed))
        return signed

    def funding(self) -> list[SignedOperation]:
        ids = [self._account(key).id for key in self.people]
        return [
            self.spend(key, [(id_, 10_000) for id_ in ids[i * FAN_OUT : (i + 1) * FAN_OUT]])
            for i, key in enumerate(self.funders)
        ]

    def round(self, number: int) -> list[SignedOperation]:
        """Everybody pays 5 uain to somebody else, and consumes what came in before this round."""
        ids = [self._account(key).id for key in self.people]
        credits = [self.truth.credits_of(id_) for id_ in ids]
        count = len(ids)
        return [
            self.spend(key, [(ids[(i * 7 + number) % count], 5)], credits[i])
            for i, key in enumerate(self.people)
        ]


class Others:
    """The vote logs of all validators but the first."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._heads = dict.fromkeys(range(1, len(scene.validators)), (0, scene.network))

    def batches(self, ids: list[bytes], entry: Callable[[int, bytes], bytes]) -> list[bytes]:
        """One batch of each, with a vote in view 0 for each of at most 256 operations."""
        leaves, raws = [entry(0, id_) for id_ in ids], []
        for member, (height, head) in self._heads.items():
            key = self._scene.validators[member]
            header = Header(
                version=BATCH_VERSION,
                network=self._scene.network,
                epoch=0,
                validator=key.public,
                height=height + 1,
                previous=head,
                timestamp=NOW,
                root=MerkleTree(leaves).root,
                count=len(leaves),
            )
            batch = sign_batch(header, leaves, key, member)
            self._heads[member] = (height + 1, batch.id)
            raws.append(batch.raw)
        return raws


Group = tuple[list[SignedOperation], list[bytes], list[bytes]]  # operations, others' LOCKs, others' COMMITs


def groups(operations: list[SignedOperation], others: Others) -> Iterator[Group]:
    for at in range(0, len(operations), ENTRIES_MAX):
        chunk = operations[at : at + ENTRIES_MAX]
        ids = [operation_id(signed.raw) for signed in chunk]
        yield chunk, others.batches(ids, lock_entry), others.batches(ids, commit_entry)


def decide(
    validator: Validator,
    work: Sequence[Group],
    now: int,
    note: Callable[[Effects], None] = lambda effects: None,
) -> int:
    """Play the network's part; returns how many operations became final. `note` is told of all effects."""
    final = 0

    def count(effects: Effects) -> int:
        note(effects)
        return len(effects.finals)

    for operations, locks, commits in work:
        for signed in operations:
            validator.handle_operation(signed, now)
        now += 20
        final += count(validator.tick(now))
        for raw in locks:
            final += count(validator.handle_batch(raw, now))
        now += 20
        final += count(validator.tick(now))
        for raw in commits:
            final += count(validator.handle_batch(raw, now))
    return final + count(validator.tick(now + 2_000))


def bare_verifications_per_s(count: int = 1_000) -> float:
    key = seeded_key("bare")
    signed = key.sign(b"purpose", bytes(32)) + b"purpose\0" + bytes(32)
    start = time.process_time()
    for _ in range(count):
        nacl.bindings.crypto_sign_open(signed, key.public)
    return count / (time.process_time() - start)


class Stage:
    """One validator with its disk, and rounds of work for it."""

    def __init__(self, folder: Path, validators: int, account_count: int, rounds: int) -> None:
        self.scene = Scene(account_count, validators)
        others = self.others = Others(self.scene)
        opening = list(groups(self.scene.funding(), others)) + list(groups(self.scene.round(0), others))
        self.rounds = [list(groups(self.scene.round(n + 1), others)) for n in range(rounds)]
        self.database = Database(folder / f"validator-of-{validators}.sqlite")
        self.store = Store(self.database, self.scene.genesis)
        journal = SqliteJournal(self.database, self.store)
        self.validator = Validator(self.scene.validators[0], self.scene.genesis, self.store.load(), journal)
        for key in self.scene.validators[1:]:
            self.validator.handle_height(key.public, 0, NOW)
        decide(self.validator, opening, NOW)
        self.decided = 0
        self.rates: list[float] = []

    def play(self, number: int) -> None:
        """One round, timed."""
        start = time.process_time()
        final = decide(self.validator, self.rounds[number], NOW + 10_000 * (number + 1))
        self.rates.append(final / (time.process_time() - start))
        self.decided += final

    def check(self) -> None:
        """The state is the one that the operations were made against, in memory and on the disk."""
        assert self.validator.state.root() == self.scene.truth.root()
        assert self.store.load().root() == self.scene.truth.root()
        self.database.close()

    @property
    def us(self) -> float:
        """Microseconds of CPU for one operation, in the best round."""
        return 1e6 / max(self.rates)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accounts", type=int, default=1024, help="that spend once in each round")
    parser.add_argument("--rounds", type=int, default=5, help="the best one is reported, and the median")
    parser.add_argument("--no-large", action="store_true", help=f"without the committee of {LARGE}")
    parser.add_argument("--profile", action="store_true", help="print where the time goes at n = 4")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    sizes = [VALIDATORS] if arguments.no_large else [VALIDATORS, LARGE]
    with tempfile.TemporaryDirectory() as name:
        stages = [Stage(Path(name), n, arguments.accounts, arguments.rounds) for n in sizes]
        small, verifies = stages[0], []
        collect_rarely()  # as a validator's process does
        profile = cProfile.Profile()
        for number in range(arguments.rounds):  # by turns, so that what disturbs one disturbs all
            for stage in stages:
                if arguments.profile and stage is small:
                    profile.enable()
                stage.play(number)
                profile.disable()
            verifies.append(bare_verifications_per_s())
        for stage in stages:
            stage.check()
    figures = {
        "ledger_decided_per_cpu_s": round(max(small.rates)),
        "ledger_decided_per_cpu_s_median": round(statistics.median(small.rates)),
        "ledger_us_per_operation": round(small.us, 1),
        "ledger_verify_per_cpu_s": round(max(verifies)),
        "ledger_ratio_to_verify": round(statistics.median(map(operator.truediv, small.rates, verifies)), 3),
        "ledger_decided": small.decided,
        "ledger_load_average": round(os.getloadavg()[0], 2),
        "ledger_goal_per_cpu_s": GOAL,
    }
    if not arguments.no_large:
        large = stages[1]
        times = map(operator.truediv, small.rates, large.rates)
        figures |= {
            "ledger_large_us_per_operation": round(large.us, 1),
            "ledger_large_times": round(statistics.median(times), 2),
            "ledger_goal_large_times": GOAL_LARGE,
        }
    if arguments.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(35)
    print(json.dumps(figures) if arguments.json else "\n".join(f"{k:32} {v}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
