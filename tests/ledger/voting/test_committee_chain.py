"""Following committees from the genesis, or from a pinned checkpoint: every forged link is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ainp2p.errors import BadSignature, Error, InvalidOperation, Malformed
from ainp2p.ledger.rules.genesis import DEVELOPMENT, new_genesis
from ainp2p.ledger.rules.operations import (
    VERSION,
    NextCommittee,
    Operation,
    ParsedOperation,
    Seat,
    SignedOperation,
    operation_id,
    parse,
    sign_committee,
    unsigned_operation,
)
from ainp2p.ledger.voting import committee_chain
from ainp2p.ledger.voting.certificate import read_certificate
from ainp2p.ledger.voting.committee_chain import CommitteeChain, end_epoch, end_epoch_id
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.identity import Key

from ..certifying import LOCK, certify, member_keys
from ..world import NOW, inception_of


class Dynasty:
    """A network and its committees: each epoch has members of its own."""

    def __init__(self, epochs: int = 3) -> None:
        self.keys = [member_keys(4, f"epoch {e} validator") for e in range(epochs + 1)]
        first: list[tuple[bytes, int, list[str]]] = [(key.public, 1, []) for key in self.keys[0]]
        self.genesis = new_genesis("dynasty", NOW, first, [(inception_of("alice"), 10**6)], None, DEVELOPMENT)
        self.network = self.genesis.network_id
        self.openings = [self.network]
        self.links: list[tuple[bytes, bytes]] = []
        for epoch in range(epochs):
            link = self.link(epoch)
            self.links.append(link)
            self.openings.append(operation_id(parse_raw(link[0]).raw))

    def committee(self, after: int, **fields: Any) -> Operation:
        """The COMMITTEE that closes epoch `after`."""
        seats = tuple(Seat(key.public, 1, ()) for key in self.keys[after + 1])
        body = NextCommittee(
            epoch=after + 1,
            seats=seats,
            parameters=DEVELOPMENT,
            handoffs=(b"h" * 32,),
            evidence=(),
            state_root=b"r" * 32,
            proposer=self.keys[after][0].public,
            offenders=(),
            burnt_bonds=(),
            returned_bonds=(),
        )
        previous = end_epoch_id(self.network, after, self.openings[after])
        operation = Operation(VERSION, self.network, self.network, 2 * after + 2, previous, NOW + after, body)
        body_fields = {k.removeprefix("body_"): fields.pop(k) for k in list(fields) if k.startswith("body_")}
        body = msgspec.structs.replace(body, **body_fields)
        return msgspec.structs.replace(operation, body=body, **fields)

    def link(self, after: int, by: list[Key] | None = None, **fields: Any) -> tuple[bytes, bytes]:
        operation = self.committee(after, **fields)
        signed = sign_committee(operation, self.keys[after][0])
        certificate = certify(by or self.keys[after], self.network, operation_id(signed.raw), epoch=after)
        return encode(signed), certificate

    def chain(self, links: int = 3) -> CommitteeChain:
        chain = CommitteeChain.from_genesis(self.genesis)
        for operation, certificate in self.links[:links]:
            chain.extend(operation, certificate)
        return chain


def parse_raw(operation: bytes) -> ParsedOperation:
    return parse(decode(operation, SignedOperation))


@pytest.fixture(scope="module")
def dynasty() -> Dynasty:
    return Dynasty()


def test_a_client_follows_from_the_genesis_to_the_newest_committee(dynasty: Dynasty) -> None:
    chain = dynasty.chain()
    assert chain.newest.number == 3
    for epoch in range(4):
        assert chain.committee(epoch).keys == tuple(key.public for key in dynasty.keys[epoch])
        assert chain.epoch(epoch).opening == dynasty.openings[epoch]
    assert chain.epoch(0).state_root is None
    assert chain.epoch(2).state_root == b"r" * 32


def test_a_certificate_of_any_known_epoch_is_checked_by_its_own_committee(dynasty: Dynasty) -> None:
    chain, x = dynasty.chain(2), b"x" * 32
    for epoch in range(3):
        assert chain.check(certify(dynasty.keys[epoch], dynasty.network, x, epoch=epoch), x).number == epoch
    with pytest.raises(InvalidOperation, match="not known"):
        chain.check(certify(dynasty.keys[3], dynasty.network, x, epoch=3), x)
    with pytest.raises(BadSignature):
        chain.check(certify(dynasty.keys[1], dynasty.network, x, epoch=2), x)
    with pytest.raises(InvalidOperation, match="another operation"):
        chain.check(certify(dynasty.keys[1], dynasty.network, x, epoch=1), b"y" * 32)


def test_a_link_that_is_known_is_no_error(dynasty: Dynasty) -> None:
    chain = dynasty.chain()
    assert chain.extend(*dynasty.links[0]).number == 1
    assert chain.newest.number == 3


def test_an_end_epoch_has_one_id(dynasty: Dynasty) -> None:
    parsed = parse(unsigned_operation(end_epoch(dynasty.network, 1, dynasty.openings[1])))
    assert parsed.id == end_epoch_id(dynasty.network, 1, dynasty.openings[1])


def skipped(dynasty: Dynasty) -> tuple[bytes, bytes]:
    return dynasty.links[2]


def by_strangers(dynasty: Dynasty) -> tuple[bytes, bytes]:
    return dynasty.link(1, member_keys(4, "stranger"))


def by_an_older_committee(dynasty: Dynasty) -> tuple[bytes, bytes]:
    operation = dynasty.link(1)[0]
    return operation, certify(dynasty.keys[0], dynasty.network, parse_raw(operation).id, epoch=0)


def by_its_own_committee(dynasty: Dynasty) -> tuple[bytes, bytes]:
    operation = dynasty.link(1)[0]
    return operation, certify(dynasty.keys[2], dynasty.network, parse_raw(operation).id, epoch=2)


def by_too_few(dynasty: Dynasty) -> tuple[bytes, bytes]:
    operation = dynasty.link(1)[0]
    few = certify(dynasty.keys[1], dynasty.network, parse_raw(operation).id, epoch=1, members=[0, 1])
    return operation, few


def only_locked(dynasty: Dynasty) -> tuple[bytes, bytes]:
    operation = dynasty.link(1)[0]
    return operation, certify(dynasty.keys[1], dynasty.network, parse_raw(operation).id, epoch=1, kind=LOCK)


def with_another_s_certificate(dynasty: Dynasty) -> tuple[bytes, bytes]:
    return dynasty.link(1, timestamp=NOW + 99)[0], dynasty.link(1)[1]


def after_another_end(dynasty: Dynasty) -> tuple[bytes, bytes]:
    return dynasty.link(1, previous=end_epoch_id(dynasty.network, 1, b"z" * 32))


def of_another_network(dynasty: Dynasty) -> tuple[bytes, bytes]:
    return dynasty.link(1, network=b"z" * 32, object=b"z" * 32)


def an_end_epoch(dynasty: Dynasty) -> tuple[bytes, bytes]:
    signed = unsigned_operation(end_epoch(dynasty.network, 1, dynasty.openings[1]))
    return encode(signed), dynasty.links[1][1]


def with_a_byte_flipped(dynasty: Dynasty) -> tuple[bytes, bytes]:
    operation, certificate = dynasty.links[1]
    return operation, certificate[:-1] + bytes([certificate[-1] ^ 1])


def garbage(dynasty: Dynasty) -> tuple[bytes, bytes]:
    return b"garbage", dynasty.links[1][1]


LIES: list[Callable[[Dynasty], tuple[bytes, bytes]]] = [
    skipped,
    by_strangers,
    by_an_older_committee,
    by_its_own_committee,
    by_too_few,
    only_locked,
    with_another_s_certificate,
    after_another_end,
    of_another_network,
    an_end_epoch,
    with_a_byte_flipped,
    garbage,
]


@pytest.mark.parametrize("lie", LIES)
def test_e12_a_forged_link_is_refused_and_changes_nothing(
    dynasty: Dynasty, lie: Callable[[Dynasty], tuple[bytes, bytes]]
) -> None:
    chain = dynasty.chain(1)
    with pytest.raises((InvalidOperation, BadSignature, Malformed)):
        chain.extend(*lie(dynasty))
    assert chain.newest.number == 1
    assert chain.extend(*dynasty.links[1]).number == 2


# --- checkpoints --------------------------------------------------------------------------------------


def test_a_pinned_checkpoint_stands_in_for_all_before_it(dynasty: Dynasty) -> None:
    chain = CommitteeChain.from_checkpoint(dynasty.network, dynasty.openings[2], dynasty.links[1][0])
    assert chain.newest.number == 2
    assert chain.extend(*dynasty.links[2]).number == 3
    with pytest.raises(InvalidOperation, match="only 2 to 3"):
        chain.committee(1)


def test_a_checkpoint_with_another_operation_is_refused(dynasty: Dynasty) -> None:
    with pytest.raises(InvalidOperation, match="pinned"):
        CommitteeChain.from_checkpoint(dynasty.network, dynasty.openings[2], dynasty.links[0][0])
    end = an_end_epoch(dynasty)[0]
    with pytest.raises(InvalidOperation, match="not a COMMITTEE"):
        CommitteeChain.from_checkpoint(dynasty.network, parse_raw(end).id, end)
    with pytest.raises(InvalidOperation, match="not a COMMITTEE"):
        CommitteeChain.from_checkpoint(b"z" * 32, dynasty.openings[2], dynasty.links[1][0])


def test_mutant_a_chain_that_does_not_ask_who_certified(
    dynasty: Dynasty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defence off: an old committee whose keys were sold writes a history of its own."""
    chain, forged = dynasty.chain(1), by_strangers(dynasty)
    with pytest.raises(Error):
        chain.extend(*forged)
    monkeypatch.setattr(
        committee_chain, "verify_decided", lambda raw, *_: (0, read_certificate(raw).operation)
    )
    assert chain.extend(*forged).number == 2
