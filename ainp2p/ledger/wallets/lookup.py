"""The newest state of a Lock, or of an account, that validators can prove."""

from __future__ import annotations

from ainp2p.errors import InvalidOperation, NotFinal, RemoteError
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.serving.messages import GetObject, ObjectHead
from ainp2p.ledger.serving.proofs import Proofs, Proven
from ainp2p.ledger.serving.sync import LAST_WORD_S, Validators


async def newest_lock(validators: Validators, proofs: Proofs, id_: bytes) -> tuple[Lock, list[Proven]]:
    """A Lock, and the operations that prove it: the one that opened it, then its last one if there is any.

    Raises:
        NotFinal: none of those that answer knows it.
        TimedOut: nobody answers.
    """
    answers = await validators.ask_all(GetObject(id_), ObjectHead, last_word_s=LAST_WORD_S)
    best: tuple[Lock, list[Proven]] | None = None
    for _, head in answers:
        try:
            lock, proof = proofs.lock(head)
        except (RemoteError, InvalidOperation):
            continue  # it does not know the Lock, or makes one up
        if lock.id == id_ and (best is None or lock.seq > best[0].seq):
            best = lock, proof
    if best is None:
        raise NotFinal(f"no validator knows a final Lock {id_.hex()}: wait until its SPEND is final")
    return best


async def newest_account(validators: Validators, proofs: Proofs, id_: bytes) -> Account:
    """An account after its last final operation.

    Raises:
        NotFinal: none of those that answer knows it: nothing was decided on it yet.
        TimedOut: nobody answers.
    """
    answers = await validators.ask_all(GetObject(id_), ObjectHead, last_word_s=LAST_WORD_S)
    best: Account | None = None
    for _, head in answers:
        try:
            account = proofs.account(head)
        except (RemoteError, InvalidOperation):
            continue  # it does not know the account, or makes one up
        if account.id == id_ and (best is None or account.seq > best.seq):
            best = account
    if best is None:
        raise NotFinal(f"no validator knows an operation on the account {id_.hex()}")
    return best
