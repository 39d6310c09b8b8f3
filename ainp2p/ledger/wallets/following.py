"""Following the committees from epoch to epoch, for whoever reads certificates: wallets and watchtowers.

LEDGER.md, "Epochs": "Clients follow the chain of COMMITTEEs from genesis."

    an answer names an epoch that is not known ──► whoever gave it is asked for the chain, before it is read
    the epoch is over by the clock, a hint     ──► everybody is asked
    a link, certified by the committee before  ──► kept ──► `Validators.follow`: other members from now on

A validator that shows a stale or a forged chain changes nothing: a link counts by its certificate alone, and
the newest link that anybody can show is taken. With a pinned checkpoint nothing is taken over until a chain
has been shown that contains it: what comes before is bound by hashes, what comes after by certificates. So
"members of an old committee who sell their keys" cannot forge a history for whoever pins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

import trio

from ainp2p.errors import Error, InvalidOperation, NetworkError, RemoteError, TimedOut
from ainp2p.ledger.rules.operations import NextCommittee
from ainp2p.ledger.rules.parameters import Parameters
from ainp2p.ledger.serving.messages import (
    Decided,
    DecidedPage,
    Fetched,
    Finals,
    GetHistory,
    History,
    HistoryFrom,
    ObjectHead,
    Statuses,
)
from ainp2p.ledger.serving.proofs import read_operation
from ainp2p.ledger.serving.sync import LAST_WORD_S, Member, Validators
from ainp2p.ledger.voting.certificate import certificate_epoch
from ainp2p.ledger.voting.committee_chain import CommitteeChain
from ainp2p.protocol.codec import Message
from ainp2p.protocol.network import PeerId

AGAIN_S = 2.0  # between questions to all when an epoch should have ended, or somebody says so; doubles
AGAIN_MAX_S = 60.0
_WRONG = (RemoteError, InvalidOperation)  # what a validator that lies, or errs, makes us raise


class CheckpointNotShown(TimedOut):
    """Validators answer, and none can show a chain of COMMITTEEs with the pinned one."""


class Following:
    """Keeps a chain and a set of validators at the newest epoch.

    Attributes:
        chain: the committees; `Proofs` shares it.
    """

    def __init__(
        self,
        validators: Validators,
        chain: CommitteeChain,
        keep: Callable[[int, Decided], None] = lambda epoch, link: None,
        *,
        pinned: bytes | None = None,
    ) -> None:
        """Follow on from `chain`; from now on every answer to `validators` is looked at.

        Args:
            keep: told of each new link (the epoch that it opens, the COMMITTEE), to be `restore`d.
            pinned: id of a COMMITTEE that must be on the chain.
        """
        self.chain = chain
        self._validators, self._keep, self._pinned = validators, keep, pinned
        self._hinted = trio.Event()
        self._due_s = 0.0  # of trio's clock: not sooner; at first at once
        self._pause_s = AGAIN_S
        self._busy = trio.Lock()
        validators.prepare = self._prepare
        validators.follow(chain.newest.number, chain.newest.seats)

    @property
    def is_trusted(self) -> bool:
        """Whether the pinned checkpoint, if there is any, has been reached; nothing is believed before."""
        return self._pinned is None or self.chain.has(self._pinned)

    def parameters(self, epoch: int) -> Parameters:
        """An epoch's fees and limits; the newest known where it is a later one."""
        return self.chain.epoch(min(epoch, self.chain.newest.number)).parameters

    def restore(self, links: Iterable[Decided]) -> None:
        """Take up links that were kept. What does not fit is left out: it will be asked for again."""
        chain = self.chain.copy()
        with suppress(Error):
            for link in links:
                chain.extend(link.operation, link.certificate)
        if self._pinned is None or chain.has(self._pinned):
            self.chain.adopt(chain)
            self._validators.follow(chain.newest.number, chain.newest.seats)

    def hint(self, epoch: int) -> None:
        """Somebody says that this epoch runs; that it does is proven by the chain alone."""
        if epoch > self.chain.newest.number:
            self._hinted.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            now_s, self._hinted = trio.current_time(), trio.Event()
            over_s = now_s + self._ends_in_s()
            if self._due_s < over_s:  # until then only if somebody says that it has ended
                with trio.move_on_at(over_s):
                    await self._hinted.wait()
            await trio.sleep_until(self._due_s)
            with suppress(NetworkError):
                await self.catch_up_if_due()

    async def catch_up_if_due(self) -> None:
        """As `catch_up`, if the epoch is over by the clock or by what somebody says, or none is trusted yet.

        Raises:
            TimedOut: nobody answers.
        """
        if trio.current_time() < self._due_s:
            return
        if self.is_trusted and self._ends_in_s() > 0 and not self._hinted.is_set():
            return
        before = self.chain.newest.number
        try:
            await self.catch_up()
        finally:
            stood = before == self.chain.newest.number
            self._pause_s = min(2 * self._pause_s, AGAIN_MAX_S) if stood and self._due_s else AGAIN_S
            self._due_s = trio.current_time() + self._pause_s

    async def catch_up(self) -> None:
        """Ask everybody for what follows; again, where that brings a new committee.

        Raises:
            TimedOut: nobody answers; CheckpointNotShown: nobody can show the pinned checkpoint.
        """
        async with self._busy:
            before = -1
            while self.chain.newest.number > before:
                before = self.chain.newest.number
                # Where no member answers, one that has left may know how it went on.
                asked = self._validators.others, self._validators.former
                if not await self._ask_all(asked[0]) and not await self._ask_all(asked[1]):
                    raise TimedOut("no validator answers: nobody can show which committee decides now")
        if not self.is_trusted:
            raise CheckpointNotShown(
                "no validator can show a chain of COMMITTEEs that contains the pinned checkpoint"
            )

    def _ends_in_s(self) -> float:
        """When the epoch is over by the clock."""
        newest = self.chain.newest
        ends_ms = newest.opened_at + newest.parameters.epoch_ms
        return (ends_ms - self._validators.network.context.now_ms()) / 1000

    # --- asking -------------------------------------------------------------------------------------

    async def _prepare(self, peer: PeerId, answer: Message) -> None:
        """Before an answer is read: whoever shows a certificate of an epoch can show how it came about.

        Raises:
            TimedOut: the pinned checkpoint is not reached, so no answer may be read.
        """
        if not self.is_trusted:
            raise TimedOut("no validator has shown a chain of COMMITTEEs that contains the pinned checkpoint")
        if isinstance(answer, Finals):
            self.hint(answer.epoch)
        named = max(map(certificate_epoch, certificates_of(answer)), default=0)
        if named > self.chain.newest.number:
            with suppress(NetworkError, *_WRONG):
                await self._ask(peer)

    async def _ask_all(self, members: tuple[Member, ...]) -> bool:
        """Whether anybody answered, truly or not."""
        total, heard = sum(member.weight for member in members), 0

        async def one(member: Member) -> None:
            nonlocal heard
            with suppress(NetworkError):
                with suppress(*_WRONG):
                    await self._ask(member.peer)
                heard += member.weight
            if 3 * heard > 2 * total:
                soon = trio.current_time() + LAST_WORD_S
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, soon)

        async with trio.open_nursery() as nursery:
            for member in members:
                nursery.start_soon(one, member)
        return heard > 0

    async def _ask(self, peer: PeerId) -> None:
        """Take over what one validator can prove; bounded, since each page must bring a link."""
        chain = self.chain if self.is_trusted else self.chain.copy()
        links: list[tuple[int, Decided]] = []
        known = -1
        while chain.newest.number > known:
            known = chain.newest.number
            question = GetHistory((HistoryFrom(chain.network, 2 * known + 1),))
            answer = await self._validators.ask_plainly(peer, question, History)
            for decided in answer.operations:
                if isinstance(read_operation(decided.operation).operation.body, NextCommittee):
                    self._take(chain, decided, links)
        if chain is not self.chain and self._pinned is not None and chain.has(self._pinned):
            self.chain.adopt(chain)
            self._announce(links)

    def _take(self, chain: CommitteeChain, link: Decided, links: list[tuple[int, Decided]]) -> None:
        before = chain.newest.number
        chain.extend(link.operation, link.certificate)
        if chain.newest.number == before:
            return  # somebody else has shown it meanwhile
        links.append((chain.newest.number, link))
        if chain is self.chain:
            self._announce(links[-1:])

    def _announce(self, links: list[tuple[int, Decided]]) -> None:
        for epoch, link in links:
            self._keep(epoch, link)
        newest = self.chain.newest
        self._validators.follow(newest.number, newest.seats)


def certificates_of(answer: Message) -> list[bytes]:
    """The certificates in a validator's answer."""
    if isinstance(answer, Statuses):
        return [status.certificate for status in answer.statuses]
    if isinstance(answer, ObjectHead):
        return [decided.certificate for decided in (*answer.opening, *answer.last)]
    if isinstance(answer, Fetched | Finals | History | DecidedPage):
        return [decided.certificate for decided in answer.operations if decided is not None]
    return []


__all__ = ["CheckpointNotShown", "Following", "certificates_of"]
