"""A world: agents, a committee, a wire and a clock, all from one seed.

    async def model(world, *, sellers=10):
        for i in range(sellers):
            world.spawn(f"seller{i}", skills=[summarise])
        buyer = await world.spawn("buyer").ready()
        world.at(60, world.partition, ["seller0"], ["buyer"])
        world.check(money_is_conserved)
        await world.run_for(3600)

    result = ainp2p.simulation.run(model, seed=7, sellers=20)

The agents are `ainp2p.Agent`, unmodified, on a simulated wire; the ledger is the one that runs outside.
Nodes are named; where a method takes a node, its name will do.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from numbers import Real
from typing import Any, Literal

import trio

from ainp2p.agents.models.model import Model
from ainp2p.agents.policy import Policy
from ainp2p.agents.skill import Skill
from ainp2p.errors import InvalidInput
from ainp2p.ledger.rules.genesis import DEVELOPMENT, DEVELOPMENT_PURSE, Genesis, Parameters
from ainp2p.ledger.rules.state import State
from ainp2p.protocol.network import Network, PeerId
from ainp2p.protocol.strategies import Strategies
from ainp2p.simulation.collecting import Collector
from ainp2p.simulation.committee import BANK, Bank, Committee, found
from ainp2p.simulation.core.clock import VirtualClock
from ainp2p.simulation.core.draws import Draws
from ainp2p.simulation.core.trace import Trace
from ainp2p.simulation.disks import FSYNC_S
from ainp2p.simulation.errors import InvariantViolated
from ainp2p.simulation.node import Body, Node, agent_body, process_body
from ainp2p.simulation.trials.faults import Schedule
from ainp2p.simulation.trials.injecting import Faults, Injector
from ainp2p.simulation.wire.weather import CALM, Weather
from ainp2p.simulation.wire.wire import Wire

Who = Node | str
Invariant = Callable[["World"], object]
CHECK_S = 1.0
EVERY_S_MIN = 1e-6  # below it an hour has more calls than anybody waits for, or time stands still
SKEW_MS_MAX = 10 * 366 * 86_400_000  # ten years
_REAL = ("ProcessModel", "Recording")  # by name: a world imports no engine
REMEDY = "record its answers outside the world, and give replayed(path) (ainp2p.simulation.trials.answers)"
_PLAIN = "an invariant is a plain function: it looks at the world as it is, and waits for nothing"
LAST_EVENTS = 20  # of the trace, shown with a violation


def _wire_class(name: str) -> Any:
    """The wire of this name; libp2p's is imported when it is wanted."""
    if name == "libp2p":
        from ainp2p.simulation.wire.libp2p_world import Libp2pWire

        return Libp2pWire
    if name != "simulated":
        raise InvalidInput(f'a world\'s wire is "simulated" or "libp2p", not {name!r}')
    return Wire


def _demand_function(what: object) -> None:
    """Raises InvalidInput where the mistake is, and not when the call is due."""
    if not callable(what):
        raise InvalidInput(f"{what!r} is no function that a world could call")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)  # numpy's as well


async def _finish(made: Coroutine[Any, Any, object]) -> None:
    await made


