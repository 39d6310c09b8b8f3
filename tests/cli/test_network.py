"""`ainp2p network` and `ainp2p wallet`, run in this process; the validator they talk to in one of its own."""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ainp2p.cli import exit_codes, main, wallet
from ainp2p.cli.choosing import chosen_genesis, public_key
from ainp2p.cli.network_new import DEV_PASSPHRASE
from ainp2p.errors import InvalidInput
from ainp2p.ledger.rules.genesis import DEVELOPMENT_PURSE, Genesis
from ainp2p.ledger.wallets.purse import Balance
from ainp2p.passphrase import VARIABLE
from ainp2p.protocol import keystore
from ainp2p.protocol.keystore import Cost, read_key_file


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, a passphrase in a file, and an argon2id that takes no time."""
    root = tmp_path / "home"
    monkeypatch.setenv("AINP2P_HOME", str(root))
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(b"correct horse\n")
    passphrase.chmod(0o600)
    monkeypatch.setenv(VARIABLE, str(passphrase))
    monkeypatch.setattr(keystore, "DEFAULT_COST", Cost(1, 8))
    return root


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[Any], str]:
    """Exit status, JSON lines of the output, and standard error."""
    status = main([*argv, "--json"])
    captured = capsys.readouterr()
    return status, [json.loads(line) for line in captured.out.splitlines()], captured.err


# --- genesis ------------------------------------------------------------------------------------------


def test_a_development_network_has_keys_a_faucet_and_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "town"
    status, [shown], _ = run(capsys, "network", "new", "town", "--dev", "--out", str(out), "--port", "5000")
    assert status == exit_codes.OK
    genesis = Genesis.load(out / "genesis")
    assert shown["network"] == genesis.network_id.hex()
    assert shown["development"] is True
    assert genesis.faucet is not None
    keys = [read_key_file(out / f"validator-{i}.key", DEV_PASSPHRASE) for i in range(4)]
    assert {key.public for key in keys} == {member.key for member in genesis.validators}
    assert keys[0].public == genesis.faucet.key
    addresses = {each for validator in shown["validators"] for each in validator["addresses"]}
    assert f"/ip4/127.0.0.1/tcp/5003/p2p/{keys[3].peer_id}" in addresses


def test_a_real_network_names_its_committee_and_its_grants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("alice", "bob"):
        run(capsys, "key", "new", name)
    _, [bob], _ = run(capsys, "key", "show", "bob")
    out = tmp_path / "common"
    status, [shown], _ = run(
        capsys,
        *("network", "new", "common", "--out", str(out)),
        *(
            "--validator",
            "alice=/ip4/192.0.2.1/tcp/4100",
            "--validator",
            f"{bob['did']}=/ip4/192.0.2.2/tcp/1",
        ),
        *("--grant", "alice=2ain", "--grant", f"{bob['peer_id']}=5"),
    )
    assert status == exit_codes.OK
    genesis = Genesis.load(out / "genesis")
    assert (genesis.supply, genesis.is_development, shown["supply"]) == (2_000_005, False, 2_000_005)
    assert {member.key for member in genesis.validators} == {public_key("alice"), public_key("bob")}
    assert list(out.iterdir()) == [out / "genesis"]


def test_joining_remembers_the_genesis_and_makes_it_the_choice(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "network", "new", "one", "--dev", "--out", str(tmp_path / "one"))
    one = Genesis.load(tmp_path / "one" / "genesis")
    assert chosen_genesis(None) == one  # who makes a network has joined it
    (home / "networks" / one.network_id.hex() / "genesis").unlink()
    with pytest.raises(InvalidInput, match="which network"):
        chosen_genesis(None)
    status, [shown], _ = run(capsys, "network", "join", str(tmp_path / "one" / "genesis"))
    assert (status, shown["network"]) == (exit_codes.OK, one.network_id.hex())
    run(capsys, "network", "new", "two", "--dev", "--out", str(tmp_path / "two"))
    with pytest.raises(InvalidInput, match="which network"):
        chosen_genesis(None)
    assert chosen_genesis(one.network_id.hex()[:12]) == one
    assert chosen_genesis(str(tmp_path / "two" / "genesis")).name == b"two"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        pytest.param(["network", "new", "x"], "either --dev", id="neither dev nor validators"),
        pytest.param(["network", "new", "x", "--dev", "--validator", "a=b"], "either --dev", id="both"),
        pytest.param(["network", "new", "x", "--validator", "alice"], "KEY=ADDRESS", id="no address"),
        pytest.param(["network", "new", "../x", "--dev"], "no name", id="a name that leads out"),
        pytest.param(["network", "new", "x", "--dev", "--size", "0"], "--size", id="nobody"),
        pytest.param(["network", "new", "x", "--dev", "--port", "65535"], "--port", id="no such ports"),
        pytest.param(["network", "join", "nothing"], "cannot read", id="no file"),
        pytest.param(["network", "status"], "which network", id="no network"),
        pytest.param(["wallet", "send", "alice", "bob", "5"], "no key file", id="no key"),
    ],
)
def test_wrong_usage_is_refused_with_the_reason(
    argv: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    status, shown, said = run(capsys, *argv)
    assert status in (exit_codes.USAGE, exit_codes.FAILED)
    assert shown == []
    assert message in said
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("command", ["find", "plan", "ask"])
def test_on_a_real_network_an_agent_needs_a_key(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "key", "new", "alice")
    member = ("--validator", "alice=/ip4/127.0.0.1/tcp/4100")
    run(capsys, "network", "new", "common", *member, "--out", str(tmp_path / "common"))
    budget = () if command == "find" else ("--budget", "5")
    genesis = str(tmp_path / "common" / "genesis")
    status, _, said = run(capsys, command, "echo", "--network", genesis, *budget)
    assert status == exit_codes.USAGE
    assert "on 'common' an agent needs a key: --key NAME" in said


def test_a_key_without_a_network_means_the_only_one_that_was_joined(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(capsys, "key", "new", "alice")
    status, _, said = run(capsys, "find", "echo", "--key", "alice")
    assert status == exit_codes.USAGE
    assert "which network?" in said


async def test_a_payee_collects_by_closing_what_pays_it(capsys: pytest.CaptureFixture[str]) -> None:
    lock = SimpleNamespace(id=b"l" * 32, paid=3, deposit=100)

    class Payee:
        account_id = b"a" * 32

        async def close_all(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(lock=lock)]

        async def balance(self) -> Balance:
            return Balance(3, 0, 0)

    await wallet._collect(argparse.Namespace(json=True), Payee())  # type: ignore[arg-type]  # a part of one
    closed, balance = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (closed["paid"], closed["deposit"], balance["available"]) == (3, 100, 3)


def test_an_address_to_listen_at_is_for_one_validator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "network", "new", "x", "--dev", "--out", str(tmp_path / "x"))
    status, _, said = run(
        capsys, "network", "validate", str(tmp_path / "x"), "--listen", "/ip4/0.0.0.0/tcp/0"
    )
    assert status == exit_codes.USAGE
    assert "--only" in said


def test_an_existing_directory_is_not_written_into(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, said = run(capsys, "network", "new", "town", "--dev", "--out", str(tmp_path))
    assert status == exit_codes.FAILED
    assert "choose another --out" in said


# --- a running network --------------------------------------------------------------------------------


@pytest.fixture
def town(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[subprocess.Popen[str]]:
    """A network of one validator in a process of its own; alice has a grant of 10 AIN."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("alice", "bob"):
        run(capsys, "key", "new", name)
    where = tmp_path / "town"
    arguments = (
        "network",
        "new",
        "town",
        "--dev",
        "--size",
        "1",
        "--port",
        str(port),
        "--grant",
        "alice=10ain",
    )
    run(capsys, *arguments, "--out", str(where))
    command = [sys.executable, "-m", "ainp2p", "network", "validate", str(where), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["validator"] == "validator-0"
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.process
def test_money_moves_on_a_running_network(
    town: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    status, [balance], _ = run(capsys, "wallet", "balance", "alice")
    assert (status, balance["available"], balance["total"]) == (exit_codes.OK, 10_000_000, 10_000_000)
    payment = ("wallet", "send", "alice", "bob", "1.5ain", "--note", "rent")
    status, [paid], _ = run(capsys, *payment)
    assert (status, paid["amount"], paid["final"]) == (exit_codes.OK, 1_500_000, True)
    assert run(capsys, *payment)[1] == [paid]  # the same note: the same payment
    assert run(capsys, "wallet", "balance", "bob")[1][0]["available"] == 1_500_000
    status, history, _ = run(capsys, "wallet", "history", "alice")
    assert [(each["kind"], each["spent"], each["final"]) for each in history] == [("spend", 1_500_001, True)]
    assert run(capsys, "wallet", "locks", "alice")[:2] == (exit_codes.OK, [])
    status, _, said = run(capsys, "wallet", "send", "bob", "alice", "2ain")
    assert status == exit_codes.BUDGET
    assert "available" in said
    status, [collected], _ = run(capsys, "wallet", "settle", "bob")
    assert (status, collected["available"], collected["owed"]) == (exit_codes.OK, 1_500_000, 0)
    status, [network, epoch, member, validator], _ = run(capsys, "network", "status")
    assert (epoch["epoch"], member["weight"], epoch["weight"]) == (0, 1_000_000, 1_000_000)
    assert (status, network["answering"], validator["decided"]) == (exit_codes.OK, 1, 1)
    assert validator["voting"] is True
    town.send_signal(signal.SIGINT)
    assert town.wait(timeout=30) == exit_codes.INTERRUPTED


@pytest.mark.process
def test_nobody_answering_is_no_network(
    town: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    town.kill()
    town.wait(timeout=30)
    status, _, said = run(capsys, "network", "status")
    assert status == exit_codes.NO_NETWORK
    assert "no validator answers" in said


@pytest.mark.process
def test_a_committee_of_one_gives_purses_to_agents(
    town: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "find", "nothing", "--key", "bob", "--timeout", "1")[0] == exit_codes.NO_OFFERS
    assert run(capsys, "wallet", "balance", "bob")[1][0]["available"] == DEVELOPMENT_PURSE
