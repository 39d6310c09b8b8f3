"""`sometimes("name")`: proof that a run has been where it should have been (row H3).

An invariant that holds because its hard case never came is worth nothing. `PATHS` was written from what
LEDGER.md and RELIABILITY.md say must be survived, and from the list of attacks that was ordered, not from
what runs happened to reach: each sentence with the marks that show it. The seeds of the test suite must reach
all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

reached: Counter[str] = Counter()

PATHS: Mapping[str, tuple[str, ...]] = {
    # --- how it is attacked: validators ---------------------------------------------------------------
    "Byzantine validators that vote twice": (
        "a traitor LOCKs both",
        "traitor: twins",
        "traitor: double voter",
    ),
    "commit without a prepared certificate": (
        "a traitor COMMITs what is not prepared",
        "traitor: hasty committer",
    ),
    "hide certificates": ("a traitor hides a certificate", "traitor: hider"),
    "lie about candidates": (
        "a traitor lies about candidates",
        "a traitor names what is gated",
        "a traitor reports what is not prepared",
        "traitor: gate crasher",
        "traitor: liar",
    ),
    "tell peers different things as leader": (
        "a leader PROPOSEs twice",
        "a leader forges a justification",
        "a leader proposes what does not follow",
        "a justification that is void",
        "a leader's justification shows too little",
        "traitor: false leader",
        "traitor: haggler",
        "traitor: forger",
    ),
    "replay, withhold": ("a replayed batch", "traitor: replayer", "traitor: silent", "traitor: withholder"),
    "A3: after restart with a stale disk": ("an old disk", "traitor: amnesiac"),
    "B5: a disk that is lost; it stays silent": ("a disk that forgot lets nobody vote", "a lost disk"),
    # --- people -----------------------------------------------------------------------------------------
    "A2: owners that sign twice and show halves to different validators": (
        "VOID decided",
        "an owner signs twice",
        "two conflicting candidates",
    ),
    "dependencies between objects": ("a slot depends on a contended slot",),
    "payers that starve their payee with stale settlements": ("stale settlements",),
    "8, priority: the Lock cannot end below a held receipt": (
        "a Lock ends at or above a protected receipt",
        "a receipt below a step loses to the closer",
        "a receipt is protected",
    ),
    "owner and guardians; pick's order": (
        "a race to end a Lock",
        "guardians race their owner",
        "pick: a rotation comes first",
    ),
    "k of m verifiers": ("k of m verifiers sign", "verifiers sign too little"),
    # --- network, power, clocks -------------------------------------------------------------------------
    "C1: loss, duplication, reordering": ("message doubled", "message lost", "message reordered", "storm"),
    "C2: partitions, symmetric, asymmetric, bridge, flapping": (
        "asymmetric partition",
        "bridge",
        "flapping partition",
        "message cut",
        "partition",
        "web",
    ),
    "C3: swizzle-clog": ("swizzle-clog",),
    "F1: skewed clocks, a day off, that jump": ("a clock is a day off", "a clock is set"),
    "B2: crashes that lose whatever was not synced": (
        "crash",
        "power cut after a write",
        "power cut before a write",
        "restart",
    ),
    "outages longer than leases and expiries": ("an outage outlasts leases and expiries", "long outage"),
    # --- deciding a slot --------------------------------------------------------------------------------
    "1. view 0; gated operations wait": (
        "a gated candidate",
        "a gated operation LOCKed in view 0",
        "decided in view 0",
    ),
    "2. commit certificates, taken from others too": ("a certificate is taken",),
    "3. NEWVIEW, with what is prepared or a candidate": (
        "NEWVIEW",
        "NEWVIEW above 1",
        "NEWVIEW reports a prepared certificate",
    ),
    "4. PROPOSE: the highest prepared certificate, else pick; gated ones from more than 1/3": (
        "LOCK in a later view",
        "PROPOSE",
        "a justification reports certificates of several views",
        "a justification with a prepared operation",
        "decided in a later view",
        "too few name a gated candidate",
    ),
    # --- epochs -----------------------------------------------------------------------------------------
    "epochs that change in the middle of contention": (
        "NEWVIEW reports what was handed over",
        "a frontier is compared",
        "a slot starts at view 1",
    ),
    "HANDOFFs that are withheld, false, or two": (
        "a HANDOFF hides what is prepared",
        "a HANDOFF is withheld",
        "a frontier is false",
        "two HANDOFFs of one member",
    ),
    "COMMITTEEs that are not what follows": (
        "a COMMITTEE carries a false root",
        "a COMMITTEE gives a false weight",
        "a COMMITTEE leaves one out",
        "a COMMITTEE names a private set of HANDOFFs",
        "refused: handoffs",
        "refused: seats",
        "refused: state-root",
    ),
    "weights: those of e less the named evidence, plus and minus bonds": (
        "a bond gives a seat",
        "a bond is burnt",
        "a bond is returned",
        "a traitor loses its seat",
        "somebody would end a bond",
    ),
    "members of the genesis leave, each by its own waiver; the last one does not": (
        "a member gives its seat up",
        "a member waives",
        "the last member may not go",
        "who gave its seat up sits again",
        "somebody waives another's seat",
        "half a waiver",
        "a waiver and its rival",
        "a COMMITTEE keeps a seat that was given up",
        "a member is a quorum alone",
    ),
    "who sits is reckoned anew from the union's bonds": ("a committee is reckoned anew",),
    "the state root is the state after exactly the union": ("a state root is computed anew",),
    "9. replaying the operations gives the tables": ("a replay is compared",),
    # --- the table of operations -------------------------------------------------------------------------
    "each operation is decided": tuple(
        f"decided: {kind}"
        for kind in ("Close", "EndEpoch", "NextCommittee", "Recover", "Refund", "Settle", "Spend", "Void")
    ),
    "each rule refuses": (
        "garbage",
        "garbage on a Lock",
        "malformed in itself",
        "refused: BadSignature",
        "refused: InsufficientFunds",
        "refused: above-deposit",
        "refused: amount",
        "refused: bond",
        "refused: contested",
        "refused: cumulative",
        "refused: digest",
        "refused: ended",
        "refused: epoch",
        "refused: epoch-ahead",
        "refused: fee",
        "refused: lease",
        "refused: member",
        "refused: previous",
        "refused: sequence",
        "refused: step",
    ),
}
EXPECTED = tuple(mark for marks in PATHS.values() for mark in marks)


def missing() -> dict[str, list[str]]:
    """Sentence → its marks that were not reached; empty when all is well."""
    left = {sentence: never_reached(marks) for sentence, marks in PATHS.items()}
    return {sentence: marks for sentence, marks in left.items() if marks}


def sometimes(name: str) -> None:
    """Note that this has happened."""
    reached[name] += 1


def never_reached(expected: Iterable[str]) -> list[str]:
    """Those that did not happen since the process (or the last `reached.clear()`) began."""
    return sorted(name for name in expected if not reached[name])
