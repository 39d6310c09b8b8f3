"""`ainp2p spending`, run in this process on the vault of an agent that does not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from ainp2p.agents.policy import Policy
from ainp2p.agents.vault import open_vault
from ainp2p.cli import exit_codes, main
from ainp2p.cli.key import load_key
from ainp2p.errors import PolicyRefused
from ainp2p.home import Home
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.passphrase import VARIABLE
from ainp2p.protocol import keystore
from ainp2p.protocol.context import Context
from ainp2p.protocol.keystore import Cost


@pytest.fixture
def genesis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key `alice` in a home, and the genesis of a network."""
    monkeypatch.setenv("AINP2P_HOME", str(tmp_path / "home"))
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(b"correct horse\n")
    passphrase.chmod(0o600)
    monkeypatch.setenv(VARIABLE, str(passphrase))
    monkeypatch.setattr(keystore, "DEFAULT_COST", Cost(1, 8))
    assert main(["network", "new", "town", "--dev", "--out", str(tmp_path / "town")]) == exit_codes.OK
    assert main(["key", "new", "alice"]) == exit_codes.OK
    return tmp_path / "town" / "genesis"


def vault_of(genesis: Path) -> Path:
    network = Genesis.load(genesis).network_id
    directory = Home.from_environment().network(network) / "agents" / "alice" / "vault"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


def in_vault(genesis: Path, amount: int) -> None:
    """Spend so much in one job."""

    async def run() -> None:
        key, context = load_key("alice"), Context.system()
        async with open_vault(key, Policy(), vault_of(genesis), context) as vault:
            await vault.reserve(b"j" * 32, b"c" * 32, amount)

    trio.run(run)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[Any], str]:
    capsys.readouterr()
    status = main(["spending", *argv, "--json"])
    captured = capsys.readouterr()
    return status, [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_an_agent_that_never_was_has_no_books(genesis: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, error = run(capsys, "show", "alice", "--network", str(genesis))
    assert status == exit_codes.USAGE
    assert "never been an agent" in error


def test_a_stop_holds_until_a_person_ends_it(genesis: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_vault(genesis, 7)
    _, [before], _ = run(capsys, "show", "alice", "--network", str(genesis))
    assert before["tripped"] == ""
    _, [stopped], _ = run(capsys, "stop", "alice", "--network", str(genesis))
    assert stopped["tripped"] == "stopped"
    with pytest.RaisesGroup(PolicyRefused, flatten_subgroups=True, allow_unwrapped=True):
        in_vault(genesis, 7)
    _, [again], _ = run(capsys, "reset", "alice", "--network", str(genesis))
    assert again["tripped"] == ""
    in_vault(genesis, 7)
