"""A world of agents in virtual time, from a seed: `import ainp2p.simulation as sim`.

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ainp2p.simulation.core.clock import EPOCH_MS as EPOCH_MS
    from ainp2p.simulation.core.clock import Timer as Timer
    from ainp2p.simulation.core.clock import VirtualClock as VirtualClock
    from ainp2p.simulation.core.draws import Draws as Draws
    from ainp2p.simulation.core.guards import allowed as allowed
    from ainp2p.simulation.core.guards import guarded as guarded
    from ainp2p.simulation.core.kernel import run_virtual as run_virtual
    from ainp2p.simulation.core.trace import Difference as Difference
    from ainp2p.simulation.core.trace import Trace as Trace
    from ainp2p.simulation.errors import Ambient as Ambient
    from ainp2p.simulation.errors import Deadlock as Deadlock
    from ainp2p.simulation.errors import InvariantViolated as InvariantViolated
    from ainp2p.simulation.errors import Livelock as Livelock
    from ainp2p.simulation.errors import Mixed as Mixed
    from ainp2p.simulation.errors import Overdue as Overdue
    from ainp2p.simulation.errors import SimulationError as SimulationError
    from ainp2p.simulation.errors import VersionMismatch as VersionMismatch
    from ainp2p.simulation.invariants import money_is_conserved as money_is_conserved
    from ainp2p.simulation.invariants import nobody_is_overdrawn as nobody_is_overdrawn
    from ainp2p.simulation.invariants import validators_agree as validators_agree
    from ainp2p.simulation.node import Node as Node
    from ainp2p.simulation.results.executors import PoolExecutor as PoolExecutor
    from ainp2p.simulation.results.model_files import ModelFile as ModelFile
    from ainp2p.simulation.results.results import Result as Result
    from ainp2p.simulation.results.sweep_plan import ReplicateFailed as ReplicateFailed
    from ainp2p.simulation.results.sweeping import load_sweep as load_sweep
    from ainp2p.simulation.results.sweeping import sweep as sweep
    from ainp2p.simulation.results.tables import Table as Table
    from ainp2p.simulation.running import run as run
    from ainp2p.simulation.trials.answers import record as record
    from ainp2p.simulation.trials.answers import replayed as replayed
    from ainp2p.simulation.trials.faults import Fault as Fault
    from ainp2p.simulation.trials.faults import Schedule as Schedule
    from ainp2p.simulation.trials.profile import Profile as Profile
    from ainp2p.simulation.trials.replay import Trial as Trial
    from ainp2p.simulation.trials.testing import test as test
    from ainp2p.simulation.wire.weather import Weather as Weather
    from ainp2p.simulation.wire.weather import lognormal as lognormal
    from ainp2p.simulation.world import World as World

_WHERE = {
    "Ambient": "errors",
    "Deadlock": "errors",
    "Livelock": "errors",
    "Difference": "core.trace",
    "Draws": "core.draws",
    "EPOCH_MS": "core.clock",
    "InvariantViolated": "errors",
    "Mixed": "errors",
    "ModelFile": "results.model_files",
    "Node": "node",
    "Overdue": "errors",
    "PoolExecutor": "results.executors",
    "Profile": "trials.profile",
    "Fault": "trials.faults",
    "Schedule": "trials.faults",
    "test": "trials.testing",
    "Trial": "trials.replay",
    "record": "trials.answers",
    "replayed": "trials.answers",
    "ReplicateFailed": "results.sweep_plan",
    "Result": "results.results",
    "SimulationError": "errors",
    "Table": "results.tables",
    "Timer": "core.clock",
    "Trace": "core.trace",
    "VersionMismatch": "errors",
    "VirtualClock": "core.clock",
    "Weather": "wire.weather",
    "World": "world",
    "allowed": "core.guards",
    "guarded": "core.guards",
    "load_sweep": "results.sweeping",
    "lognormal": "wire.weather",
    "money_is_conserved": "invariants",
    "nobody_is_overdrawn": "invariants",
    "run": "running",
    "run_virtual": "core.kernel",
    "sweep": "results.sweeping",
    "validators_agree": "invariants",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ainp2p.simulation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ainp2p.simulation.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
