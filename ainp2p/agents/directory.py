"""The cards known now: announced, gossiped, compared with neighbours, looked up, expired.

    announce ──▶ topic, neighbours (push), DHT (a record per skill)
    new card ──▶ pushed on to a few neighbours, by those who keep it
    the same again before it expires, living twice as long ──▶ topic only
    new neighbour, and one neighbour every SYNC_S ──▶ compare tables, fetch what is newer
    find ──▶ table; DHT if it has nothing; whoever is not connected is asked for its card now

What a card says is checked by `card.verify_card`; an offer counts only while its peer answers.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache

import msgspec
import trio

from ainp2p.agents.card_table import CARDS_MAX, CardTable, Held
from ainp2p.agents.doubts import Doubts, LookUp
from ainp2p.agents.offers import Experiences, Offer, rank_key
from ainp2p.agents.standing import Standing
from ainp2p.errors import (
    BadSignature,
    Error,
    InvalidInput,
    Malformed,
    NetworkError,
    NoOffers,
    Refused,
    RemoteError,
)
from ainp2p.ledger.serving.limits import Limits
from ainp2p.protocol.background import background
from ainp2p.protocol.card import (
    LIFE_MAX_MS,
    LIFE_MS,
    PROTOCOL,
    RENEW_MS,
    Binding,
    Card,
    CardPush,
    CardsHeld,
    CardWanted,
    SkillCard,
    decode_card_wire,
    said,
    sign_card,
    skill_digest,
    verify_card,
)
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.messages import Signed, Signer
from ainp2p.protocol.network import Call, Network, PeerId
from ainp2p.protocol.price import Price

SYNC_S = 5.0  # between comparisons with one neighbour; doubled whenever one tells nothing new
SYNC_QUIET_S = 640.0  # at most; cards that are that old live much longer
STRANGER_S = (
    1800.0  # a neighbour that knows no cards (a validator) is not asked again so soon, unless it comes anew
)
FANOUT = 8  # neighbours that a new card is pushed on to
FIND_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 2.0  # for a peer that is not connected to show that it is alive
PROBE_GRACE_S = 0.3  # the same, when others are connected already
SILENT_S = 10.0  # a peer that did not answer is not asked again so soon
PROBES_MAX = 32  # peers asked by one `find`
SYNCS_AT_ONCE_MAX = 4
PUSH_QUEUE_MAX = 256  # cards waiting to be pushed on; beyond it, comparing tables repairs
SYNC_ROUNDS_MAX = 64
# What one peer may send us, and ask of us: a card of the largest size takes 10 ms to check, and a question
# of a few bytes is answered by half a MiB. A newcomer fetches whole tables, so it may do that in one go.
BYTES_PER_S = 256.0 * 1024
BYTES_AT_ONCE = 8.0 * 1024 * 1024
COMPARING_COST = 64 * 1024  # bytes
LOOK_TOGETHER_S = 0.005  # after the second change that a wait for offers sees, then twice as long, …
LOOK_AGAIN_S = 1.0  # a wait for offers asks the DHT again after this, then after half as much more, …
PROVIDE_S = 3600.0  # DHT records live for a day or more
PROVIDE_AGAIN_S = (
    1.0  # at first, then ever longer: a DHT that has just been joined leaves a record with nobody
)
Work = Callable[[], Awaitable[None]]
_price = lru_cache(maxsize=1024)(Price.from_wire)  # many ask the same


@dataclass(frozen=True, slots=True)
class CardDraft:
    """What an agent says of itself; the directory adds addresses, times, sequence and signature."""

    agent: bytes
    inception: bytes
    name: str
    skills: tuple[SkillCard, ...]
    lineage: tuple[bytes, ...] = ()
    terms: str = ""
    delegation: bytes = b""  # where the signer is a session key


class Directory:
    """Cards of one network; open it with `open_directory`."""

    def __init__(
        self,
        network: Network,
        network_id: bytes,
        signer: Signer,
        bound: Binding,
        nursery: trio.Nursery,
        strangers: Collection[PeerId] = (),
        look_up: LookUp | None = None,
    ) -> None:
        self.experiences = Experiences()
        self._network, self._network_id, self._signer = network, network_id, signer
        self._topic = f"ainp2p/{network_id.hex()[:16]}/cards"
        self._table = CardTable(network_id, bound, connected=network.peers, salt=signer.public)
        self._limits = Limits(BYTES_PER_S, BYTES_AT_ONCE)
        self._drafting: Callable[[], CardDraft] | None = None
        self._own: Held | None = None
        self._sequence = 0
        self._provided: dict[bytes, tuple[float, float]] = {}  # skill → when its record is due, and the gap
        self._silent: dict[PeerId, float] = {}  # when a peer last did not answer
        self._strangers = dict.fromkeys(strangers, trio.current_time())  # when it last refused to compare
        self._nursery, self._bound, self._doubts = nursery, bound, None
        if look_up is not None and isinstance(bound, Standing):
            self._doubts = Doubts(bound, look_up, self._judge_again, nursery, network.context)
        self._sync_s = SYNC_S
        self._is_alone = False  # nobody could be compared with, the last time
        self._news = 0  # cards that said something new
        self._due: dict[Work, float] = {}  # what is to be done when
        self._planned = trio.Event()
        self._providing = False
        self._changed: trio.Event | None = None  # made by who waits for it
        self._to_push: list[tuple[Held, PeerId | None]] = []
        self._pushing = self._closed = False
        self._to_sync: list[PeerId] = []  # who came, and may know what we do not
        self._syncing = 0  # tasks that ask them

    # --- oneself ----------------------------------------------------------------------------------

    @property
    def card(self) -> Card | None:
        """One's own newest card."""
        return self._own.card if self._own is not None else None

    async def announce(self, draft: CardDraft | Callable[[], CardDraft]) -> Card:
        """Tell everybody about oneself now, and again before the card expires.

        A function is called for each renewal, so that free slots and speed are fresh.

        Raises:
            InvalidInput: others would refuse this card.
        """
        self._drafting = draft if callable(draft) else lambda: draft
        held = self._renew(LIFE_MS)
        await self._spread(held)
        return held.card

    def _renew(self, life_ms: int) -> Held:
        """A new card of our own; `life_ms` is for one that says what the last one said."""
        assert self._drafting is not None  # callers know
        draft, now = self._drafting(), self._network.context.now_ms()
        self._sequence = max(self._sequence + 1, now)
        card = Card(
            network=self._network_id,
            agent=draft.agent,
            inception=draft.inception,
            peer=self._network.peer_id.encode(),
            addresses=tuple(address.encode() for address in self._network.addresses[:16]),
            name=draft.name.encode()[:128],
            skills=draft.skills,
            lineage=draft.lineage,
            terms=draft.terms.encode(),
            issued=now,
            expires=now + life_ms,
            sequence=self._sequence,
            delegation=draft.delegation,
        )
        if self._own is None or said(card) != said(self._own.card):
            card = msgspec.structs.replace(card, expires=now + LIFE_MS)
        signed = sign_card(self._signer, card)
        try:
            held = self._table.add(signed, now)
        except RemoteError as exc:
            raise InvalidInput(f"this card would be refused: {exc}") from exc
        self._own = held or Held(card, signed)
        self._plan(self._renew_again, self._renew_due())
        if not self._closed:
            self._nursery.start_soon(self._provide)
        return self._own

    async def _spread(self, held: Held, *, again: bool = False) -> None:
        """Tell others of our card; of one without skills only who asks. `again`: it says nothing new."""
        if not held.card.skills:
            return
        if again and self._table.is_crowded(held.card):
            return  # it is one of many: those who deal with us ask for it when they need it
        with suppress(NetworkError):  # pushes and comparing tables do it as well
            await self._network.publish(self._topic, encode(held.signed))
        if not again:  # after it, so that only where the topic failed there is somebody left to be told
            self._enqueue(held, None)

    # --- others -----------------------------------------------------------------------------------

    def cards(self) -> list[Card]:
        """All cards known now, one's own among them, by agent id."""
        self._table.expire(self._network.context.now_ms())
        return sorted((held.card for held in self._table), key=lambda card: card.agent)

    async def find(
        self,
        skill: str,
        *,
        max_price: Price | None = None,
        model: bytes | None = None,
        speed_min: int = 0,
        agents: Iterable[bytes] | None = None,
        at_least: int = 1,
        limit: int = 20,
        timeout_s: float = FIND_TIMEOUT_S,
    ) -> list[Offer]:
        """Offers by peers that are alive, best first; waits for one if there is none yet.

        Args:
            at_least: wait for so many while there is time; fewer are returned after it.
            speed_min: milli-units per second, by our own measurement or else the seller's.
            model: only offers made with these weights.
            agents: only offers of these agents.

        Raises:
            NoOffers: nobody alive within `timeout_s`; the message says what was seen.
        """
        wanted = None if agents is None else frozenset(agents)

        def fits(offer: Offer) -> bool:
            return (
                (max_price is None or offer.price.within(max_price))
                and (model is None or offer.skill.model == model)
                and (not speed_min or offer.speed[0] >= speed_min)
                and (wanted is None or offer.agent in wanted)
            )

        name, asked, offers = skill.encode(), set[PeerId](), list[Offer]()
        with trio.move_on_after(timeout_s):
            async with background() as nursery:
                nursery.start_soon(self._look_up_forever, name, asked, at_least)
                pause_s = 0.0
                while True:
                    changed = self._change()
                    await self._wake(filter(fits, self._offers(name)), asked)
                    alive = self._network.peers()
                    offers = [o for o in self._offers(name) if fits(o) and o.peer in alive]
                    if len(offers) >= at_least:
                        nursery.cancel_scope.cancel()
                        break
                    await changed.wait()
                    await trio.sleep(pause_s)  # a crowd that comes is looked at together
                    pause_s = min(2 * pause_s + LOOK_TOGETHER_S, LOOK_AGAIN_S)
        if offers:
            return sorted(offers, key=rank_key)[:limit]
        seen = self._offers(name)
        raise NoOffers(
            f"nobody alive offers {skill!r} within the constraints after {timeout_s:g} s"
            f" (known: {len(seen)}, of these fit: {sum(map(fits, seen))}, peers asked: {len(asked)})"
        )

    def _offers(self, skill: bytes) -> list[Offer]:
        self._table.expire(self._network.context.now_ms())
        offers = []
        for held in self._table.offering(skill):
            found = held.card.skill(skill)
            if found is not None and held.signed.key != self._signer.public:
                price, seen = _price(found.price), self.experiences.of(held.card.agent)
                offers.append(Offer(held.card, found, held.signed, price, seen))
        return offers

    def _connected(self, skill: bytes) -> int:
        """How many offers there are by peers that are alive."""
        alive = self._network.peers()
        return sum(offer.peer in alive for offer in self._offers(skill))

    async def _wake(self, offers: Iterable[Offer], asked: set[PeerId]) -> None:
        """Ask those that are not connected for their card: who answers is connected then."""
        alive, now = self._network.peers(), trio.current_time()
        found = sorted(offers, key=rank_key)
        sleeping = [o for o in found if o.peer not in alive and o.peer not in asked]
        patience = PROBE_TIMEOUT_S if len(sleeping) == len(found) else PROBE_GRACE_S
        with trio.move_on_after(patience):
            async with trio.open_nursery() as nursery:
                for offer in sleeping:
                    if self._silent.get(offer.peer, -math.inf) < now - SILENT_S and len(asked) < PROBES_MAX:
                        asked.add(offer.peer)
                        addresses = tuple(a.decode(errors="replace") for a in offer.card.addresses)
                        self._network.add_addresses(offer.peer, addresses)
                        nursery.start_soon(self._ask_card, offer.peer)

    async def _look_up_forever(self, skill: bytes, asked: set[PeerId], at_least: int) -> None:
        """Ask the DHT again, ever less often: whoever starts now has no record there yet."""
        pause_s = LOOK_AGAIN_S
        while True:
            await self._look_up(skill, asked, at_least)
            await trio.sleep(pause_s)
            pause_s *= 1.5
            if self._connected(skill) < at_least:
                self._ask_again(asked)

    def _ask_again(self, asked: set[PeerId]) -> None:
        """Too few are there yet: one dial may fail by chance, as when both sides dial at once."""
        for peer in asked:
            self._silent.pop(peer, None)
        asked.clear()
        self._stir()

    async def _look_up(self, skill: bytes, asked: set[PeerId], at_least: int) -> None:
        """Ask the DHT who offers a skill, when the table knows too few who are connected.

        Whoever is known may have moved: its record there has its newest addresses.
        """
        if self._connected(skill) >= at_least:
            return
        try:
            found = await self._network.find_providers(skill_digest(self._network_id, skill))
        except Error:
            return
        async with trio.open_nursery() as nursery:
            for peer in found:
                if len(asked) < PROBES_MAX and peer not in asked and peer != self._network.peer_id:
                    asked.add(peer)
                    nursery.start_soon(self._ask_found, peer)

    async def _ask_found(self, peer: PeerId) -> None:
        """Ask twice: the first dial may have begun before, with older addresses."""
        if not await self._ask_card(peer):
            await self._ask_card(peer)

    async def _ask_card(self, peer: PeerId) -> bool:
        """Fetch a peer's card; False: it does not answer."""
        try:
            answer = await self._network.request(
                peer, PROTOCOL, encode(CardWanted()), timeout_s=PROBE_TIMEOUT_S
            )
            self._take(decode_card_wire(answer), None)
        except Error:  # not alive, or not one of us
            if len(self._silent) >= CARDS_MAX:
                self._silent.clear()
            self._silent[peer] = trio.current_time()
            return False
        self._stir()
        return True

    # --- gossip -----------------------------------------------------------------------------------

    def _take(self, message: object, source: PeerId | None) -> int:
        """Add cards; returns how many were added, and passes on what is news if it was pushed by `source`.

        What came by the topic is relayed there, and what was asked for is known to those who were asked. Bad
        ones are dropped: whoever relays may be honest.
        """
        if not isinstance(message, CardPush):
            raise Malformed("expected cards")
        now, new = self._network.context.now_ms(), 0
        for signed in message.cards:
            try:
                held = self._table.add(signed, now)
            except RemoteError as exc:
                if self._doubts is not None and isinstance(exc, BadSignature):
                    self._doubt(signed, now)
                continue
            if held is not None:
                if self._doubts is not None:
                    self._doubts.consider(held.card, signed, believed=True)
                new += 1
                self._news += held.is_news
                if held.is_news and source is not None:
                    self._enqueue(held, source)
        if new:
            self._stir()
        return new

    def _doubt(self, signed: Signed, now_ms: int) -> None:
        """A card that was not believed: its account may have another key by now."""
        assert self._doubts is not None  # callers know
        with suppress(RemoteError):  # forged, then
            card = verify_card(signed, network=self._network_id, now_ms=now_ms, bound=lambda *_: True)
            self._doubts.consider(card, signed, believed=False)

    def _judge_again(self, card: Card, signed: Signed) -> None:
        """The ledger has told of a card's account: the one that is held may not be believed any more."""
        held, now_ms = self._table.get(card.agent), self._network.context.now_ms()
        if held is not None and not self._bound(held.card, held.signed.key, now_ms):
            self._table.remove(card.agent)
            self._stir()
        self._take(CardPush((signed,)), self._network.peer_id)

    def _enqueue(self, held: Held, source: PeerId | None) -> None:
        if self._closed or len(self._to_push) >= PUSH_QUEUE_MAX:
            return  # comparing tables repairs it
        self._to_push.append((held, source))
        if not self._pushing:
            self._pushing = True
            self._nursery.start_soon(self._push_all)

    def _change(self) -> trio.Event:
        """Set when something changes."""
        if self._changed is None:
            self._changed = trio.Event()
        return self._changed

    def _stir(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def handle(self, call: Call) -> bytes | None:
        """Answer the card protocol.

        Raises:
            Refused: ``malformed``, or ``busy``: this peer sends or asks too much.
        """
        if not self._limits.allow(call.peer, len(call.body), trio.current_time()):
            raise Refused("busy", "too many cards from this peer")
        try:
            match decode_card_wire(call.body):
                case CardPush() as push:
                    self._take(push, call.peer)
                    return None
                case CardsHeld(held=held):
                    if not self._limits.allow(call.peer, COMPARING_COST, trio.current_time()):
                        raise Refused("busy", "too many questions from this peer")
                    self._table.expire(self._network.context.now_ms())
                    return encode(self._table.newer_than(held))
                case CardWanted():
                    self._renew_if_old()
                    return encode(CardPush((self._own.signed,) if self._own is not None else ()))
        except Malformed as exc:
            raise Refused("malformed", str(exc)) from exc

    async def _push_all(self) -> None:
        while self._to_push:
            held, source = self._to_push.pop(0)
            owner = held.card.peer.decode(errors="replace")
            peers = [peer for peer in self._network.peers() if peer not in (source, owner)]
            if len(peers) > FANOUT:
                peers = self._network.context.rng.sample(peers, FANOUT)
            body = encode(CardPush((held.signed,)))
            for peer in peers:
                with trio.move_on_after(1):
                    try:
                        await self._network.send(peer, PROTOCOL, body)
                    except Error:
                        continue
        self._pushing = False

    async def _listen_forever(self) -> None:
        async with self._network.subscribe(self._topic) as messages:
            async for published in messages:
                try:
                    self._take(CardPush((decode(published.data, Signed),)), None)
                except RemoteError:
                    continue

    async def _greet_forever(self) -> None:
        async with self._network.watch_peers() as changes:
            async for change in changes:
                if change.connected and not self._table.is_full and not self._is_stranger(change.peer):
                    self._sync_soon(change.peer)
                    if self._is_alone:
                        self._is_alone, self._sync_s = False, SYNC_S
                        self._plan(self._compare, self._sync_due())
                self._stir()

    # --- what is due now and then -----------------------------------------------------------------

    async def _keep_up(self) -> None:
        """Compare tables, renew our card, see to its records: each in a task of its own when it is due."""
        self._plan(self._compare, self._sync_due())
        while True:
            with trio.move_on_at(min(self._due.values())):
                await self._planned.wait()
            self._planned, now = trio.Event(), trio.current_time()
            for work in [work for work, due in self._due.items() if due <= now]:
                self._due[work] = math.inf
                self._nursery.start_soon(work)

    def _plan(self, work: Work, at_s: float) -> None:
        """Do this at that time, and not at another that was planned before."""
        self._due[work] = at_s
        self._planned.set()

    def _sync_due(self) -> float:
        return trio.current_time() + self._sync_s * (0.5 + self._network.context.rng.random())

    async def _compare(self) -> None:
        peers = [peer for peer in self._network.peers() if not self._is_stranger(peer)]
        learned = False
        if peers and not self._table.is_full:
            learned = await self._sync(self._network.context.rng.choice(peers))
        self._is_alone = not peers
        quiet_s = SYNC_QUIET_S if self._is_alone else 2 * self._sync_s
        self._sync_s = SYNC_S if learned else min(quiet_s, SYNC_QUIET_S)
        self._plan(self._compare, self._sync_due())

    def _renew_due(self) -> float:
        """A third of our card's life later; that of one without skills is renewed when somebody asks."""
        own = self._own
        if own is None or not own.card.skills:
            return math.inf
        pause_s = RENEW_MS / 1000 * (own.card.expires - own.card.issued) / LIFE_MS
        return trio.current_time() + pause_s * (0.9 + 0.1 * self._network.context.rng.random())

    def _renew_if_old(self) -> None:
        """Before our card is shown: one that nobody asks for is not renewed by the clock."""
        if self._own is not None and self._own.card.expires < self._network.context.now_ms() + LIFE_MS // 3:
            with suppress(Error):
                self._renew(LIFE_MS)

    async def _renew_again(self) -> None:
        own = self._own
        life_ms = own.card.expires - own.card.issued if own is not None else LIFE_MS
        try:
            held = self._renew(min(2 * life_ms, LIFE_MAX_MS))
            await self._spread(held, again=not held.is_news)
        except Error:  # the next renewal is soon enough
            self._plan(self._renew_again, self._renew_due())

    async def _provide(self) -> None:
        """Make a record per skill in the DHT, where it is due.

        It is slow, and of use only to peers that know nobody near us.
        """
        if self._providing:
            return
        self._providing, next_s = True, math.inf
        for skill in self._own.card.skills if self._own is not None else ():
            now = trio.current_time()
            due, gap = self._provided.get(skill.name, (-math.inf, PROVIDE_AGAIN_S))
            if now >= due:
                try:
                    await self._network.provide(skill_digest(self._network_id, skill.name))
                    due = now + gap
                    self._provided[skill.name] = due, min(4 * gap, PROVIDE_S)
                except Error:
                    due = now + 1
            next_s = min(next_s, due)
        self._providing = False
        self._plan(self._provide, next_s)

    # --- comparing ----------------------------------------------------------------------------------

    def _avoid(self, peer: PeerId) -> None:
        if len(self._strangers) >= CARDS_MAX:
            self._strangers.clear()
        self._strangers[peer] = trio.current_time()

    def _is_stranger(self, peer: PeerId) -> bool:
        return self._strangers.get(peer, -math.inf) > trio.current_time() - STRANGER_S

    def _sync_soon(self, peer: PeerId) -> None:
        """Compare with a neighbour that has come; of many that come at once a few are asked at a time."""
        if peer not in self._to_sync:
            self._to_sync.append(peer)
        if self._syncing < SYNCS_AT_ONCE_MAX:
            self._syncing += 1
            self._nursery.start_soon(self._sync_all)

    async def _sync_all(self) -> None:
        while self._to_sync and not self._table.is_full:  # one of them may tell enough
            await self._sync(self._to_sync.pop(0))
        self._to_sync.clear()
        self._syncing -= 1

    async def _sync(self, peer: PeerId) -> bool:
        """Fetch what a neighbour knows and we do not; whether anything came that is news."""
        before = self._news
        for _ in range(SYNC_ROUNDS_MAX):
            self._table.expire(self._network.context.now_ms())
            try:
                body = encode(CardsHeld(self._table.held()))
                answer = decode_card_wire(await self._network.request(peer, PROTOCOL, body))
                added = self._take(answer, None)
                if not (added and isinstance(answer, CardPush) and answer.more):
                    break
            except Error as exc:  # gone: there are others
                if isinstance(exc, Refused) and exc.code == "no-such-protocol":
                    self._avoid(peer)
                break
        return self._news > before


@asynccontextmanager
async def open_directory(
    network: Network,
    network_id: bytes,
    signer: Signer,
    *,
    bound: Binding | None = None,
    strangers: Collection[PeerId] = (),
    look_up: LookUp | None = None,
) -> AsyncIterator[Directory]:
    """Know the cards of a network, and be known by one's own, until the block ends.

    Args:
        strangers: peers that are known to keep no cards, such as validators: they are not asked at first.
        look_up: asks the ledger for an account, so that cards follow its recoveries and rotations.
    """
    async with background() as nursery:
        directory = Directory(network, network_id, signer, bound or Standing(), nursery, strangers, look_up)
        network.serve(PROTOCOL, directory.handle)
        nursery.start_soon(directory._listen_forever)
        nursery.start_soon(directory._greet_forever)
        nursery.start_soon(directory._keep_up)
        try:
            yield directory
        finally:
            directory._closed = True
