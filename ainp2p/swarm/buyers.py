"""A buyer's process: an agent with a purse that has its share of the documents worked on, and asks.

Per part: vectors of its sentences ─▶ the central ones ─▶ a title, a topic, a tone ─▶ a place in the index.
Everything is bought; what a seller did not finish another one goes on with.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import trio

from ainp2p.agents.agent import Agent
from ainp2p.agents.policy import Policy
from ainp2p.errors import Error
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.receipts import Receipt
from ainp2p.protocol.identity import Key, digest, id_text
from ainp2p.protocol.strategies import Strategies
from ainp2p.swarm import documents, passages, study
from ainp2p.swarm import events as ev
from ainp2p.swarm.books import Books
from ainp2p.swarm.errands import Bill, Errands
from ainp2p.swarm.line import Ask, Gone, Line
from ainp2p.swarm.market import Market
from ainp2p.swarm.process import Serve
from ainp2p.swarm.skills import TITLE_TOKENS_MAX
from ainp2p.swarm.spec import Spec
from ainp2p.swarm.vectors import Vector

AT_ONCE = 3  # parts in work at one buyer
TOKEN_PRICE_MAX, CALL_PRICE_MAX, ITEM_PRICE_MAX = 4, 20, 2  # uain: more is not paid
RESUME_S = 3.0  # on one machine a process that does not answer is dead
HITS = 3
QUESTIONS_MAX = 16  # that wait for the work to end


def buyer(spec: Spec, name: str, key: Key, genesis: Genesis) -> Serve:
    """What a buyer's process does."""

    async def serve(line: Line) -> None:
        where = [address.decode() for member in genesis.validators for address in member.addresses[:1]]
        home = spec.home(name)
        home.mkdir(mode=0o700)
        policy = Policy(
            per_job=spec.budget, per_hour=spec.budget, per_day=spec.budget, per_counterparty=spec.budget
        )
        watcher = _Receipts(name, line)
        async with Agent(
            name,
            key=key,
            network=genesis,
            bootstrap=where,
            home=home,
            policy=policy,
            strategies=Strategies(resume_s=RESUME_S),
            on_receipt=watcher.signed,
        ) as agent:
            line.say(
                ev.PeerUp(
                    at_ms=agent.network.context.now_ms(),
                    name=name,
                    role="buyer",
                    peer=agent.peer_id,
                    pid=os.getpid(),
                    account=id_text(agent.id),
                )
            )
            watcher.agent = agent
            await Buyer(spec, name, agent, line).work()

    return serve


class _Receipts:
    """Tells of each receipt, with the seller's name."""

    def __init__(self, name: str, line: Line) -> None:
        self.agent: Agent | None = None
        self._name, self._line = name, line
        self._last: dict[bytes, int] = {}

    def signed(self, receipt: Receipt, lock: Lock) -> None:
        assert self.agent is not None  # nothing is bought before
        seller = lock.beneficiaries[0].account
        names = [
            card.name.decode(errors="replace")
            for card in self.agent.directory.cards()
            if card.agent == seller
        ]
        before = self._last.get(receipt.lock, 0)
        self._last[receipt.lock] = receipt.cumulative
        self._line.say(
            ev.ReceiptSigned(
                at_ms=self.agent.network.context.now_ms(),
                buyer=self._name,
                seller=names[0] if names else id_text(seller),
                lock=id_text(receipt.lock),
                cumulative=receipt.cumulative,
                added=receipt.cumulative - before,
            )
        )


