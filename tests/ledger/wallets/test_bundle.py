"""Bundles judged offline: what is right is proven, and each planted damage is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.cli import main
from ainp2p.errors import InvalidInput
from ainp2p.ledger.rules.merkle import EMPTY_ROOT
from ainp2p.ledger.rules.operations import (
    VERSION,
    NextCommittee,
    Operation,
    ParsedOperation,
    Seat,
    SignedOperation,
    parse,
    sign_committee,
)
from ainp2p.ledger.rules.receipts import Receipt
from ainp2p.ledger.rules.state_tree import ACCOUNT
from ainp2p.ledger.serving.messages import Decided, ObjectHead
from ainp2p.ledger.voting.committee_chain import CommitteeChain, end_epoch_id
from ainp2p.ledger.voting.evidence import TWO_BATCHES, Evidence
from ainp2p.ledger.voting.votelog import BATCH_VERSION, SIGN_VOTES, Header
from ainp2p.ledger.wallets.bundle import (
    Bundle,
    Checkpointed,
    Decision,
    Exhibit,
    Holding,
    Offending,
    Receipted,
    Verdict,
    all_hold,
    judge,
    pack,
    unpack,
)
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.identity import Key, id_text

from ..certifying import certify, member_keys
from ..world import NOW, World, key_of


class Archive:
    """A network that is in its second epoch, and exhibits of each kind from it."""

    def __init__(self) -> None:
        self.world = World()
        self.network = self.world.network
        self.keys: list[list[Key]] = [[key_of("validator")], member_keys(4, "second")]
        first = self.done(self.world.spend("alice", [("bob", 7)], locks=[self.world.terms()]), 0)
        (self.lock,) = self.world.state.locks.values()
        self.tree = self.world.state.tree()
        self.committee = self.next_committee()
        second = self.done(self.world.spend("bob", [("carol", 1)]), 1)
        receipt = self.world.receipt(self.lock, 300)
        account = self.world.account("bob")
        lock_head = ObjectHead(self.lock.id, encode(self.lock), (first,), ())
        self.exhibits: list[Exhibit] = [
            Decision(first),
            Decision(second),
            Holding(ObjectHead(account.id, encode(account), (), (second,))),
            Holding(lock_head),
            Receipted(lock_head, receipt.body, (receipt.signature,)),
            Offending(encode(self.evidence())),
            Checkpointed(1, encode(self.tree.prove(ACCOUNT, self.world.ids["alice"]))),
        ]
        self.raw = self.packed()

    def done(self, signed: SignedOperation, epoch: int) -> Decided:
        self.world.do(signed)
        return self.decided(parse(signed), epoch)

    def decided(self, parsed: ParsedOperation, epoch: int, **how: Any) -> Decided:
        certificate = certify(self.keys[epoch], self.network, parsed.id, epoch=epoch, **how)
        return Decided(encode(parsed.signed), certificate)

    def next_committee(self) -> ParsedOperation:
        body = NextCommittee(
            epoch=1,
            seats=tuple(Seat(key.public, 1, ()) for key in self.keys[1]),
            parameters=self.world.parameters,
            handoffs=(b"h" * 32,),
            evidence=(),
            state_root=self.tree.root,
            proposer=self.keys[0][0].public,
            offenders=(),
            burnt_bonds=(),
            returned_bonds=(),
        )
        previous = end_epoch_id(self.network, 0, self.network)
        operation = Operation(VERSION, self.network, self.network, 2, previous, NOW + 1, body)
        return parse(sign_committee(operation, self.keys[0][0]))

    def evidence(self) -> Evidence:
        """Two batches at one height."""
        culprit, items = self.keys[1][2], []
        for timestamp in (1, 2):
            header = Header(
                BATCH_VERSION, self.network, 1, culprit.public, 1, self.network, timestamp, EMPTY_ROOT, 0
            )
            items.append((encode(header), culprit.sign(SIGN_VOTES, encode(header))))
        return Evidence(
            TWO_BATCHES, culprit.public, tuple(part for item in sorted(items) for part in item), 1
        )

    def packed(
        self,
        exhibits: list[Exhibit] | None = None,
        links: list[Decided] | None = None,
        genesis: bytes | None = None,
    ) -> bytes:
        return pack(
            encode(self.world.genesis) if genesis is None else genesis,
            [self.decided(self.committee, 0)] if links is None else links,
            self.exhibits if exhibits is None else exhibits,
        )


@pytest.fixture(scope="module")
def archive() -> Archive:
    return Archive()


def failed(verdicts: list[Verdict]) -> dict[str, str]:
    return {verdict.part: verdict.says for verdict in verdicts if not verdict.holds}


# --- right --------------------------------------------------------------------------------------------


def test_everything_in_a_good_bundle_is_proven(archive: Archive) -> None:
    verdicts = judge(archive.raw, network=archive.network)
    assert failed(verdicts) == {}
    assert [verdict.part for verdict in verdicts] == [
        "genesis",
        "committee 1",
        *(f"exhibit {n}" for n in range(1, 8)),
    ]
    facts = [verdict.facts for verdict in verdicts[2:]]
    assert [f["kind"] for f in facts] == [
        "operation",
        "operation",
        "account",
        "lock",
        "receipt",
        "evidence",
        "state",
    ]
    assert (facts[0]["epoch"], facts[1]["epoch"]) == (0, 1)
    assert facts[2]["balance"] == archive.world.account("bob").balance
    assert (facts[4]["cumulative"], facts[4]["unpaid"]) == (300, 300)
    assert facts[5]["culprit"] == archive.keys[1][2].public.hex()
    assert facts[6]["account"] == id_text(archive.world.ids["alice"])


def test_a_pinned_checkpoint_is_enough_for_what_comes_after_it(archive: Archive) -> None:
    verdicts = judge(archive.raw, checkpoint=archive.committee.id)
    assert set(failed(verdicts)) == {"exhibit 1", "exhibit 4", "exhibit 5"}  # proven in epoch 0, before it
    assert "only 1 to 1" in failed(verdicts)["exhibit 1"]


def test_a_bundle_of_another_network_is_refused(archive: Archive) -> None:
    verdicts = judge(archive.raw, network=b"z" * 32)
    assert set(failed(verdicts)) == {"genesis"}
    assert len(verdicts) == 1


def test_a_checkpoint_that_is_not_in_the_bundle_proves_nothing(archive: Archive) -> None:
    verdicts = judge(archive.raw, checkpoint=b"z" * 32)
    assert not all_hold(verdicts)
    assert not any(verdict.holds for verdict in verdicts[1:])


# --- planted damage -----------------------------------------------------------------------------------


def one(archive: Archive, exhibit: Exhibit) -> bytes:
    return archive.packed([exhibit])


def decision(archive: Archive, **how: Any) -> bytes:
    return one(archive, Decision(archive.decided(parse_of(archive.exhibits[1]), **how)))


def parse_of(exhibit: Exhibit) -> ParsedOperation:
    assert isinstance(exhibit, Decision)
    return parse(decode(exhibit.decided.operation, SignedOperation))


def a_certificate_of_another_committee(archive: Archive) -> bytes:
    parsed = parse_of(archive.exhibits[1])
    stranger = certify(member_keys(4, "stranger"), archive.network, parsed.id, epoch=1)
    return one(archive, Decision(Decided(encode(parsed.signed), stranger)))


def a_certificate_of_another_epoch_s_committee(archive: Archive) -> bytes:
    parsed = parse_of(archive.exhibits[1])
    older = certify(archive.keys[0], archive.network, parsed.id, epoch=1)
    return one(archive, Decision(Decided(encode(parsed.signed), older)))


def too_few_votes(archive: Archive) -> bytes:
    return decision(archive, epoch=1, members=[0, 1])


def a_certificate_of_another_operation(archive: Archive) -> bytes:
    first, second = parse_of(archive.exhibits[0]), archive.exhibits[1]
    assert isinstance(second, Decision)
    return one(archive, Decision(Decided(encode(first.signed), second.decided.certificate)))


def a_missing_link(archive: Archive) -> bytes:
    return archive.packed([archive.exhibits[1]], links=[])


def an_operation_with_another_amount(archive: Archive) -> bytes:
    parsed, exhibit = parse_of(archive.exhibits[1]), archive.exhibits[1]
    assert isinstance(exhibit, Decision)
    assert parsed.operation.timestamp is not None
    operation = msgspec.structs.replace(parsed.operation, timestamp=parsed.operation.timestamp + 1)
    signed = msgspec.structs.replace(parsed.signed, raw=encode(operation))
    return one(archive, Decision(Decided(encode(signed), exhibit.decided.certificate)))


def an_account_that_is_richer(archive: Archive) -> bytes:
    exhibit, account = archive.exhibits[2], archive.world.account("bob")
    assert isinstance(exhibit, Holding)
    richer = encode(msgspec.structs.replace(account, balance=account.balance + 1))
    return one(archive, Holding(msgspec.structs.replace(exhibit.head, state=richer)))


def a_receipt_of_more_than_was_signed(archive: Archive) -> bytes:
    exhibit = archive.exhibits[4]
    assert isinstance(exhibit, Receipted)
    body = archive.world.receipt(archive.lock, 301).body
    return one(archive, msgspec.structs.replace(exhibit, body=body))


def a_receipt_above_the_deposit(archive: Archive) -> bytes:
    exhibit, receipt = archive.exhibits[4], archive.world.receipt(archive.lock, 300)
    assert isinstance(exhibit, Receipted)
    more = msgspec.structs.replace(decode(receipt.body, Receipt), cumulative=archive.lock.deposit + 1)
    signature = key_of("alice session").sign(b"ainp2p/receipt/1", encode(more))
    return one(archive, msgspec.structs.replace(exhibit, body=encode(more), signatures=(signature,)))


def evidence_of_nothing(archive: Archive) -> bytes:
    evidence = archive.evidence()
    items = (*evidence.items[:2], *evidence.items[:2])
    return one(archive, Offending(encode(msgspec.structs.replace(evidence, items=items))))


def a_state_of_another_root(archive: Archive) -> bytes:
    tree = archive.world.state.tree()
    return one(archive, Checkpointed(1, encode(tree.prove(ACCOUNT, archive.world.ids["bob"]))))


def a_state_of_an_epoch_without_a_root(archive: Archive) -> bytes:
    exhibit = archive.exhibits[6]
    assert isinstance(exhibit, Checkpointed)
    return one(archive, msgspec.structs.replace(exhibit, epoch=0))


DAMAGES: list[tuple[Callable[[Archive], bytes], str]] = [
    (a_certificate_of_another_committee, "signature"),
    (a_certificate_of_another_epoch_s_committee, "no quorum"),
    (too_few_votes, "no quorum"),
    (a_certificate_of_another_operation, "another operation"),
    (a_missing_link, "committee of epoch 1 is not known"),
    (an_operation_with_another_amount, "another operation"),
    (an_account_that_is_richer, "digest"),
    (a_receipt_of_more_than_was_signed, "signature"),
    (a_receipt_above_the_deposit, "more than the deposit"),
    (evidence_of_nothing, "evidence"),
    (a_state_of_another_root, "not under this root"),
    (a_state_of_an_epoch_without_a_root, "no state root"),
]


@pytest.mark.parametrize(("damage", "says"), DAMAGES, ids=[damage.__name__ for damage, _ in DAMAGES])
def test_e12_damage_to_an_exhibit_is_found_and_named(
    archive: Archive, damage: Callable[[Archive], bytes], says: str
) -> None:
    problems = failed(judge(damage(archive), network=archive.network))
    assert list(problems) == ["exhibit 1"]
    assert says in problems["exhibit 1"]


def test_a_forged_link_proves_nothing_and_neither_does_what_rests_on_it(archive: Archive) -> None:
    """Another weight in the committee is another operation: its certificate is missing."""
    body = archive.committee.operation.body
    assert isinstance(body, NextCommittee)
    heavier = msgspec.structs.replace(body.seats[0], weight=100)
    operation = msgspec.structs.replace(
        archive.committee.operation, body=msgspec.structs.replace(body, seats=(heavier, *body.seats[1:]))
    )
    forged = parse(sign_committee(operation, archive.keys[0][0]))
    link = Decided(encode(forged.signed), archive.decided(archive.committee, 0).certificate)
    problems = failed(judge(archive.packed(links=[link]), network=archive.network))
    assert problems.keys() == {"committee 1", "exhibit 2", "exhibit 3", "exhibit 6", "exhibit 7"}


def test_a_flipped_byte_anywhere_is_found(archive: Archive) -> None:
    """Or it changes nothing that is said: an operation's own signatures are outside its id."""
    exhibit = archive.exhibits[1]
    assert isinstance(exhibit, Decision)
    raw = one(archive, exhibit)
    signature = raw.index(parse_of(exhibit).signed.signatures[0])
    for at in range(0, len(raw), 7):
        damaged = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        holds = all_hold(judge(damaged, network=archive.network))
        assert holds == (signature <= at < signature + 64), at


