"""What a SPEND costs its owner, read from its bytes: the vault trusts nobody's summary of it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from ainp2p.errors import InvalidOperation, PolicyRefused
from ainp2p.ledger.rules.operations import OPERATION_SIZE_MAX, LockTerms, Operation, Spend
from ainp2p.protocol.codec import decode


@dataclass(frozen=True, slots=True)
class Payment:
    """uain that leave for good.

    Attributes:
        counterparty: the account that gets them; our own for fees, which are burnt.
        what: for the breaker on repeated spending; None if such payments are never the same.
    """

    counterparty: bytes
    amount: int
    what: bytes | None


def payments_of(raw: bytes, public: bytes) -> tuple[list[Payment], list[int]]:
    """The payments that a SPEND makes, one per counterparty, and the deposits that come back unless receipts
    of `public` are settled.

    Raises:
        Malformed: no canonical operation.
        InvalidOperation: not a SPEND; anything else needs no owner's signature.
        PolicyRefused: rule ``"rotation"``: it hands the account to another key.
    """
    operation = decode(raw, Operation, size_max=OPERATION_SIZE_MAX)
    body = operation.body
    if not isinstance(body, Spend):
        raise InvalidOperation("kind", "only a SPEND is signed by its owner")
    if body.rotate is not None:
        raise PolicyRefused("rotation", 0, hint="an agent's vault does not give its account away")
    paid: dict[bytes, int] = {}
    for out in body.outs:
        if out.account != operation.object:
            paid[out.account] = paid.get(out.account, 0) + out.amount
    deposits = []
    for terms in body.locks:
        if is_own(terms, public):
            deposits.append(terms.deposit)
        else:  # others decide when it is paid: gone, until it comes back
            payee = terms.beneficiaries[0].account
            paid[payee] = paid.get(payee, 0) + terms.deposit
    payments = [Payment(account, amount, b"payment") for account, amount in paid.items()]
    if body.fee:
        payments.append(Payment(operation.object, body.fee, None))
    return payments, deposits


def is_own(terms: LockTerms, public: bytes) -> bool:
    """Whether only receipts of this key are paid from the Lock."""
    return terms.authority == (public,) and terms.threshold == 1
