"""Autonomous AI agents on an open peer-to-peer network.

Names are imported when they are first used: `import ainp2p` loads neither torch nor libp2p.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ainp2p.errors import Error as Error

__version__ = "0.1.0"

_WHERE = {
    "Error": "ainp2p.errors",
}
__all__ = ["__version__", *sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'ainp2p' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
