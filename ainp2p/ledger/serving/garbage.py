"""The garbage collector of a process that runs validators: an explicit setting, for whoever owns the process.

A validator makes dozens of small objects for each operation, holds them for some hundred milliseconds, and
lets go of them without cycles: nearly all that the collector looks at is in use, or freed by counting. By
default it looks after every 700 objects, and now and then at everything that was ever imported, libp2p's
hundred megabytes included: a pause of 0.1 s or so, felt by all who wait for a vote.

No library may decide this for its host, so nothing here happens by itself: `ainp2p network validate` asks
for it.
"""

from __future__ import annotations

import gc

YOUNG_MAX = 50_000  # objects, 5 MB or so: most of what is under way has gone before they are looked at


def collect_rarely() -> None:
    """Leave alone what is there now, and look at what is new less often. Cycles are still found and freed."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, 20, 20)
