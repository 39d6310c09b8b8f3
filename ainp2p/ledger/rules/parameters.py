"""What the rules of one epoch depend on: times, fees, limits. In the genesis, and in each COMMITTEE."""

from __future__ import annotations

import msgspec

from ainp2p.errors import InvalidInput
from ainp2p.protocol.codec import Message, Uint

CREDITS_MAX = 512
VALIDATORS_MAX = 31


class Parameters(Message, frozen=True):
    """What an epoch's rules depend on. Times in ms, amounts in uain."""

    vote_timeout_ms: Uint  # T: a slot without a commit certificate for so long changes its view
    gate_hold_ms: Uint  # D: a gated operation waits so long since it became otherwise valid
    gate_contact_ms: Uint  # G: and until the validator has been in contact with a quorum for so long
    margin_ms: Uint  # a payee spreads its receipt before expiry minus the larger of this
    margin_percent: Uint  # and so many percent of the Lock's life
    lock_life_ms_max: Uint
    fee_floor: Uint
    credits_max: Uint  # that one SPEND may consume
    clock_ahead_ms: Uint  # an operation further ahead than this is deferred
    lease_ms_min: Uint  # the least lease with which guardians can recover an account
    epoch_ms: Uint
    void_debt: Uint  # what equivocating costs the owner

    def margin(self, life_ms: int) -> int:
        """How long before its expiry a Lock of this life must have been settled, in ms."""
        return max(self.margin_ms, life_ms * self.margin_percent // 100)


PRODUCTION = Parameters(
    vote_timeout_ms=2_000,
    gate_hold_ms=60_000,
    gate_contact_ms=600_000,
    margin_ms=600_000,
    margin_percent=5,
    lock_life_ms_max=90 * 86_400_000,
    fee_floor=1,
    credits_max=CREDITS_MAX,
    clock_ahead_ms=60_000,
    lease_ms_min=86_400_000,
    epoch_ms=86_400_000,
    void_debt=1_000,
)
DEVELOPMENT = msgspec.structs.replace(
    PRODUCTION,
    gate_hold_ms=1_000,
    gate_contact_ms=2_000,
    margin_ms=2_000,
    margin_percent=0,
    lock_life_ms_max=3_600_000,
    lease_ms_min=10_000,
    epoch_ms=3_600_000,
)


def check_parameters(parameters: Parameters) -> None:
    """Check what the shape cannot say.

    Raises:
        InvalidInput: which rule they break.
    """
    if not 1 <= parameters.credits_max <= CREDITS_MAX:
        raise InvalidInput(f"credits_max is 1 to {CREDITS_MAX}")
    if parameters.lock_life_ms_max == 0 or parameters.fee_floor == 0:
        raise InvalidInput("lock_life_ms_max and fee_floor are at least 1")
