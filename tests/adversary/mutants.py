"""One-line faults in the cores, each of which a check must catch (row H2).

A fault is a replacement in the source of one function, made while a run lasts. `check` names what the
auditor must say (the first word or words of its check). Where two defences stand against one fault, `beside`
takes out the second: each is tested with the other off, and the check with both off. `caught.json` holds a
seed that catches each of them; `python -m tests.adversary --mutants` searches for the seeds anew.
"""

from __future__ import annotations

import importlib
import inspect
import json
import multiprocessing
import pkgutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import ainp2p.ledger
from tests.adversary.run import Outcome, plan_for, simulate

TABLE = Path(__file__).parent / "caught.json"
SEEDS_MAX = 2_000
LEDGER = "ainp2p.ledger."


@dataclass(frozen=True)
class Edit:
    """In this function of a module (``module:Class.function``) put `new` for `old`, which it has once."""

    where: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """Edits that together break a promise, and the checks that are meant for it.

    Attributes:
        edits: the defence taken out.
        beside: the other defence against the same fault; with one of both in its place nothing is broken.
    """

    check: tuple[str, ...]
    edits: tuple[Edit, ...]
    beside: tuple[Edit, ...] = ()

    def either(self) -> tuple[Mutant, Mutant]:
        """With the first defence off, and with the second."""
        return replace(self, beside=()), replace(self, edits=self.beside, beside=())


_Strings = tuple[str, str, str]


def _mutant(check: str, *edits: _Strings, beside: tuple[_Strings, ...] = ()) -> Mutant:
    first, second = (tuple(Edit(*edit) for edit in each) for each in (edits, beside))
    return Mutant(tuple(check.split("|")), first, second)


_LOCK_ONCE = (  # it remembers still, and refuses nothing
    "slot:Slot.lock",
    "if self.locked.setdefault(view, operation) != operation:",
    "if self.locked.setdefault(view, operation) is None:",
)

_LOCK_WHAT_IS_PICKED = (
    "judging:Judging._judge",
    "if lock is not None and not self._desk.receipts.allow(lock, chosen):",
    "if False:",
)

