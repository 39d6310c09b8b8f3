"""How many processes fit this machine, and why that many. Pure but for `this_machine`.

A run has four validators, two buyers, one seller of embeddings and as many sellers of text as cores and
memory allow: two at least, or nobody competes and no seller can be killed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ainp2p.errors import InvalidInput

VALIDATORS = 4  # the least that survives one fault
BUYERS = 2
TEXT_SELLERS_MIN, TEXT_SELLERS_MAX = 2, 4
CORES_PER_TEXT_SELLER = 4  # beyond the first two: a small model on one core already keeps two buyers busy
SELLERS_MAX, BUYERS_MAX = 16, 8

PEER_BYTES = 110 << 20  # a process with libp2p, without a model
WORKER_BYTES = 450 << 20  # a model's process without its weights
BYTES_PER_PARAMETER = 5  # fp32, and what is in use while computing
EMBEDDING_BYTES = 600 << 20  # MiniLM with its process
SCRIPTED_BYTES = 40 << 20


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is to share."""

    cores: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Sizing:
    """What will be started. `threads` is what each text seller's model may compute with."""

    text_sellers: int
    embedding_sellers: int
    buyers: int
    threads: int
    said: str

    @property
    def sellers(self) -> int:
        """All sellers."""
        return self.text_sellers + self.embedding_sellers


def this_machine() -> Machine:
    """The cores that this process may use, and the memory that is free now, cgroups regarded."""
    return Machine(max(1, len(_affinity())), _memory())


def size(
    machine: Machine, parameters: int, *, sellers: int | None = None, buyers: int | None = None
) -> Sizing:
    """What fits `machine` with a text model of so many `parameters` (0: a scripted one).

    Args:
        sellers, buyers: the user's own numbers, which count more than what fits.

    Raises:
        InvalidInput: numbers that no swarm can have.
    """
    if sellers is not None and not 2 <= sellers <= SELLERS_MAX:
        raise InvalidInput(f"--sellers is 2 to {SELLERS_MAX}: one sells embeddings, the others text")
    if buyers is not None and not 1 <= buyers <= BUYERS_MAX:
        raise InvalidInput(f"--buyers is 1 to {BUYERS_MAX}")
    each = text_seller_bytes(parameters)
    chosen_buyers = buyers or BUYERS
    rest = fixed_bytes(parameters, chosen_buyers)
    by_memory = max(0, machine.memory_bytes - rest) // each
    by_cores = TEXT_SELLERS_MIN + max(0, machine.cores - 2) // CORES_PER_TEXT_SELLER
    fits = max(1, min(by_memory, max(by_cores, TEXT_SELLERS_MIN), TEXT_SELLERS_MAX))
    text = sellers - 1 if sellers is not None else fits
    threads = max(1, (machine.cores - 1) // text)
    said = (
        f"{machine.cores} cores and {_gb(machine.memory_bytes)} free: "
        f"{text} seller{'s' if text > 1 else ''} of text ({_gb(each)} each), 1 of embeddings and search, "
        f"{chosen_buyers} buyer{'s' if chosen_buyers > 1 else ''}, {VALIDATORS} validators, "
        f"about {_gb(rest + text * each)} together"
    )
    if sellers is not None and text > fits:
        said += f"; {fits} of text would fit better, {text} were asked for"
    if text < TEXT_SELLERS_MIN:
        said += "; with one seller of text nobody competes with it, and none is killed"
    return Sizing(text, 1, chosen_buyers, threads, said)


def text_seller_bytes(parameters: int) -> int:
    """Memory of one text seller with its model."""
    model = WORKER_BYTES + parameters * BYTES_PER_PARAMETER if parameters else SCRIPTED_BYTES
    return PEER_BYTES + model


def fixed_bytes(parameters: int, buyers: int) -> int:
    """Memory of everything but the text sellers."""
    embedding = EMBEDDING_BYTES if parameters else SCRIPTED_BYTES
    return PEER_BYTES * (VALIDATORS + buyers + 2) + embedding


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"


def _affinity() -> list[int]:
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return list(range(os.cpu_count() or 1))


def _memory() -> int:
    free = _meminfo()
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        bound, now = _number(limit), _number(used)
        if bound is not None and now is not None:
            free = min(free, max(bound - now, 0))
    return free


def _meminfo() -> int:
    try:
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # no better figure: half of all


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text("ascii"))
    except (OSError, ValueError):  # none, or "max"
        return None
