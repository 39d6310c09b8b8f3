"""An agent whose host has a session key only; what the founder of a network sets; bonds that count."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ainp2p.agents import session
from ainp2p.agents.session import may_buy
from ainp2p.agents.standing import SESSION_PURPOSES
from ainp2p.cli import exit_codes
from ainp2p.cli.choosing import public_key
from ainp2p.cli.network_bond import CLOSING_MS, least_life_ms
from ainp2p.cli.opening import ALLOWANCE, _books, inception_of, read_mandate
from ainp2p.errors import InvalidInput
from ainp2p.ledger.rules.genesis import DEVELOPMENT, PRODUCTION, Genesis, new_genesis
from ainp2p.ledger.rules.operations import plain_inception
from ainp2p.ledger.wallets.delegation import Delegation
from ainp2p.protocol.codec import decode

from .test_agent import ECHO
from .test_network import home, run, town

__all__ = ["home", "town"]  # fixtures


def network(capsys: pytest.CaptureFixture[str], where: Path, *options: str) -> Genesis:
    status, _, said = run(capsys, "network", "new", "x", "--dev", "--out", str(where), *options)
    assert status == exit_codes.OK, said
    return Genesis.load(where / "genesis")


def test_a_delegation_says_who_may_do_what_and_for_how_long(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    genesis = network(capsys, tmp_path / "x")
    for name in ("alice", "host"):
        run(capsys, "key", "new", name)
    file = tmp_path / "alice.mandate"
    command = ("wallet", "delegate", "alice", "host", str(file), "--life", "12h", "--epoch", "7")
    status, [told], _ = run(capsys, *command)
    assert (status, told["epoch"]) == (exit_codes.OK, 7)
    mandate = read_mandate(file)
    delegation = decode(mandate.delegation.body, Delegation)
    assert mandate.inception == inception_of("alice")
    assert (delegation.network, delegation.key) == (genesis.network_id, public_key("host"))
    assert delegation.purposes == SESSION_PURPOSES
    assert 12 * 3_600_000 <= delegation.not_after - delegation.not_before < 13 * 3_600_000
    assert run(capsys, *command)[0] == exit_codes.USAGE  # a file is not overwritten
    assert run(capsys, *command[:-1], "8", "--replace")[0] == exit_codes.OK  # unless that is said
    assert decode(read_mandate(file).delegation.body, Delegation).epoch == 8


def test_a_delegation_with_an_allowance_lets_the_session_key_buy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network(capsys, tmp_path / "x")
    for name in ("alice", "host"):
        run(capsys, "key", "new", name)
    command = ("wallet", "delegate", "alice", "host", str(tmp_path / "m"), "--allowance")
    assert run(capsys, *command, "much")[0] == exit_codes.USAGE
    status, [told], _ = run(capsys, *command, "0")  # nothing is sent, so nobody is asked
    assert (status, told["buys"], told["allowance"]) == (exit_codes.OK, True, 0)
    delegation = decode(read_mandate(tmp_path / "m").delegation.body, Delegation)
    assert may_buy(delegation)


def test_a_key_that_ran_under_a_delegation_has_its_own_books_beside(tmp_path: Path, home: Path) -> None:
    genesis = new_genesis("x", 1, [(bytes(32), 1, [])], [(plain_inception(bytes(32)), 5)], None, DEVELOPMENT)
    agent = home / "networks" / genesis.network_id.hex() / "agents" / "host"
    assert _books(genesis, "host") == agent / "wallet"
    (agent / ALLOWANCE).mkdir(parents=True)
    assert _books(genesis, "host") == agent / session.ALLOWANCE


def test_a_file_that_is_no_delegation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot read"):
        read_mandate(tmp_path / "none")
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(InvalidInput, match="is no delegation"):
        read_mandate(tmp_path / "junk")


@pytest.mark.process
def test_a_hosted_agent_sells_for_an_account_whose_key_is_elsewhere(
    town: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("owner", "host"):
        run(capsys, "key", "new", name)
    assert run(capsys, "wallet", "create", "owner")[0] == exit_codes.OK  # its key can change
    file = tmp_path / "owner.mandate"
    (told,) = run(capsys, "wallet", "delegate", "owner", "host", str(file))[1]
    account = told["account"]
    assert run(capsys, "wallet", "send", "alice", account, "10")[0] == exit_codes.OK  # it needs no purse
    options = ["--key", "host", "--delegation", str(file), "--json"]
    command = [sys.executable, "-m", "ainp2p", "serve", ECHO, *options]
    host = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert host.stdout is not None
        served = json.loads(host.stdout.readline())
        assert served["agent"] == account
        asked = ("ask", "echo", "--input", "one two three", "--budget", "50", "--key", "alice")
        status, answers, said = run(capsys, *asked, "--timeout", "120")  # for its card to come by
        assert status == exit_codes.OK, said
        (answer,) = answers
        assert (answer["result"], answer["paid_uain"]) == ("one two three ", 3)
        host.send_signal(signal.SIGINT)
        assert host.wait(timeout=60) == exit_codes.INTERRUPTED
        assert run(capsys, "wallet", "balance", "owner")[1][0]["total"] == 13
    finally:
        host.kill()
        host.wait(timeout=60)
        assert host.stdout is not None
        host.stdout.close()


# --- a new network's rules, and bonds -----------------------------------------------------------------


def test_a_new_network_has_the_times_that_its_founder_gives_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert network(capsys, tmp_path / "usual").parameters == DEVELOPMENT
    times = ("--epoch", "20s", "--lock-life", "30m", "--hold", "2s", "--contact", "3s", "--lease-min", "1m")
    more = ("--margin", "5s", "--vote-timeout", "1s", "--fee-floor", "3")
    found = network(capsys, tmp_path / "other", *times, *more).parameters
    assert (found.epoch_ms, found.lock_life_ms_max, found.gate_hold_ms) == (20_000, 1_800_000, 2_000)
    assert (found.gate_contact_ms, found.lease_ms_min, found.margin_ms) == (3_000, 60_000, 5_000)
    assert (found.vote_timeout_ms, found.fee_floor) == (1_000, 3)
    run(capsys, "key", "new", "alice")
    command = ("network", "new", "real", "--validator", "alice=/ip4/127.0.0.1/tcp/4100", "--grant", "alice=1")
    assert run(capsys, *command, "--epoch", "1h", "--out", str(tmp_path / "real"))[0] == exit_codes.OK
    real = Genesis.load(tmp_path / "real" / "genesis").parameters
    assert (real.epoch_ms, real.gate_hold_ms) == (3_600_000, PRODUCTION.gate_hold_ms)


@pytest.mark.parametrize(
    "options",
    [("--epoch", "0s"), ("--epoch", "soon"), ("--fee-floor", "0"), ("--lock-life", "4s")],
    ids=["no epoch", "no time", "no fee", "deposits that cannot be settled"],
)
def test_rules_that_make_no_sense_are_refused(
    options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("network", "new", "x", "--dev", "--out", str(tmp_path / "x"), *options)
    assert run(capsys, *command)[0] == exit_codes.USAGE
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("left_ms", [3_600_000, 60_000, CLOSING_MS, 6_000, 5_000, 1_000, 0, -60_000])
def test_the_least_life_of_a_bond_is_past_the_end_of_an_epoch_that_can_count_it(left_ms: int) -> None:
    least_ms = least_life_ms(DEVELOPMENT, left_ms)
    assert least_ms >= left_ms + DEVELOPMENT.gate_hold_ms + CLOSING_MS
    in_time = left_ms > CLOSING_MS // 2  # else this epoch's end may come before the bond is final
    assert (least_ms >= DEVELOPMENT.epoch_ms + CLOSING_MS) == (not in_time or left_ms >= DEVELOPMENT.epoch_ms)


@pytest.mark.parametrize("text", ["soon", "ain:", "00ff"])
def test_what_is_no_checkpoint_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, said = run(capsys, "wallet", "balance", "--checkpoint", text)
    assert (status, "--checkpoint" in said) == (exit_codes.USAGE, True)
