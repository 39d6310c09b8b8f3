"""Writes tests/vectors/protocol/: the ledger's protocol as bytes, to build another implementation by.

    python -m tools.ledger_vectors            # writes the files
    python -m tools.ledger_vectors --check    # status 1 if one is stale

Everything follows from the seeds in `people.json`: the same files come out on any machine. Byte strings are
hexadecimal, numbers are numbers. What each file holds, and how to use it, is in `tests/vectors/README.md`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.committee import Succession, is_waiver, succession
from ainp2p.ledger.rules.locks import Lock, open_lock
from ainp2p.ledger.rules.operations import (
    LockTerms,
    NextCommittee,
    Operation,
    ParsedOperation,
    Rotation,
    Seat,
    Share,
    SignedOperation,
    account_id,
    key_digest,
    operation_id,
    parse,
    sign_committee,
    sign_recover,
    unsigned_operation,
)
from ainp2p.ledger.rules.receipts import (
    Receipt,
    SignedReceipt,
    close_operation,
    refund_operation,
    settle_operation,
)
from ainp2p.ledger.rules.state_tree import ACCOUNT
from ainp2p.ledger.serving.reconcile import Reconciler
from ainp2p.ledger.serving.reconcile_index import ReconcileIndex, value_of
from ainp2p.ledger.voting.attachments import attachment_id
from ainp2p.ledger.voting.attested import attest
from ainp2p.ledger.voting.committee_chain import end_epoch
from ainp2p.ledger.voting.evidence import (
    BELOW_NEWVIEW,
    FORGOTTEN_COMMIT,
    MALFORMED_LOCK,
    TWO_BATCHES,
    TWO_LOCKS,
    TWO_OPERATIONS,
    Evidence,
    evidence_id,
)
from ainp2p.ledger.voting.handoff import (
    Checked,
    Leaving,
    Prepared,
    check_prepared,
    make_handoff,
    read_handoff,
    unite,
)
from ainp2p.ledger.voting.justification import Justification, Proof
from ainp2p.ledger.voting.omissions import Report
from ainp2p.ledger.voting.picking import Conflict, leader, pick
from ainp2p.ledger.voting.votelog import commit_entry, handoff_entry, lock_entry, newview_entry
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import digest
from tools.ledger_story import LEASE, LEAVER, NAMES, NOW, PARAMETERS, Json, SlotId, Story, Votes, key

FOLDER = Path(__file__).parents[1] / "tests" / "vectors" / "protocol"
OBJECTS = 64  # in the reconciliation


def plain(value: Any) -> Any:
    """What JSON can say: byte strings as hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {(k.hex() if isinstance(k, bytes) else k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


# --- the files ------------------------------------------------------------------------------------------


def people(story: Story) -> Json:
    """Keys, the genesis, ids."""
    names = [
        *(name + prime for name in NAMES for prime in ("", "'", "''")),
        *(f"guardian {i}" for i in range(3)),
        *(f"verifier {i}" for i in range(3)),
        *(f"validator {i}" for i in range(5)),
    ]
    return {
        "keys": {
            name: {"seed": key(name).seed, "public": key(name).public, "peer id": key(name).peer_id}
            for name in names
        },
        "genesis": encode(story.genesis),
        "network": story.network,
        "committee": list(story.committee.keys),
        "quorum": story.committee.quorum,
        "minority": story.committee.minority,
        "inceptions": {name: encode(story.inception(name)) for name in story.ids},
        "accounts": story.ids,
        "first credits": [[id_, c.account, c.amount] for id_, c in sorted(story.state.credits.items())],
        "state root": story.state.root(),
    }


def operations(story: Story) -> Json:
    """All eight operations, in an order in which they can be applied."""
    made: Json = {}
    channel = story.terms([("bob", 1)], ["alice"], 1, "bob", 60_000)
    escrow = story.terms([("bob", 2), ("carol", 1)], [f"verifier {i}" for i in range(3)], 2, "carol", 70_000)
    short = story.terms([("bob", 1)], ["alice"], 1, "bob", 1_000)
    opening = story.spend("alice", outs=[("bob", 5)], locks=[channel, escrow, short])
    made["spend, the account's first, opens a channel, an escrow with shares and a short Lock"] = (
        story.decide(opening)
    )
    receipt = story.receipt(story.lock(opening), 300, "alice")
    made["receipt"] = {"body": receipt.body, "signature": receipt.signature, "encoded": encode(receipt)}
    made["settle, of a channel"] = story.decide(settle_operation(story.lock(opening), receipt))
    higher = story.receipt(story.lock(opening), 305, "alice")
    made["close, by the closer, with a receipt less than a step higher"] = story.decide(
        close_operation(story.network, story.lock(opening), higher, key("bob"))
    )
    made["settle, of an escrow by two of three verifiers, with dust"] = story.decide(
        _two_of_three(story, story.lock(opening, 1), 500)
    )
    made["close, by the closer, without a receipt"] = story.decide(
        close_operation(story.network, story.lock(opening, 1), None, key("carol"))
    )
    made["refund, after expiry"] = story.decide(
        refund_operation(story.network, story.lock(opening, 2)), now=NOW + 1_000
    )
    rotation = Rotation(key("alice'").public, key_digest(key("alice''").public))
    made["spend, rotates, signed by the next key alone"] = story.decide(
        story.spend("alice", rotate=rotation, by=key("alice'"), now=NOW + 2_000), now=NOW + 2_000
    )
    made["spend, consumes credits of a Lock and of an account"] = story.decide(
        story.spend("bob", outs=[("carol", 7)], now=NOW + 2_000), now=NOW + 2_000
    )
    made["spend, opens a bond"] = story.decide(story.spend("carol", locks=[story.bond("validator 4")]))
    recovered = accounts.recover(
        story.account("bob"),
        key("bob''").public,
        bytes(32),
        PARAMETERS,
        network=story.network,
        now_ms=NOW + 2_000 + LEASE,
    )
    guardians = [key("guardian 2"), key("guardian 0")]
    made["recover, by two of three guardians"] = story.decide(
        sign_recover(recovered, guardians), now=NOW + 2_000 + LEASE
    )
    voided = accounts.void(story.account("carol"), None, PARAMETERS, story.network)
    made["void, of an account's second slot"] = story.decide(unsigned_operation(voided), checked=False)
    later = NOW + 2_000
    made["spend, to the account of a member's key alone"] = story.decide(
        story.spend("alice", outs=[(LEAVER, 100)], by=key("alice'"), now=later), now=later
    )
    made["spend, of that account: opens a waiver, which gives the member's seat up"] = story.decide(
        story.spend(LEAVER, locks=[story.waiver(LEAVER)], now=later), now=later
    )
    return made


def _two_of_three(story: Story, lock: Lock, cumulative: int) -> SignedOperation:
    """A SETTLE whose receipt two verifiers have signed, in the order of their keys."""
    body = encode(Receipt(story.network, lock.id, cumulative, 50, b"r" * 32))
    signers = sorted((key("verifier 0"), key("verifier 2")), key=lambda each: each.public)
    signatures = tuple(each.sign(b"ainp2p/receipt/1", body) for each in signers)
    first = settle_operation(lock, SignedReceipt(body, signatures[0]))
    return msgspec.structs.replace(first, signatures=signatures)


def deciding(story: Story) -> Json:
    """Votes, certificates, leaders, `pick`, justifications, a VOID: in epoch 0, with the state at genesis."""
    votes = Votes(story)
    one, two = (story.spend("alice", outs=[("bob", amount)]) for amount in (1, 2))
    first, second = sorted((parse(one), parse(two)), key=lambda each: each.id)
    slot = story.ids["alice"], 1
    others = [lock_entry(0, digest(b"", bytes([i]))) for i in range(4)]
    prepared = votes.all_say(lock_entry(0, first.id), *others)
    committed = votes.all_say(commit_entry(0, first.id))
    batch = votes.batches[0, 1]
    made: Json = {
        "batch of five": {
            "raw": batch.raw,
            "id": batch.id,
            "header": encode(batch.header),
            "signature": batch.signature,
            "root": batch.header.root,
            "paths": [batch.path(position) for position in range(5)],
            "attested": [encode(attest(batch, position)) for position in range(5)],
        },
        "prepared certificate": {"raw": prepared, "operation": first.id, "view": 0},
        "commit certificate": {"raw": committed, "operation": first.id, "view": 0},
        "leaders": [
            {
                "epoch": epoch,
                "object": object_,
                "seq": seq,
                "views 1 to 8": [leader(story.committee, epoch, object_, seq, view) for view in range(1, 9)],
            }
            for epoch, object_, seq in ((0, *slot), (0, slot[0], 2), (1, *slot), (0, story.network, 1))
        ],
        "pick": picks(),
    }
    contested = Votes(story)
    reports = [newview_entry(1, *slot, None, each.id) for each in (first, second, first)]
    newviews = tuple(attest(contested.say(member, entry), 0) for member, entry in enumerate(reports))
    proofs = tuple(Proof(each.id, each.signed.signatures, None) for each in (first, second))
    conflict = encode(Justification(0, *slot, 1, newviews, None, proofs))
    void = accounts.void(
        accounts.unopened_account(story.network, story.inception("alice")),
        story.inception("alice"),
        PARAMETERS,
        story.network,
    )
    made["justification of two that an owner signed"] = {
        "raw": conflict,
        "id": attachment_id(conflict),
        "candidates": [encode(first.signed), encode(second.signed)],
        "follows": operation_id(encode(void)),
        "void": encode(void),
    }
    shown = Votes(story)
    certificate = shown.all_say(lock_entry(0, second.id))
    reports = [
        newview_entry(1, *slot, (0, second.id), None),
        newview_entry(1, *slot, None, first.id),
        newview_entry(1, *slot, None, first.id),
    ]
    newviews = tuple(attest(shown.say(member, entry), 0) for member, entry in enumerate(reports))
    carried = encode(Justification(0, *slot, 1, newviews, certificate, ()))
    made["justification with a prepared certificate"] = {
        "raw": carried,
        "id": attachment_id(carried),
        "follows": second.id,
    }
    return made


def picks() -> list[Json]:
    """Candidates of one slot, and which of them is decided; "void" for two that an owner signed."""
    story = Story()
    spends = [parse(story.spend("alice", outs=[("bob", amount)])) for amount in (1, 2)]
    rotation = Rotation(key("alice'").public, key_digest(key("alice''").public))
    rotating = parse(story.spend("alice", rotate=rotation, by=key("alice'")))
    opening = story.spend("alice", locks=[story.terms([("bob", 1)], ["alice"], 1, "bob", 60_000)])
    story.decide(opening)
    recovers = [
        parse(
            sign_recover(
                accounts.recover(
                    story.account("alice"),
                    key(who).public,
                    bytes(32),
                    PARAMETERS,
                    network=story.network,
                    now_ms=NOW + LEASE,
                ),
                [key("guardian 0"), key("guardian 1")],
            )
        )
        for who in ("bob''", "carol''")
    ]
    beat = parse(story.spend("alice"))
    lock = story.lock(opening)
    low, high = (story.receipt(lock, cumulative, "alice") for cumulative in (100, 200))
    settles = [parse(settle_operation(lock, receipt)) for receipt in (low, high)]
    close = parse(close_operation(story.network, lock, high, key("bob")))
    bare = parse(close_operation(story.network, lock, None, key("bob")))
    refund = parse(refund_operation(story.network, lock))
    cases = {
        "one owner's operation": [spends[0]],
        "two that conflict": spends,
        "a rotation before both": [*spends, rotating],
        "the owner before guardians": [*recovers, beat],
        "among RECOVERs the lowest id": recovers,
        "the highest cumulative": [*settles, refund],
        "among equals SETTLE before CLOSE": [close, settles[1]],
        "a CLOSE with a receipt before a SETTLE below it": [close, settles[0]],
        "REFUND last": [refund, bare],
    }
    found = []
    for name, candidates in cases.items():
        chosen = pick(candidates)
        assert chosen is not None
        found.append(
            {
                "case": name,
                "candidates": [each.raw for each in candidates],
                "picked": "void" if isinstance(chosen, Conflict) else chosen.id,
            }
        )
    return found


def epochs(story: Story, votes: Votes) -> Json:
    """The end of epoch 0 of `operations`: END-EPOCH, HANDOFFs, their union, COMMITTEE; and who sits then."""
    end = unsigned_operation(end_epoch(story.network, 0, story.network))
    now = NOW + PARAMETERS.epoch_ms
    open_ = parse(story.spend("alice", outs=[("bob", 1)], by=key("alice'"), now=NOW + 3_000))
    slot = open_.operation.object, open_.operation.seq
    prepared = votes.all_say(lock_entry(0, open_.id))
    heads = {
        id_: story.state.head(id_)
        for id_ in (*story.state.accounts, *story.state.locks)
        if story.state.head(id_)[0]
    }
    made: Json = {"end-epoch": story.decide(end, now=now)}
    made["undecided and prepared"] = {"raw": open_.raw, "id": open_.id, "certificate": prepared}
    attachments: list[bytes] = []
    handoffs: list[Json] = []
    for member, signer in enumerate(story.validators[:3]):
        leaving = Leaving(heads, {slot: prepared} if member == 1 else {}, {})
        height = votes.logs[member].height
        (raw,) = make_handoff(story.network, 0, signer.public, height, 4, leaving, signer)
        batch = votes.say(member, handoff_entry(attachment_id(raw)))
        attachments.append(raw)
        handoffs.append({"raw": raw, "id": attachment_id(raw), "record": encode(attest(batch, 0))})
    named = [_checked(story, raw) for raw in attachments]
    union = unite(named, story.committee, heads)
    root = story.state.root()
    succession = story.state.succession((), now)
    made["frontier"] = {id_: [seq, head] for id_, (seq, head) in sorted(heads.items())}
    made["handoffs"] = handoffs
    made["union"] = {
        "handoffs": list(union.handoffs),
        "starts at view 1": [[*slot_id, each.operation] for slot_id, each in union.prepared.items()],
    }
    made["committee"] = story.decide(
        _next_committee(story, parse(end).id, union.handoffs, root, succession, now), now=now
    )
    made["seats"] = [[seat.key, seat.weight] for seat in succession.seats]
    made["state root"] = root
    return made


def _checked(story: Story, raw: bytes) -> Checked:
    handoff = read_handoff(raw)
    prepared: dict[SlotId, Prepared] = {
        (each.object, each.seq): check_prepared(
            each.certificate, story.network, 0, lambda epoch: story.committee
        )
        for each in handoff.prepared
    }
    return Checked(attachment_id(raw), handoff, prepared, {})


def _next_committee(
    story: Story, end: bytes, handoffs: tuple[bytes, ...], root: bytes, succession: Succession, now: int
) -> SignedOperation:
    proposer = story.validators[0]
    body = NextCommittee(
        epoch=1,
        seats=succession.seats,
        parameters=PARAMETERS,
        handoffs=handoffs,
        evidence=(),
        state_root=root,
        proposer=proposer.public,
        burnt_bonds=succession.burnt_bonds,
        returned_bonds=succession.returned_bonds,
    )
    return sign_committee(Operation(1, story.network, story.network, 2, end, now, body), proposer)


def seats(story: Story) -> list[Json]:
    """Who sits next, and which bonds end, by all open bonds: what `succession` says, case by case."""
    network, members = story.network, [f"validator {i}" for i in range(4)]
    first = [Seat(each.public, 1, ()) for each in story.validators]

    def opened(terms: LockTerms, payer: str, place: int, life_ms: int = 1_000) -> Lock:
        terms = msgspec.structs.replace(terms, expiry=NOW + life_ms)
        return open_lock(account_id(network, story.inception(payer)), digest(b"", b"opening"), place, terms)

    def waived(name: str, place: int, life_ms: int = 1_000) -> Lock:
        return opened(story.waiver(name), name, place, life_ms)

    bond, spare = story.bond("validator 4"), story.bond("validator 0")
    half = msgspec.structs.replace(bond, deposit=375_000, step=375_000)
    everybody = [waived(name, place, 1_000 + place) for place, name in enumerate(members)]
    split = msgspec.structs.replace(
        story.waiver("validator 0"),
        beneficiaries=tuple(sorted((Share(network, 1), Share(story.ids["bob"], 1)), key=lambda s: s.account)),
    )
    offenders = [key("validator 0").public]
    cases: dict[str, tuple[list[Lock], list[bytes], list[Seat]]] = {
        "no bonds: the genesis's seats": ([], [], first),
        "a bond brings a seat": ([opened(bond, "carol", 0)], [], first),
        "two bonds for one key weigh together": (
            [opened(half, "carol", 0), opened(half, "bob", 1)],
            [],
            first,
        ),
        "an expired bond weighs nothing and is returned": ([opened(bond, "carol", 0, 0)], [], first),
        "an offender loses its seat; its bond and its waiver are burnt": (
            [opened(spare, "carol", 0), waived("validator 0", 1)],
            offenders,
            first,
        ),
        "a waiver gives the seat up": ([waived("validator 0", 0)], [], first),
        "a waiver counts after its expiry, and is not returned": ([waived("validator 0", 0, 0)], [], first),
        "a bond brings a seat back": ([waived("validator 0", 0), opened(spare, "carol", 1)], [], first),
        "paid by another account it is a bond, and no waiver": (
            [opened(story.waiver("validator 0"), "carol", 0)],
            [],
            first,
        ),
        "paying somebody beside the System it is none either": ([opened(split, "validator 0", 0)], [], first),
        "whose waiver expires last stays while nobody else would be left": (everybody, [], first),
        "who has no seat already is not called back": (
            everybody,
            [],
            [seat for seat in first if seat.key == key("validator 1").public],
        ),
        "all may go when a bond brings somebody else": ([*everybody, opened(bond, "carol", 9)], [], first),
    }
    return [
        {
            "case": name,
            "bonds": [encode(lock) for lock in bonds],
            "sitting": [seat.key for seat in sitting],
            "offenders": barred,
            "timestamp": NOW,
            "waivers": [lock.id for lock in bonds if is_waiver(lock, network)],
            "seats": [[seat.key, seat.weight] for seat in said.seats],
            "burnt": list(said.burnt_bonds),
            "returned": list(said.returned_bonds),
        }
        for name, (bonds, barred, sitting) in cases.items()
        for said in [succession(story.genesis, sitting, bonds, barred, NOW)]
    ]


def evidence(story: Story) -> Json:
    """One piece of evidence of each kind, all against member 2 but the owner's."""
    one, two = (parse(story.spend("alice", outs=[("bob", amount)])) for amount in (1, 2))
    first, second = sorted((one, two), key=lambda each: each.id)
    slot, culprit = (story.ids["alice"], 1), story.validators[2].public

    def shown(votes: Votes, *entries: bytes) -> list[bytes]:
        return [encode(attest(votes.say(2, entry), 0)) for entry in entries]

    twice = [Votes(story).say(2, lock_entry(0, each.id)) for each in (first, second)]
    headers = sorted((encode(batch.header), batch.signature) for batch in twice)
    two_batches = [item for pair in headers for item in pair]
    two_locks = shown(Votes(story), lock_entry(0, first.id), lock_entry(0, second.id))
    below = shown(Votes(story), newview_entry(1, *slot, None, first.id), lock_entry(0, first.id))
    forgotten = shown(Votes(story), commit_entry(1, first.id), newview_entry(2, *slot, None, second.id))
    malformed = b"\x97\x01" + first.raw[2:-1]
    bad = shown(Votes(story), lock_entry(0, operation_id(malformed)))
    owners = [item for each in (first, second) for item in (each.raw, each.signed.signatures[0])]
    made = {
        "two batches": Evidence(TWO_BATCHES, culprit, tuple(two_batches), 0),
        "two LOCKs": Evidence(TWO_LOCKS, culprit, (*two_locks, first.raw, second.raw), 0),
        "two operations": Evidence(TWO_OPERATIONS, key("alice").public, tuple(owners), 0),
        "below a NEWVIEW": Evidence(BELOW_NEWVIEW, culprit, (*below, first.raw), 0),
        "a forgotten COMMIT": Evidence(FORGOTTEN_COMMIT, culprit, (*forgotten, first.raw), 0),
        "a HANDOFF without a COMMIT": _omission(story, first, culprit),
        "a malformed LOCK": Evidence(MALFORMED_LOCK, culprit, (*bad, malformed), 0),
    }
    return {
        name: {
            "raw": encode(each),
            "id": evidence_id(each),
            "kind": each.kind,
            "culprit": each.culprit,
            "epoch": each.epoch,
        }
        for name, each in made.items()
    }


def _omission(story: Story, parsed: ParsedOperation, culprit: bytes) -> Evidence:
    votes = Votes(story)
    slot = parsed.operation.object, parsed.operation.seq
    commit = encode(attest(votes.say(2, commit_entry(0, parsed.id)), 0))
    frontier = {story.ids["bob"]: (1, b"h" * 32)}
    leaving = Leaving(frontier, {}, {})
    (handoff,) = make_handoff(story.network, 0, culprit, 1, 4, leaving, story.validators[2])
    record = encode(attest(votes.say(2, handoff_entry(attachment_id(handoff))), 0))
    omission = Report(read_handoff(handoff), [], frontier).omission(slot, (0, 0), False)
    assert omission is not None
    return Evidence(FORGOTTEN_COMMIT, culprit, (commit, record, parsed.raw, encode(omission), handoff), 0)


def state(story: Story) -> Json:
    """The state after `operations`: all leaves, the root, a proof."""
    tree = story.state.tree()
    alice = tree.prove(ACCOUNT, story.ids["alice"])
    supply = story.state.supply()
    return {
        "operations": [parsed.id for parsed in story.decided],
        "root": tree.root,
        "leaves": alice.count,
        "proof of alice's account": {
            "raw": encode(alice),
            "index": alice.index,
            "leaf": encode(alice.leaf),
            "path": alice.path,
        },
        "supply": {
            "balances": supply.balances,
            "credits": supply.credits,
            "locks": supply.locks,
            "burnt": supply.burnt,
        },
        "frontier": {
            id_: list(story.state.head(id_)) for id_ in sorted((*story.state.accounts, *story.state.locks))
        },
    }


def reconciliation() -> Json:
    """Who asks lacks three of the other's objects and has one more; two are later there."""
    common = {
        digest(b"", b"object", bytes([i])): value_of(1, digest(b"", bytes([i]))) for i in range(OBJECTS)
    }
    keys = sorted(common)
    asks, answers = dict(common), dict(common)
    for id_ in (keys[3], keys[30], keys[50]):
        del asks[id_]
    for id_ in (keys[20], keys[21]):
        answers[id_] = value_of(2, digest(b"", b"later", id_))
    del answers[keys[-1]]
    initiator = Reconciler(ReconcileIndex(asks.items()))
    responder = Reconciler(ReconcileIndex(answers.items()))
    message: bytes | None = initiator.initiate()
    dialogue, have, need = [], [], []
    while message is not None:
        answer = responder.respond(message)
        dialogue += [message, answer]
        message, more_have, more_need = initiator.continue_(answer)
        have += more_have
        need += more_need
    return {
        "asks": sorted(asks.items()),
        "answers": sorted(answers.items()),
        "dialogue": dialogue,
        "have": sorted(have),
        "need": sorted(need),
    }


def documents() -> dict[str, Json]:
    """File name → what it holds."""
    at_genesis, lived = Story(), Story()
    made = {
        "people": people(at_genesis),
        "deciding": deciding(at_genesis),
        "evidence": evidence(at_genesis),
        "seats": {"cases": seats(at_genesis)},
        "reconciliation": reconciliation(),
        "operations": operations(lived),
        "state": state(lived),
    }
    made["epochs"] = epochs(lived, Votes(lived))
    return made


def text(document: Json) -> str:
    """A file's text."""
    return json.dumps(plain(document), indent=1) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the files, or look whether they are fresh."""
    stale = []
    for name, document in documents().items():
        path = FOLDER / f"{name}.json"
        if path.exists() and path.read_text("utf-8") == text(document):
            continue
        stale.append(path.name)
        if "--check" not in arguments:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text(document), "utf-8")
    print("fresh" if not stale else "stale: " + ", ".join(stale))
    return 1 if stale and "--check" in arguments else 0


__all__ = ["FOLDER", "Story", "Votes", "documents", "key", "main", "plain", "text"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
