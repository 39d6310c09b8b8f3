"""The benchmarks that the table is made of: how each is run, and which of its numbers are figures.

Each is a program of its own that prints its numbers as JSON, so that what one loads slows no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Figure

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One program.

    Attributes:
        module: run with ``python -m``, with ``--json`` and `arguments`, or with `quick` instead.
        read: its numbers, as figures.
    """

    name: str
    module: str
    read: Callable[[Found], list[Figure]]
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()


def _channel(found: Found) -> list[Figure]:
    def beside(name: str, rate: float, unit: str, target: float, other: str, words: str) -> Figure:
        return Figure(name, rate, unit, target, ratio=rate / found[other], compared=words)

    bulk = max(found["channel_mb"], found["channel_stream_mb"])
    return [
        beside(
            "channel, 128 in flight",
            found["channel_128"],
            "requests/s",
            20_000,
            "libp2p_stream_32",
            "a libp2p stream per request",
        ),
        beside("channel, one at a time", found["channel_1"], "requests/s", 1_000, "tcp_1", "raw trio TCP"),
        beside("channel, in bulk", bulk, "MB/s", 80, "tcp_one_process_mb", "raw trio TCP"),
        Figure("libp2p streams, 32 in flight", found["libp2p_stream_32"], "requests/s"),
        Figure("libp2p streams, one at a time", found["libp2p_stream_1"], "requests/s"),
        Figure("raw trio TCP, one at a time", found["tcp_1"], "requests/s"),
        Figure("raw trio TCP, in bulk", found["tcp_one_process_mb"], "MB/s"),
    ]


def _receipts(found: Found) -> list[Figure]:
    bare = "bare verifications"
    return [
        Figure(
            "receipts, payee per core",
            found["payee_ratio"],
            "of bare",
            found["goal_payee_ratio"],
            ratio=found["payee_ratio"],
            compared=bare,
        ),
        Figure(
            "receipts, both per core",
            found["payee_with_payer_ratio"],
            "of bare",
            found["goal_payee_with_payer_ratio"],
            ratio=found["payee_with_payer_ratio"],
            compared=bare,
        ),
        Figure(
            "receipts, one channel",
            found["receipts_per_s"],
            "receipts/s",
            found["goal_receipts_per_s"],
            ratio=found["receipts_per_s"] / found["bare_verify_per_cpu_s"],
            compared=bare,
        ),
        Figure("bare crypto_sign_open", found["bare_verify_per_cpu_s"], "/CPU s"),
    ]


def _job(found: Found) -> list[Figure]:
    return [
        Figure(
            "a paid, streamed job",
            found["job_ratio"],
            "of direct",
            found["goal_job_ratio"],
            ratio=found["job_ratio"],
            compared="the engine, directly",
        ),
        Figure("its tokens", found["job_tokens_per_s"], "tokens/s"),
        Figure(
            "event loop's delay, p99",
            found["loop_delay_p99_ms"],
            "ms",
            found["goal_loop_delay_p99_ms"],
            at_most=True,
        ),
        Figure("its work in 5 ms, p99", found["loop_busy_p99_ms"], "ms", at_most=True),
    ]


def _pipeline(found: Found) -> list[Figure]:
    return [
        Figure(
            "ledger, one pipeline",
            found["ledger_decided_per_cpu_s"],
            "operations/CPU s",
            found["ledger_goal_per_cpu_s"],
            ratio=found["ledger_ratio_to_verify"],
            compared="bare verifications",
        ),
        Figure(
            "ledger, an operation at n = 31",
            found["ledger_large_times"],
            "of n = 4",
            found["ledger_goal_large_times"],
            at_most=True,
            ratio=found["ledger_large_times"],
            compared="an operation at n = 4",
        ),
    ]


def _network(found: Found) -> list[Figure]:
    alone = found["two_cores_alone_per_s"]
    return [
        Figure(
            "ledger, four processes",
            found["settlements_per_s"],
            "settlements/s",
            found["goal_settlements_per_s"],
            ratio=found["settlements_per_s"] / alone,
            compared="CPU of the validators alone",
        ),
        Figure(
            "ledger, finality p99", found["finality_p99_s"], "s", found["goal_finality_p99_s"], at_most=True
        ),
        Figure("ledger, a settlement at one validator", found["validator_us"], "CPU us", at_most=True),
    ]


def _latency(found: Found) -> list[Figure]:
    return [
        Figure(
            "ledger, decided p50 beyond 3 delays of 50 ms",
            found["beyond_delays_s"],
            "s",
            found["goal_beyond_delays_s"],
            at_most=True,
        ),
        Figure("ledger, proven to the payee p50, 50 ms", found["finality_p50_s"], "s", at_most=True),
    ]


def _spam(found: Found) -> list[Figure]:
    return [
        Figure(
            f"ledger, finality p99 beside {found['spam_offered_per_s']:,} spam/s",
            found["spam_finality_p99_s"],
            "s",
            ratio=found["spam_times"],
            compared="without spam",
            at_most=True,
        ),
        Figure(
            "ledger, honest p99 beside spam",
            found["spam_times"],
            "of without",
            found["goal_spam_times"],
            at_most=True,
        ),
    ]


