"""The trace of one storm over a simulated wire: `python -m tests.simulation.storm 5`."""

from __future__ import annotations

import sys

from tests.simulation.test_wire import hash_of_a_storm

if __name__ == "__main__":
    print(hash_of_a_storm(int(sys.argv[1])))
