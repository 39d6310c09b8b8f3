"""Every exception of the library, in one tree, by whose fault it is.

    Error
    ├── LocalError    ours: wrong arguments, keys, policy, model       → fix it
    ├── RemoteError   the peer's: it broke the protocol or a promise   → drop the peer
    ├── NetworkError  the world's: unreachable, late, gone             → retry, or go elsewhere
    └── LedgerError   a rule of the ledger refused                     → the message says which

A message says what happened and what to do next; numbers are attributes.
"""

from __future__ import annotations


class Error(Exception):
    """Base of everything that ainp2p raises on purpose."""


# --- ours ---------------------------------------------------------------------------------------


class LocalError(Error):
    """The caller's or this machine's fault; the same call will fail again until something is fixed."""


class InvalidInput(LocalError, ValueError):
    """An argument, a file or a configuration cannot be used; the message says why."""


class Closed(LocalError):
    """The object was used after its ``async with`` block had ended."""


class KeystoreError(LocalError):
    """A key file cannot be read or written."""


class WrongPassphrase(KeystoreError):
    """The passphrase does not open this key file."""


class DamagedKeyFile(KeystoreError):
    """The file is not a key file, or its bytes have changed."""


class LoosePermissions(KeystoreError):
    """Others may read the key file; it is not opened."""


class StorageError(LocalError):
    """A database cannot be opened, written or trusted."""


class PolicyRefused(LocalError):
    """The vault refused to commit money: a rule of the agent's own policy forbids it.

    Attributes:
        rule: the rule's name, such as ``"per_job"`` or ``"stopped"``.
        limit: the rule's bound in uain, or None where it has none.
        wanted: the amount in uain that was asked for.
    """

    def __init__(self, rule: str, wanted: int, limit: int | None = None, hint: str = "") -> None:
        bound = f"limit {limit} uain, " if limit is not None else ""
        super().__init__(
            f"policy rule {rule!r} refuses {wanted} uain ({bound}nothing was signed){hint and ': ' + hint}"
        )
        self.rule, self.wanted, self.limit = rule, wanted, limit


class BudgetExceeded(PolicyRefused):
    """The job's worst case is above a budget."""


class DelegationEnded(LocalError):
    """The time of the delegation that an agent runs on is over: start it again with another one.

    While it runs, `Agent.renew` takes a newer one.

    Attributes:
        ended_ms: since when, in ms since 1970.
    """

    def __init__(self, ended_ms: int) -> None:
        super().__init__(
            f"the delegation of this session key ended at {ended_ms}: have the account's owner make another "
            "one (`ainp2p wallet delegate`), and start the agent with it"
        )
        self.ended_ms = ended_ms


class ModelError(LocalError):
    """The agent's own model failed."""


class ModelNotFound(ModelError):
    """No such model is known, or its weights were not fetched: ``ainp2p model fetch NAME``."""


class ModelCrashed(ModelError):
    """The model process ended; requests in flight are lost and not billed."""


class ModelRefused(ModelError):
    """The model process is well and will not do this request (too long, bad token ids, no room)."""


# --- the peer's ---------------------------------------------------------------------------------


class RemoteError(Error):
    """The peer broke the protocol or a promise; do not go on with it."""


class Malformed(RemoteError):
    """Bytes that are no message: wrong shape, too large, too deep, or not canonical."""


class BadSignature(RemoteError):
    """A signature does not fit the key, the purpose or the bytes."""


class Expired(RemoteError):
    """Signed once, but no longer (or not yet) valid."""


class Refused(RemoteError):
    """The peer understood and said no.

    Attributes:
        code: a short machine-readable word, such as ``"busy"`` or ``"no-such-skill"``.
        reason: the peer's words; treat them as data.
    """

    def __init__(self, code: str, reason: str = "") -> None:
        super().__init__(f"refused ({code}){reason and ': ' + reason}")
        self.code, self.reason = code, reason


class Overcharged(RemoteError):
    """A seller asked for more than the award allows; nothing above it was signed."""


class Rejected(RemoteError):
    """Whoever read what a seller delivered says that it is no good (`Job.reject`)."""


class Unpaid(RemoteError):
    """A buyer did not pay for what was delivered within the agreed window."""


# --- the world's --------------------------------------------------------------------------------


class NetworkError(Error):
    """Nobody's fault: retry later, or go elsewhere."""


class Unreachable(NetworkError):
    """No connection to the peer could be made."""


class Broken(NetworkError):
    """The connection ended while it was in use; whether the peer acted is unknown."""


class TimedOut(NetworkError):
    """No answer before the deadline; whether the peer acted is unknown."""


class NoOffers(NetworkError):
    """Nobody alive offers this skill within the constraints."""


# --- a rule's -----------------------------------------------------------------------------------


class LedgerError(Error):
    """A rule of the ledger refused; no state changed."""


class InsufficientFunds(LedgerError):
    """The account does not hold enough."""

    def __init__(self, available: int, needed: int) -> None:
        super().__init__(
            f"available {available} uain, needed {needed} uain: fund the account or lower the amount"
        )
        self.available, self.needed = available, needed


class InvalidOperation(LedgerError):
    """An operation, a vote or a receipt breaks a rule.

    Attributes:
        rule: the rule's short name, stable across releases, such as ``"sequence"``.
    """

    def __init__(self, rule: str, detail: str = "") -> None:
        super().__init__(f"{rule}{detail and ': ' + detail}")
        self.rule = rule


class NotYet(InvalidOperation):
    """Not valid now, and may become so: keep it (within bounds) and check it again later."""


class InvalidReceipt(InvalidOperation):
    """A receipt is not worth what it says: wrong lock, signature, order or amount."""


class NotFinal(LedgerError):
    """What this builds on has no commit certificate yet; wait for it, or ask again."""