def _catch_up(found: Found) -> list[Figure]:
    return [
        Figure(
            "ledger, catching up",
            found["caught_up_per_cpu_s"],
            "operations/CPU s",
            found["goal_per_s"],
            ratio=found["ratio_to_verify"],
            compared="bare verifications",
        ),
        Figure(
            "ledger, a certificate at n = 4",
            found["certificate_bytes"],
            "bytes",
            found["goal_certificate_bytes"],
            at_most=True,
        ),
    ]


def _reconcile(found: Found) -> list[Figure]:
    objects = f"{found['objects']:,}"
    return [
        Figure(
            f"ledger, 10 of {objects} differ", found["bytes_10"], "bytes", found["goal_bytes"], at_most=True
        ),
        Figure(
            f"ledger, messages for 10 of {objects}",
            found["messages_10"],
            "messages",
            found["goal_messages"],
            at_most=True,
        ),
        Figure(
            "ledger, the index per decided operation",
            max(found["put_known_us"], found["put_new_us"]),
            "CPU us",
            found["goal_put_us"],
            at_most=True,
        ),
    ]


def _restart(found: Found) -> list[Figure]:
    return [
        Figure(
            f"ledger, restart with {found['receipts']:,} receipts",
            found["busy_all_s"],
            "s",
            found["goal_s"],
            at_most=True,
        ),
        Figure(
            f"ledger, and with {found['receipts']:,} Locks",
            found["wide_read_s"],
            "s",
            found["goal_s"],
            at_most=True,
        ),
        Figure(
            f"ledger, a wallet opens with {found['receipts']:,} operations",
            found["book_s"],
            "s",
            found["goal_s"],
            at_most=True,
        ),
    ]


def _memory(found: Found) -> list[Figure]:
    return [
        Figure(
            f"ledger, memory grows over {found['operations']:,} operations",
            found["growth_mb"],
            "MB",
            found["goal_growth_mb"],
            at_most=True,
        ),
        Figure("ledger, memory of that validator", found["end_mb"], "MB", at_most=True),
    ]


def _size(found: Found) -> list[Figure]:
    heavy = ", ".join(found["import_heavy"])
    figures = [
        Figure(
            f"import ainp2p{f' (loads {heavy})' if heavy else ''}",
            float("inf") if heavy else found["import_s"],
            "s",
            found["goal_import_s"],
            at_most=True,
        ),
        Figure(
            f"{found['agents']} agents in one process",
            found["agents_peak_mb"],
            "MB",
            found["goal_agents_mb"],
            at_most=True,
        ),
    ]
    if "install_mb" in found:
        figures.append(
            Figure(
                "core install, no extras", found["install_mb"], "MB", found["goal_install_mb"], at_most=True
            )
        )
    return figures


def _discovery(found: Found) -> list[Figure]:
    return [
        Figure(
            f"{found['agents']} processes know all cards",
            found["from_last_start_s"],
            "s",
            found["goal_from_last_start_s"],
            at_most=True,
        ),
        Figure("since the last was open", found["from_last_open_s"], "s", at_most=True),
    ]


def _model(found: Found) -> list[Figure]:
    return [
        Figure(
            "the model's process",
            min(row["process_tokens_per_s"] for row in found["rows"]),
            "tokens/s",
            ratio=found["ratio"],
            compared="the engine, directly",
        )
    ]


_NETWORK = "benchmarks.ledger_network"
_CALM = ("--locks", "32")  # far below what the committee can do, so that only delays and spam delay

CATALOGUE = (
    Benchmark("channel", "benchmarks.channel", _channel, quick=("--seconds", "0.5")),
    Benchmark("receipts", "benchmarks.receipts", _receipts, quick=("--quick",)),
    Benchmark("job", "benchmarks.job", _job, quick=("--quick",)),
    Benchmark("model", "benchmarks.model", _model, quick=("--rounds", "1")),
    Benchmark("ledger pipeline", "benchmarks.ledger_pipeline", _pipeline, quick=("--rounds", "2")),
    Benchmark("ledger network", _NETWORK, _network, quick=("--seconds", "3")),
    Benchmark(
        "ledger latency",
        _NETWORK,
        _latency,
        (*_CALM, "--latency-ms", "50", "--seconds", "5"),
        (*_CALM, "--latency-ms", "50", "--seconds", "3"),
    ),
    Benchmark(
        "ledger spam",
        _NETWORK,
        _spam,
        (*_CALM, "--spam", "24", "--seconds", "6"),  # ten times what it can do
        (*_CALM, "--spam", "10", "--seconds", "3"),
    ),
    Benchmark("ledger catch-up", "benchmarks.ledger_catch_up", _catch_up, quick=("--rounds", "2")),
    Benchmark("ledger reconcile", "benchmarks.ledger_reconcile", _reconcile, quick=("--quick",)),
    Benchmark("ledger restart", "benchmarks.ledger_restart", _restart, quick=("--quick",)),
    Benchmark("ledger memory", "benchmarks.ledger_memory", _memory, quick=("--operations", "30000")),
    Benchmark("size", "benchmarks.size", _size, quick=("--quick",)),
    Benchmark("discovery", "benchmarks.discovery", _discovery, quick=("--quick",)),
)
