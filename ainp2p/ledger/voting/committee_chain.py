"""From the genesis to the committee of any epoch: each COMMITTEE certified by the one before. No I/O.

LEDGER.md, "Epochs": "Clients follow the chain of COMMITTEEs from genesis."

    genesis ─committee 0─► COMMITTEE{1} ─committee 1─► COMMITTEE{2} ─ … ─► the newest that is known

The END-EPOCHs between them need not be shown: each has only one possible id. A pinned checkpoint (the id of a
COMMITTEE, from a source that one trusts) can stand in for the genesis and all before it: "Members of an old
committee who sell their keys can forge a history for clients who follow none".
"""

from __future__ import annotations

from dataclasses import dataclass

from ainp2p.errors import InvalidOperation
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import (
    SIGN_COMMITTEE,
    VERSION,
    EndEpoch,
    NextCommittee,
    Operation,
    ParsedOperation,
    Seat,
    SignedOperation,
    operation_id,
    parse,
)
from ainp2p.ledger.rules.parameters import Parameters
from ainp2p.ledger.voting.certificate import read_certificate, verify_decided
from ainp2p.ledger.voting.seen_votes import SeenVotes
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.identity import verify


@dataclass(frozen=True)
class Epoch:
    """What is known of an epoch by the operation that opened it.

    Attributes:
        opening: the id of that COMMITTEE; the network's for epoch 0. It is what a checkpoint pins.
        opened_at: that operation's timestamp, the genesis' for epoch 0; ms since 1970.
        state_root: of the state with which it began; None for epoch 0, which begins with the genesis' grants.
    """

    number: int
    opening: bytes
    opened_at: int
    seats: tuple[Seat, ...]
    committee: Committee
    parameters: Parameters
    state_root: bytes | None


