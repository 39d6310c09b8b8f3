"""A committee of processes: one joins by a bond, one is gone for good, epochs change, people pay.

Nothing here depends on how fast that goes: each step waits for what it needs, for LIMIT_S at most.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ainp2p.cli import exit_codes
from ainp2p.cli.choosing import public_key
from ainp2p.ledger.rules.genesis import DEVELOPMENT_SUPPLY
from ainp2p.protocol.identity import id_text, peer_id

from .test_network import home, run

__all__ = ["home"]  # a fixture

LIMIT_S = 300.0
SIZE = 4
BOND = DEVELOPMENT_SUPPLY // 2  # a quarter of all money: as heavy as one of the four
pytestmark = pytest.mark.process


def free_ports(count: int) -> int:
    """The first of so many ports in a row that are free now."""
    for first in range(20_000, 60_000, count):
        sockets = [socket.socket() for _ in range(count)]
        try:
            for offset, each in enumerate(sockets):
                each.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for each in sockets:
                each.close()
    raise AssertionError("no free ports")


class Committee:
    """Its directory, and the processes by name."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str, *options: str) -> None:
        """Run a validator; returns once it serves."""
        command = [sys.executable, "-m", "ainp2p", "network", "validate", str(self.where), *options, "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        self.processes[name] = process
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["validator"] == name

    def kill(self, name: str) -> None:
        """Its machine is gone."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(timeout=60)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def committee(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Committee]:
    for name in ("alice", "bob", "val"):
        run(capsys, "key", "new", name)
    committee = Committee(tmp_path / "town")
    options = ["--size", str(SIZE), "--port", str(free_ports(SIZE)), "--epoch", "15s", "--lock-life", "1h"]
    grant = ["--grant", f"alice={DEVELOPMENT_SUPPLY}", "--out", str(committee.where)]
    assert run(capsys, "network", "new", "town", "--dev", *options, *grant)[0] == exit_codes.OK
    try:
        for index in range(SIZE):
            committee.start(f"validator-{index}", "--only", str(index))
        yield committee
    finally:
        for name in list(committee.processes):
            committee.kill(name)


def until(found: Callable[[], Any], what: str) -> Any:
    """What `found` returns once that is something."""
    limit = time.monotonic() + LIMIT_S
    while time.monotonic() < limit:
        if result := found():
            return result
    raise AssertionError(f"after {LIMIT_S:g} s still not: {what}")


def status(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = run(capsys, "network", "status")[1]
    return found


def seats(capsys: pytest.CaptureFixture[str]) -> set[str]:
    return {line["member"] for line in status(capsys) if "member" in line}


def voting(capsys: pytest.CaptureFixture[str]) -> set[str]:
    return {line["peer_id"] for line in status(capsys) if line.get("voting")}


def epoch(capsys: pytest.CaptureFixture[str]) -> int:
    return max((line["epoch"] for line in status(capsys) if "epoch" in line), default=-1)


def pay(capsys: pytest.CaptureFixture[str], note: str) -> None:
    """Alice pays bob 100 uain; while an epoch closes that may take a second try, of the same payment."""
    command = ("wallet", "send", "alice", "bob", "100", "--note", note)
    until(lambda: run(capsys, *command)[0] == exit_codes.OK, f"payment {note}")


def test_a_validator_joins_by_the_shell_an_old_one_goes_and_payments_go_on(
    committee: Committee, capsys: pytest.CaptureFixture[str]
) -> None:
    pay(capsys, "at first")
    committee.start("val", "--key", "val", "--listen", "/ip4/127.0.0.1/tcp/0")
    newcomer = peer_id(public_key("val"))
    code, _, said = run(capsys, "network", "bond", "alice", str(BOND), "--validator", "val", "--life", "1s")
    assert code == exit_codes.USAGE
    assert "over before it is counted" in said
    bond = ("network", "bond", "alice", str(BOND), "--validator", "val", "--life", "60s")
    (bonded,) = until(lambda: run(capsys, *bond)[1], "the bond")
    assert (bonded["validator"], bonded["weight"]) == (newcomer, 1_000_000)
    until(lambda: newcomer in seats(capsys), "a seat for who has a bond")
    until(lambda: newcomer in voting(capsys), "its votes")

    committee.kill("validator-3")  # without the newcomer's vote the other three are no quorum now
    pay(capsys, "when an old one has gone")
    before = epoch(capsys)
    until(lambda: epoch(capsys) > before, "the next epoch")
    pay(capsys, "in the next epoch")

    until(lambda: newcomer not in seats(capsys), "the bond has run out")
    assert len(seats(capsys)) == SIZE
    pay(capsys, "when the newcomer has left")
    assert until(lambda: run(capsys, "wallet", "balance", "bob")[1], "a balance")[0]["available"] == 400


def test_a_wallet_and_a_validator_begin_from_a_checkpoint(
    committee: Committee, capsys: pytest.CaptureFixture[str]
) -> None:
    pay(capsys, "at first")
    until(lambda: epoch(capsys) >= 1, "the next epoch")
    lines = until(lambda: [line for line in status(capsys) if line.get("epoch", 0) >= 1], "the epoch's line")
    pin = ("--checkpoint", lines[0]["checkpoint"])
    wrong = ("--checkpoint", id_text(b"p" * 32))
    until(lambda: run(capsys, "wallet", "balance", "bob", *pin)[0] == exit_codes.OK, "a balance")
    assert run(capsys, "wallet", "balance", "alice", *wrong)[0] == exit_codes.NO_NETWORK
    until(lambda: start(committee, *pin) == exit_codes.OK, "validators that have the checkpoint to show")
    assert start(committee, *wrong) == exit_codes.NO_NETWORK


def start(committee: Committee, *options: str) -> int:
    """The exit status of a validator without a seat that serves for a moment at most."""
    command = [sys.executable, "-m", "ainp2p", "network", "validate", str(committee.where), "--key", "val"]
    listen = ["--listen", "/ip4/127.0.0.1/tcp/0", "--for-s", "0.1"]
    done = subprocess.run(
        [*command, *listen, *options], timeout=120, capture_output=True, env=dict(os.environ), check=False
    )
    return done.returncode
