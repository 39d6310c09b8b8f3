"""A member that shows different logs to different others; what one of them alone saw must bind all.

Member 3 of four has no core: the test signs its batches. At each height it has two of them, and shows either
to whomever it likes. So an operation can be prepared at one correct member only, which COMMITs; then
everybody must decide it, whoever leads, crashes, or is shown what later.
"""

from __future__ import annotations

import pytest

from ainp2p.ledger.rules.operations import SignedOperation, operation_id
from ainp2p.ledger.voting.exhibits import Exhibits
from ainp2p.ledger.voting.picking import leader
from ainp2p.ledger.voting.votelog import OwnLog, commit_entry, lock_entry
from tests.ledger.committee_world import CommitteeWorld, demand

TRAITOR = 3
SOON = 300  # ms


class Fork:
    """The traitor's two logs."""

    def __init__(self, world: CommitteeWorld) -> None:
        self.world = world
        key = world.keys[TRAITOR]
        self.logs = [OwnLog(key, world.network, 0, TRAITOR) for _ in range(2)]
        self.shown: list[list[bytes]] = [[], []]
        world.crash(TRAITOR)

    def say(self, which: int, record: bytes, *to: int) -> None:
        """The next batch of one log, to these."""
        log = self.logs[which]
        log.add(record, self.world.now)
        raw = log.seal(self.world.now).raw
        self.shown[which].append(raw)
        for index in to:
            self.world.send_batch(TRAITOR, index, raw)

    def reveal(self, which: int, *to: int) -> None:
        """All of one log, to somebody who has the other."""
        for index in to:
            for raw in self.shown[which]:
                self.world.send_batch(TRAITOR, index, raw)


def prepared_at_one(
    name: str, witness: int, *, crash: bool = False, commit: bool = False, reveal: bool = False
) -> tuple[CommitteeWorld, SignedOperation]:
    """x is prepared at the witness alone, by a LOCK of the traitor that only it was shown."""
    world = CommitteeWorld((1, 1, 1, 1), names=("alice", "bob", "carol", "dave"))
    world.auditor.cheats.add(world.ids[name])
    fork = Fork(world)
    world.run(1_000)
    x, y = world.spend(name, [("bob", 5)]), world.spend(name, [("bob", 6)])
    second, third = (index for index in range(3) if index != witness)
    world.submit(x, [witness, second])
    world.submit(y, [third])
    world.run(SOON)
    fork.say(0, lock_entry(0, operation_id(x.raw)), witness)
    fork.say(1, lock_entry(0, operation_id(y.raw)), second, third)
    world.run(SOON)
    committed = {member for member, *_ in world.auditor.committed}
    demand(committed == {witness}, "one alone has COMMITted")
    if commit:
        fork.say(0, commit_entry(0, operation_id(x.raw)), witness)
        fork.say(1, commit_entry(0, operation_id(y.raw)), second, third)
    if reveal:
        fork.reveal(1, witness)
        fork.reveal(0, second, third)
    if crash:
        world.crash(witness)
        world.run(100)
        world.start(witness)
    return world, x


def decided(world: CommitteeWorld, name: str) -> bool:
    return all(validator.state.head(world.ids[name])[0] >= 1 for validator in world.alive)


@pytest.mark.parametrize("name", ["alice", "bob", "carol", "dave"])
@pytest.mark.parametrize("witness", [0, 1, 2])
@pytest.mark.parametrize("how", ["calm", "crash", "commit", "reveal", "all"])
def test_b1_what_is_prepared_at_one_member_alone_is_decided_by_all(name: str, witness: int, how: str) -> None:
    how_far = {key: how in (key, "all") for key in ("crash", "commit", "reveal")}
    world, x = prepared_at_one(name, witness, **how_far)
    world.run_until(lambda: decided(world, name), 30_000)
    assert {validator.state.head(world.ids[name]) for validator in world.alive} == {(1, operation_id(x.raw))}
    world.demand_equal()
    assert world.auditor.voided == 0
    if how in ("reveal", "all"):
        culprits = {culprit for v in world.alive for _, culprit in v._archive.culprits}
        assert world.keys[TRAITOR].public in culprits


def second_witness_crashes(name: str, witness: int) -> None:
    """Another COMMITs by the certificate that the witness shows, restarts at once, and has to stand by it.

    The witness's own NEWVIEWs are lost afterwards, so the certificate is on the other's disk or nowhere.
    """
    world, x = prepared_at_one(name, witness)
    second, third = (index for index in range(3) if index != witness)
    held: list[bytes] = []
    take = Exhibits.take_certificate

    def note(self: Exhibits, raw: bytes) -> None:
        take(self, raw)
        held.append(raw)

    Exhibits.take_certificate = note  # type: ignore[method-assign]
    try:
        world.run_until(lambda: bool(held), 10_000)
        world.run(5)
    finally:
        Exhibits.take_certificate = take  # type: ignore[method-assign]
    for index in (second, third):
        world.crash(index)
        world.run(30)
        world.start(index)
    world.run_until(lambda: decided(world, name), 60_000)
    demand(
        {v.state.head(world.ids[name]) for v in world.alive} == {(1, operation_id(x.raw))},
        "not what was committed",
    )


@pytest.mark.parametrize("name", ["alice", "bob", "carol", "dave"])
def test_b1_whoever_commits_by_a_certificate_stands_by_it_after_a_restart(name: str) -> None:
    second_witness_crashes(name, 0)


def views_needed() -> int:
    """Where another than the witness leads view 1."""
    world = CommitteeWorld((1, 1, 1, 1), names=("alice", "bob", "carol", "dave"))
    name = next(n for n in world.names if leader(world.committee, 0, world.ids[n], 1, 1) in (1, 2))
    world, _ = prepared_at_one(name, 0)
    world.run_until(lambda: decided(world, name), 60_000)
    return world.auditor.views[world.ids[name], 1]


def test_another_leads_with_the_certificate_that_the_witness_shows() -> None:
    assert views_needed() == 1


def test_mutant_without_certificates_that_travel_only_the_witness_can_lead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Exhibits, "take_certificate", lambda *_: None)
    assert views_needed() > 1