MUTANTS: dict[str, Mutant] = {
    # --- the eleven that LEDGER.md names ---------------------------------------------------------------
    "ignore the prepared certificate": _mutant(
        "prepared|shown",
        ("reporting:Reporting.promise", "if each.prepared is not None", "if False"),
        ("reporting:Reporting.promise", "if max(slot.committed, default=-1) > below:", "if False:"),
    ),
    "COMMIT after NEWVIEW": _mutant(
        "6 below NEWVIEW",
        ("slot:Slot.commit", " or view < self.promised:", ":"),
    ),
    "LOCK twice in a view": _mutant(
        "6 one LOCK",
        (
            "deciding:Decider._lock",
            "if 0 in slot.locked or slot.committed or slot.promised:",
            "if slot.promised:",
        ),
        beside=(_LOCK_ONCE,),
    ),
    "skip the justification": _mutant(
        "justification|pick",
        ("judging:Judging._judge", "if shown.prepared is not None:", "if True:"),
        ("judging:Judging._judge", "if shown is None:", "if False:"),
        (
            "judging:Judging._judge",
            "return self._judge_prepared(slot_id, proposal, shown)",
            "return self._table.candidates.get(proposal.operation)",
        ),
    ),
    "forget the log on restart": _mutant(
        "log|6 one LOCK|6 below NEWVIEW|10 liveness",
        ("validator:Validator._restore", "self._log.resume(own.height, own.head)", "pass"),
    ),
    "do not consume a credit": _mutant(
        "1 supply|4 credits|validity",
        ("holdings:Holdings.commit", "self._drop_credit(id_)", "pass"),
    ),
    "a zero amount": _mutant(
        "validity",
        ("operations:_refuse_zero", "if amount == 0:", "if amount < 0:"),
    ),
    "a skipped sequence number": _mutant(
        "votes|validity",
        ("state:_refuse_slot", "if operation.seq > seq + 1:", "if False:"),
    ),
    "a gate forgotten in view 0": _mutant(
        "gate",
        ("deciding:Decider._lock", "if is_gated(parsed):", "if False:"),
    ),
    "a gate forgotten in NEWVIEW": _mutant(
        "gate",
        ("reporting:Reporting._own_candidate", "if is_gated(candidate.parsed):", "if False:"),
    ),
    "a timer that runs alone": _mutant(
        "timer",
        (
            "views:Contest.next_view",
            "return max(joined, self.entered + 1) if self.expired >= self.entered else joined",
            "return max(joined, self.entered + 2) if self.expired >= self.entered else joined",
        ),
    ),
    # --- votes ------------------------------------------------------------------------------------------
    "LOCK twice in a later view": _mutant(
        "6 one LOCK",
        ("judging:Judging.follow", " or proposal.view in slot.locked:", ":"),
        # Two more defences hold without this one: it refuses to remember a second LOCK, and only the first
        # PROPOSE of a view counts.
        beside=(
            _LOCK_ONCE,
            ("views:Contest.propose", "known[0].view >= proposal.view:", "known[0].view > proposal.view:"),
        ),
    ),
    "LOCK in view 0 after NEWVIEW": _mutant(
        "6 below NEWVIEW|handoff",
        ("deciding:Decider._lock", " or slot.promised:", ":"),
    ),
    "LOCK below NEWVIEW in a later view": _mutant(
        "6 below NEWVIEW",
        ("judging:Judging.follow", "if proposal.view < slot.promised or", "if"),
    ),
    "forget LOCKs on restart": _mutant(
        "6 one LOCK",
        ("validator:Validator._restore_votes", "self._table.slot_of(candidate).lock(view, id_)", "pass"),
    ),
    "forget NEWVIEWs on restart": _mutant(
        "6 below NEWVIEW|6 NEWVIEW",
        (
            "contending:Contention._note_own",
            "slot.promised = max(slot.promised, entry.view)",
            "pass",
        ),
    ),
    "COMMIT on less than a quorum": _mutant(
        "prepared",
        ("slot:VoteTable.count", "if before < quorum <= after:", "if before < quorum // 2 + 1 <= after:"),
    ),
    "count a vote twice": _mutant(
        "prepared|certificate",
        ("slot:VoteTable.count", "if mask & bit:", "if False:"),
    ),
    "send before the write": _mutant(
        "fsync, then send",
        ("validator:Validator.tick", "self._journal.write(records)", "pass"),
    ),
    "a quorum of half the weight": _mutant(
        "prepared|certificate|3 one per slot|justification|crash of a core|timer",
        ("committee:Committee.__post_init__", "2 * total // 3 + 1", "total // 2 + 1"),
    ),
    # --- views ------------------------------------------------------------------------------------------
    "NEWVIEWs of less than a quorum": _mutant(
        "justification|pick",
        ("justification:verify", "committee.weight_of(reports) < committee.quorum", "False"),
    ),
    "a NEWVIEW counts for every view": _mutant(
        "justification|pick",
        (
            "justification:verify",
            "not isinstance(entry, NewView) or not _is_for(entry, justification)",
            "False",
        ),
    ),
    "a member's NEWVIEW counts as often as it is named": _mutant(
        "justification|pick",
        ("justification:verify", "if members != sorted(set(members)):", "if False:"),
        beside=(
            (
                "justification:verify",
                "committee.weight_of(reports) < committee.quorum",
                "committee.weight_of(members) < committee.quorum",
            ),
        ),
    ),
    "the lowest id among two that conflict": _mutant(
        "pick|7 honest",
        (
            "picking:pick",
            "if len(ordered) > 1 and all(_is_owners(each) for each in ordered[:2]):",
            "if False:",
        ),
    ),
    "an owner's only operation is voided": _mutant(
        "pick|validity|7 honest",
        ("picking:pick", "if len(ordered) > 1 and", "if len(ordered) > 0 and"),
        (
            "picking:pick",
            "return Conflict(ordered[0], ordered[1])",
            "return Conflict(ordered[0], ordered[-1])",
        ),
    ),
    "anybody proposes": _mutant(
        "leader",
        ("leading:Leading.lead", "if self._desk.leader(slot_id, view) != self._desk.member:", "if False:"),
    ),
    "a lower prepared certificate wins": _mutant(
        "justification",
        ("justification:highest_report", "return max(claims", "return min(claims"),
        beside=(
            (
                "leading:Leading._justify",
                "or (certificate is not None and (other == claim or other[0] < claim[0]))",
                "or certificate is not None",
            ),
        ),
    ),
    "few may name a gated candidate": _mutant(
        "pick",
        ("justification:choose", "if naming < committee.minority:", "if False:"),
    ),
    "hide a prepared certificate in NEWVIEW": _mutant(
        "shown",
        ("reporting:Reporting.promise", "if each.prepared is not None", "if False"),
    ),
    "a leader proposes twice": _mutant(
        "6 one PROPOSE",
        ("leading:Leading.lead", "contest.proposed >= view or ", ""),
    ),
    "LOCK in a later view without asking for one's own height": _mutant(
        "own height",
        (
            "contending:Contention.review",
            "if not self._desk.votes_on(slot_id[0]):",
            "if self._desk.member < 0 or self._desk.state.system.closed:",
        ),
        beside=(
            (
                "validator:Validator.seal",
                "while self.voting and self._log.due <= now:",
                "while (self.voting or len(self._log)) and self._log.due <= now:",
            ),
        ),
    ),
    "vote without asking for one's own height": _mutant(
        "own height",
        (
            "validator:Validator._start_voting",
            "if not self._started and self.committee.weight_of(self._confirmed) >= self.committee.quorum:",
            "if not self._started:",
        ),
    ),
    # --- the end of an epoch ------------------------------------------------------------------------------
    "a private set of HANDOFFs": _mutant(
        "handoff",
        (
            "inheritance:Inheritance._highest",
            "for id_ in self._named:",
            "for id_ in [n for n in self._named if read_handoff(self._raw[n]).validator"
            " == self._desk.committee.keys[max(self._desk.member, 0)]]:",
        ),
    ),
    "a COMMITTEE that leaves one out": _mutant(
        "committee",
        (
            "epochs:Closing.judge",
            "if [(s.key, s.weight) for s in succession.seats] != [(s.key, s.weight) for s in body.seats]:",
            "if False:",
        ),
    ),
    "a COMMITTEE of few HANDOFFs": _mutant(
        "committee",
        ("handoff:unite", "if committee.weight_of(members) < committee.quorum:", "if False:"),
    ),
    "a COMMITTEE of another state": _mutant(
        "state root",
        ("epochs:Closing.judge", "if root != body.state_root:", "if False:"),
    ),
    "a bond that is not here stops its COMMITTEE": _mutant(
        "10 liveness",
        ("state:State.check", 'if exc.rule != "unknown-bond":', "if True:"),
    ),
    "a seat that was given up is kept": _mutant(
        "committee",
        ("committee:succession", "Seat(key, 0 if key in gone else m.weight,", "Seat(key, m.weight,"),
    ),
    "the last member goes too": _mutant(
        "committee|10 liveness|crash of a core",
        ("committee:leaving", "if others or staying - {waiver.closer}:", "if True:"),
    ),
    "a waiver weighs like a bond": _mutant(
        "committee|bonds",
        ("committee:succession", "if bond.id not in waiving]", "]"),
    ),
    "anybody gives a member's seat up": _mutant(
        "committee|bonds",
        (
            "committee:is_waiver",
            "return bond.payer == account_id(network, plain_inception(bond.closer))",
            "return True",
        ),
    ),
    "a bond counts twice": _mutant(
        "committee",
        (
            "committee:succession",
            "bonded[bond.closer] = bonded.get(bond.closer, 0) + bond.held",
            "bonded[bond.closer] = bonded.get(bond.closer, 0) + 2 * bond.held",
        ),
    ),
    "a bond counts after its expiry": _mutant(
        "committee",
        ("committee:succession", "if bond.expiry > timestamp:", "if True:"),
    ),
    "a bond is returned to an offender": _mutant(
        "bonds",
        (
            "committee:succession",
            "[bond.id for bond in bonds if bond.closer not in offenders and bond.expiry <= timestamp]",
            "[bond.id for bond in bonds if bond.expiry <= timestamp]",
        ),
        (
            "committee:succession",
            "burnt = [bond.id for bond in every if bond.closer in offenders][:BONDS_MAX]",
            "burnt: list[bytes] = []",
        ),
    ),
    "votes go on after one's HANDOFF": _mutant(
        "handoff",
        (
            "desk:Desk.votes_on",
            "self.votes() and (not self.state.system.closed or object_ == self.state.network)",
            "self.votes()",
        ),
    ),
    # --- receipts ---------------------------------------------------------------------------------------
    "LOCK below a receipt": _mutant(
        "8 priority",
        (
            "deciding:Decider._lock",
            "if lock is not None and not self.receipts.allow(lock, parsed):",
            "if False:",
        ),
        (
            "reporting:Reporting._own_candidate",
            "if lock is not None and not self._desk.receipts.allow(lock, candidate.parsed):",
            "if False:",
        ),
    ),
    "name what is below a receipt": _mutant(
        "8 priority",
        (
            "reporting:Reporting._own_candidate",
            "if lock is not None and not self._desk.receipts.allow(lock, candidate.parsed):",
            "if False:",
        ),
        beside=(_LOCK_WHAT_IS_PICKED,),
    ),
    "a REFUND before a receipt": _mutant(
        "pick|8 priority",
        ("picking:rank", "return 0, _REFUND", "return -(2**62), _REFUND"),
        beside=(_LOCK_WHAT_IS_PICKED,),
    ),
    "a SETTLE that pays nothing more": _mutant(
        "validity|balance|2 paid",
        ("locks:_refuse_amount", "if cumulative <= lock.paid:", "if cumulative < lock.paid:"),
        (
            "locks:after_settle",
            "settle.cumulative - lock.paid < lock.step",
            "settle.cumulative - lock.paid < 0",
        ),
    ),
    "dust is paid to nobody": _mutant(
        "balance|1 supply|crash of a core",
        ("locks:_rest", "rest = lock.deposit - credited(lock, paid)", "rest = lock.deposit - paid"),
    ),
    # --- accounts ---------------------------------------------------------------------------------------
    "a SPEND beyond the balance": _mutant(
        "validity|crash of a core",
        ("accounts:after_spend", "if needed > available:", "if False:"),
    ),
    "the debt is forgiven": _mutant(
        "validity|balance",
        ("accounts:minimum_fee", "parameters.fee_floor + account.debt", "parameters.fee_floor"),
    ),
    "a signature is not looked at": _mutant(
        "validity",
        (
            "state:State.verify_proof",
            "verify(spending_key(account, body), SIGN_OPERATION, parsed.id, signed.signatures[0])",
            "spending_key(account, body)",
        ),
    ),
    "one verifier is enough": _mutant(
        "validity",
        ("receipts:verify_receipt", "if len(signatures) != lock.threshold:", "if False:"),
    ),
    "more than 60 s ahead": _mutant(
        "clock",
        ("state:State._refuse_early", "if ahead > self.parameters[self.epoch].clock_ahead_ms:", "if False:"),
    ),
}


