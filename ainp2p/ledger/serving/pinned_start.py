"""Starting an empty validator from a checkpoint that somebody trusted has told: wait until it can be shown.

    is it on our disk? ──no──► do the others show a chain of COMMITTEEs with it? ──no──► a wrong one: end
              ▲                                    │ yes
              └── ask for their checkpoint again ◄─┘  they make it soon after the epoch's beginning

Nobody answering is waited for as well: the others may be starting, too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from ainp2p.errors import NetworkError, TimedOut
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.voting.committee_chain import CommitteeChain
from ainp2p.ledger.wallets.following import CheckpointNotShown, Following
from ainp2p.protocol.network import Network

WAIT_S = 600.0  # a checkpoint is made within seconds of an epoch's beginning; of large states, minutes
PAUSE_S, PAUSE_MAX_S = 1.0, 15.0
NOT_SHOWN_MAX = 3  # times that nobody has it in the chain; those who were asked may have been behind
TELL_EVERY_S = 30.0

Tell = Callable[[str], None]


@dataclass
class PinnedStart:
    """What is waited for, and how patiently.

    Attributes:
        pinned: id of the COMMITTEE.
        is_here: whether it is on our disk.
        take: takes the others' newest checkpoint, if they have one.
        tell: is told what is being waited for, at first and then now and again.
    """

    pinned: bytes
    is_here: Callable[[], bool]
    take: Callable[[], Awaitable[object]]
    wait_s: float
    tell: Tell

    async def run(self, network: Network, genesis: Genesis) -> None:
        """Return once it is here.

        Raises:
            NetworkError: nobody has it in the chain, or nobody has shown a checkpoint with it in time.
        """
        if self.is_here() or self.pinned == genesis.network_id:
            return
        following = Following(
            Validators(network, genesis), CommitteeChain.from_genesis(genesis), pinned=self.pinned
        )
        begun_s, told_s, pause_s, not_shown = trio.current_time(), -TELL_EVERY_S, PAUSE_S, 0
        while True:
            try:
                await following.catch_up()
                not_shown = 0
                lacking = "the others have it in their chain, and have not made its checkpoint yet"
            except CheckpointNotShown as exc:
                not_shown, lacking = not_shown + 1, str(exc)
            except TimedOut as exc:
                lacking = str(exc)
            await self.take()
            if self.is_here():
                return
            waited_s = trio.current_time() - begun_s
            if not_shown >= NOT_SHOWN_MAX:
                raise NetworkError(
                    "nobody shows a chain of committees that has the checkpoint: compare its id with whoever "
                    "told it (`ainp2p network status` prints the newest); data that is from others, remove"
                )
            if waited_s >= self.wait_s:
                raise NetworkError(
                    f"no checkpoint after {waited_s:.0f} s ({lacking}): start again later, it goes on with "
                    "what it has; or wait longer with --wait"
                )
            if waited_s - told_s >= TELL_EVERY_S:
                told_s = waited_s
                self.tell(
                    f"waiting for the checkpoint since {waited_s:.0f} s, at most {self.wait_s:.0f}: {lacking}"
                )
            await trio.sleep(min(pause_s, max(self.wait_s - waited_s, 0)))
            pause_s = min(1.5 * pause_s, PAUSE_MAX_S)


__all__ = ["WAIT_S", "PinnedStart", "Tell"]
