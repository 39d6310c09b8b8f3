"""The keys that a wallet holds for its account: which of them signs what. When the owner must speak. No I/O.

current key ──a rotating SPEND, signed by the next key alone──► next key is the current one
    └──guardians recover──► another's key: nothing that we sign for the account is valid any more
"""

from __future__ import annotations

from collections.abc import Iterable

from ainp2p.errors import InvalidInput, InvalidOperation
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.operations import NO_NEXT_KEY, Operation, Rotation, Signer, Spend, key_digest

BEATS_PER_LEASE = 3  # so two heartbeats may be lost, or a third of a lease without a network


class KeyRing:
    """Keys by their public half.

    Attributes:
        first: the one that the wallet was opened with: signs receipts, closes Locks.
    """

    def __init__(self, first: Signer, others: Iterable[Signer] = ()) -> None:
        self.first = first
        self._signers = {signer.public: signer for signer in (first, *others)}

    def add(self, signer: Signer) -> None:
        """Hold one more."""
        self._signers.setdefault(signer.public, signer)

    def get(self, public: bytes) -> Signer | None:
        """The key with this public half, if it is held."""
        return self._signers.get(public)

    @property
    def publics(self) -> set[bytes]:
        """The public halves of all of them."""
        return set(self._signers)

    def is_current(self, account: Account) -> bool:
        """Whether we can sign for the account as it is now; not after somebody else got its key."""
        return account.key in self._signers

    def following(self, account: Account) -> Signer:
        """The next key, which the account has committed to.

        Raises:
            InvalidInput: the account has none, or it is not held here.
        """
        if account.next_digest == NO_NEXT_KEY:
            raise InvalidInput("the account was made without a next key: it can never rotate")
        for public, signer in self._signers.items():
            if key_digest(public) == account.next_digest:
                return signer
        raise InvalidInput("the next key of this account is not here: restore its file")

    def signer_for(self, account: Account, operation: Operation) -> Signer:
        """Who signs the account's next SPEND.

        LEDGER.md: "a rotating one is signed by the *revealed next key alone*".

        Raises:
            InvalidOperation: rule ``"key"``: the account has another key by now; nothing may be signed.
        """
        body = operation.body
        rotates = isinstance(body, Spend) and body.rotate is not None
        public = body.rotate.key if isinstance(body, Spend) and body.rotate is not None else account.key
        signer = self._signers.get(public)
        if signer is None:
            why = (
                "the next key is not here"
                if rotates
                else "it was rotated elsewhere, or recovered by guardians"
            )
            raise InvalidOperation("key", f"the account's key is another: {why}")
        return signer

    def rotation(self, account: Account, after: bytes) -> Rotation:
        """Reveal the next key and commit to the one after it, `after` (a public key).

        Raises:
            InvalidInput: as `following`; or both are the same key.
        """
        following = self.following(account)
        if after in (following.public, account.key):
            raise InvalidInput("the key after the next one must be a new one")
        return Rotation(following.public, key_digest(after))


def beat_due_ms(account: Account) -> int | None:
    """When the owner must have spoken again, ms since 1970; None where nobody else could take the account.

    An account that has not been opened is due at once: "at least one operation decided" is what guardians
    need before they can do anything for it.
    """
    if not account.guardians:
        return None
    return account.timestamp + account.lease // BEATS_PER_LEASE if account.seq else 0
