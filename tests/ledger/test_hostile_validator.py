"""One validator of four lies to wallets, or stalls them: no wallet may die of it, freeze, or believe it."""

from __future__ import annotations

import pytest

from ainp2p.errors import Error
from ainp2p.ledger import submitting
from ainp2p.ledger.messages import FINAL, Status

from .test_wallet_faults import run
from .town import Town, open_town


def claim_final(town: Town, liar: int, certificate: bytes) -> None:
    """Let a validator answer every Submit with FINAL and this certificate."""
    answers = town.services[liar]._answers
    answers.status = lambda id_, refused=None: Status(id_, FINAL, certificate)  # type: ignore[method-assign]


async def pay_while_one_claims_final() -> None:
    async with open_town() as town, town.wallet("carol") as carol:
        other = await carol.send(town.account("bob"), 5)
        claim_final(town, 0, other.certificate)
        async with town.wallet("alice") as alice:
            paid = await alice.send(town.account("bob"), 7)
            assert paid.certificate != other.certificate


def test_a_sound_certificate_of_another_operation_does_not_end_the_wallet() -> None:
    run(pay_while_one_claims_final)


def test_mutant_a_rule_that_the_certificate_breaks_ends_the_wallet(monkeypatch: pytest.MonkeyPatch) -> None:
    class Never(Error):
        """Nobody raises it."""

    monkeypatch.setattr(submitting, "LedgerError", Never)
    with pytest.raises(BaseExceptionGroup):
        run(pay_while_one_claims_final)