class CommitteeChain:
    """The epochs of one network, from a trusted one on."""

    def __init__(self, network: bytes, first: Epoch) -> None:
        """Begin with an epoch that is trusted; see `from_genesis` and `from_checkpoint`."""
        self.network = network
        self._epochs = [first]
        self._seen_votes = SeenVotes()

    @classmethod
    def from_genesis(cls, genesis: Genesis) -> CommitteeChain:
        """Begin with the genesis' committee."""
        seats = tuple(Seat(member.key, member.weight, member.addresses) for member in genesis.validators)
        network = genesis.network_id
        committee = Committee.of(genesis)
        return cls(network, Epoch(0, network, genesis.created, seats, committee, genesis.parameters, None))

    @classmethod
    def from_checkpoint(cls, network: bytes, pinned: bytes, operation: bytes) -> CommitteeChain:
        """Begin with a COMMITTEE whose id is pinned; its hash is all the proof that it needs.

        Args:
            operation: the encoded SignedOperation.

        Raises:
            Malformed: it is none.
            InvalidOperation: rule ``"checkpoint"``: another operation than the pinned one, or no COMMITTEE.
        """
        parsed = parse(decode(operation, SignedOperation))
        if parsed.id != pinned:
            raise InvalidOperation("checkpoint", "another operation than the pinned one")
        return cls(network, _opened(parsed, network))

    # --- looking ----------------------------------------------------------------------------------

    @property
    def newest(self) -> Epoch:
        """The last epoch that is known."""
        return self._epochs[-1]

    def epoch(self, number: int) -> Epoch:
        """One epoch.

        Raises:
            InvalidOperation: rule ``"epoch"``: before the first trusted one, or not known yet (`extend`).
        """
        first = self._epochs[0].number
        if not first <= number <= self.newest.number:
            raise InvalidOperation(
                "epoch", f"the committee of epoch {number} is not known, only {first} to {self.newest.number}"
            )
        return self._epochs[number - first]

    def committee(self, number: int) -> Committee:
        """The committee of an epoch.

        Raises:
            InvalidOperation: rule ``"epoch"``: as `epoch`.
        """
        return self.epoch(number).committee

    def has(self, opening: bytes) -> bool:
        """Whether the operation with this id (a checkpoint) opened an epoch that is known."""
        return any(epoch.opening == opening for epoch in self._epochs)

    def copy(self) -> CommitteeChain:
        """A chain that can be extended apart from this one."""
        found = CommitteeChain(self.network, self._epochs[0])
        found.adopt(self)
        return found

    def adopt(self, other: CommitteeChain) -> None:
        """Become equal to `other`."""
        self._epochs, self._seen_votes = list(other._epochs), other._seen_votes

    # --- following --------------------------------------------------------------------------------

    def extend(self, operation: bytes, certificate: bytes) -> Epoch:
        """Take the next COMMITTEE, with the certificate of the committee that it replaces; returns its epoch.

        One that is known already is no error.

        Args:
            operation: the encoded SignedOperation.

        Raises:
            Malformed, BadSignature: not what it should be.
            InvalidOperation: rule ``"committee-chain"``: not the one that follows; ``"certificate"``: not
                certified by the committee before.
        """
        parsed = parse(decode(operation, SignedOperation))
        found = _opened(parsed, self.network)
        if found.number <= self.newest.number and self.epoch(found.number) == found:
            return found
        if found.number != self.newest.number + 1:
            raise InvalidOperation(
                "committee-chain", f"it opens epoch {found.number}, the newest known is {self.newest.number}"
            )
        if parsed.operation.previous != end_epoch_id(self.network, self.newest.number, self.newest.opening):
            raise InvalidOperation("committee-chain", "it does not follow the END-EPOCH of the epoch before")
        if self._final(certificate, self.newest) != parsed.id:
            raise InvalidOperation("certificate", "it is another operation's")
        body = parsed.operation.body
        assert isinstance(body, NextCommittee)
        # The certificate answers for it; looked at all the same, so that no byte of a link goes unchecked.
        verify(body.proposer, SIGN_COMMITTEE, parsed.id, parsed.signed.signatures[0])
        self._epochs.append(found)
        return found

    def check(self, certificate: bytes, operation: bytes) -> Epoch:
        """Check that a commit certificate of any known epoch makes this operation final; returns that epoch.

        Raises:
            Malformed, BadSignature: not a certificate.
            InvalidOperation: rule ``"epoch"``: of one that is not known; ``"certificate"``: it proves
                nothing, or another operation.
        """
        epoch = self.epoch(read_certificate(certificate).epoch)
        if self._final(certificate, epoch) != operation:
            raise InvalidOperation("certificate", "it is another operation's")
        return epoch

    def _final(self, certificate: bytes, epoch: Epoch) -> bytes:
        # Operations that were decided together have certificates over the same few headers.
        return verify_decided(certificate, epoch.committee, epoch.number, self.network, self._seen_votes)[1]


def end_epoch(network: bytes, epoch: int, opening: bytes) -> Operation:
    """THE END-EPOCH of an epoch: nobody signs it and it has no timestamp, so there is only one.

    Args:
        opening: the id of the COMMITTEE that opened the epoch; the network's for epoch 0.
    """
    return Operation(VERSION, network, network, 2 * epoch + 1, opening, None, EndEpoch(epoch))


def end_epoch_id(network: bytes, epoch: int, opening: bytes) -> bytes:
    """The id of an epoch's END-EPOCH."""
    return operation_id(encode(end_epoch(network, epoch, opening)))


def _opened(parsed: ParsedOperation, network: bytes) -> Epoch:
    operation, body = parsed.operation, parsed.operation.body
    if not isinstance(body, NextCommittee) or operation.timestamp is None or operation.network != network:
        raise InvalidOperation("checkpoint", "not a COMMITTEE of this network")
    return Epoch(
        body.epoch,
        parsed.id,
        operation.timestamp,
        body.seats,
        Committee.of_seats(body.seats),
        body.parameters,
        body.state_root,
    )


__all__ = ["CommitteeChain", "Epoch", "end_epoch", "end_epoch_id"]