# --- how a fault is planted ---------------------------------------------------------------------------


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """The cores with these faults, while it lasts."""
    undo: list[tuple[Any, str, Any]] = []
    changed: dict[str, str] = {}
    try:
        for edit in (*mutant.edits, *mutant.beside):
            module_name, path = edit.where.split(":")
            module = _module(module_name)
            holder: Any = module
            *outer, name = path.split(".")
            for each in outer:
                holder = getattr(holder, each)
            original = inspect.getattr_static(holder, name)
            source = changed.get(edit.where) or textwrap.dedent(inspect.getsource(original))
            if source.count(edit.old) != 1:
                raise LookupError(f"{edit.where} has {edit.old!r} {source.count(edit.old)} times")
            changed[edit.where] = source.replace(edit.old, edit.new)
            namespace: dict[str, Any] = {}
            exec(compile(changed[edit.where], f"<{edit.where}>", "exec"), vars(module), namespace)
            undo.append((holder, name, original))
            setattr(holder, name, namespace[name])
            for user in _users(module, original) if holder is module else ():
                undo.append((user, name, original))
                setattr(user, name, namespace[name])
        yield
    finally:
        for holder, name, original in reversed(undo):
            setattr(holder, name, original)


def _module(name: str) -> ModuleType:
    """The ledger's module of this name, whichever package it is in."""
    found = pkgutil.walk_packages(ainp2p.ledger.__path__, LEDGER)
    return importlib.import_module(next(each.name for each in found if each.name.endswith(f".{name}")))


