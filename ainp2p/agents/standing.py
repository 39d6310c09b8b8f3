"""Who speaks for an agent: its account's key, or a session key that this one has delegated to. No I/O.

    inception ──its hash is the agent id──► the key it names, or the revealed one that it commits to
        └── that key seals a Delegation ──► a session key, for a time, until a higher epoch is seen

All of it is in the card, so it is judged without asking anybody. What a card cannot show is that an account
has been recovered by guardians, or rotated more than once: cards under such keys are not believed.
"""

from __future__ import annotations

from functools import lru_cache

from ainp2p.errors import DelegationEnded, Error, Expired, InvalidInput
from ainp2p.ledger.rules.accounts import unopened_account
from ainp2p.ledger.rules.operations import SIGN_CLOSE, Inception, account_id, key_digest
from ainp2p.ledger.wallets.delegation import Delegation, Fences, SignedDelegation, verify_delegated
from ainp2p.protocol import card, messages
from ainp2p.protocol.card import Card
from ainp2p.protocol.codec import decode

SESSION_PURPOSES = tuple(sorted((card.PURPOSE, messages.PURPOSE, SIGN_CLOSE)))
FENCES_MAX = 65_536  # accounts whose newest holder is remembered; of more, the oldest goes


def is_key_of(inception: Inception, key: bytes) -> bool:
    """Whether an account was born with this key, or has committed to it as its next one."""
    return key == inception.key or key_digest(key) == inception.next_digest


class Standing:
    """The `Binding` of a directory: it remembers the newest holder of each account."""

    def __init__(self) -> None:
        self.fences = Fences()

    def __call__(self, shown: Card, key: bytes, now_ms: int) -> bool:
        """Whether `key` speaks now for the agent that a card names."""
        try:
            inception = _born(shown.network, shown.agent, shown.inception)
            if inception is None:
                return False
            if not shown.delegation:
                return is_key_of(inception, key)
            signed = decode(shown.delegation, SignedDelegation)
            account = unopened_account(shown.network, inception)
            delegation = verify_delegated(
                signed,
                account,
                network=shown.network,
                now_ms=now_ms,
                purpose=card.PURPOSE,
                fences=self.fences,
            )
        except Error:
            return False
        if len(self.fences.seen) > FENCES_MAX:
            del self.fences.seen[next(iter(self.fences.seen))]
        return delegation.key == key


@lru_cache(maxsize=1024)  # each card of an agent says it again
def _born(network: bytes, agent: bytes, raw: bytes) -> Inception | None:
    """What an account was born with, if this is it."""
    inception = decode(raw, Inception)
    return inception if account_id(network, inception) == agent else None


def check_session(
    signed: SignedDelegation, inception: Inception, key: bytes, network: bytes, now_ms: int
) -> Delegation:
    """Check that an agent can run with `key` under this delegation, now.

    Raises:
        InvalidInput: it is another key's, or lets it do too little.
        DelegationEnded: its time is over.
        BadSignature, Expired, Refused, Malformed: as `delegation.verify_delegated`; Expired: not yet valid.
    """
    account, delegation = unopened_account(network, inception), None
    for purpose in SESSION_PURPOSES:
        try:
            delegation = verify_delegated(
                signed, account, network=network, now_ms=now_ms, purpose=purpose, fences=Fences()
            )
        except Expired as exc:
            ended_ms = decode(signed.body, Delegation).not_after
            if now_ms < ended_ms:
                raise
            raise DelegationEnded(ended_ms) from exc
    assert delegation is not None
    if delegation.key != key:
        raise InvalidInput("the delegation is for another key than key=")
    return delegation


__all__ = ["SESSION_PURPOSES", "Standing", "check_session", "is_key_of"]
