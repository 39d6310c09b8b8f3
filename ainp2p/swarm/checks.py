"""What a run promises, and whether it held: the verdict, from the Board alone. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ainp2p.swarm import events as ev
from ainp2p.swarm.board import Board
from ainp2p.swarm.spec import CREATOR, Spec


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise."""

    check: str
    held: bool
    detail: str = ""


def verdicts(spec: Spec, board: Board, *, kills: bool, late: Sequence[str]) -> list[Verdict]:
    """Every promise of a run that came to its end; `late` names phases that took too long."""
    found = [_tasks(board), _question(board), _creator(board)]
    if kills:
        found += [_kill(board), _step(board), _wallets(board)]
    found += [_alive(spec, board), _settled(spec, board), _paid(spec, board), _supply(spec, board)]
    found.append(Verdict("it ended by itself and in time", not late, ", ".join(late)))
    return found


def supply_errors(board: Board) -> list[str]:
    """What validators counted wrongly, or differently: must be empty whatever has died."""
    errors = []
    for count in board.supply.values():
        accounted = count.balances + count.credits + count.locks + count.burnt
        if accounted != count.minted:
            errors.append(f"{count.validator} counts {accounted} of {count.minted} uain")
    if len({count.state for count in board.supply.values()}) > 1:
        errors.append("validators have decided different things")
    return errors


def _tasks(board: Board) -> Verdict:
    done = sum(task.state == "completed" for task in board.tasks.values())
    failed = [f"{task.id}: {task.detail}" for task in board.tasks.values() if task.state == "failed"]
    detail = f"{done} of {len(board.tasks)}" + (f"; {failed[0]}" if failed else "")
    return Verdict("every task was completed", 0 < done == len(board.tasks), detail)


def _question(board: Board) -> Verdict:
    asked = next((task for task in board.tasks.values() if task.skill == "ask"), None)
    answer = asked.answer if asked is not None else None
    if answer is None:
        return Verdict("the question was answered with sources and a bill", False, "no answer")
    detail = f"{len(answer.sources)} sources, {ev.amount_text(answer.paid)}"
    return Verdict("the question was answered with sources and a bill", bool(answer.sources), detail)


def _creator(board: Board) -> Verdict:
    creator = board.peers.get(CREATOR)
    left = creator is not None and creator.reason == "finished"
    return Verdict("the creator left, and the others went on", left)


def _kill(board: Board) -> Verdict:
    killed = {kill.name for kill in board.kills}
    taken = [takeover for takeover in board.takeovers if takeover.seller_before in killed]
    kept = max((takeover.kept for takeover in taken), default=0)
    detail = (
        f"{', '.join(sorted(killed))}; {len(taken)} tasks went on elsewhere, {kept} units handed on"
        if killed
        else "nobody was killed"
    )
    return Verdict("a seller was killed half-way, and its work went on elsewhere", bool(taken), detail)


def _step(board: Board) -> Verdict:
    worst = max((takeover.lost for takeover in board.takeovers), default=0)
    held = all(takeover.lost <= takeover.step for takeover in board.takeovers)
    return Verdict("what was paid and not delivered is at most the step", held, f"at worst {worst} units")


def _wallets(board: Board) -> Verdict:
    reopened = {wallet.name: wallet for wallet in board.reopened}
    held = all(kill.name in reopened for kill in board.kills) and all(
        wallet.closed == wallet.locks for wallet in reopened.values()
    )
    detail = "; ".join(
        f"{w.name}: {w.closed} of {w.locks} Locks, {ev.amount_text(w.collected)}" for w in reopened.values()
    )
    return Verdict("the killed seller's wallet was reopened and its Locks closed", held, detail)


def _alive(spec: Spec, board: Board) -> Verdict:
    killed = {kill.name for kill in board.kills}
    lost = [
        f"{name} ({board.peers[name].reason or 'never came up'})"
        for name in spec.names
        if name not in killed and _lost(board, name)
    ]
    return Verdict("nobody else was lost", not lost, ", ".join(lost))


def _lost(board: Board, name: str) -> bool:
    peer = board.peers.get(name)
    if peer is None:
        return False
    return peer.role is None or peer.reason in ("killed", "crashed")


def _settled(spec: Spec, board: Board) -> Verdict:
    locked = [count.locks for count in board.supply.values()]
    owed = [
        f"{name} is owed {held.owed} uain"
        for name in spec.sellers
        if (peer := board.peers.get(name)) is not None and (held := peer.balance) is not None and held.owed
    ]
    if any(locked):
        owed.append(f"{max(locked)} uain are still in Locks")
    if not locked:
        owed.append("no validator was asked")
    finals = len(board.finalised)
    return Verdict("everything is settled", not owed, "; ".join(owed) or f"{finals} operations final")


def _paid(spec: Spec, board: Board) -> Verdict:
    """Who was not killed has got all that was signed to it."""
    wrong = list(_differences(spec, board))
    return Verdict(
        "sellers hold what buyers signed", not wrong, "; ".join(wrong) or ev.amount_text(board.paid)
    )


def _differences(spec: Spec, board: Board) -> Iterator[str]:
    killed = {kill.name for kill in board.kills}
    for name in spec.sellers:
        peer = board.peers.get(name)
        if peer is None or name in killed or peer.balance is None:
            continue
        signed = sum(paid.amount for (_, seller), paid in board.payments.items() if seller == name)
        if peer.balance.available != signed:
            yield f"{name} holds {peer.balance.available} of {signed} uain"


def _supply(spec: Spec, board: Board) -> Verdict:
    errors = supply_errors(board)
    missing = [name for name in spec.validators if name not in board.supply]
    errors += [f"{', '.join(missing)} did not say"] if missing else []
    detail = f"{len(board.supply)} of {len(spec.validators)} validators agree on all of it"
    return Verdict(
        "the supply is right to the last unit at every validator", not errors, "; ".join(errors) or detail
    )