def _users(module: Any, function: Callable[..., Any]) -> list[Any]:
    """Modules that have imported this function by its name."""
    found = []
    for name, other in list(sys.modules.items()):
        theirs = vars(other).get(function.__name__) if name.startswith(LEDGER) else None
        if theirs is function and other is not module:
            found.append(other)
    return found


def under(mutant: Mutant, seed: int, *, trace: bool = False) -> Outcome:
    """One seed with the fault."""
    with planted(mutant):
        return simulate(seed, trace=trace)


def is_caught(mutant: Mutant, outcome: Outcome) -> bool:
    """Whether the check that is meant for it has found it."""
    return outcome.check in mutant.check


# --- the search ---------------------------------------------------------------------------------------


def find(name: str, seeds: int = SEEDS_MAX) -> tuple[str, int | None, str]:
    """(name, the first seed that catches it or None, what was said)."""
    said = ""
    for seed in range(seeds):
        try:
            outcome = under(MUTANTS[name], seed)
        except LookupError as exc:
            return name, None, str(exc)
        if is_caught(MUTANTS[name], outcome):
            return name, seed, f"{outcome.check}: {outcome.violation}"
        if outcome.violation:
            said = f"seed {seed}: {outcome.check}: {outcome.violation}"
    return name, None, said


def alike(seed: int, many: int) -> list[int]:
    """This seed and the next ones whose plans have the same traitors and are sieges if its is."""
    kind, found = _kind(seed), [seed]
    while len(found) < many:
        seed += 1
        if _kind(seed) == kind:
            found.append(seed)
    return found


def _kind(seed: int) -> tuple[object, ...]:
    plan = plan_for(seed)
    return plan.siege, plan.exodus, plan.traitors


def table() -> dict[str, int]:
    """Mutant → a seed that catches it."""
    return dict(json.loads(TABLE.read_text())) if TABLE.exists() else {}


def search(only: str | None, seeds: int, jobs: int) -> int:
    """Find a seed for each mutant and write the table."""
    names = [only] if only else list(MUTANTS)
    caught = table() if only else {}
    missed = 0
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for name, seed, said in pool.imap_unordered(_Search(seeds), names):
            print(f"{'MISSED' if seed is None else f'seed {seed}':>10}  {name}: {said}", flush=True)
            if seed is None:
                missed += 1
            else:
                caught[name] = seed
    ordered = {name: caught[name] for name in MUTANTS if name in caught}
    TABLE.write_text(json.dumps(ordered, indent=1) + "\n")
    return 1 if missed else 0


@dataclass(frozen=True)
class _Search:
    seeds: int

    def __call__(self, name: str) -> tuple[str, int | None, str]:
        return find(name, self.seeds)
