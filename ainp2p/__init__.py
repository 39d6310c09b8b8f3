"""Autonomous AI agents on an open peer-to-peer network.

Names are imported when they are first used: `import ainp2p` loads neither torch nor libp2p.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ainp2p.agents.agent import Agent as Agent
    from ainp2p.agents.job import Job as Job
    from ainp2p.agents.offers import Offer as Offer
    from ainp2p.agents.policy import Policy as Policy
    from ainp2p.agents.skill import Skill as Skill
    from ainp2p.agents.skill import skill as skill
    from ainp2p.errors import Error as Error
    from ainp2p.errors import LedgerError as LedgerError
    from ainp2p.errors import LocalError as LocalError
    from ainp2p.errors import NetworkError as NetworkError
    from ainp2p.errors import RemoteError as RemoteError
    from ainp2p.ledger.rules.genesis import Genesis as Genesis
    from ainp2p.protocol.identity import Key as Key
    from ainp2p.protocol.price import Price as Price

__version__ = "0.1.0"

_WHERE = {
    "Agent": "ainp2p.agents.agent",
    "Error": "ainp2p.errors",
    "Genesis": "ainp2p.ledger.rules.genesis",
    "Job": "ainp2p.agents.job",
    "Key": "ainp2p.protocol.identity",
    "LedgerError": "ainp2p.errors",
    "LocalError": "ainp2p.errors",
    "NetworkError": "ainp2p.errors",
    "Offer": "ainp2p.agents.offers",
    "Policy": "ainp2p.agents.policy",
    "Price": "ainp2p.protocol.price",
    "RemoteError": "ainp2p.errors",
    "Skill": "ainp2p.agents.skill",
    "skill": "ainp2p.agents.skill",
}
__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ainp2p' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
