"""Who speaks for an agent: its account's key, or a session key that this one has delegated to. No I/O.

    inception ──its hash is the agent id──► the key it names, or the revealed one that it commits to
        └── that key seals a Delegation ──► a session key, for a time, until a higher epoch is seen

All of it is in the card, so it is judged without asking anybody. What a card cannot show is that an account
has been recovered by guardians, or rotated: whoever can, asks the ledger (`ainp2p.agents.doubts`), and what
that has proven counts instead of the inception.
"""

from __future__ import annotations

from functools import lru_cache

from ainp2p.errors import DelegationEnded, Error, Expired, InvalidInput
from ainp2p.ledger.rules.accounts import Account, unopened_account
from ainp2p.ledger.rules.operations import NO_NEXT_KEY, SIGN_CLOSE, Inception, key_digest
from ainp2p.ledger.wallets.delegation import Delegation, Fences, SignedDelegation, verify_delegated
from ainp2p.protocol import card, messages
from ainp2p.protocol.card import Card
from ainp2p.protocol.codec import decode

SESSION_PURPOSES = tuple(sorted((card.PURPOSE, messages.PURPOSE, SIGN_CLOSE)))
FENCES_MAX = 65_536  # accounts whose newest holder is remembered; of more, the oldest goes
LEARNED_MAX = 4_096  # accounts of which the ledger has told; of more, the oldest goes
ASK_AGAIN_MS = 600_000  # about an account whose cards are believed
MISFIT_MS = 2_000  # about one whose card is not believed: its key may just have changed


def speaks_for(account: Account | Inception, key: bytes) -> bool:
    """Whether this is an account's key (at its birth), or the one that it has committed to as its next."""
    return key == account.key or key_digest(key) == account.next_digest


def can_change(inception: Inception) -> bool:
    """Whether an account's key may be another one than it was born with."""
    return bool(inception.guardians) or inception.next_digest != NO_NEXT_KEY


class Standing:
    """The `Binding` of a directory: it remembers the newest holder of each account, and its newest key."""

    def __init__(self) -> None:
        self.fences = Fences()
        self._learned: dict[bytes, tuple[Account | None, int]] = {}  # agent → its account, when we asked (ms)

    def learn(self, agent: bytes, account: Account | None, now_ms: int) -> None:
        """Take what the ledger has proven of an account; None: it told nothing."""
        known = self._learned.pop(agent, (None, 0))[0]
        if account is None or (known is not None and account.seq < known.seq):
            account = known
        self._learned[agent] = account, now_ms
        if len(self._learned) > LEARNED_MAX:
            del self._learned[next(iter(self._learned))]

    def is_doubtful(self, shown: Card, now_ms: int, *, believed: bool) -> bool:
        """Whether to ask the ledger about a card's account: its key can change, and it is long since."""
        try:
            born = _born(shown.network, shown.agent, shown.inception)
        except Error:
            return False
        if born is None or not can_change(born[0]):
            return False
        asked = self._learned.get(shown.agent)
        return asked is None or now_ms >= asked[1] + (ASK_AGAIN_MS if believed else MISFIT_MS)

    def __call__(self, shown: Card, key: bytes, now_ms: int) -> bool:
        """Whether `key` speaks now for the agent that a card names."""
        try:
            born = _born(shown.network, shown.agent, shown.inception)
            if born is None:
                return False
            account = self._learned.get(shown.agent, (None, 0))[0] or born[1]
            if not shown.delegation:
                return speaks_for(account, key)
            signed = decode(shown.delegation, SignedDelegation)
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


@lru_cache(maxsize=4096)  # each card of an agent says it again
def _born(network: bytes, agent: bytes, raw: bytes) -> tuple[Inception, Account] | None:
    """What an account was born with, and the account that this makes, if this is it."""
    inception = decode(raw, Inception)
    account = unopened_account(network, inception)
    return (inception, account) if account.id == agent else None


def check_session(
    signed: SignedDelegation,
    inception: Inception,
    key: bytes,
    network: bytes,
    now_ms: int,
    account: Account | None = None,
) -> Delegation:
    """Check that an agent can run with `key` under this delegation, now.

    Args:
        account: its newest state, where that is known: the key may have changed since its inception.

    Raises:
        InvalidInput: it is another key's, or lets it do too little.
        DelegationEnded: its time is over.
        BadSignature, Expired, Refused, Malformed: as `delegation.verify_delegated`; Expired: not yet valid.
    """
    account, delegation = account or unopened_account(network, inception), None
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


__all__ = ["SESSION_PURPOSES", "Standing", "can_change", "check_session", "speaks_for"]
