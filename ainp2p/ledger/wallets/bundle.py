"""Bundles: ledger facts with everything that proves them, to be judged offline by anybody. No I/O.

A bundle is one file: the genesis, the COMMITTEEs since then with their certificates, and exhibits. `judge`
believes nothing in it: each fact follows, by hashes and signatures, from the genesis (whose hash is the
network's id) or from a pinned checkpoint. It gives a verdict for every part and never stops at the first
damage. What no bundle can show is that nothing newer exists.

    Bundle  = [version, genesis, committees, exhibits]     committees: encoded Decided; exhibits: encoded
    Exhibit = [tag, …]: 1 Decision, 2 Holding, 3 Offending, 4 Receipted, 5 Checkpointed
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

import msgspec

from ainp2p.errors import Error, InvalidInput, InvalidOperation, Malformed
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import KEYS_MAX, Close, Settle
from ainp2p.ledger.rules.receipts import RECEIPT_SIZE_MAX, Receipt, verify_receipt
from ainp2p.ledger.rules.state_tree import (
    ACCOUNT,
    BURNT,
    CREDIT,
    LEAF_SIZE_MAX,
    LOCK,
    SYSTEM,
    StateProof,
    verify_path,
)
from ainp2p.ledger.serving.messages import BODY_SIZE_MAX, Decided, ObjectHead
from ainp2p.ledger.serving.proofs import Proofs
from ainp2p.ledger.voting.committee_chain import CommitteeChain
from ainp2p.ledger.voting.evidence import EVIDENCE_SIZE_MAX, read_evidence, verify_evidence
from ainp2p.protocol.codec import FRAME_SIZE_MAX, Message, Signature, Uint, decode, encode
from ainp2p.protocol.identity import id_text

BUNDLE_VERSION: Final = 1
BUNDLE_SIZE_MAX: Final = 64 << 20  # bytes; a bundle of a busy account has some 100 kB
PARTS_MAX = 900  # COMMITTEEs, and exhibits: the codec reads 1,024 elements in all

_LEAF_NAMES = {
    SYSTEM: "the System",
    ACCOUNT: "account",
    LOCK: "Lock",
    CREDIT: "credit",
    BURNT: "what was burnt",
}
_Part = Annotated[bytes, msgspec.Meta(min_length=1, max_length=BODY_SIZE_MAX)]


class Bundle(Message, frozen=True):
    """The file. Parts are bytes, so that damage in one leaves the others readable."""

    version: Uint
    genesis: Annotated[bytes, msgspec.Meta(max_length=FRAME_SIZE_MAX)]
    committees: Annotated[tuple[_Part, ...], msgspec.Meta(max_length=PARTS_MAX)]
    exhibits: Annotated[tuple[_Part, ...], msgspec.Meta(max_length=PARTS_MAX)]


class Decision(Message, frozen=True, tag=1):
    """An operation that is final."""

    decided: Decided


class Holding(Message, frozen=True, tag=2):
    """An account or a Lock after its last operation."""

    head: ObjectHead


class Offending(Message, frozen=True, tag=3):
    """Evidence, and the attachments that it may need."""

    evidence: Annotated[bytes, msgspec.Meta(max_length=EVIDENCE_SIZE_MAX)]


class Receipted(Message, frozen=True, tag=4):
    """A receipt, with the Lock that it is drawn on."""

    head: ObjectHead
    body: Annotated[bytes, msgspec.Meta(max_length=RECEIPT_SIZE_MAX)]
    signatures: Annotated[tuple[Signature, ...], msgspec.Meta(max_length=KEYS_MAX)]


class Checkpointed(Message, frozen=True, tag=5):
    """An object as it was when an epoch began: its leaf and path under that COMMITTEE's state root."""

    epoch: Uint
    proof: Annotated[bytes, msgspec.Meta(max_length=LEAF_SIZE_MAX + 4096)]


