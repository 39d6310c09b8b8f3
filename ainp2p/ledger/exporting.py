"""Asking validators for what a bundle needs: the chain of COMMITTEEs, and objects with their proofs.

Nothing that they say is believed without its certificate; the newest that is proven is taken.
"""

from __future__ import annotations

from collections.abc import Iterable

from ainp2p.errors import InvalidOperation, NetworkError, NotFinal, RemoteError
from ainp2p.ledger.bundle import Exhibit, Holding, pack
from ainp2p.ledger.committee_chain import CommitteeChain
from ainp2p.ledger.genesis import Genesis
from ainp2p.ledger.messages import Decided, GetHistory, GetObject, History, HistoryFrom, ObjectHead
from ainp2p.ledger.operations import NextCommittee
from ainp2p.ledger.proofs import Proofs, read_operation
from ainp2p.ledger.sync import LAST_WORD_S, Validators
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import id_text
from ainp2p.protocol.network import PeerId

_WRONG = (RemoteError, InvalidOperation)


async def follow_committees(validators: Validators, chain: CommitteeChain) -> list[Decided]:
    """Extend the chain with every COMMITTEE that validators can prove; returns the new links, oldest first.

    Call it when a certificate names an epoch that the chain does not know.
    """
    links: list[Decided] = []
    for member in validators.others:
        try:
            while fresh := await _next_committees(validators, member.peer, chain):
                links += fresh
        except (NetworkError, *_WRONG):
            continue  # the next one may know more
    return links


async def _next_committees(validators: Validators, peer: PeerId, chain: CommitteeChain) -> list[Decided]:
    question = GetHistory((HistoryFrom(chain.network, 2 * chain.newest.number + 1),))
    answer = await validators.ask(peer, question, History)
    links = []
    for decided in answer.operations:
        body = read_operation(decided.operation).operation.body
        if isinstance(body, NextCommittee) and body.epoch == chain.newest.number + 1:
            chain.extend(decided.operation, decided.certificate)
            links.append(decided)
    return links


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
        raise NotFinal(f"no validator can prove a state of {id_text(object_)}: nothing final is known of it")
    return Holding(best[1])


async def export(validators: Validators, genesis: Genesis, objects: Iterable[bytes]) -> bytes:
    """A bundle about these accounts and Locks.

    Raises:
        NotFinal, TimedOut: as `fetch_holding`.
    """
    proofs = Proofs(genesis)
    links = await follow_committees(validators, proofs.chain)
    exhibits: list[Exhibit] = [await fetch_holding(validators, proofs, each) for each in objects]
    return pack(encode(genesis), links, exhibits)


__all__ = ["export", "fetch_holding", "follow_committees"]
