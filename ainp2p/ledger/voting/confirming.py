"""Candidates of contested slots: whether one is valid by everybody's clock, and what was chosen. No I/O."""

from __future__ import annotations

from ainp2p.errors import NotYet
from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.operations import ParsedOperation, SignedOperation, Spend, parse
from ainp2p.ledger.voting.desk import Desk
from ainp2p.ledger.voting.picking import Conflict
from ainp2p.ledger.voting.slot import Candidate
from ainp2p.protocol.codec import encode

# "No other local clock is consulted in views >= 1."
_CLOCKS = frozenset({"not-expired", "epoch-running"})


def confirm(
    desk: Desk, parsed: ParsedOperation, now: int, ahead_ms: int | None, *, proof_verified: bool = False
) -> None:
    """Check a candidate against the slot's state; clocks as far as views above 0 look at them.

    Raises:
        NotYet: not now.
        LedgerError, RemoteError: never.
    """
    try:
        desk.state.check(parsed, now, proof_verified=proof_verified)
    except NotYet as exc:
        if exc.rule in _CLOCKS:
            return
        ahead = (parsed.operation.timestamp or 0) - now
        if exc.rule != "clock-ahead" or (ahead_ms is not None and ahead > ahead_ms):
            raise


def candidate_of(desk: Desk, chosen: ParsedOperation | Conflict) -> Candidate:
    """The held candidate that was chosen; the slot's VOID for two that conflict."""
    if isinstance(chosen, Conflict):
        parsed = _void(desk, chosen)
        candidate = desk.table.hold(parsed)
        candidate.verified = True  # it has no proof: what it rests on is in the justification
        return candidate
    return desk.table.hold(chosen)


def _void(desk: Desk, conflict: Conflict) -> ParsedOperation:
    operation = conflict.first.operation
    body = operation.body
    assert isinstance(body, Spend)
    state = desk.state
    account = state.accounts.get(operation.object)
    if account is None:
        assert body.inception is not None
        account = accounts.unopened_account(state.network, body.inception)
    # "adds a constant of the genesis to the debt": not of the current epoch
    void = accounts.void(account, body.inception, state.parameters[0], state.network)
    return parse(SignedOperation(encode(void), (), None))


__all__ = ["candidate_of", "confirm"]
