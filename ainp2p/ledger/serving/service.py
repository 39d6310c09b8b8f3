"""A validator on a Network: the core, its disk, and the questions of wallets and of other validators.

The core is touched by one task at a time (`_core`). It is also held while a write is on its way to the disk,
in a worker thread: the event loop goes on, messages wait for a few milliseconds, and what they bring goes
into the next write, which is group commit. Votes leave when `Validator.release` hands them out, after that.

    a message ──limits, shape──► core ──► Effects ──► push, announce, fetch
    an operation ──limits, shape──► intake, fairly ──► core
    a timer   ──► seal ──► write (thread) ──► release ──► Effects

Who has much waiting, or was told "busy", is not read for a while (`back_pressure`).
Nothing that a peer sends raises out of its handler but `Refused`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import trio
import trio.testing

from ainp2p.errors import Error, InvalidInput, LedgerError, Refused, RemoteError, StorageError
from ainp2p.ledger.disk import open_database
from ainp2p.ledger.rules.accounts import Account
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import (
    ParsedOperation,
    SignedOperation,
    Signer,
    operation_id,
    parse,
)
from ainp2p.ledger.rules.system import epoch_ends_at
from ainp2p.ledger.serving.answers import Answers, bounded
from ainp2p.ledger.serving.attaching import Attacher, EvidenceBook
from ainp2p.ledger.serving.back_pressure import BackPressure
from ainp2p.ledger.serving.catch_up import CatchUp
from ainp2p.ledger.serving.charging import COST_FALSE, Charges, Placed
from ainp2p.ledger.serving.checkpoint_desk import CheckpointDesk
from ainp2p.ledger.serving.checkpoint_messages import CHECKPOINT_PROTOCOL
from ainp2p.ledger.serving.checkpoint_sync import start_from_checkpoint
from ainp2p.ledger.serving.core_lock import CoreLock
from ainp2p.ledger.serving.epoch_fetch import EpochFetcher
from ainp2p.ledger.serving.faucet import open_faucet
from ainp2p.ledger.serving.followers import Follower, Followers
from ainp2p.ledger.serving.histories import Histories
from ainp2p.ledger.serving.intake import Intake, weigher
from ainp2p.ledger.serving.limits import Limits, Places
from ainp2p.ledger.serving.messages import (
    ADDRESSES_MAX,
    BATCHES_MAX,
    LEDGER_PROTOCOL,
    OPERATIONS_MAX,
    AskStatus,
    Decided,
    FetchAttachments,
    FetchBatches,
    FetchDecided,
    FetchOperations,
    Finals,
    Follow,
    GetCredits,
    GetHeights,
    GetHistory,
    GetLocksOf,
    GetObject,
    ListEvidence,
    PushAttachment,
    PushBatch,
    PushOperations,
    Question,
    Reconcile,
    ReconcileFrontier,
    Statistics,
    Statuses,
    Submit,
    follow_beat_s,
    read_question,
)
from ainp2p.ledger.serving.object_sync import ObjectSync
from ainp2p.ledger.serving.pinned_start import WAIT_S, PinnedStart, Tell
from ainp2p.ledger.serving.pushing import Pusher
from ainp2p.ledger.serving.reconcile import ReconcileIndex
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.serving.ticket import Ticket
from ainp2p.ledger.store import Store
from ainp2p.ledger.voting.effects import Effects, Journal
from ainp2p.ledger.voting.validator import CLOCK_STEP_MS, Validator
from ainp2p.ledger.voting.validator_store import SqliteJournal
from ainp2p.protocol.codec import Message, encode, fast_decoder
from ainp2p.protocol.identity import public_from_peer_id
from ainp2p.protocol.network import Call, Network, PeerId
from ainp2p.protocol.storage import Storage

FILE_NAME = "validator.sqlite"
BATCHES_PER_READ = 16  # a stream holds them until they are read
STREAMS_MAX, STREAMS_PER_PEER_MAX = 256, 8  # of pages to strangers, at one time
CHUNK_TIMEOUT_S = 30.0  # whoever reads nothing for so long is left
OPERATIONS_PER_TURN = 32  # three milliseconds or so
TURN_WITHIN_S = 0.005  # the next turn, however much there is to do besides: a third of the time at least
BACKLOGGED = (
    128  # operations: a tenth of a second's work, and what votes name may well be among those to come
)
ASLEEP_S_MAX = 3600.0  # nothing in the core waits for longer without another look
LIGHT_PAUSE_S = 0.005  # while only operations wait that others come before
PAGE_PAUSE_S = 0.1  # when who streams has had its share
LINES_PER_S = 10.0  # of log about what one peer sends
EVERYWHERE = "everywhere/"  # before a source's peer id: it submits to the whole committee by itself

_read_signed = fast_decoder(SignedOperation)
_log = logging.getLogger(__name__)
RunDisk = Callable[[Callable[[], Any]], Any]


class ValidatorService:
    """One validator; `open_validator` makes it."""

    def __init__(
        self,
        network: Network,
        genesis: Genesis,
        key: bytes,
        validator: Validator,
        journal: Journal,
        store: Store,
        run: RunDisk,
    ) -> None:
        self._network, self._genesis, self._key = network, genesis, key
        self._validator, self._journal, self._run_disk = validator, journal, run
        self._validators = Validators(network, genesis)
        self._named = {member.key for member in genesis.validators if member.addresses}
        self._announced: tuple[str, ...] = ()
        self._follow_epoch()
        self._evidence = EvidenceBook()
        self._answers = Answers(validator, self._evidence, store.openings.of)
        self._histories = Histories(validator, store)
        self._followers = Followers()
        self._charges = Charges(
            self._validators,
            lambda account: validator.state.count_credits(account),
            lambda party: self._answers.locks.count(party),
        )
        self._pressure = BackPressure(network)
        self._intake = Intake(self._validators.stakes, weigher(validator.state), self._pressure)
        self._waiting = trio.Event()
        self._place_of = network.place_of if isinstance(network, Placed) else _nowhere
        self._cut_off: dict[PeerId, None] = {}
        self._flooded = trio.Event()
        self._lines = Limits(LINES_PER_S, LINES_PER_S)
        self._streams = Places(STREAMS_PER_PEER_MAX, STREAMS_MAX)
        self._pusher = Pusher(self._validators)
        self._attacher = Attacher(self._validators, self, self._evidence)
        self._objects = ObjectSync(self._validators, self)
        self._epoch_fetcher = EpochFetcher(self._validators, self)
        self._catch_up = CatchUp(self._validators, self, key, self._attacher, self._objects)
        self._core = CoreLock()
        self._alarm = trio.CancelScope()  # what the timer task sleeps in,
        self._asleep_until = 0.0  # and until when, ms: earlier, when the core wants to be called earlier
        self._ahead_ms = self._now_ms() - 1000 * trio.current_time()  # our clock of the one that nobody sets

    # --- what others see ----------------------------------------------------------------------------

    @property
    def voting(self) -> bool:
        """Whether it casts votes."""
        return self._validator.voting

    @property
    def epoch(self) -> int:
        """The one that runs here."""
        return self._validator.epoch

    @property
    def seated(self) -> bool:
        """Whether it is a member of the current epoch's committee."""
        return self._key in self._validator.committee.index

    @property
    def told_addresses(self) -> tuple[bytes, ...]:
        """Where it listens, for others to tell; empty if the genesis says so."""
        if self._key in self._named and not self._announced:
            return ()
        addresses = self._announced or self._network.addresses
        return tuple(address.encode() for address in addresses[:ADDRESSES_MAX])

    def _note_addresses(self, peer: PeerId, addresses: tuple[bytes, ...]) -> None:
        """A validator tells where it listens: one with a seat or with a bond, and of itself alone."""
        key = public_from_peer_id(peer)
        bonds = self._answers.locks.common(key, self._validator.network)
        locks = self._validator.state.locks
        bonded = any(locks[id_].closer == key for id_ in bonds if id_ in locks)
        ending = f"/p2p/{peer}".encode()
        if (bonded or self._validators.is_member(peer)) and all(a.endswith(ending) for a in addresses):
            self._validator.addresses[key] = addresses
            self._network.add_addresses(peer, tuple(a.decode(errors="replace") for a in addresses))

    @property
    def waits_for_epoch(self) -> bool:
        """Whether it has no seat, and the epoch is over by the clock: the next one may bring it one."""
        return not self.seated and self._now_ms() >= epoch_ends_at(self._validator.state.system)

    @property
    def halted(self) -> str | None:
        """None, or why it signs and applies nothing any more."""
        return self._validator.halted

    def heights(self) -> dict[bytes, int]:
        """Per validator, how many of its batches are held."""
        return self._validator.heights()

    @property
    def index(self) -> ReconcileIndex:
        """Object → (seq, head) of all that is alive here (`histories.Histories`)."""
        return self._histories.index

    @property
    def decided(self) -> int:
        """How many operations are decided here."""
        return self._validator.state.operations

    @property
    def pending(self) -> int:
        """How many operations are held that are not decided, or whose dependencies are not."""
        return self._validator.statistics().candidates

    def holds(self, id_: bytes) -> bool:
        """Whether an operation has come, so that nobody need be asked for it."""
        return self._intake.holds(id_) or self._validator.holds(id_)

    @property
    def backlogged(self) -> bool:
        """Whether so many operations wait here that others may not even have been read."""
        return len(self._intake) >= BACKLOGGED

    def is_lock(self, object_: bytes) -> bool:
        """Whether this is an open Lock here."""
        return object_ in self._validator.state.locks

    async def account_of(self, id_: bytes) -> Account | None:
        """An account as it is here; None if nothing was decided on it. For the directory beside us."""
        return self._validator.state.accounts.get(id_)

    def statistics(self) -> Statistics:
        """Supply, state root, counts. Validators with equal frontiers have equal roots."""
        peers, now_s = len(self._network.peers()), trio.current_time()
        return self._answers.statistics(self._key, peers, now_s, self._objects.behind)

    # --- handing things to the core -----------------------------------------------------------------

    async def take_operation(self, encoded: bytes, source: str) -> None:
        """Handle an encoded SignedOperation; `source` is who brought it, for quotas and for pushing on.

        Raises:
            Error: what the core has against it.
        """
        await trio.lowlevel.checkpoint()  # many may come in one answer
        async with self._core:
            signed = _read_signed(encoded)
            self._carry_out(self._validator.handle_operation(signed, self._core_ms(), source))

    def _hand_over(self, parsed: ParsedOperation, source: str, now: int, effects: Effects) -> None:
        self._validator.handle_parsed(parsed, now, source, effects)

    async def take_batch(self, raw: bytes) -> None:
        """Handle a vote batch.

        Raises:
            Error: what the core has against it.
        """
        async with self._core:
            self._carry_out(self._validator.handle_batch(raw, self._core_ms()))

    async def take_decided(self, operations: Sequence[Decided]) -> int:
        """Handle operations with their certificates; returns how many became final here.

        Raises:
            Error: what the core has against one of them; those before it are taken.
        """
        before = self.decided
        for start in range(0, len(operations), OPERATIONS_PER_TURN):
            await trio.lowlevel.checkpoint()
            async with self._core:
                for each in operations[start : start + OPERATIONS_PER_TURN]:
                    signed = _read_signed(each.operation)
                    self._carry_out(self._validator.handle_decided(signed, each.certificate, self._core_ms()))
        return self.decided - before

    def own_frontier(self) -> dict[bytes, tuple[int, bytes]]:
        """Our frontier as it was frozen for our HANDOFF; empty before."""
        return self._validator.own_frontier()

    async def take_frontier(self, handoff: bytes, heads: dict[bytes, tuple[int, bytes]]) -> None:
        """Where a HANDOFF's frontier differs from ours.

        Raises:
            Error: it does not.
        """
        async with self._core:
            self._carry_out(self._validator.handle_frontier(handoff, heads, self._core_ms()))

    async def take_attachment(self, raw: bytes, source: str) -> None:
        """Handle a justification, a certificate, a handoff or evidence; `source` is the peer that brought it.

        Raises:
            Error: what the core has against it.
        """
        async with self._core:
            self._attacher.came(raw)
            self._carry_out(self._validator.handle_attachment(raw, self._core_ms(), source))

    async def take_height(self, member: bytes, height: int, epoch: int) -> None:
        """A member tells how many of our batches of an epoch it holds."""
        async with self._core:
            self._carry_out(self._validator.handle_height(member, height, self._core_ms(), epoch))

    def _follow_epoch(self) -> None:
        """The members are those of the epoch that runs here: rights are gained and lost by our state."""
        self._validators.follow(self._validator.epoch, self._validator.state.system.committee)

    def _carry_out(self, effects: Effects) -> None:
        if self._validators.epoch != self._validator.epoch:
            self._follow_epoch()
            self._catch_up.epoch_began()
        for push in effects.operations:
            # What a member brought it pushes itself, and what a wallet submits everywhere needs no push.
            if not push.source.startswith(EVERYWHERE) and not self._validators.is_member(push.source):
                self._pusher.push_operation(encode(push.parsed.signed))
        for batch in effects.batches:
            self._pusher.push_batch(batch.raw)
        for final in effects.finals:
            self._answers.note(final.parsed)
            self._histories.note(final.parsed)
            self._followers.announce(final.parsed, self._validator.state)
        for evidence in effects.evidence:
            self._evidence.log(evidence, trio.current_time())
            raw = self._evidence.add(evidence)
            if raw is not None and raw not in effects.attachments:
                effects.attachments.append(raw)
        for raw in effects.attachments:
            self._pusher.push_attachment(raw)
        self._attacher.want(effects.missing)
        self._epoch_fetcher.want(effects.certain, effects.frontiers)
        self._catch_up.want(effects.wanted, effects.gaps)
        due = self._validator.due
        if due < self._asleep_until:
            self._wake_at(due)

    # --- time and disk ------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        """Call the core when it is due, write what it seals, send what was written."""
        while self._validator.halted is None:
            self._alarm = trio.CancelScope()
            self._wake_at(self._validator.due)
            with self._alarm:
                await trio.sleep_forever()
            async with self._core:
                await self._seal_and_tick()
        _log.error("the validator signs nothing any more: %s", self._validator.halted)

    def _wake_at(self, due: float) -> None:
        """Have the timer task wake then (ms, by the clock as it is now), in an hour at the latest."""
        self._asleep_until = due
        pause_s = (due - self._now_ms()) / 1000
        self._alarm.deadline = trio.current_time() + min(max(pause_s, 0.0), ASLEEP_S_MAX)

    async def _seal_and_tick(self) -> None:
        now = self._core_ms()
        try:
            records = self._validator.seal(now)
            if records is not None:
                with trio.CancelScope(shield=True):  # a write that has begun is finished, and known
                    await self._run_disk(lambda: self._journal.write(records))
                self._carry_out(self._validator.release(records, now))
            if self._validator.due <= now:
                self._carry_out(self._validator.tick(now))
        except StorageError as exc:
            self._validator.halt(str(exc))

    async def _close(self) -> None:
        """Write what is left; the votes in it are pushed after the next start."""
        async with self._core:
            if self._validator.halted is None:
                await self._seal_and_tick()

    def _core_ms(self) -> int:
        """The time for the core. If the clock was set, the core is told before it reckons by the new one.

        It takes note of a clock that is put back when it is called in time; and while ours is an hour ahead
        nothing may be due. What it put off in that hour would wait for another one, its own votes too.
        """
        now = self._now_ms()
        ahead_ms, before = now - 1000 * trio.current_time(), self._ahead_ms
        self._ahead_ms = ahead_ms
        if abs(ahead_ms - before) >= CLOCK_STEP_MS and self._validator.halted is None:
            self._wake_at(now)  # the timer task sleeps by the old clock
            try:
                self._carry_out(self._validator.tick(now))
            except StorageError as exc:
                self._validator.halt(str(exc))
        return now

    def _now_ms(self) -> int:
        return self._network.context.now_ms()

    # --- calls --------------------------------------------------------------------------------------

    async def _handle(self, call: Call) -> bytes | None:
        try:
            question = read_question(call.body)
            self._charge(call.peer, question)
            answer = await self._answer(call, question)
        except Refused:
            raise
        except RemoteError as exc:
            raise Refused("malformed", str(exc)) from exc
        except (LedgerError, StorageError, InvalidInput) as exc:
            raise Refused("refused", str(exc)) from exc
        return encode(answer) if answer is not None else None

    def _charge(self, peer: PeerId, question: Question) -> None:
        now_s = trio.current_time()
        try:
            self._charges.charge(peer, question, now_s, self._place_of(peer))
        except Refused:
            self._pressure.busy(peer)
            if self._charges.is_flooding(peer, now_s):  # it was told "busy", and does not listen
                self._cut_off[peer] = None
                self._flooded.set()
            raise

    async def _disconnect_flooders(self) -> None:
        """Outside the handlers, which end with their channel."""
        while True:
            await self._flooded.wait()
            self._flooded = trio.Event()
            while self._cut_off:
                peer, _ = self._cut_off.popitem()
                await self._network.disconnect(peer)

    async def _answer(self, call: Call, question: Question) -> Message | None:
        if isinstance(question, Submit):
            return await self._submit(call.peer, question)
        if isinstance(question, PushOperations):
            self._take_pushed(call.peer, question)
        elif isinstance(question, PushBatch):
            await self.take_batch(question.batch)
        elif isinstance(question, PushAttachment):
            await self.take_attachment(question.attachment, call.peer)
        elif isinstance(question, GetHeights) and question.addresses:
            self._note_addresses(call.peer, question.addresses)
            return self._answers.heights()
        elif isinstance(question, Follow):
            await self._follow(call, question)
        elif isinstance(question, FetchBatches | FetchDecided):
            held = nullcontext() if self._validators.is_member(call.peer) else self._streams.hold(call.peer)
            send = self._send_batches if isinstance(question, FetchBatches) else self._send_decided
            with held:
                await send(call, question)  # type: ignore[arg-type]  # each its own kind
        else:
            async with self._core:
                return self._look_up(question)
        return None

    def _look_up(self, question: Question) -> Message:
        if isinstance(question, FetchOperations):
            return self._answers.fetched(question.ids)
        if isinstance(question, AskStatus):
            return self._answers.statuses(question.ids)
        if isinstance(question, GetObject):
            return self._answers.object_head(question.object)
        if isinstance(question, GetCredits):
            return self._answers.credit_page(question, self._now_ms())
        if isinstance(question, GetLocksOf):
            return self._answers.locks_of(question)
        if isinstance(question, GetHeights):
            return self._answers.heights()
        if isinstance(question, FetchAttachments):
            return self._answers.attachments(question.ids)
        if isinstance(question, ListEvidence):
            return self._answers.evidence(question.after)
        if isinstance(question, Reconcile):
            return self._histories.reconcile(question.message)
        if isinstance(question, ReconcileFrontier):
            return self._histories.frontier(question)
        if isinstance(question, GetHistory):
            return self._histories.history(question)
        return self.statistics()

    async def _submit(self, peer: PeerId, question: Submit) -> Statuses:
        if self._pressure.is_full(peer):
            self._pressure.busy(peer)
            raise Refused("busy", "too many operations of this peer wait here; send it again in a second")
        source = EVERYWHERE + peer if question.everywhere else peer
        ticket = Ticket(len(question.operations))
        for place, encoded in enumerate(question.operations):
            self._queue(_read_signed(encoded), peer, source, partial(self._note_status, ticket, place))
        return bounded(await ticket.statuses())

    def _note_status(self, ticket: Ticket, place: int, id_: bytes, problem: Error | None) -> None:
        if isinstance(problem, StorageError):
            ticket.fail(problem)
        elif problem is None or isinstance(problem, LedgerError | RemoteError):
            ticket.put(place, self._answers.status(id_, problem))

    def _take_pushed(self, peer: PeerId, question: PushOperations) -> None:
        for encoded in question.operations:
            self._queue(_read_signed(encoded), peer, peer, partial(self._note_pushed, peer))

    def _note_pushed(self, peer: PeerId, id_: bytes, problem: Error | None) -> None:
        if problem is not None and self._lines.allow(peer, 1, trio.current_time()):
            _log.debug("operation %s pushed by %s: %s", id_.hex(), peer, problem)

    # --- operations that wait -----------------------------------------------------------------------

    def _queue(
        self, signed: SignedOperation, peer: PeerId, source: str, done: Callable[[bytes, Error | None], None]
    ) -> None:
        """Have an operation wait for the core; `done` is told its id, and what is against it."""
        try:
            parsed = parse(signed)
        except (LedgerError, RemoteError) as exc:
            self._charges.punish(peer, COST_FALSE, trio.current_time())
            done(operation_id(signed.raw), exc)
            return
        self._intake.add(parsed, peer, source, partial(done, parsed.id), trio.current_time())
        self._waiting.set()

    async def _take_in(self) -> None:
        """Hand over what waits, a few milliseconds' work at a time, after all that has come besides."""
        while True:
            await self._waiting.wait()
            asked_s = trio.current_time()
            with trio.move_on_after(TURN_WITHIN_S):
                await trio.testing.wait_all_tasks_blocked()
            self._intake.measured(trio.current_time() - asked_s, trio.current_time())
            async with self._core:
                taken = self._take_turn()
            if not taken and len(self._intake):
                await trio.sleep(LIGHT_PAUSE_S)

    def _take_turn(self) -> int:
        effects, now = Effects(), self._core_ms()
        try:
            return self._hand_over_turn(effects, now)
        finally:
            self._carry_out(effects)

    def _hand_over_turn(self, effects: Effects, now: int) -> int:
        now_s = trio.current_time()
        for taken in range(OPERATIONS_PER_TURN):
            entry = self._intake.pop(now_s)
            if entry is None:
                if not len(self._intake):
                    self._waiting = trio.Event()
                return taken
            problem: Error | None = None
            try:
                self._hand_over(entry.parsed, entry.source, now, effects)
            except (LedgerError, RemoteError, StorageError) as exc:
                problem = exc
            if not self._intake.judged(entry, problem, now_s):
                self._charges.punish(entry.peer, COST_FALSE, now_s)
        return OPERATIONS_PER_TURN

    async def _send_batches(self, call: Call, question: FetchBatches) -> None:
        height, sent = question.height, 0
        while sent < BATCHES_MAX:
            await self._may_send(call)
            async with self._core:
                if question.epoch != self._validator.epoch:
                    return  # heights begin anew in each epoch; what was decided in others has certificates
                batches = self._validator.batches(question.validator, max(1, height), BATCHES_PER_READ)
            for raw in batches:
                if not await self._sent(call, PushBatch(raw)):
                    return
            height, sent = height + len(batches), sent + len(batches)
            if len(batches) < BATCHES_PER_READ:
                return

    async def _send_decided(self, call: Call, question: FetchDecided) -> None:
        after = question.after
        while True:
            await self._may_send(call)
            async with self._core:
                page = self._histories.page(after)
            if not await self._sent(call, page) or not page.operations:
                return
            after = page.last

    async def _may_send(self, call: Call) -> None:
        """Wait until the peer may have its next page."""
        while True:
            if self._charges.pages(call.peer, trio.current_time(), self._place_of(call.peer)):
                return
            await trio.sleep(PAGE_PAUSE_S)

    async def _sent(self, call: Call, chunk: Message) -> bool:
        """Send it; False if nobody reads."""
        with trio.move_on_after(CHUNK_TIMEOUT_S) as scope:
            await call.send(encode(chunk))
        return not scope.cancelled_caught

    async def _follow(self, call: Call, question: Follow) -> None:
        follower = self._followers.add(call.peer, question.objects)
        if follower is None:
            raise Refused("busy", "too many streams are followed; try another validator")
        try:
            chunk, quiet = Finals((), self._validator.epoch), 0
            while await self._sent(call, chunk) and not follower.dropped:
                with trio.move_on_after(follow_beat_s(quiet)):
                    await follower.news.wait()
                chunk = await self._finals(follower)
                quiet = 0 if chunk.operations else quiet + 1
        finally:
            self._followers.remove(follower)

    async def _finals(self, follower: Follower) -> Finals:
        async with self._core:
            ids = follower.peek(OPERATIONS_MAX)
            fetched = self._answers.fetched(ids).operations
        follower.sent(ids[: len(fetched)])
        shown = tuple(decided for decided in fetched if decided is not None)
        return Finals(shown, self._validator.epoch)

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_time)
            nursery.start_soon(self._take_in)
            nursery.start_soon(self._disconnect_flooders)
            nursery.start_soon(self._pusher.run)
            nursery.start_soon(self._attacher.run)
            nursery.start_soon(self._epoch_fetcher.run)
            nursery.start_soon(self._catch_up.run)


