"""A seller's process: an agent with one model worker, which serves until it is told to close."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence

import trio

from ainp2p.agents.agent import Agent
from ainp2p.agents.models.model import Model
from ainp2p.agents.models.process import open_model
from ainp2p.agents.skill import Skill
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.protocol.identity import Key, id_text
from ainp2p.swarm import events as ev
from ainp2p.swarm.books import Books
from ainp2p.swarm.line import Close, Line
from ainp2p.swarm.process import Serve
from ainp2p.swarm.skills import embedding_skills, text_skills
from ainp2p.swarm.spec import Spec

SLOTS = 8  # jobs at once; the model works on all of them in one batch
TOKEN_PRICES = (2, 4)  # uain, from … to; each seller draws its own
CALL_PRICES = (10, 20)
ITEM_PRICE = 1
BUYERS_LEAVE_S = 0.5  # when everybody stops: for the last receipts to arrive before Locks are closed
CLOSE_TIMEOUT_S = 20.0


def text_seller(spec: Spec, name: str, key: Key, genesis: Genesis) -> Serve:
    """What the process of a seller of titles and labels does."""
    prices = random.Random(f"{spec.seed}/{name}")
    skills = text_skills(token_price=prices.randint(*TOKEN_PRICES), call_price=prices.randint(*CALL_PRICES))
    return _seller(spec, name, key, genesis, skills, spec.text_model, spec.threads)


def embedding_seller(spec: Spec, name: str, key: Key, genesis: Genesis) -> Serve:
    """What the process of the seller of vectors and search does."""
    return _seller(spec, name, key, genesis, embedding_skills(item_price=ITEM_PRICE), spec.embedding_model, 1)


def _seller(
    spec: Spec, name: str, key: Key, genesis: Genesis, skills: Sequence[Skill], model: str, threads: int
) -> Serve:
    async def serve(line: Line) -> None:
        async with open_model(model, threads=threads) as opened:
            await _sell(spec, name, key, genesis, skills, opened, line)

    return serve


async def _sell(
    spec: Spec, name: str, key: Key, genesis: Genesis, skills: Sequence[Skill], model: Model, line: Line
) -> None:
    where = [address.decode() for member in genesis.validators for address in member.addresses[:1]]
    home = spec.home(name)
    home.mkdir(mode=0o700)
    async with Agent(
        name, skills=skills, model=model, key=key, network=genesis, bootstrap=where, home=home, slots=SLOTS
    ) as agent:
        now_ms = agent.network.context.now_ms
        books = Books(name, agent.wallet, line)
        line.say(
            ev.PeerUp(
                at_ms=now_ms(),
                name=name,
                role="seller",
                peer=agent.peer_id,
                pid=os.getpid(),
                account=id_text(agent.id),
            )
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(books.watch_forever)
            async with trio.open_nursery() as settling:
                settling.start_soon(books.settle_forever)
                if not await _told_to_close(line):
                    await trio.sleep(BUYERS_LEAVE_S)
                settling.cancel_scope.cancel()
            with trio.move_on_after(CLOSE_TIMEOUT_S) as limit:
                await books.close_all()
            if not limit.cancelled_caught:
                line.say(ev.StageReached(at_ms=now_ms(), name=name, stage="closed"))
            await line.stop.wait()
            nursery.cancel_scope.cancel()


async def _told_to_close(line: Line) -> bool:
    """Wait for the command to close; False: everybody is to stop."""
    async for command in line.commands():
        if isinstance(command, Close):
            return True
    await line.stop.wait()
    return False
