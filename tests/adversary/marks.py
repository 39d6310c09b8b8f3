"""`sometimes("name")`: proof that a run has been where it should have been (row H3).

An invariant that holds because its hard case never came is worth nothing. `EXPECTED` are the marks that the
seeds of the test suite must reach; `never_reached` must be empty at their end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

reached: Counter[str] = Counter()

EXPECTED = (
    "LOCK in a later view",
    "NEWVIEW",
    "NEWVIEW above 1",
    "NEWVIEW reports a prepared certificate",
    "NEWVIEW reports what was handed over",
    "PROPOSE",
    "VOID decided",
    "a Lock ends at or above a protected receipt",
    "a certificate is taken",
    "a clock is a day off",
    "a clock is set",
    "a frontier is compared",
    "a gated candidate",
    "a gated operation LOCKed in view 0",
    "a justification with a prepared operation",
    "a leader forges a justification",
    "a leader proposes what does not follow",
    "a leader's justification shows too little",
    "a race to end a Lock",
    "a receipt below a step loses to the closer",
    "a receipt is protected",
    "a replay is compared",
    "a replayed batch",
    "a slot depends on a contended slot",
    "a slot starts at view 1",
    "a traitor COMMITs what is not prepared",
    "a traitor LOCKs both",
    "a traitor hides a certificate",
    "a traitor lies about candidates",
    "a traitor loses its seat",
    "a traitor reports what is not prepared",
    "an old disk",
    "an owner signs twice",
    "asymmetric partition",
    "bridge",
    "crash",
    "decided in a later view",
    "decided in view 0",
    "decided: Close",
    "decided: EndEpoch",
    "decided: NextCommittee",
    "decided: Recover",
    "decided: Settle",
    "decided: Spend",
    "decided: Void",
    "flapping partition",
    "garbage",
    "garbage on a Lock",
    "guardians race their owner",
    "long outage",
    "malformed in itself",
    "message cut",
    "message doubled",
    "message lost",
    "partition",
    "pick: a rotation comes first",
    "power cut after a write",
    "power cut before a write",
    "refused: BadSignature",
    "refused: InsufficientFunds",
    "refused: above-deposit",
    "refused: amount",
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
    "restart",
    "stale settlements",
    "storm",
    "swizzle-clog",
    "too few name a gated candidate",
    "traitor: amnesiac",
    "traitor: double voter",
    "traitor: false leader",
    "traitor: forger",
    "traitor: hasty committer",
    "traitor: hider",
    "traitor: liar",
    "traitor: replayer",
    "traitor: silent",
    "traitor: single",
    "traitor: twins",
    "traitor: withholder",
    "two conflicting candidates",
)


def sometimes(name: str) -> None:
    """Note that this has happened."""
    reached[name] += 1


def never_reached(expected: Iterable[str]) -> list[str]:
    """Those that did not happen since the process (or the last `reached.clear()`) began."""
    return sorted(name for name in expected if not reached[name])
