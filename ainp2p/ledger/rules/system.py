"""The System object: which epoch runs, with which committee and parameters; END-EPOCH and COMMITTEE.

    open in e ──END-EPOCH{e}──► closed ──COMMITTEE{e + 1}──► open in e + 1

Pure values. What a COMMITTEE must say follows from a state and from evidence
(`ainp2p.ledger.rules.committee`); that it does so is checked before it is voted for, by whoever holds the
HANDOFFs that it names.
"""

from __future__ import annotations

import msgspec

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import EndEpoch, NextCommittee, Operation, Seat
from ainp2p.ledger.rules.parameters import Parameters
from ainp2p.protocol.codec import Bytes32, Message, Uint


class System(Message, frozen=True):
    """The System after `seq` decided operations; `head` is the last one's id, at first the network's own."""

    id: Bytes32  # the network's
    seq: Uint
    head: Bytes32
    epoch: Uint
    closed: Uint  # 1 between END-EPOCH and COMMITTEE, else 0
    opened_at: Uint  # ms: the timestamp of the COMMITTEE that opened the epoch, of the genesis for the first
    committee: tuple[Seat, ...]
    parameters: Parameters
    root: Bytes32  # the state root that the last COMMITTEE carried; zeros in the first epoch
    evidence: tuple[Bytes32, ...]  # that the last COMMITTEE named
    barred: tuple[Bytes32, ...]  # keys of all offenders so far: never again a seat, never a bond returned


def first_system(genesis: Genesis, network: bytes) -> System:
    """The System at genesis."""
    return System(
        id=network,
        seq=0,
        head=network,
        epoch=0,
        closed=0,
        opened_at=genesis.created,
        committee=tuple(Seat(each.key, each.weight, each.addresses) for each in genesis.validators),
        parameters=genesis.parameters,
        root=bytes(32),
        evidence=(),
        barred=(),
    )


def epoch_ends_at(system: System) -> int:
    """From when on the epoch may be ended, in ms since 1970."""
    return system.opened_at + system.parameters.epoch_ms


def after_end_epoch(system: System, body: EndEpoch, head: bytes) -> System:
    """The System after this END-EPOCH with id `head`.

    Raises:
        InvalidOperation: rule ``"epoch"``, another epoch runs, or it was ended already.
    """
    # LEDGER.md, END-EPOCH: "previous is COMMITTEE{e} or the genesis".
    if system.closed or body.epoch != system.epoch:
        raise InvalidOperation("epoch", f"{body.epoch} is not the one that runs")
    return msgspec.structs.replace(system, seq=system.seq + 1, head=head, closed=1)


def after_committee(system: System, operation: Operation, body: NextCommittee, head: bytes) -> System:
    """The System after this COMMITTEE with id `head`.

    Raises:
        InvalidOperation: rules ``"epoch"``, ``"proposer"``, ``"timestamp"``, ``"offenders"``.
    """
    # LEDGER.md, COMMITTEE: "previous is END-EPOCH{e}".
    if not system.closed or body.epoch != system.epoch + 1:
        raise InvalidOperation("epoch", f"{body.epoch} does not follow a closed one")
    if body.proposer not in {seat.key for seat in system.committee}:
        raise InvalidOperation("proposer", "no member of the epoch before")
    timestamp = operation.timestamp or 0
    if timestamp < system.opened_at:
        raise InvalidOperation("timestamp", f"{timestamp} is before the epoch began, {system.opened_at}")
    barred = {*system.barred, *body.offenders}
    if len(barred) != len(system.barred) + len(body.offenders):
        raise InvalidOperation("offenders", "one was barred before")
    if not barred.isdisjoint(seat.key for seat in body.seats):
        raise InvalidOperation("offenders", "a barred key has a seat")
    return System(
        id=system.id,
        seq=operation.seq,
        head=head,
        epoch=body.epoch,
        closed=0,
        opened_at=timestamp,
        committee=body.seats,
        parameters=body.parameters,
        root=body.state_root,
        evidence=body.evidence,
        barred=tuple(sorted(barred)),
    )
