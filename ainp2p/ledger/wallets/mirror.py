"""Keeping a Purse up to date: follow one validator's finals, and ask all of them when something is missing.

    following ──a final operation──► learnt        following ──silence, a lie, a break──► the next validator
    at first, and at every gap: refresh = account, credits and Locks from all validators, each with its proof,
    the newest proven one taken
    each time a stream begins: the same, if the one that is followed says something else than is known here
    where no validator has room for another follower: the same now and again, ever less often

Whatever is learnt goes through `learn`, which the wallet gives. Runs as a task of the wallet.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from contextlib import suppress

import trio

from ainp2p.errors import (
    Error,
    InvalidOperation,
    LedgerError,
    Malformed,
    NetworkError,
    NotFinal,
    Refused,
    RemoteError,
    TimedOut,
)
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import NextCommittee, ParsedOperation, Spend
from ainp2p.ledger.serving.messages import (
    CREDITS_PAGE_MAX,
    FOLLOW_BEAT_MAX_S,
    OPERATIONS_MAX,
    CreditPage,
    Decided,
    Fetched,
    FetchOperations,
    Finals,
    Follow,
    GetCredits,
    GetLocksOf,
    GetObject,
    LockIds,
    ObjectHead,
    follow_beat_s,
)
from ainp2p.ledger.serving.proofs import Proofs, Proven, read_operation
from ainp2p.ledger.serving.sync import ASK_TIMEOUT_S, LAST_WORD_S, Validators
from ainp2p.ledger.wallets.committee_clock import CommitteeClock
from ainp2p.ledger.wallets.following import Following
from ainp2p.ledger.wallets.leaf_proofs import prove_credits
from ainp2p.ledger.wallets.lookup import newest_lock
from ainp2p.ledger.wallets.purse import Purse
from ainp2p.protocol.network import PeerId

RETRY_AFTER_S = 0.5  # until the next validator is tried; doubles while none can be followed
RETRY_AFTER_MAX_S = 4.0
LOOK_S, LOOK_MAX_S = 4.0, 32.0  # between looks at a validator, while none lets us follow
LOCKS_AT_ONCE = 16
LOCK_PAGES_MAX = 16  # of one validator: 4,096 Locks; the rest is found once these have ended
LOOK_AGAIN_S = 2.0  # after a refresh for a credit that too few validators may have heard of yet
LIST_TIMEOUT_S = 60.0  # for all pages of all validators while no quorum has listed
FOLLOW_TURN_S = 300.0  # then the next validator is followed: one that keeps quiet hides nothing for longer;
FOLLOW_TURN_MAX_S = 1200.0  # after a turn that brought nothing that the one before hid
GAPS_MAX = 1024  # above it, what is missed is learnt with the next turn
TRIES_MAX = 60  # for a gap, half a second apart
_PAGES_MAX = 1000  # of credits, from one validator: 128,000 credits
_CREDIT_PROOF = OPERATIONS_MAX  # operations asked for at a time
_WRONG = (RemoteError, InvalidOperation)  # what a validator that lies, or errs, makes us raise


class Mirror:
    """One account's view of the ledger, kept by asking validators."""

    def __init__(
        self,
        validators: Validators,
        following: Following,
        proofs: Proofs,
        purse: Purse,
        learn: Callable[[Proven, int], None],
        on_lock: Callable[[Lock, bytes], None],
        clock: CommitteeClock,
    ) -> None:
        """Prepare; nothing is asked before `begin`.

        Args:
            learn: takes every operation that is proven final, and uain that it is known to have brought.
            on_lock: called for each Lock whose state was taken from a proof, with its certificate.
            clock: told what time it is at each validator that is asked.
        """
        self._validators, self._following = validators, following
        self._proofs, self._purse = proofs, purse
        self._learn, self._on_lock, self._clock = learn, on_lock, clock
        self._doubtful: set[bytes] = set()  # credits that may be consumed, until a quorum has listed
        self._look_again = False
        self._slow: set[PeerId] = set()  # did not answer in this refresh: there are others
        self._gaps: set[bytes] = set()
        self._nursery: trio.Nursery | None = None
        self._stirred = self._mending = False  # something is to be mended; a task is at it
        self._tries: dict[bytes, int] = {}  # gap → how often it could not be mended
        self._followed: PeerId | None = None  # its stream has just begun: what does it know?
        self._looks = 0  # at validators that do not let us follow, since one of them had news
        self._was_hidden = False  # the last refresh found what the validator that is followed did not tell
        self._busy = trio.Lock()
        self.refreshed = trio.Event()  # set once, when the first refresh is done

    def report_gap(self, object_: bytes) -> None:
        """Something about this object was missed: ask for it soon."""
        if len(self._gaps) < GAPS_MAX or object_ == self._purse.id:
            self._gaps.add(object_)
        self._stir()

    def doubt_credits(self, *, soon_again: bool = False) -> None:
        """List our credits anew: one of them may be consumed already, or one may have come."""
        self._doubtful |= self._purse.credits.keys()
        self._look_again |= soon_again
        self.report_gap(self._purse.id)

    def begin(self, nursery: trio.Nursery) -> None:
        """Follow and mend until this nursery ends."""
        self._nursery = nursery
        self.report_gap(self._purse.id)  # ask at once; nobody may be there to follow yet
        nursery.start_soon(self._follow_forever)

    def stop(self) -> None:
        """Begin nothing any more: the nursery ends."""
        self._nursery = None

    def _stir(self) -> None:
        """There is something to mend: a task sees to it, while there is."""
        self._stirred = True
        if not self._mending and self._nursery is not None:
            self._mending = True
            self._nursery.start_soon(self._mend_all)

    # --- following --------------------------------------------------------------------------------

    async def _follow_forever(self) -> None:
        pause_s, turn, turn_s, refused = RETRY_AFTER_S, 0, FOLLOW_TURN_S, 0
        peers: list[PeerId] = []
        while True:
            if set(peers) != self._validators.stakes.keys() or not peers:
                peers = [member.peer for member in self._validators.others]
                self._validators.network.context.rng.shuffle(peers)  # wallets spread over the committee
            if not peers:
                await self._validators.changed.wait()
                continue
            try:
                peer = peers[turn % len(peers)]
                with trio.move_on_after(turn_s), self._validators.while_member(peer):
                    await self._follow(peer)
                pause_s, refused = RETRY_AFTER_S, 0
                turn_s = FOLLOW_TURN_S if self._was_hidden else FOLLOW_TURN_MAX_S
                self._was_hidden = False
            except Error as exc:  # the world's or the validator's; the next one may do better
                pause_s = min(2 * pause_s, RETRY_AFTER_MAX_S)
                refused = refused + 1 if isinstance(exc, Refused) and exc.code == "busy" else 0
                if refused >= len(peers):
                    pause_s = self._look(peer)
            turn += 1
            await trio.sleep(pause_s)

    def _look(self, peer: PeerId) -> float:
        """Nobody has room for us: see what this one knows, as if it was followed; for how long to rest then.

        With it goes one question to be let in, so that whoever leaves makes room.
        """
        self._followed = peer
        self._stir()
        pause_s = float(min(LOOK_S * 2**self._looks, LOOK_MAX_S))
        self._looks = min(self._looks + 1, 16)
        return pause_s * (0.75 + self._validators.network.context.rng.random() / 2)

    async def _follow(self, peer: PeerId) -> None:
        question, timeout_s = Follow((self._purse.id,)), 3 * FOLLOW_BEAT_MAX_S
        async with self._validators.stream(peer, question, Finals, timeout_s=timeout_s) as chunks:
            quiet = -1
            while True:
                with trio.move_on_after(3 * follow_beat_s(quiet)) as waiting:
                    finals = await anext(chunks, None)
                if waiting.cancelled_caught:
                    raise TimedOut("a validator that is followed keeps quiet")
                if finals is None:
                    return
                for decided in finals.operations:
                    self._learn(self._proofs.operation(decided), 0)
                if quiet < 0:
                    self._looks = 0
                    self._followed = peer
                    self._stir()
                quiet = 0 if finals.operations else quiet + 1

    async def _mend_all(self) -> None:
        while self._stirred:
            self._stirred = False
            gaps, self._gaps = self._gaps, set()
            followed, self._followed = self._followed, None
            try:
                if followed is not None and self._purse.id not in gaps and await self._knows_more(followed):
                    gaps.add(self._purse.id)
                    self._looks = min(self._looks, 1)  # more may come soon
                await self._mend(gaps)
            except (NetworkError, RemoteError, LedgerError):
                self._gaps |= self._worth_trying(gaps)
                if not self._looks and self._followed is None:
                    self._followed = followed  # it was busy; where none lets us follow, the next look is soon
                await trio.sleep(RETRY_AFTER_S)
                self._stirred = True
            if self._look_again:
                self._look_again = False
                await trio.sleep(LOOK_AGAIN_S)
                self.report_gap(self._purse.id)
        self._mending = False

    def _worth_trying(self, gaps: set[bytes]) -> set[bytes]:
        """A Lock that nobody can prove for long may have ended and been pruned: wait for the next turn."""
        self._tries = {id_: self._tries.get(id_, 0) + 1 for id_ in gaps}
        return {id_ for id_, tries in self._tries.items() if tries < TRIES_MAX or id_ == self._purse.id}

    async def _knows_more(self, peer: PeerId) -> bool:
        """Whether a validator says something else of our account than what is known, or nothing at all.

        What it hides, the next one that is followed tells; what it makes up costs a refresh.
        """
        try:
            ids, seq = await self._list_credits(peer)
            if seq != self._purse.account.seq:
                return seq > self._purse.account.seq
            if any(id_ not in self._purse.credits for id_ in ids):
                return True
            for id_, lock in list(self._purse.locks.items()):
                if not lock.ended:
                    head = await self._validators.ask(peer, GetObject(id_), ObjectHead)
                    if head.last and read_operation(head.last[0].operation).operation.seq > lock.seq:
                        return True
        except Refused as exc:
            if exc.code == "busy":  # who has no time for one question has none for all that a refresh asks
                raise
            return True
        except (NetworkError, *_WRONG):
            return True
        return False

    async def _mend(self, gaps: set[bytes]) -> None:
        if self._purse.id in gaps:
            await self.refresh()
        else:
            for lock in sorted(gaps):
                await self.fetch_lock(lock)

    # --- asking -----------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Learn the newest account, credits and Locks that validators can prove.

        Raises:
            TimedOut: no validator answers.
        """
        async with self._busy:
            await self._following.catch_up_if_due()
            self._slow.clear()
            if await self._refresh_account():
                self._was_hidden = True
                # After a jump, what was consumed meanwhile must go; otherwise every SPEND was seen.
                self._doubtful |= self._purse.credits.keys()
            await self._refresh_credits()
            await self._refresh_locks(id_ for id_, lock in self._purse.locks.items() if not lock.ended)
            self.refreshed.set()

    async def fetch_lock(self, id_: bytes) -> tuple[Lock, bytes]:
        """The newest state of a Lock that validators can prove, and the certificate that does.

        Raises:
            NotFinal: none of those that answer knows it.
            TimedOut: nobody answers.
        """
        lock, proof = await newest_lock(self._validators, self._proofs, id_)
        if not self._purse.concerns(lock):
            return lock, proof[-1].certificate
        if self._purse.adopt_lock(lock, proof[0].parsed):
            self._on_lock(lock, proof[-1].certificate)
        for proven in proof:
            self._learn(proven, 0)
        return self._purse.locks[id_], proof[-1].certificate

    async def discover_locks(self, party: bytes) -> None:
        """Learn of open Locks that concern us and that nobody has told us of; each with its proof.

        Raises:
            TimedOut: no validator answers.
        """
        found: set[bytes] = set()
        answers = await self._validators.ask_all(GetLocksOf(party, b""), LockIds, last_word_s=LAST_WORD_S)
        for peer, page in answers:
            found.update(page.locks)
            for _ in range(LOCK_PAGES_MAX):
                if not page.more or not page.locks:
                    break
                page = await self._validators.ask(peer, GetLocksOf(party, page.locks[-1]), LockIds)
                found.update(page.locks)
        await self._refresh_locks(found - self._purse.locks.keys())

    async def _refresh_account(self) -> bool:
        """True if the account moved on by operations that were not seen."""
        jumped, question = False, GetObject(self._purse.id)
        for _, head in await self._validators.ask_all(question, ObjectHead, last_word_s=LAST_WORD_S):
            if not head.last:
                continue  # nothing was spent yet
            try:
                account = self._proofs.account(head)
                last = self._proofs.operation(head.last[0])
            except _WRONG:
                continue
            if account.id == self._purse.id:
                jumped |= self._purse.adopt_account(account)
                self._learn(last, 0)
        return jumped

    async def _refresh_locks(self, ids: Iterable[bytes]) -> None:
        limit = trio.CapacityLimiter(LOCKS_AT_ONCE)

        async def one(id_: bytes) -> None:
            async with limit:
                with suppress(NotFinal, NetworkError):  # what is known stays; the next refresh asks again
                    await self.fetch_lock(id_)

        async with trio.open_nursery() as nursery:
            for id_ in sorted(ids):
                nursery.start_soon(one, id_)

    async def _refresh_credits(self) -> None:
        listed: dict[bytes, list[PeerId]] = {}
        heard: list[PeerId] = []

        async def one(peer: PeerId) -> None:
            try:
                ids, seq = await self._list_credits(peer)
            except (NetworkError, *_WRONG):
                return
            if seq == self._purse.account.seq:  # one that is ahead says nothing of what we should have now
                heard.append(peer)
            for id_ in ids:
                listed.setdefault(id_, []).append(peer)
            if self._validators.is_quorum(heard):
                soon = trio.current_time() + LAST_WORD_S
                nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, soon)

        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + LIST_TIMEOUT_S
            for member in self._validators.others:
                nursery.start_soon(one, member.peer)
        # One of them is correct, and has not seen it consumed: a lie would block the account's next SPEND.
        sound = {id_: peers for id_, peers in listed.items() if self._validators.is_minority(peers)}
        if self._validators.is_quorum(heard):
            self._purse.drop_credits(self._doubtful - sound.keys())
            self._doubtful.clear()
        await self._prove_credits({id_: p for id_, p in sound.items() if id_ not in self._purse.credits})

    async def _list_credits(self, peer: PeerId) -> tuple[list[bytes], int]:
        """A validator's list of our unconsumed credits (none if it is behind), and our seq there."""
        ids: list[bytes] = []
        seq = 0
        for _ in range(_PAGES_MAX):
            question = GetCredits(self._purse.id, ids[-1] if ids else b"")
            page = await self._validators.ask(peer, question, CreditPage)
            self._clock.note(peer, page.now_ms)
            seq = page.seq
            if seq < self._purse.account.seq:
                return [], seq
            fresh = [entry.credit for entry in page.entries]
            in_order = all(map(operator.lt, [question.after, *fresh], fresh))
            if not in_order or (page.more and len(page.entries) < CREDITS_PAGE_MAX // 2):
                raise Malformed("a page of credits out of order, or too short")
            ids += fresh
            if not page.more:
                break
        return ids, seq

    # --- proving credits --------------------------------------------------------------------------

    async def _prove_credits(self, wanted: dict[bytes, list[PeerId]]) -> None:
        own = self._proofs.network
        ids = sorted(id_ for id_ in wanted if id_[:32] != own)  # genesis grants were known from the start
        for start in range(0, len(ids), _CREDIT_PROOF):
            some = ids[start : start + _CREDIT_PROOF]
            makers = {p.parsed.id: p for p in await self._fetch({id_[:32] for id_ in some}, wanted[some[0]])}
            before = await self._fetch_before(makers.values(), wanted[some[0]])
            for id_ in some:
                maker = makers.get(id_[:32])
                if maker is not None:
                    await self._take_credit(id_, maker, before)
            # Its maker is gone, or the operation before that one, which a Lock's payment needs as well.
            unproven = [id_ for id_ in some if id_ not in self._purse.credits]
            await self._take_old_credits(unproven, wanted[some[0]])

    async def _take_old_credits(self, ids: list[bytes], peers: list[PeerId]) -> None:
        """Credits whose makers nobody keeps any more: they are in the state with which an epoch began."""
        if ids:
            network, chain = self._validators.network, self._proofs.chain
            found = await prove_credits(network, chain, self._purse.id, ids, peers)
            for id_, amount in found.items():
                self._purse.add_credit(id_, amount)

    async def _take_credit(self, id_: bytes, maker: Proven, before: dict[bytes, ParsedOperation]) -> None:
        operation = maker.parsed.operation
        lock = None
        try:
            object_ = _paying_lock(id_, maker.parsed)
            if object_ is not None:
                lock = self._purse.locks.get(object_)
                if lock is None:
                    lock, _ = await self.fetch_lock(object_)
            account, amount = self._proofs.credit(id_, maker.parsed, lock, before.get(operation.previous))
        except (NotFinal, NetworkError, *_WRONG):
            return  # not proven now; the next refresh tries again
        if account == self._purse.id:
            self._was_hidden = True
            self._learn(maker, amount)
            self._purse.add_credit(id_, amount)

    async def _fetch(self, ids: Iterable[bytes], peers: list[PeerId]) -> list[Proven]:
        """Proven final operations; those that nobody proves are left out."""
        missing, found = set(ids), []
        for peer in peers:
            for decided in await self._fetch_from(peer, missing):
                try:
                    proven = self._proofs.operation(decided)
                except _WRONG:
                    continue
                if proven.parsed.id in missing:
                    missing.discard(proven.parsed.id)
                    found.append(proven)
            if not missing:
                break
        return found

    async def _fetch_before(
        self, makers: Iterable[Proven], peers: list[PeerId]
    ) -> dict[bytes, ParsedOperation]:
        """The operations before these on their Locks. Named by their hash, they need no certificate."""
        ids = {
            m.parsed.operation.previous
            for m in makers
            if not isinstance(m.parsed.operation.body, Spend | NextCommittee) and m.parsed.operation.seq > 1
        }
        found: dict[bytes, ParsedOperation] = {}
        for peer in peers:
            for decided in await self._fetch_from(peer, ids - found.keys()):
                try:
                    parsed = read_operation(decided.operation)
                except _WRONG:
                    continue
                found[parsed.id] = parsed
        return {id_: parsed for id_, parsed in found.items() if id_ in ids}

    async def _fetch_from(self, peer: PeerId, ids: Iterable[bytes]) -> list[Decided]:
        wanted, got = sorted(ids), list[Decided]()
        if peer in self._slow:
            return got
        with trio.move_on_after(ASK_TIMEOUT_S), suppress(NetworkError, RemoteError):
            while wanted:
                question = FetchOperations(tuple(wanted[:OPERATIONS_MAX]))
                answer = await self._validators.ask(peer, question, Fetched)
                got += [decided for decided in answer.operations if decided is not None]
                if not answer.operations:
                    break
                wanted = wanted[len(answer.operations) :]
            return got
        self._slow.add(peer)
        return got


def _paying_lock(credit: bytes, maker: ParsedOperation) -> bytes | None:
    """The Lock that a credit comes out of; None for a payment from an account."""
    body = maker.operation.body
    if isinstance(body, Spend):
        return None
    if isinstance(body, NextCommittee):
        index = int.from_bytes(credit[32:], "big")
        return body.returned_bonds[index] if index < len(body.returned_bonds) else None
    return maker.operation.object