def _nowhere(peer: PeerId) -> str:
    return ""


@asynccontextmanager
async def open_validator(
    network: Network,
    genesis: Genesis,
    key: Signer,
    directory: Path | None,
    *,
    follow: bool = False,
    announce: Sequence[str] = (),
    archive: bool = False,
    checkpoint: bytes | None = None,
    checkpoint_wait_s: float = WAIT_S,
    tell: Tell = _log.info,
    storage: Storage | None = None,
) -> AsyncIterator[ValidatorService]:
    """Run the committee member whose key this is; it serves, and votes once it knows that its disk is whole.

    Args:
        announce: where it can be dialled, if neither the genesis nor the network's own addresses say so.
        follow: run without a vote while the key has no seat: a bond brings it one with the next epoch.
        archive: keep all that was ever decided; others drop at each checkpoint what proves nothing any more.
        checkpoint: id of a COMMITTEE that you trust: it does not start unless that is in the chain that is
            here, or that others show; they make theirs soon after an epoch's beginning, which is waited for.
        checkpoint_wait_s: for so long at most.
        tell: is told what is being waited for.
        directory: its data (None: in memory, for tests and development networks: it must not be restarted).
        storage: where `directory` is; None: the storage of the network's context.

    Raises:
        StorageError: the data cannot be used, or another process uses it.
        InvalidOperation: rule ``"member"``: the key is not in the committee.
        NetworkError: nobody shows a chain that has the checkpoint, or nobody in time.
    """
    caught: Exception | None = None
    storage = storage or network.context.storage_of(directory)
    with open_database(directory and directory / FILE_NAME, storage) as database:
        store = Store(database, genesis, keep_history=archive)
        journal = SqliteJournal(database, store)
        peers = [member.peer for member in Validators(network, genesis).others]

        async def take() -> None:
            await start_from_checkpoint(network, genesis, peers, database, store)

        if not archive:
            await take()
        elif checkpoint is not None and not _has(journal, checkpoint):
            raise InvalidInput("an archive takes no checkpoint over: start it once without one")
        if checkpoint is not None:
            pinned = PinnedStart(
                checkpoint, partial(_has, journal, checkpoint), take, checkpoint_wait_s, tell
            )
            await pinned.run(network, genesis)
        service = _load(network, genesis, key, store, journal, storage.run, follow)
        service._announced = tuple(announce)
        network.serve(LEDGER_PROTOCOL, service._handle)
        network.serve(CHECKPOINT_PROTOCOL, CheckpointDesk(store, service._core).handle)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service._run)
            try:
                yield service
            except Exception as exc:  # the caller's, not ours: keep it out of the group
                caught = exc
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await service._close()
    if caught is not None:
        raise caught


def _has(journal: SqliteJournal, operation: bytes) -> bool:
    return journal.find(operation) is not None


def _load(
    network: Network,
    genesis: Genesis,
    key: Signer,
    store: Store,
    journal: SqliteJournal,
    run: RunDisk,
    follow: bool,
) -> ValidatorService:
    validator = Validator(key, genesis, store.load(), journal, follow=follow)
    service = ValidatorService(network, genesis, key.public, validator, journal, store, run)
    for evidence in journal.evidence():
        service._evidence.add(evidence)
    return service


__all__ = ["ValidatorService", "open_faucet", "open_validator"]
