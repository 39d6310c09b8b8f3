"""Asking validators for what a bundle needs: the chain of COMMITTEEs, and objects with their proofs.

Nothing that they say is believed without its certificate; the newest that is proven is taken.
"""

from __future__ import annotations

from collections.abc import Iterable

from ainp2p.errors import InvalidOperation, NotFinal, RemoteError
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.serving.messages import Decided, GetObject, ObjectHead
from ainp2p.ledger.serving.proofs import Proofs
from ainp2p.ledger.serving.sync import LAST_WORD_S, Validators
from ainp2p.ledger.wallets.bundle import Exhibit, Holding, pack
from ainp2p.ledger.wallets.following import Following
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import id_text

_WRONG = (RemoteError, InvalidOperation)


async def fetch_holding(validators: Validators, proofs: Proofs, object_: bytes) -> Holding:
    """The newest state of an account or a Lock that validators can prove.

    Raises:
        NotFinal: none of those that answer can prove any.
        TimedOut: nobody answers.
    """
    answers = await validators.ask_all(GetObject(object_), ObjectHead, last_word_s=LAST_WORD_S)
    best: tuple[int, ObjectHead] | None = None
    for _, head in answers:
        try:
            seq = proofs.lock(head)[0].seq if head.opening else proofs.account(head).seq
        except _WRONG:
            continue
        if head.object == object_ and (best is None or seq > best[0]):
            best = seq, head
    if best is None:
        raise NotFinal(
            f"no validator can prove a state of {id_text(object_)}: nothing final is known of it. What an "
            "account was given, by the genesis or by others, is proven with its first payment"
        )
    return Holding(best[1])


async def export(validators: Validators, genesis: Genesis, objects: Iterable[bytes]) -> bytes:
    """A bundle about these accounts and Locks.

    Raises:
        NotFinal, TimedOut: as `fetch_holding`.
    """
    proofs = Proofs(genesis)
    links: list[Decided] = []
    await Following(validators, proofs.chain, lambda epoch, link: links.append(link)).catch_up()
    exhibits: list[Exhibit] = [await fetch_holding(validators, proofs, each) for each in objects]
    return pack(encode(genesis), links, exhibits)


__all__ = ["export", "fetch_holding"]
