"""`ainp2p wallet lock`, keys that can be lost, watchtowers: the commands against a running validator."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ainp2p.cli import exit_codes
from ainp2p.cli.opening import account_from, beside_key, duration_ms, inception_of
from ainp2p.cli.wallet_lock import _split
from ainp2p.errors import InvalidInput
from ainp2p.ledger.rules.operations import plain_inception

from .test_network import home, run, town

__all__ = ["home", "town"]  # fixtures


def key(capsys: Any, *names: str) -> None:
    for name in names:
        assert run(capsys, "key", "new", name)[0] == exit_codes.OK


@pytest.mark.parametrize(
    ("text", "ms"), [("90s", 90_000), ("30m", 1_800_000), ("12h", 43_200_000), ("7d", 604_800_000)]
)
def test_durations(text: str, ms: int) -> None:
    assert duration_ms(text) == ms


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5h", "7w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        duration_ms(text)


@pytest.mark.parametrize("tree", [{}, [["a"]], [["a", "1"]], ["a", 1], [[{}, 1]]])
def test_what_is_no_split_is_refused(tree: Any) -> None:
    with pytest.raises(InvalidInput):
        _split(tree, None)  # type: ignore[arg-type]  # refused before it is needed


def test_an_account_with_guardians_has_its_files_beside_its_key(capsys: Any, home: Path) -> None:
    key(capsys, "alice", "g1", "g2", "g3")
    guardians = ["--guardian", "g1", "--guardian", "g2", "--guardian", "g3"]
    status, [made], _ = run(capsys, "wallet", "create", "alice", *guardians, "--lease", "12h")
    assert (status, made["m"], made["guardians"], made["lease_ms"]) == (exit_codes.OK, 2, 3, 43_200_000)
    inception = inception_of("alice")
    assert (inception.m, len(inception.guardians)) == (2, 3)
    assert beside_key("alice", "next").stat().st_mode & 0o777 == 0o600
    status, _, said = run(capsys, "wallet", "create", "alice")
    assert status != exit_codes.OK
    assert "has an account" in said
    assert inception_of("g1") == plain_inception(inception_of("g1").key)
    assert run(capsys, "key", "show")[1][-1]["name"] == "g3"  # the next key is no key of its own


@pytest.mark.parametrize("m", ["0", "2"])
def test_impossible_guardians_are_refused(m: str, capsys: Any, home: Path) -> None:
    key(capsys, "alice", "g1")
    status, _, said = run(capsys, "wallet", "create", "alice", "--guardian", "g1", "--m", m)
    assert status != exit_codes.OK
    assert "impossible" in said
    assert not beside_key("alice", "next").exists()


@pytest.mark.process
def test_escrows_bounties_splits_and_towers_from_the_shell(
    town: subprocess.Popen[str], tmp_path: Path, capsys: Any
) -> None:
    key(capsys, "v1", "v2", "carol")
    verifiers = ["--verifier", "v1", "--verifier", "v2"]
    status, [opened], said = run(
        capsys, "wallet", "lock", "open", "alice", "1000", "--bounty", *verifiers, "--step", "100"
    )
    assert status == exit_codes.OK, said
    assert (opened["threshold"], opened["beneficiaries"][0]["account"]) == (2, "whom its verifiers name")
    lock = opened["lock"]
    release = ("700", "--payee", "carol")
    _, [first, not_yet], _ = run(capsys, "wallet", "lock", "release", "v1", lock, *release)
    assert not_yet == {"whole": False}
    _, [second, _], _ = run(capsys, "wallet", "lock", "release", "v2", lock, *release)
    collect = ["--add", first["part"], "--add", second["part"]]
    status, [whole], _ = run(capsys, "wallet", "lock", "release", "bob", lock, *collect)
    assert (status, whole) == (exit_codes.OK, {"whole": True, "cumulative": 700})
    status, [settled], said = run(capsys, "wallet", "lock", "settle", "bob", lock)
    assert (status, settled["paid"]) == (exit_codes.OK, 700), said
    assert run(capsys, "wallet", "balance", "carol")[1][0]["available"] == 700
    assert [found["lock"] for found in run(capsys, "wallet", "lock", "list", "alice")[1]] == [lock]

    split = tmp_path / "shares.json"
    split.write_text(json.dumps([["bob", 1], [[["carol", 2], ["v1", 1]], 2]]))
    status, [shared], said = run(capsys, "wallet", "lock", "open", "alice", "900", "--split", str(split))
    assert status == exit_codes.OK, said
    assert sorted(payee["parts"] for payee in shared["beneficiaries"]) == [2, 3, 4]
    assert run(capsys, "wallet", "lock", "show", "bob", shared["lock"])[1] == [shared]
    status, _, said = run(capsys, "wallet", "lock", "refund", "bob", shared["lock"])
    assert status != exit_codes.OK
    assert "not-expired" in said
    status, _, said = run(capsys, "wallet", "lock", "open", "alice", "900")
    assert status != exit_codes.OK
    assert "who is paid" in said

    command = [sys.executable, "-m", "ainp2p", "watchtower", "serve", "--json"]
    tower = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        assert tower.stdout is not None
        address = json.loads(tower.stdout.readline())["address"]
        assert run(capsys, "watchtower", "add", "bob", address)[1] == [{"watched": 0}]
        status, _, said = run(capsys, "watchtower", "status", "bob", address)
        assert status == exit_codes.NO_NETWORK
        assert "holds no receipt" in said
        tower.send_signal(signal.SIGINT)
        assert tower.wait(timeout=30) == exit_codes.INTERRUPTED
    finally:
        tower.kill()
        tower.wait(timeout=30)
        tower.stdout.close()  # type: ignore[union-attr]  # it is a pipe


@pytest.mark.process
def test_a_key_is_rotated_from_the_shell(town: subprocess.Popen[str], capsys: Any) -> None:
    from ainp2p.cli.choosing import chosen_genesis, public_key
    from ainp2p.protocol.identity import id_text

    key(capsys, "dora")
    assert run(capsys, "wallet", "create", "dora")[0] == exit_codes.OK
    account = id_text(account_from("dora", chosen_genesis(None)))
    assert run(capsys, "wallet", "send", "alice", account, "1000")[0] == exit_codes.OK
    old = public_key("dora")
    status, [rotated], said = run(capsys, "wallet", "rotate", "dora")
    assert status == exit_codes.OK, said
    assert rotated["key"] == "dora"
    assert public_key("dora") != old
    status, [balance], _ = run(capsys, "wallet", "balance", "dora")
    assert (status, balance["account"]) == (exit_codes.OK, account)
    assert run(capsys, "wallet", "send", "dora", "bob", "10")[0] == exit_codes.OK
    assert run(capsys, "wallet", "rotate", "dora")[0] == exit_codes.OK
    assert run(capsys, "wallet", "send", "dora", "bob", "10")[0] == exit_codes.OK


@pytest.mark.process
def test_guardians_recover_an_account_from_the_shell(
    town: subprocess.Popen[str], tmp_path: Path, capsys: Any
) -> None:
    from ainp2p.cli.choosing import chosen_genesis
    from ainp2p.protocol.identity import id_text

    key(capsys, "dora", "dora2", "g1", "g2")
    guardians = ["--guardian", "g1", "--guardian", "g2"]
    assert run(capsys, "wallet", "create", "dora", *guardians, "--m", "2", "--lease", "10s")[0] == 0
    account = id_text(account_from("dora", chosen_genesis(None)))
    assert run(capsys, "wallet", "send", "alice", account, "1000")[0] == 0
    status, [alive], said = run(capsys, "wallet", "beat", "dora")
    assert (status, alive["seq"]) == (exit_codes.OK, 1), said
    file = str(tmp_path / "ask.recovery")
    request = ("wallet", "recover", "request", str(beside_key("dora", "inception")), file, "--key", "dora2")
    status, _, said = run(capsys, *request)
    assert status != exit_codes.OK
    assert "lease" in said  # the owner has just spoken
    import time

    time.sleep(max(0.0, alive["until_ms"] / 1000 - time.time()) + 0.1)  # ten seconds: the least lease
    status, [asked], said = run(capsys, *request)
    assert (status, asked["missing"]) == (exit_codes.OK, 2), said
    for guardian, missing in (("g1", 1), ("g2", 0)):
        status, [signed], said = run(capsys, "wallet", "recover", "sign", guardian, file)
        assert (status, signed["missing"]) == (exit_codes.OK, missing), said
    status, [recovered], said = run(capsys, "wallet", "recover", "submit", file)
    assert (status, recovered["account"]) == (exit_codes.OK, account), said
    assert run(capsys, "wallet", "send", "dora2", "bob", "10")[0] == exit_codes.OK
    status, _, said = run(capsys, "wallet", "send", "dora", "bob", "10")
    assert status != exit_codes.OK
    assert "key" in said