def test_a_truncated_bundle_is_found(archive: Archive) -> None:
    for length in range(0, len(archive.raw), 97):
        assert not all_hold(judge(archive.raw[:length]))


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=200))
@settings(max_examples=60, deadline=None)
def test_bytes_get_a_verdict_never_an_exception(part: bytes, other: bytes) -> None:
    assert not all_hold(judge(part))
    assert not all_hold(judge(encode(Bundle(1, part, (other,), (other,)))))
    genesis = encode(World().genesis)
    assert not all_hold(judge(encode(Bundle(1, genesis, (other,), (other,)))))


def test_an_empty_file_proves_nothing() -> None:
    assert not all_hold(judge(b""))
    assert not all_hold([])


def test_a_bundle_of_a_later_version_is_not_judged(archive: Archive) -> None:
    later = msgspec.structs.replace(unpack(archive.raw), version=2)
    assert "version 2" in failed(judge(encode(later)))["bundle"]


def test_too_many_parts_are_refused(archive: Archive) -> None:
    with pytest.raises(InvalidInput, match="make several"):
        pack(b"", [], [archive.exhibits[0]] * 901)


def test_mutant_certificates_that_nobody_checks(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = too_few_votes(archive)
    assert not all_hold(judge(raw))
    monkeypatch.setattr(CommitteeChain, "check", lambda self, certificate, operation: self.newest)
    assert all_hold(judge(raw))


# --- the command --------------------------------------------------------------------------------------


def test_the_command_says_what_is_proven(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.bundle").write_bytes(archive.raw)
    assert main(["ledger", "verify", str(tmp_path / "a.bundle")]) == 0
    out = capsys.readouterr().out
    assert out.count("PROVEN") == 9
    assert "NOT PROVEN" not in out


def test_the_command_fails_if_one_part_of_one_file_is_not_proven(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.bundle").write_bytes(archive.raw)
    (tmp_path / "b.bundle").write_bytes(too_few_votes(archive))
    assert main(["ledger", "verify", str(tmp_path), "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["part"], "b.bundle" in line["file"]) for line in lines if not line["holds"]] == [
        ("exhibit 1", True)
    ]


def test_the_command_compares_with_the_network_that_is_meant(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, right, other = tmp_path / "a.bundle", tmp_path / "genesis", tmp_path / "other"
    path.write_bytes(archive.raw)
    archive.world.genesis.write(right)
    msgspec.structs.replace(archive.world.genesis, created=NOW + 1).write(other)
    assert main(["ledger", "verify", str(path), "--network", str(right)]) == 0
    assert main(["ledger", "verify", str(path), "--network", str(other)]) == 1
    pinned = id_text(archive.committee.id)
    assert main(["ledger", "verify", str(path), "--checkpoint", pinned]) == 1
    capsys.readouterr()


def test_the_command_refuses_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "verify", str(tmp_path)]) == 2
    assert main(["ledger", "verify", str(tmp_path / "nothing")]) == 2
    assert "nothing was judged" in capsys.readouterr().err