Exhibit = Decision | Holding | Offending | Receipted | Checkpointed


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one part of a bundle is worth.

    Attributes:
        part: ``"genesis"``, ``"committee 3"``, ``"exhibit 1"`` …
        holds: whether it is proven.
        says: what is proven, or why it is not.
        facts: the same for programs; bytes as text.
    """

    part: str
    holds: bool
    says: str
    facts: dict[str, Any] = field(default_factory=dict)


# --- files --------------------------------------------------------------------------------------------


def pack(genesis: bytes, committees: Iterable[Decided], exhibits: Iterable[Exhibit]) -> bytes:
    """A bundle's bytes.

    Raises:
        InvalidInput: more parts than one bundle holds; make several.
    """
    links, shown = tuple(encode(each) for each in committees), tuple(encode(each) for each in exhibits)
    if max(len(links), len(shown)) > PARTS_MAX or len(links) + len(shown) > PARTS_MAX:
        raise InvalidInput(f"a bundle holds at most {PARTS_MAX} parts: make several")
    return encode(Bundle(BUNDLE_VERSION, genesis, links, shown))


def unpack(raw: bytes) -> Bundle:
    """Read a bundle; its parts are not looked at.

    Raises:
        Malformed: not a bundle, or of another version.
    """
    bundle = decode(raw, Bundle, size_max=BUNDLE_SIZE_MAX)
    if bundle.version != BUNDLE_VERSION:
        raise Malformed(f"a bundle of version {bundle.version}; this release reads {BUNDLE_VERSION}")
    return bundle


# --- judging ------------------------------------------------------------------------------------------


def judge(raw: bytes, *, network: bytes | None = None, checkpoint: bytes | None = None) -> list[Verdict]:
    """A verdict for each part of a bundle; damaged bytes give verdicts too, never an exception.

    Args:
        network: the network's id, if it is known: another genesis is refused.
        checkpoint: the pinned id of a COMMITTEE among the bundle's: what came before it is passed over, and
            nothing after it is believed that does not follow from it.
    """
    try:
        bundle = unpack(raw)
    except Error as exc:
        return [Verdict("bundle", False, str(exc))]
    verdicts: list[Verdict] = []
    genesis = _judge_genesis(bundle, network, verdicts)
    if genesis is None:
        return verdicts
    chain = _judge_committees(bundle, genesis, checkpoint, verdicts)
    court = Court(genesis, chain)
    for number, part in enumerate(bundle.exhibits, 1):
        name = f"exhibit {number}"
        try:
            verdicts.append(replace(court.exhibit(part), part=name))
        except Error as exc:
            verdicts.append(Verdict(name, False, str(exc)))
    return verdicts


def _judge_genesis(bundle: Bundle, network: bytes | None, verdicts: list[Verdict]) -> Genesis | None:
    try:
        genesis = Genesis.from_bytes(bundle.genesis)
    except Error as exc:
        verdicts.append(Verdict("genesis", False, str(exc)))
        return None
    found, name = genesis.network_id, genesis.name.decode(errors="replace")
    facts = {"network": found.hex(), "name": name, "validators": len(genesis.validators)}
    says = f"of {name!r}, network {found.hex()}, {len(genesis.validators)} validators"
    if network not in (None, found):
        verdicts.append(Verdict("genesis", False, f"{says}: not the network that was asked for", facts))
        return None
    verdicts.append(Verdict("genesis", True, says, facts))
    return genesis


def _judge_committees(
    bundle: Bundle, genesis: Genesis, checkpoint: bytes | None, verdicts: list[Verdict]
) -> CommitteeChain | None:
    """Follow the COMMITTEEs as far as they hold; None if a pinned checkpoint is not among them."""
    chain = CommitteeChain.from_genesis(genesis) if checkpoint is None else None
    for number, part in enumerate(bundle.committees, 1):
        try:
            decided = decode(part, Decided, size_max=BODY_SIZE_MAX)
            if chain is None and checkpoint is not None:
                try:
                    chain = CommitteeChain.from_checkpoint(genesis.network_id, checkpoint, decided.operation)
                except InvalidOperation:
                    continue  # before the pinned one
                epoch, how = chain.newest, "pinned"
            else:
                assert chain is not None
                epoch, how = (
                    chain.extend(decided.operation, decided.certificate),
                    "certified by the one before",
                )
        except Error as exc:
            verdicts.append(Verdict(f"committee {number}", False, str(exc)))
            continue
        facts = {
            "epoch": epoch.number,
            "operation": id_text(epoch.opening),
            "members": len(epoch.seats),
            "state_root": (epoch.state_root or b"").hex(),
        }
        says = f"of epoch {epoch.number}, {len(epoch.seats)} members, {how}"
        verdicts.append(Verdict(f"committee {number}", True, says, facts))
    if chain is None:
        verdicts.append(Verdict("checkpoint", False, "the pinned COMMITTEE is not in the bundle"))
    return chain


class Court:
    """Judges exhibits by the committees that are known."""

    def __init__(self, genesis: Genesis, chain: CommitteeChain | None) -> None:
        self._chain = chain
        self._network = genesis.network_id
        self._proofs = None if chain is None else Proofs(genesis, chain)

    def exhibit(self, raw: bytes) -> Verdict:
        """What an exhibit proves.

        Raises:
            Error: nothing; why.
        """
        exhibit: Exhibit = decode(raw, Exhibit, size_max=BODY_SIZE_MAX)  # type: ignore[arg-type]  # a union
        if self._proofs is None or self._chain is None:
            raise InvalidOperation("checkpoint", "no committee is known")
        if isinstance(exhibit, Decision):
            return self._decision(self._proofs, exhibit.decided)
        if isinstance(exhibit, Holding):
            return self._holding(self._proofs, exhibit.head)
        if isinstance(exhibit, Receipted):
            return self._receipt(self._proofs, exhibit)
        if isinstance(exhibit, Offending):
            return self._offence(self._chain, exhibit.evidence)
        return self._checkpointed(self._chain, exhibit)

    def _decision(self, proofs: Proofs, decided: Decided) -> Verdict:
        parsed = proofs.operation(decided).parsed
        epoch = proofs.chain.check(decided.certificate, parsed.id).number
        operation = parsed.operation
        kind = type(operation.body).__name__
        facts = {
            "kind": "operation",
            "operation": id_text(parsed.id),
            "body": kind.lower(),
            "object": id_text(operation.object),
            "seq": operation.seq,
            "epoch": epoch,
            "final": True,
        }
        if isinstance(operation.body, Settle | Close):
            facts["cumulative"] = operation.body.cumulative
        where = f"{id_text(operation.object)} at {operation.seq}, epoch {epoch}"
        says = f"{kind} {id_text(parsed.id)} is final: {where}"
        return Verdict("", True, says, facts)

    def _holding(self, proofs: Proofs, head: ObjectHead) -> Verdict:
        if head.opening:
            lock, proof = proofs.lock(head)
            facts = {**_lock_facts(lock), "proofs": len(proof)}
            ended = ", ended" if lock.ended else ""
            says = f"Lock {id_text(lock.id)}: {lock.paid} of {lock.deposit} uain paid at {lock.seq}{ended}"
            return Verdict("", True, says, facts)
        account = proofs.account(head)
        says = f"account {id_text(account.id)} had {account.balance} uain at {account.seq}"
        return Verdict("", True, says, _account_facts(account))

    def _receipt(self, proofs: Proofs, exhibit: Receipted) -> Verdict:
        lock = proofs.lock(exhibit.head)[0]
        receipt = decode(exhibit.body, Receipt, size_max=RECEIPT_SIZE_MAX)
        if (receipt.network, receipt.lock) != (self._network, lock.id):
            raise InvalidOperation("receipt", "of another network or Lock")
        if receipt.cumulative > lock.deposit:
            raise InvalidOperation("receipt", f"{receipt.cumulative} uain is more than the deposit")
        verify_receipt(lock, exhibit.body, exhibit.signatures)
        unpaid = max(receipt.cumulative - lock.paid, 0)
        facts = {
            "kind": "receipt",
            "lock": id_text(lock.id),
            "cumulative": receipt.cumulative,
            "units": receipt.units,
            "context": receipt.context.hex(),
            "unpaid": unpaid,
        }
        says = (
            f"receipt of {receipt.cumulative} uain for {receipt.units} units on Lock {id_text(lock.id)}, "
            f"{unpaid} of them not paid at {lock.seq}"
        )
        return Verdict("", True, says, facts)

    def _offence(self, chain: CommitteeChain, raw: bytes) -> Verdict:
        offence = verify_evidence(read_evidence(raw), self._network, chain.committee)
        facts = {
            "kind": "evidence",
            "offence": offence.kind,
            "culprit": offence.culprit.hex(),
            "epoch": offence.epoch,
        }
        who = "validator" if offence.by_validator else "owner"
        says = f"offence of kind {offence.kind} by the {who} {offence.culprit.hex()}, epoch {offence.epoch}"
        return Verdict("", True, says, facts)

    def _checkpointed(self, chain: CommitteeChain, exhibit: Checkpointed) -> Verdict:
        root = chain.epoch(exhibit.epoch).state_root
        if root is None:
            raise InvalidOperation("state-proof", f"epoch {exhibit.epoch} has no state root")
        proof = decode(exhibit.proof, StateProof, size_max=LEAF_SIZE_MAX + 4096)
        leaf = verify_path(proof, root)
        facts: dict[str, Any] = {
            "kind": "state",
            "epoch": exhibit.epoch,
            "leaf": leaf.kind,
            "id": leaf.id.hex(),
        }
        if leaf.kind == ACCOUNT:
            facts = {**_account_facts(decode(leaf.state, Account)), **facts}
        elif leaf.kind == LOCK:
            facts = {**_lock_facts(decode(leaf.state, Lock)), **facts}
        says = (
            f"{_LEAF_NAMES[leaf.kind]} {leaf.id.hex()} is in the state with which epoch {exhibit.epoch} began"
        )
        if leaf.kind == ACCOUNT:
            says += f", with {facts['balance']} uain at {facts['seq']}"
        return Verdict("", True, says, facts)


def _account_facts(account: Account) -> dict[str, Any]:
    return {
        "kind": "account",
        "account": id_text(account.id),
        "seq": account.seq,
        "balance": account.balance,
        "debt": account.debt,
    }


def _lock_facts(lock: Lock) -> dict[str, Any]:
    return {
        "kind": "lock",
        "lock": id_text(lock.id),
        "payer": id_text(lock.payer),
        "seq": lock.seq,
        "deposit": lock.deposit,
        "paid": lock.paid,
        "ended": bool(lock.ended),
    }


def all_hold(verdicts: Sequence[Verdict]) -> bool:
    """Whether there is anything, and all of it is proven."""
    return bool(verdicts) and all(verdict.holds for verdict in verdicts)


__all__ = [
    "Bundle",
    "Checkpointed",
    "Decision",
    "Exhibit",
    "Holding",
    "Offending",
    "Receipted",
    "Verdict",
    "all_hold",
    "judge",
    "pack",
    "unpack",
]
