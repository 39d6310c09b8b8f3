"""Some seeds in one process: a module of its own, since a spawned process imports no ``__main__``."""

from __future__ import annotations

import time

from tests.adversary import marks
from tests.adversary.run import Outcome, simulate


def run_chunk(seeds: range) -> tuple[list[Outcome], dict[str, int], float]:
    """Some seeds in this process, up to the first violation; also the marks reached, and CPU seconds."""
    marks.reached.clear()
    began = time.process_time()
    outcomes = []
    for seed in seeds:
        outcomes.append(simulate(seed))
        if outcomes[-1].violation:
            break
    return outcomes, dict(marks.reached), time.process_time() - began
