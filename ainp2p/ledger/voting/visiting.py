"""A look at the state after other operations than those that were applied here, and back again. No I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ainp2p.errors import NotYet
from ainp2p.ledger.rules.operations import ParsedOperation
from ainp2p.ledger.rules.state import State, Undo


@dataclass(frozen=True, slots=True)
class Applied:
    """An operation that was applied here lately, and what takes it back."""

    parsed: ParsedOperation
    undo: Undo

    @property
    def object(self) -> bytes:
        """What it wrote."""
        return self.parsed.operation.object

    @property
    def seq(self) -> int:
        """Its place there."""
        return self.parsed.operation.seq


@contextmanager
def visiting(state: State, ahead: Sequence[Applied], missing: Sequence[ParsedOperation]) -> Iterator[None]:
    """The state without `ahead` and with `missing`; inside the block only.

    Lemma L7 (docs/ledger-proof.md): the state after exactly the union, also for those who are ahead of it.

    Whatever builds on an operation of `ahead` must be in it too (a union of frontiers is closed downwards, so
    what it lacks is closed upwards). Effects on different objects commute: nothing else need be taken back.

    Raises:
        NotYet: rule ``"handoffs"``: what `missing` depends on is not there.
        InvalidOperation: a final operation cannot be applied.
    """
    undos: list[Undo] = []
    for applied in reversed(ahead):
        state.undo(applied.undo)
    try:
        _apply_all(state, missing, undos)
        yield
    finally:
        for undo in reversed(undos):
            state.undo(undo)
        for applied in ahead:
            state.apply(applied.parsed)


def _apply_all(state: State, operations: Sequence[ParsedOperation], undos: list[Undo]) -> None:
    """Apply them in an order in which each finds what it depends on."""
    waiting, stuck = deque(operations), 0
    while waiting:
        parsed = waiting.popleft()
        try:
            state.apply(parsed, None, undos)
            stuck = 0
        except NotYet:
            waiting.append(parsed)
            stuck += 1
            if stuck > len(waiting):
                raise NotYet("handoffs", "a frontier lacks what its heads depend on") from None


__all__ = ["Applied", "visiting"]