class World:
    """Everything that one run consists of; made by `run`, which also runs it.

    Attributes:
        seed: what all of it follows from.
        draws, clock, wire, trace: randomness, time, messages, and the record of all that happened.
        committee: the validators.
        purse: uain that an agent is born with, if `spawn` does not say.
        fsync_s: virtual seconds that a write to a node's disk takes.
    """

    def __init__(
        self,
        seed: int,
        *,
        clock: VirtualClock | None = None,
        weather: Weather = CALM,
        faults: Faults = "",
        committee: int = 4,
        parameters: Parameters = DEVELOPMENT,
        purse: int = DEVELOPMENT_PURSE,
        fsync_s: float = FSYNC_S,
        keep_events: int = 200,
        trace_every: int = 16,
        wire: Literal["simulated", "libp2p"] = "simulated",
    ) -> None:
        """`faults`: as for `inject`; `committee`: how many validators; `keep_events`, …: see `Trace`.

        With `wire` "libp2p" all agents talk through the real py-libp2p, in memory: for few of them.
        """
        if type(committee) is not int or committee < 1:
            raise InvalidInput("a world's committee has one validator or more; four survive one fault")
        if not isinstance(weather, Weather):
            raise InvalidInput(f"a world's weather is a Weather(latency=…, loss=…), not {weather!r}")
        if type(purse) is not int or purse < 0:
            raise InvalidInput(f"a purse is an integer of uain, 0 or more, not {purse!r}")
        if not _is_number(fsync_s) or not 0 <= fsync_s < math.inf:
            raise InvalidInput(f"fsync_s is a finite number of seconds, 0 or more, not {fsync_s!r}")
        self.seed, self.purse, self.fsync_s = seed, purse, fsync_s
        self.clock = clock or VirtualClock()
        self.draws = Draws(seed)
        self.trace = Trace(self.clock, self.draws, keep=keep_events, every=trace_every)
        self.wire = _wire_class(wire)(self.clock, self.draws, self.trace, weather)
        self.committee = Committee()
        self.nodes: dict[str, Node] = {}
        self._size, self._parameters = committee, parameters
        self._injector, self._faults = Injector(self), faults
        self._genesis: Genesis | None = None
        self._bank = Bank()
        self._collector = Collector(self)
        self._checks: list[tuple[str, Invariant]] = []
        self._nursery: trio.Nursery | None = None
        self.wire.observers.append(self._collector.message)
        if isinstance(self.wire, Wire):
            self.wire.handlers.strict = True  # outside they are logged; here nobody would look

    def __repr__(self) -> str:
        return f"<World of seed {self.seed} at {self.now:.3f} s, {len(self.nodes)} nodes>"

    # --- reading ---------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """Virtual seconds since it began."""
        return self.clock.now

    def rng(self, *names: str | int) -> Any:
        """A `random.Random` of the model's own, one per name: the only randomness that a model may use."""
        return self.draws.stream("model", *names)

    @property
    def genesis(self) -> Genesis:
        """The network that its agents are on."""
        assert self._genesis is not None  # `_open` founds it before any model runs
        return self._genesis

    @property
    def states(self) -> dict[str, State]:
        """What each running validator has decided, for invariants; not to be changed."""
        return self.committee.states

    def node(self, who: Who) -> Node:
        """The node of this name.

        Raises:
            InvalidInput: there is none.
        """
        if isinstance(who, Node):
            return who
        if who not in self.nodes:
            raise InvalidInput(f"no node is called {who!r}; there are {', '.join(self.nodes) or 'none'}")
        return self.nodes[who]

    # --- who lives in it ---------------------------------------------------------------------------

    def spawn(
        self,
        name: str,
        *,
        skills: Sequence[Skill] = (),
        main: Callable[..., Awaitable[Any]] | None = None,
        balance: int | None = None,
        model: Model | Sequence[Model] | None = None,
        policy: Policy | None = None,
        strategies: Strategies | None = None,
        slots: int | None = None,
        role: str = "agent",
        **options: Any,
    ) -> Node:
        """Start an agent on a machine of its own, from now on; `await node.ready()` waits until it is open.

        Args:
            main: `async def main(agent)`: what it does. Its end ends the agent. None: it sells.
            balance: uain that it is born with; None: the world's `purse`.
            model: open models, such as `ScriptedModel`. A name would start a real model's process: refused.
            role: a word for the tables, such as "cheat".
            options: more arguments of `ainp2p.Agent`.

        Raises:
            InvalidInput: the name is taken, or the balance is no amount.
        """
        if balance is not None and (type(balance) is not int or balance < 0):
            raise InvalidInput(f"a balance is an integer of uain, 0 or more, not {balance!r}")
        if isinstance(model, str) or (isinstance(model, Sequence) and any(isinstance(m, str) for m in model)):
            raise InvalidInput(
                "a model by name is a real process, which no seed decides: give a ScriptedModel, or record "
                "its answers once and replay them (docs/simulation.md)"
            )
        for each in model if isinstance(model, Sequence) else [model]:
            if type(each).__name__ in _REAL:
                raise InvalidInput(
                    f"a {type(each).__name__} is a real model, which no seed decides: {REMEDY}"
                )
        chosen = dict(options, skills=tuple(skills), model=model, policy=policy, strategies=strategies)
        if slots is not None:
            chosen["slots"] = slots
        node = self._add(name, role, agent_body(main, chosen))
        node.balance = self.purse if balance is None else balance
        self._start(node)
        return node

    def process(
        self, name: str, program: Callable[[Network], Awaitable[Any]], *, role: str = "process"
    ) -> Node:
        """Start a program of the model's own, `async def program(network)`, on a machine of its own."""
        node = self._add(name, role, process_body(program))
        self._start(node)
        return node

    def _add(self, name: str, role: str, body: Body) -> Node:
        if name in self.nodes or name == BANK:
            raise InvalidInput(f"a node is called {name!r} already: names are unique in a world")
        node = self.nodes[name] = Node(self, name, role, body, fsync_s=self.fsync_s)
        return node

    def _start(self, node: Node) -> None:
        self.trace.note("start", node.name)
        node.start(self._running)

    # --- time --------------------------------------------------------------------------------------

    async def run_for(self, seconds: float) -> None:
        """Let so much virtual time pass.

        Raises:
            InvalidInput: `seconds` is negative, or not finite.
        """
        if not _is_number(seconds) or not 0 <= seconds < math.inf:
            raise InvalidInput(f"a world runs for a finite number of seconds, 0 or more, not for {seconds!r}")
        await trio.sleep(float(seconds))

    def at(self, at_s: float, what: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Call `what(*args, **kwargs)` at this virtual time (now, if it is past); an async one in a task.

        Raises:
            InvalidInput: not a time, or not a function.
        """
        _demand_function(what)
        if not _is_number(at_s):
            raise InvalidInput(f"at() needs virtual seconds, as a number, not {at_s!r}")
        self.clock.call_at(float(at_s), self._call, partial(what, *args, **kwargs))

    def every(self, seconds: float, what: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Call `what(*args, **kwargs)` again and again, first after `seconds`; an async one in a task.

        Raises:
            InvalidInput: less than a microsecond, or not a function.
        """
        _demand_function(what)
        if not _is_number(seconds) or not EVERY_S_MIN <= seconds < math.inf:
            raise InvalidInput(f"every() needs a number of seconds, {EVERY_S_MIN:g} or more, not {seconds!r}")
        call, pause_s = partial(what, *args, **kwargs), float(seconds)

        def again() -> None:
            self._call(call)
            self.clock.call_later(pause_s, again)

        self.clock.call_later(pause_s, again)

    def _call(self, what: partial[Any]) -> None:
        if inspect.iscoroutinefunction(what.func):
            self._running.start_soon(what)
        elif inspect.iscoroutine(made := what()):  # a lambda's: nobody would run it
            self._running.start_soon(_finish, made)

    @property
    def _running(self) -> trio.Nursery:
        if self._nursery is None:
            raise InvalidInput("this world does not run: give the model to ainp2p.simulation.run")
        return self._nursery

    # --- what is measured ----------------------------------------------------------------------------

    def measure(self, name: str, value: float) -> None:
        """A number for the table of metrics, at the time that it is now."""
        self.trace.note("measure", name, repr(float(value)))
        self._collector.metrics.append_row((self.now, name, float(value)))

    def traded(
        self,
        buyer: Who,
        seller: Who,
        skill: str,
        *,
        units: int,
        amount: int,
        price: str = "",
        failure: str = "",
    ) -> None:
        """A row of trades, for a model that pays by a protocol of its own: jobs are in the table anyway."""
        names = self.node(buyer).name, self.node(seller).name
        self._collector.sold(names[1], amount, done=not failure)
        self._collector.traded(*names, skill, units, amount, price, 0, failure)

    def check(self, invariant: Invariant, *, every_s: float = CHECK_S) -> None:
        """Demand that `invariant(world)` holds, now and then and at the end.

        It is broken if it returns something false (None is not) or raises AssertionError; the run ends with
        `InvariantViolated`.

        Raises:
            InvalidInput: it is no function, or an async one: what is checked may change while that waits.
        """
        _demand_function(invariant)
        if inspect.iscoroutinefunction(invariant):
            raise InvalidInput(_PLAIN)
        name = getattr(invariant, "__name__", repr(invariant))
        self._checks.append((name, invariant))
        self.every(every_s, self._verify, name, invariant)

    def _verify(self, name: str, invariant: Invariant) -> None:
        detail = ""
        try:
            told = invariant(self)
            if inspect.iscoroutine(told):  # of a lambda; it would count as true
                told.close()
                raise InvalidInput(_PLAIN)
            held = told is None or bool(told)
        except AssertionError as exc:
            held, detail = False, str(exc)
        if not held:
            last = self.trace.last[-LAST_EVENTS:]
            raise InvariantViolated(name, self.seed, self.now, detail, last)

    def sometimes(self, name: str, condition: object = True) -> None:
        """Mark that this point was reached (and `condition` held): a test may demand it over its seeds."""
        self._collector.marks[name] += bool(condition)

    # --- faults --------------------------------------------------------------------------------------

    def inject(self, faults: Faults) -> None:
        """Let a schedule of faults happen: its text, or a `Profile` from which it is drawn.

        Raises:
            InvalidInput: the text is no schedule (`ainp2p.simulation.trials.faults`).
        """
        self._injector.arm(faults, record=False)

    @property
    def faults(self) -> Schedule:
        """What ``World(faults=…)`` has done so far; given to another world of this seed, it does the same."""
        return Schedule(tuple(self._injector.done))

    def partition(self, a: Who | Iterable[Who], b: Who | Iterable[Who], *, oneway: bool = False) -> None:
        """Cut all paths between two sides; with `oneway` only from `a` to `b`."""
        here, there = self._peers(a), self._peers(b)
        self._fault("partition", f"{len(here)} {'→' if oneway else '↔'} {len(there)}", *here, *there)
        self.wire.partition(here, there, oneway=oneway)

    def heal(self) -> None:
        """Mend every cut."""
        self._fault("heal")
        self.wire.heal()

    def pause(self, who: Who) -> None:
        """Nothing goes to or from this node, as if its network cable were pulled."""
        self._fault("pause", self.node(who).name)
        self.wire.pause(self.node(who).peer)

    def resume(self, who: Who) -> None:
        """End a pause."""
        self._fault("resume", self.node(who).name)
        self.wire.resume(self.node(who).peer)

    def crash(self, who: Who, *, lose_unsynced: bool = True, reset: bool = False) -> None:
        """End a node's process at once.

        Args:
            lose_unsynced: the power is gone, too: what was not synced to the disk is lost.
            reset: others are told by resets, as when only the process died; else by silence.
        """
        node = self.node(who)
        self._fault("crash", node.name)
        node.kill(lose_unsynced=lose_unsynced, reset=reset)

    def restart(self, who: Who) -> Node:
        """Start a node again that has crashed or ended, with what its disk kept."""
        node = self.node(who)
        if node.alive:
            raise InvalidInput(f"{node.name} runs: crash it first")
        self._fault("restart", node.name)
        self._start(node)
        return node

    def skew(self, who: Who, ms: int, *, rate: float = 1.0) -> None:
        """Set a node's wall clock wrong by so many milliseconds, and let it run at another rate."""
        node = self.node(who)
        if type(ms) is not int or abs(ms) > SKEW_MS_MAX:
            raise InvalidInput(f"a clock is wrong by an integer of ms, {SKEW_MS_MAX} at most, not by {ms!r}")
        if not _is_number(rate) or not 0 < rate < math.inf:
            raise InvalidInput(f"a clock runs at a rate above 0, not at {rate!r}")
        self._fault("skew", node.name, ms)
        node.skew_ms, node.rate = ms, rate

    def lie(self, who: Who, rewrite: Any) -> None:
        """Let all that a node sends pass through `rewrite` (`ainp2p.simulation.wire.lies`); None: no more."""
        if rewrite is not None:
            _demand_function(rewrite)
        self._fault("lie", self.node(who).name)
        self.wire.lie(self.node(who).peer, rewrite)

    def _fault(self, kind: str, *what: str | int) -> None:
        self.trace.note(kind, *what)
        self._collector.marks[f"fault: {kind}"] += 1

    def _peers(self, side: Who | Iterable[Who]) -> list[PeerId]:
        members = [side] if isinstance(side, Node | str) else side
        return [self.node(who).peer for who in members]

    # --- its life --------------------------------------------------------------------------------------

    async def live(self, model: Callable[..., Awaitable[Any]], parameters: dict[str, Any]) -> dict[str, Any]:
        """Open it, run the model to its end, and return the tables."""
        tables: dict[str, Any] = {}
        async with trio.open_nursery() as self._nursery:
            try:
                await self._open()
                self._injector.arm(self._faults, record=True)
                await model(self, **parameters)
                for name, invariant in self._checks:
                    self._verify(name, invariant)
                tables = self._collector.tables(list(self.nodes.values()), self._balances())
            except trio.Cancelled:
                raise
            except BaseException as exc:  # as it is, and not in a group; pytest's failures are no Exceptions
                self.clock.fail(exc)
            else:
                await self._stop()
        return tables

    async def _open(self) -> None:
        """Found the ledger and start its validators, before there is any agent."""
        names = [f"validator{i}" for i in range(self._size)]
        keys = [self.draws.key(name) for name in names]
        addresses = [self.wire.address(key.peer_id) for key in keys]
        bank = self.draws.key(BANK)
        self._genesis = genesis = found(keys, addresses, bank, self._parameters)
        body = self.committee.body(lambda: genesis)
        for name in names:
            node = self._add(name, "validator", body)
            self.committee.nodes.append(node)
            self._start(node)

        async def be_the_bank(network: Network) -> None:
            await self._bank.run(network, genesis, bank)

        teller = self.nodes[BANK] = Node(self, BANK, "validator", process_body(be_the_bank), fsync_s=0)
        self._start(teller)
        for node in self.committee.nodes:
            await node.ready()

    async def _endow(self, node: Node) -> None:
        """Its balance, once in its first life."""
        if node.balance and node.lives == 1:
            await self._bank.endow(self.genesis, node.key, node.balance)

    def _bootstrap_for(self, node: Node) -> list[str]:
        """Where an agent begins: a validator that every agent of its name would choose."""
        seat = self.draws.stream("bootstrap").randrange(self._size)
        return [self.wire.address(self.committee.nodes[seat].peer)]

    def _balances(self) -> dict[str, int]:
        """What every agent owns, by the validator that knows most."""
        from ainp2p.ledger.rules.operations import account_id, plain_inception

        states = list(self.states.values())
        if not states:
            return {}
        state = max(states, key=lambda known: known.operations)
        owners = {
            account_id(self.genesis.network_id, plain_inception(n.key.public)): n for n in self.nodes.values()
        }
        totals = {node.name: 0 for node in owners.values()}
        for id_, account in state.accounts.items():
            if id_ in owners:
                totals[owners[id_].name] += account.balance
        for credit in state.credits.values():
            if credit.account in owners:
                totals[owners[credit.account].name] += credit.amount
        for lock in state.locks.values():
            if not lock.ended and lock.payer in owners:
                totals[owners[lock.payer].name] += lock.deposit - lock.paid
        return totals

    async def _stop(self) -> None:
        """End all processes at once: the run is over, and nobody is to say goodbye."""
        for node in self.nodes.values():
            if node.alive:
                node.kill(lose_unsynced=True, reset=False)
        for node in self.nodes.values():
            await node._ended.wait()
            node.disk.close()
        self._running.cancel_scope.cancel()