class Buyer:
    """One buyer at work."""

    def __init__(self, spec: Spec, name: str, agent: Agent, line: Line) -> None:
        self._spec, self._name, self._agent, self._line = spec, name, agent, line
        self._errands = Errands(name, agent, line, spec.seed, Market(spec))
        self._books = Books(name, agent.wallet, line)
        self._collection = digest(b"swarm/collect/1", repr(spec.paths).encode()).hex()[:16]
        self._at_once = trio.CapacityLimiter(AT_ONCE)
        self._asked, self._questions = trio.open_memory_channel[str](QUESTIONS_MAX)

    async def work(self) -> None:
        """Have all parts worked on, then answer what the view asks; stop with it."""
        everything = await trio.to_thread.run_sync(read_parts, self._spec)
        parts = study.select(everything, self._spec.parts)
        ours, others = self._share(parts), self._share(study.rest(everything, parts))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._books.watch_forever)
            nursery.start_soon(self._stop, nursery.cancel_scope)
            nursery.start_soon(self._obey)
            await self._errands.wait_for_market()
            for part in ours:
                self._errands.open_task(_task(part), "summarise", part.subject, _units(part))
            async with trio.open_nursery() as working:
                working.start_soon(self._only_index, others)
                for part in ours:
                    working.start_soon(self._summarise, part)
            await self._books.tell()
            self._reached("done")
            async for question in self._questions:
                await self._answer(question or study.default_question(parts))
                self._reached("asked")
            await self._line.stop.wait()

    async def _obey(self) -> None:
        async with self._asked:
            async for command in self._line.commands():
                if isinstance(command, Gone):
                    self._errands.market.gone.add(command.name)
                elif isinstance(command, Ask):
                    await self._asked.send(command.question)

    def _share(self, parts: Sequence[study.Part]) -> list[study.Part]:
        return study.share(parts, self._spec.buyers.index(self._name), len(self._spec.buyers))

    async def _only_index(self, parts: Sequence[study.Part]) -> None:
        """Parts that nothing is written about can be found all the same."""
        if not parts:
            return
        bill, sentences = Bill(f"rest-{self._name}"), sum(len(part.sentences) for part in parts)
        self._errands.open_task(bill.task, "index", f"{len(parts)} more parts, to be found", sentences)
        try:
            for part in parts:
                await self._put_into_index(part, bill)
        except Error as exc:
            self._errands.fail(bill, exc)
            return
        self._errands.complete(bill, f"{sentences} sentences can be found", ())

    async def _stop(self, scope: trio.CancelScope) -> None:
        await self._line.stop.wait()
        scope.cancel()

    async def _summarise(self, part: study.Part) -> None:
        async with self._at_once:
            bill = Bill(_task(part))
            try:
                summary = await self._buy_summary(part, bill)
                await self._put_into_index(part, bill)
            except Error as exc:
                self._errands.fail(bill, exc)
                return
            self._errands.complete(bill, summary.text, summary.quotes)

    async def _buy_summary(self, part: study.Part, bill: Bill) -> study.Summary:
        budget = ITEM_PRICE_MAX * len(part.texts)
        embedded = await self._errands.buy(bill, "embed", "item", budget, texts=part.texts)
        vectors: list[Vector] = [tuple(vector) for vector in embedded]
        quoted = study.quotes(part, vectors)
        text = study.excerpt(quoted)
        budget = TOKEN_PRICE_MAX * TITLE_TOKENS_MAX
        title = await self._errands.buy_text(bill, "title", "token", budget, text=text)
        topic = await self._errands.buy_text(bill, "topic", "call", CALL_PRICE_MAX, text=text)
        tone = await self._errands.buy_text(bill, "tone", "call", CALL_PRICE_MAX, text=text)
        return study.Summary(part, quoted, study.clean_title(title), topic, tone)

    async def _put_into_index(self, part: study.Part, bill: Bill) -> None:
        entries = [
            {
                "path": s.path,
                "first_line": s.first_line,
                "last_line": s.last_line,
                "heading": s.heading,
                "quote": s.quote,
            }
            for s in (study.source(part, sentence) for sentence in part.sentences)
        ]
        budget = ITEM_PRICE_MAX * len(entries)
        await self._errands.buy(bill, "index", "item", budget, collection=self._collection, entries=entries)

    async def _answer(self, question: str) -> None:
        bill = Bill("ask")
        self._errands.open_task(bill.task, "ask", question, HITS)
        try:
            found = await self._errands.buy(
                bill,
                "search",
                "item",
                ITEM_PRICE_MAX * HITS,
                collection=self._collection,
                question=question,
                limit=HITS,
            )
        except Error as exc:
            self._errands.fail(bill, exc)
            return
        hits = [
            ev.Source(hit["path"], hit["first_line"], hit["last_line"], hit["heading"], hit["quote"])
            for hit in found
        ]
        self._errands.complete(bill, study.answer_from(hits), tuple(hits))

    def _reached(self, stage: ev.Stage) -> None:
        now_ms = self._agent.network.context.now_ms()
        self._line.say(ev.StageReached(at_ms=now_ms, name=self._name, stage=stage))


def read_parts(spec: Spec) -> list[study.Part]:
    """All parts of the user's documents."""
    reading = documents.read(spec.paths)
    return study.parts_of(passage for document in reading.documents for passage in passages.split(document))


def _task(part: study.Part) -> str:
    return f"part-{part.number}"


def _units(part: study.Part) -> int:
    """About so many units will be delivered for it: vectors, index entries, a title and two labels."""
    return 2 * len(part.sentences) + TITLE_TOKENS_MAX // 2 + 2
