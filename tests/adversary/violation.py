"""What the auditor says when something that must hold does not."""

from __future__ import annotations


class Violation(AssertionError):
    """A promise of LEDGER.md is broken; `check` names which one, in a word or two."""

    def __init__(self, check: str, what: str) -> None:
        super().__init__(f"{check}: {what}")
        self.check = check
        self.what = what


def demand(holds: object, check: str, what: str) -> None:
    """Raise a Violation unless it holds."""
    if not holds:
        raise Violation(check, what)
