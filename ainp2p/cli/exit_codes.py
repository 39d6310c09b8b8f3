"""What the exit status of `ainp2p` says. Scripts may rely on these numbers."""

from __future__ import annotations

import ainp2p.errors as errors

OK = 0
FAILED = 1  # the message on standard error says why
USAGE = 2  # an argument, a file or a configuration cannot be used
NO_NETWORK = 3  # nobody could be reached, or the connection was lost
NO_OFFERS = 4  # the network is there, and nobody alive offers that
BUDGET = 5  # the budget, the policy or the balance does not allow it; nothing was signed for it
INTERRUPTED = 130  # Ctrl-C, as shells report it (128 + SIGINT)

HELP = """exit status:
  0 done, 1 failed, 2 wrong usage, 3 no network, 4 no offers, 5 above budget, 130 interrupted"""

# The first that fits decides, so the special stands before the general.
_BY_ERROR: tuple[tuple[type[errors.Error], int], ...] = (
    (errors.InvalidInput, USAGE),
    (errors.NoOffers, NO_OFFERS),
    (errors.PolicyRefused, BUDGET),
    (errors.InsufficientFunds, BUDGET),
    (errors.NetworkError, NO_NETWORK),
)


def of(error: errors.Error) -> int:
    """The exit status for an error of the library."""
    return next((code for kind, code in _BY_ERROR if isinstance(error, kind)), FAILED)
