"""The protocol's vectors: fresh, and each of them read and judged by the library as another node would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from ainp2p.errors import Error
from ainp2p.ledger.rules import committee
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.merkle import root_from_path
from ainp2p.ledger.rules.operations import (
    Inception,
    NextCommittee,
    ParsedOperation,
    Seat,
    SignedOperation,
    Void,
    account_id,
    operation_id,
    parse,
    unsigned_operation,
)
from ainp2p.ledger.rules.state import State
from ainp2p.ledger.rules.state_tree import StateProof, verify_path
from ainp2p.ledger.rules.system import System
from ainp2p.ledger.serving.reconcile import Reconciler
from ainp2p.ledger.serving.reconcile_index import ReconcileIndex
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.attested import Attested, verify_attested
from ainp2p.ledger.voting.certificate import verify_certificate, verify_prepared
from ainp2p.ledger.voting.committee_chain import end_epoch_id
from ainp2p.ledger.voting.evidence import Offence, read_evidence, verify_evidence
from ainp2p.ledger.voting.handoff import Checked, check_handoff, check_signature, frontier_root, unite
from ainp2p.ledger.voting.justification import choose, read_justification, verify
from ainp2p.ledger.voting.picking import Conflict, leader, pick
from ainp2p.ledger.voting.votelog import Handoff, Header, split_entries
from ainp2p.protocol.codec import decode, encode
from tools import ledger_story, ledger_vectors

FILES = {path.stem: json.loads(path.read_text("utf-8")) for path in ledger_vectors.FOLDER.glob("*.json")}
GENESIS = Genesis.from_bytes(bytes.fromhex(FILES["people"]["genesis"]))
NETWORK = GENESIS.network_id
COMMITTEE = Committee.of(GENESIS)


def raw(value: str) -> bytes:
    return bytes.fromhex(value)


def signed(vector: Mapping[str, Any]) -> SignedOperation:
    return decode(raw(vector["signed"]), SignedOperation)


OPERATIONS: dict[str, Any] = {name: each for name, each in FILES["operations"].items() if name != "receipt"}


def replayed(*more: Mapping[str, Any]) -> State:
    """A state after all operations of the file, in its order."""
    state = State(GENESIS)
    for vector in (*OPERATIONS.values(), *more):
        state.apply(parse(signed(vector)))
    return state


def test_the_files_are_fresh() -> None:
    made = ledger_vectors.documents()
    assert made.keys() == FILES.keys()
    for name, document in made.items():
        path = ledger_vectors.FOLDER / f"{name}.json"
        assert path.read_text("utf-8") == ledger_vectors.text(document), "python -m tools.ledger_vectors"


def test_mutant_another_operation_makes_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_story, "PURSE", ledger_story.PURSE + 1)
    stale = ledger_vectors.documents()
    assert ledger_vectors.text(stale["people"]) != (ledger_vectors.FOLDER / "people.json").read_text("utf-8")


def test_the_network_and_its_accounts_follow_from_the_genesis() -> None:
    people = FILES["people"]
    assert NETWORK.hex() == people["network"]
    assert [each.hex() for each in COMMITTEE.keys] == people["committee"]
    assert (COMMITTEE.quorum, COMMITTEE.minority) == (people["quorum"], people["minority"])
    state = State(GENESIS)
    assert state.root().hex() == people["state root"]
    granted = [people["accounts"][name] for name in ledger_story.NAMES]
    assert [state.credits[raw(id_)].account.hex() for id_, *_ in people["first credits"]] == granted
    made = {
        name: account_id(NETWORK, decode(raw(each), Inception)) for name, each in people["inceptions"].items()
    }
    assert {name: id_.hex() for name, id_ in made.items()} == people["accounts"]


def test_every_operation_is_valid_where_it_stands_and_changes_what_is_written() -> None:
    state = State(GENESIS)
    for name, vector in OPERATIONS.items():
        parsed = parse(signed(vector))
        assert (parsed.raw.hex(), parsed.id.hex()) == (vector["raw"], vector["id"]), name
        if not isinstance(parsed.operation.body, Void):
            state.check(parsed, vector["now"])
        changes = state.apply(parsed)
        assert [encode(each).hex() for each in changes.accounts] == vector["accounts"], name
        assert [encode(each).hex() for each in changes.locks] == vector["locks"], name
        assert [[i.hex(), c.account.hex(), c.amount] for i, c in changes.made] == vector["credits"], name
        assert [each.hex() for each in changes.consumed] == vector["consumed"], name
        assert changes.burnt == vector["burnt"], name
        assert state.supply().total == GENESIS.supply
    for vector in OPERATIONS.values():
        assert all(decode(raw(each), Account) for each in vector["accounts"])
        assert all(decode(raw(each), Lock) for each in vector["locks"])


def test_a_batch_and_its_paths() -> None:
    batch = FILES["deciding"]["batch of five"]
    header = decode(raw(batch["header"]), Header)
    assert header.root.hex() == batch["root"]
    for position, (path, attested) in enumerate(zip(batch["paths"], batch["attested"], strict=True)):
        shown = decode(raw(attested), Attested)
        assert root_from_path(shown.record, position, header.count, raw(path)) == header.root
        verify_attested(shown, NETWORK, 0, COMMITTEE)


def test_certificates_prove_their_operation_and_fit_one_and_a_half_kilobytes() -> None:
    prepared, committed = (FILES["deciding"][f"{kind} certificate"] for kind in ("prepared", "commit"))
    assert verify_prepared(raw(prepared["raw"]), COMMITTEE, 0, NETWORK) == (0, raw(prepared["operation"]))
    assert verify_certificate(raw(committed["raw"]), COMMITTEE, 0, NETWORK) == raw(committed["operation"])
    assert max(len(raw(each["raw"])) for each in (prepared, committed)) < 1_500


def test_leaders() -> None:
    for case in FILES["deciding"]["leaders"]:
        slot = raw(case["object"]), case["seq"]
        views = [leader(COMMITTEE, case["epoch"], *slot, view) for view in range(1, 9)]
        assert views == case["views 1 to 8"]
        assert sorted(views[:4]) == [0, 1, 2, 3]


def _unproven(body: bytes) -> ParsedOperation:
    """A candidate under some proof of the right shape: `pick` looks at none."""
    for count in range(4):
        for closer in (None, bytes(64)):
            try:
                return parse(SignedOperation(body, (bytes(64),) * count, closer))
            except Error:
                continue
    raise AssertionError("no operation")


@pytest.mark.parametrize("case", FILES["deciding"]["pick"], ids=lambda case: case["case"])
def test_pick(case: dict[str, Any]) -> None:
    chosen = pick([_unproven(raw(each)) for each in case["candidates"]])
    assert chosen is not None
    assert ("void" if isinstance(chosen, Conflict) else chosen.id.hex()) == case["picked"]


def test_two_operations_of_an_owner_make_the_void() -> None:
    vector = FILES["deciding"]["justification of two that an owner signed"]
    assert attachment_id(raw(vector["raw"])).hex() == vector["id"]
    shown = verify(read_justification(raw(vector["raw"])), NETWORK, COMMITTEE)
    candidates = [parse(decode(raw(each), SignedOperation)) for each in vector["candidates"]]
    assert shown.prepared is None
    assert isinstance(choose(shown.reports, {each.id: each for each in candidates}, COMMITTEE), Conflict)
    void = parse(SignedOperation(raw(vector["void"]), (), None))
    assert void.id.hex() == vector["follows"]
    State(GENESIS).apply(void)


def test_what_is_prepared_comes_before_every_candidate() -> None:
    vector = FILES["deciding"]["justification with a prepared certificate"]
    shown = verify(read_justification(raw(vector["raw"])), NETWORK, COMMITTEE)
    assert shown.prepared == (0, raw(vector["follows"]))


@pytest.mark.parametrize("name", FILES["evidence"])
def test_evidence_proves_its_offence(name: str) -> None:
    vector = FILES["evidence"][name]
    evidence = read_evidence(raw(vector["raw"]))
    offence = verify_evidence(evidence, NETWORK, {0: COMMITTEE}.__getitem__)
    assert offence == Offence(vector["kind"], raw(vector["culprit"]), vector["epoch"])
    assert attachment_id(raw(vector["raw"])).hex() == vector["id"]


def test_there_is_evidence_of_every_kind() -> None:
    assert {vector["kind"] for vector in FILES["evidence"].values()} == {1, 2, 3, 4, 5, 6}


def test_the_state_has_its_root_and_its_proofs() -> None:
    vector, state = FILES["state"], replayed()
    assert state.root().hex() == vector["root"]
    proof = decode(raw(vector["proof of alice's account"]["raw"]), StateProof)
    leaf = verify_path(proof, raw(vector["root"]))
    assert decode(leaf.state, Account) == state.accounts[leaf.id]
    supply = state.supply()
    assert vector["supply"] == {
        "balances": supply.balances,
        "credits": supply.credits,
        "locks": supply.locks,
        "burnt": supply.burnt,
    }
    assert {k: [v[0], raw(v[1])] for k, v in vector["frontier"].items()} == {
        id_.hex(): list(state.head(id_)) for id_ in (*state.accounts, *state.locks)
    }


def test_an_epoch_ends_and_the_next_one_begins() -> None:
    vector = FILES["epochs"]
    end = parse(signed(vector["end-epoch"]))
    assert end.id == end_epoch_id(NETWORK, 0, NETWORK)
    assert end.raw == unsigned_operation(end.operation).raw
    heads = {raw(id_): (seq, raw(head)) for id_, (seq, head) in vector["frontier"].items()}
    checked = []
    for member, each in enumerate(vector["handoffs"]):
        record = verify_attested(decode(raw(each["record"]), Attested), NETWORK, 0, COMMITTEE)
        assert record == Handoff(attachment_id(raw(each["raw"])))
        key = COMMITTEE.keys[member]
        handoff, prepared = check_handoff(raw(each["raw"]), NETWORK, 0, key, [], lambda epoch: COMMITTEE)
        check_signature(handoff)
        assert (handoff.frontier_root, handoff.frontier_count) == (frontier_root(heads), len(heads))
        checked.append(Checked(raw(each["id"]), handoff, prepared, {}))
    union = unite(checked, COMMITTEE, heads)
    assert [each.hex() for each in union.handoffs] == vector["union"]["handoffs"]
    begins = [[slot[0].hex(), slot[1], each.operation.hex()] for slot, each in union.prepared.items()]
    assert begins == vector["union"]["starts at view 1"] != []
    state = replayed(vector["end-epoch"])
    assert state.root().hex() == vector["state root"]
    committee = parse(signed(vector["committee"]))
    body = committee.operation.body
    assert isinstance(body, NextCommittee)
    succession = state.succession((), committee.operation.timestamp or 0)
    assert [[seat.key.hex(), seat.weight] for seat in succession.seats] == vector["seats"]
    assert (body.seats, body.handoffs) == (succession.seats, union.handoffs)
    assert body.state_root.hex() == vector["state root"]
    state.verify_proof(committee)
    state.apply(committee)
    assert decode(raw(vector["committee"]["system"]), System) == state.system
    keys = {name: raw(each["public"]) for name, each in FILES["people"]["keys"].items()}
    now, before = set(state.committee(1).keys), set(COMMITTEE.keys)
    assert now - before == {keys["validator 4"]}, "the bond has made a member"
    assert before - now == {keys[ledger_story.LEAVER]}, "the waiver has given a seat up"


@pytest.mark.parametrize("case", FILES["seats"]["cases"], ids=lambda case: case["case"])
def test_seats_follow_from_bonds_and_waivers(case: dict[str, Any]) -> None:
    assert seated(case) == (case["seats"], case["burnt"], case["returned"])
    locks = [decode(raw(each), Lock) for each in case["bonds"]]
    assert [lock.id.hex() for lock in locks if committee.is_waiver(lock, NETWORK)] == case["waivers"]


def seated(case: dict[str, Any]) -> tuple[list[Any], list[str], list[str]]:
    locks = [decode(raw(each), Lock) for each in case["bonds"]]
    sitting = [Seat(raw(each), 1, ()) for each in case["sitting"]]
    said = committee.succession(
        GENESIS, sitting, locks, [raw(each) for each in case["offenders"]], case["timestamp"]
    )
    seats = [[seat.key.hex(), seat.weight] for seat in said.seats]
    burnt, returned = said.burnt_bonds, said.returned_bonds
    return seats, [each.hex() for each in burnt], [each.hex() for each in returned]


def test_mutant_without_waivers_the_seats_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committee, "is_waiver", lambda bond, network: False)
    waived = [case for case in FILES["seats"]["cases"] if case["waivers"] and not case["offenders"]]
    assert len(waived) >= 6
    assert all(seated(case) != (case["seats"], case["burnt"], case["returned"]) for case in waived)


def test_a_reconciliation_finds_what_differs() -> None:
    vector = FILES["reconciliation"]
    asks, answers = (
        ReconcileIndex([(raw(k), raw(v)) for k, v in vector[side]]) for side in ("asks", "answers")
    )
    initiator, responder = Reconciler(asks), Reconciler(answers)
    message: bytes | None = initiator.initiate()
    said, have, need = [], [], []
    while message is not None:
        answer = responder.respond(message)
        said += [message.hex(), answer.hex()]
        message, more_have, more_need = initiator.continue_(answer)
        have += more_have
        need += more_need
    assert said == vector["dialogue"]
    assert sorted(each.hex() for each in have) == vector["have"]
    assert sorted(each.hex() for each in need) == vector["need"]


@pytest.mark.parametrize("name", [path.stem for path in sorted(ledger_vectors.FOLDER.glob("*.json"))])
def test_the_readme_says_what_each_file_holds(name: str) -> None:
    text = (ledger_vectors.FOLDER.parent / "README.md").read_text("utf-8")
    assert f"`protocol/{name}.json`" in text


def test_split_entries_are_the_leaves() -> None:
    batch = FILES["deciding"]["batch of five"]
    records = [decode(raw(each), Attested).record for each in batch["attested"]]
    assert split_entries(b"".join(records)) == records


def test_the_id_of_each_operation_is_its_hash() -> None:
    for vector in OPERATIONS.values():
        assert operation_id(raw(vector["raw"])).hex() == vector["id"]
