"""One machine of a world: a key, a disk, a clock, and a process that may crash and be started again.

    spawn ─▶ a life: network, storage, program ─▶ ready ─▶ … ─▶ crash ─▶ (a ghost unwinds) ─▶ restart ─▶ …

A life that has crashed is a ghost: its wire is dead and its disk takes nothing, so whatever its clean-up
does is seen by nobody. The disk is what the next life finds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from ainp2p.errors import Closed, InvalidInput, NetworkError, NotFinal, RemoteError
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key
from ainp2p.protocol.network import Network, PeerId
from ainp2p.simulation.core.clock import EPOCH_MS
from ainp2p.simulation.disks import Disk

if TYPE_CHECKING:
    from ainp2p.agents.agent import Agent
    from ainp2p.simulation.world import World

HOME = Path("/node")  # on the node's own disk; no real path

Body = Callable[["Node", Callable[[], None]], Awaitable[None]]
"""(node, tell that it is ready) → runs until the process ends."""


class Node:
    """One machine; made by `World.spawn` and `World.process`.

    Attributes:
        name: unique in its world.
        role: "agent", "validator", or what the model says.
        key: of its network, and of its account.
        disk: what outlives its process.
        skew_ms, rate: how its wall clock differs from the world's.
        born_s, died_s: virtual seconds; `died_s` is None while it runs.
        lives: how often it was started.
    """

    def __init__(self, world: World, name: str, role: str, body: Body, *, fsync_s: float) -> None:
        self.name, self.role = name, role
        self.key: Key = world.draws.key(name)
        self.disk = Disk(fsync_s=fsync_s)
        self.skew_ms, self.rate = 0, 1.0
        self.born_s = world.now
        self.died_s: float | None = None
        self.lives = 0
        self.balance = 0  # given to it at its birth
        self._world, self._body = world, body
        self._agent: Agent | None = None
        self._scope = trio.CancelScope()
        self._ready, self._ended = trio.Event(), trio.Event()
        self._failure: Exception | None = None
        self._waiting = 0  # tasks in `ready`
        self._ended.set()  # no life yet

    def __repr__(self) -> str:
        return f"<{self.role} {self.name}>"

    @property
    def peer(self) -> PeerId:
        """Its peer id."""
        return self.key.peer_id

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.lives > 0 and self.died_s is None

    @property
    def agent(self) -> Agent:
        """Its open agent.

        Raises:
            Closed: it is none, is not ready yet, or does not run.
        """
        if self._agent is None:
            raise Closed(
                f"{self.name} is no open agent now: `await node.ready()` after `spawn` and `restart`"
            )
        return self._agent

    async def ready(self) -> Node:
        """Wait until its process is open; returns the node.

        Raises:
            Error: what it failed with.
        """
        self._waiting += 1
        try:
            await self._ready.wait()
        finally:
            self._waiting -= 1
        if self._failure is not None:
            raise self._failure
        return self

    async def ended(self) -> None:
        """Wait until its process has ended, by itself or by a crash; what it failed with is raised."""
        await self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def context(self) -> Context:
        """The world as a new life of this node sees it."""
        rng = self._world.draws.stream("node", self.name)
        return Context(self.now_ms, rng.randbytes, rng, self.disk.storage())

    def now_ms(self) -> int:
        """Its own wall clock."""
        return EPOCH_MS + int(self._world.now * self.rate * 1000 + 0.001) + self.skew_ms

    def transport(self, context: Context) -> Callable[[Key], AbstractAsyncContextManager[Network]]:
        """Opens its network, whatever key is given: a node has one."""

        def open_(key: Key) -> AbstractAsyncContextManager[Network]:
            if key.public != self.key.public:
                raise InvalidInput(f"{self.name} has a key of its own: make another node for another key")
            opened: AbstractAsyncContextManager[Network] = self._world.wire.open(self.key, context)
            return opened

        return open_

    # --- its lives -----------------------------------------------------------------------------

    def start(self, nursery: trio.Nursery) -> None:
        """Begin a life once the one before has unwound."""
        self.lives += 1
        self.died_s = None
        before, self._ended = self._ended, trio.Event()
        self._ready, self._scope = trio.Event(), trio.CancelScope()
        life = (before, self._ready, self._scope, self._ended)
        nursery.start_soon(self._live, *life, name=f"{self.name}, life {self.lives}")

    def kill(self, *, lose_unsynced: bool, reset: bool) -> None:
        """End the process at once."""
        if not self.alive:
            raise InvalidInput(f"{self.name} does not run: it cannot crash")
        self.died_s = self._world.now
        self._world.wire.kill(self.peer, reset=reset)
        self.disk.crash(lose_unsynced=lose_unsynced)
        self._agent = None
        self._scope.cancel()

    async def _live(
        self, before: trio.Event, ready: trio.Event, scope: trio.CancelScope, ended: trio.Event
    ) -> None:
        await before.wait()
        self._failure = None
        try:
            with scope:
                await self._body(self, ready.set)
        except Exception as exc:
            if not scope.cancel_called:  # else it is a ghost, and fails as a ghost may
                self._fail(exc)
        finally:
            if self._scope is scope and self.died_s is None:
                self.died_s = self._world.now
            self._agent = None
            ready.set()
            ended.set()

    def _fail(self, exc: Exception) -> None:
        """What a process dies of is the world's end, unless somebody waits for it to be ready.

        It may also die of a full disk, or find nobody when it opens in a bad time. But a node that could
        never have opened (a wrong argument, say) would be missing without a word.
        """
        self._failure = exc
        late = self._ready.is_set()
        bad_time = isinstance(exc, NetworkError | RemoteError | NotFinal)
        if not self.disk.full and (late or not (self._waiting or bad_time)):
            self._world.clock.fail(exc)


def agent_body(main: Callable[[Agent], Awaitable[Any]] | None, options: dict[str, Any]) -> Body:
    """The life of an agent: open it, run `main` with it, or sell until the end."""

    async def live(node: Node, tell_ready: Callable[[], None]) -> None:
        from ainp2p.agents.agent import Agent

        world, context = node._world, node.context()
        await world._endow(node)
        agent = Agent(
            node.name,
            key=node.key,
            home=HOME,
            network=world.genesis,
            bootstrap=world._bootstrap_for(node),
            context=context,
            transport=node.transport(context),
            on_job=world._collector.on_job(node),
            **options,
        )
        async with agent:
            node._agent = agent
            world._collector.knows(node, agent.id)
            tell_ready()
            if main is None:
                await trio.sleep_forever()
            else:
                await main(agent)

    return live


def process_body(program: Callable[[Network], Awaitable[Any]]) -> Body:
    """The life of a program of the model's own on a network."""

    async def live(node: Node, tell_ready: Callable[[], None]) -> None:
        context = node.context()
        async with node.transport(context)(node.key) as network:
            tell_ready()
            await program(network)

    return live
