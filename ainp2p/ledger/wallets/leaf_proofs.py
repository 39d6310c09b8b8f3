"""Credits that were there when the epoch began, proven by the root that its COMMITTEE carries.

A validator that prunes has the operation that made a credit only while it is newer than the last checkpoint.
For older ones it shows the credit's leaf of the state, and the path to the root. Which committee's word that
root is, `CommitteeChain` knows. That nobody has consumed the credit since, no proof says: as always, for that
several validators are asked.
"""

from __future__ import annotations

from collections.abc import Iterable

from ainp2p.errors import InvalidOperation, NetworkError, RemoteError
from ainp2p.ledger.rules.changes import Credit
from ainp2p.ledger.rules.state_tree import CREDIT, Leaf, StateProof, verify_path
from ainp2p.ledger.serving.checkpoint_messages import (
    BODY_SIZE_MAX,
    CHECKPOINT_PROTOCOL,
    PROOFS_MAX,
    GetLeafProofs,
    LeafName,
    LeafProofs,
)
from ainp2p.ledger.voting.committee_chain import CommitteeChain
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.network import Network, PeerId

ASK_TIMEOUT_S = 5.0
_WRONG = (NetworkError, RemoteError, InvalidOperation)


def verify_leaf(chain: CommitteeChain, epoch: int, proof: StateProof) -> Leaf:
    """A leaf of the state with which an epoch began.

    Raises:
        Malformed: no path that such a tree has.
        InvalidOperation: rule ``"epoch"``: that epoch is not known; ``"state-proof"``: it shows nothing.
    """
    root = chain.epoch(epoch).state_root
    if root is None:
        raise InvalidOperation("state-proof", "the first epoch begins with the genesis, without a state root")
    return verify_path(proof, root)


async def prove_credits(
    network: Network, chain: CommitteeChain, account: bytes, ids: Iterable[bytes], peers: Iterable[PeerId]
) -> dict[bytes, int]:
    """Credit → uain of those among `ids` that one of these peers can show to be the account's."""
    missing, found = sorted(ids), dict[bytes, int]()
    for peer in peers:
        if not missing:
            break
        try:
            found.update(await _ask(network, peer, chain, account, missing))
        except _WRONG:
            continue  # the next one
        missing = [id_ for id_ in missing if id_ not in found]
    return found


async def _ask(
    network: Network, peer: PeerId, chain: CommitteeChain, account: bytes, ids: list[bytes]
) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    while ids:
        question = GetLeafProofs(tuple(LeafName(CREDIT, id_) for id_ in ids[:PROOFS_MAX]))
        body = await network.request(peer, CHECKPOINT_PROTOCOL, encode(question), timeout_s=ASK_TIMEOUT_S)
        answer = decode(body, LeafProofs, size_max=BODY_SIZE_MAX)
        for id_, proof in zip(ids, answer.proofs, strict=False):
            if proof is not None:
                leaf = verify_leaf(chain, answer.epoch, proof)
                credit = decode(leaf.state, Credit) if (leaf.kind, leaf.id) == (CREDIT, id_) else None
                if credit is not None and credit.account == account:
                    found[id_] = credit.amount
        if not answer.proofs:
            break
        ids = ids[len(answer.proofs) :]
    return found


__all__ = ["prove_credits", "verify_leaf"]
