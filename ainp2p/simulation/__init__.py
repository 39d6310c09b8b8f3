"""A world of agents in virtual time, from a seed: `import ainp2p.simulation as sim`.

Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ainp2p.simulation.answers import record as record
    from ainp2p.simulation.answers import replayed as replayed
    from ainp2p.simulation.clock import EPOCH_MS as EPOCH_MS
    from ainp2p.simulation.clock import Timer as Timer
    from ainp2p.simulation.clock import VirtualClock as VirtualClock
    from ainp2p.simulation.draws import Draws as Draws
    from ainp2p.simulation.errors import Ambient as Ambient
    from ainp2p.simulation.errors import Deadlock as Deadlock
    from ainp2p.simulation.errors import InvariantViolated as InvariantViolated
    from ainp2p.simulation.errors import Mixed as Mixed
    from ainp2p.simulation.errors import SimulationError as SimulationError
    from ainp2p.simulation.errors import VersionMismatch as VersionMismatch
    from ainp2p.simulation.executors import PoolExecutor as PoolExecutor
    from ainp2p.simulation.faults import Fault as Fault
    from ainp2p.simulation.faults import Schedule as Schedule
    from ainp2p.simulation.guards import allowed as allowed
    from ainp2p.simulation.guards import guarded as guarded
    from ainp2p.simulation.invariants import money_is_conserved as money_is_conserved
    from ainp2p.simulation.invariants import nobody_is_overdrawn as nobody_is_overdrawn
    from ainp2p.simulation.invariants import validators_agree as validators_agree
    from ainp2p.simulation.kernel import run_virtual as run_virtual
    from ainp2p.simulation.model_files import ModelFile as ModelFile
    from ainp2p.simulation.node import Node as Node
    from ainp2p.simulation.profile import Profile as Profile
    from ainp2p.simulation.replay import Trial as Trial
    from ainp2p.simulation.results import Result as Result
    from ainp2p.simulation.running import run as run
    from ainp2p.simulation.sweep_plan import ReplicateFailed as ReplicateFailed
    from ainp2p.simulation.sweeping import load_sweep as load_sweep
    from ainp2p.simulation.sweeping import sweep as sweep
    from ainp2p.simulation.tables import Table as Table
    from ainp2p.simulation.testing import test as test
    from ainp2p.simulation.trace import Difference as Difference
    from ainp2p.simulation.trace import Trace as Trace
    from ainp2p.simulation.weather import Weather as Weather
    from ainp2p.simulation.weather import lognormal as lognormal
    from ainp2p.simulation.world import World as World

_WHERE = {
    "Ambient": "errors",
    "Deadlock": "errors",
    "Difference": "trace",
    "Draws": "draws",
    "EPOCH_MS": "clock",
    "InvariantViolated": "errors",
    "Mixed": "errors",
    "ModelFile": "model_files",
    "Node": "node",
    "PoolExecutor": "executors",
    "Profile": "profile",
    "Fault": "faults",
    "Schedule": "faults",
    "test": "testing",
    "Trial": "replay",
    "record": "answers",
    "replayed": "answers",
    "ReplicateFailed": "sweep_plan",
    "Result": "results",
    "SimulationError": "errors",
    "Table": "tables",
    "Timer": "clock",
    "Trace": "trace",
    "VersionMismatch": "errors",
    "VirtualClock": "clock",
    "Weather": "weather",
    "World": "world",
    "allowed": "guards",
    "guarded": "guards",
    "load_sweep": "sweeping",
    "lognormal": "weather",
    "money_is_conserved": "invariants",
    "nobody_is_overdrawn": "invariants",
    "run": "running",
    "run_virtual": "kernel",
    "sweep": "sweeping",
    "validators_agree": "invariants",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ainp2p.simulation' has no attribute {name!r}")
    return getattr(importlib.import_module(f"ainp2p.simulation.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
