"""`ainp2p key`, run in this process."""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ainp2p.cli import main
from ainp2p.cli.key import add_key_option, chosen_key, load_key
from ainp2p.errors import InvalidInput, KeystoreError
from ainp2p.passphrase import VARIABLE
from ainp2p.protocol import keystore
from ainp2p.protocol.identity import Key, peer_id
from ainp2p.protocol.keystore import Cost, read_key_file

PASSPHRASE = b"correct horse"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, a passphrase in a file, and an argon2id that takes no time."""
    root = tmp_path / "home"
    monkeypatch.setenv("AINP2P_HOME", str(root))
    passphrase = tmp_path / "passphrase"
    passphrase.write_bytes(PASSPHRASE + b"\n")
    passphrase.chmod(0o600)
    monkeypatch.setenv(VARIABLE, str(passphrase))
    monkeypatch.setattr(keystore, "DEFAULT_COST", Cost(1, 8))
    return root


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[Any], str]:
    """Exit status, JSON lines of the output, and standard error."""
    status = main(["key", *argv, "--json"])
    captured = capsys.readouterr()
    return status, [json.loads(line) for line in captured.out.splitlines()], captured.err


def test_a_new_key_can_be_opened_with_its_passphrase(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, [shown], _ = run(capsys, "new", "alice")
    assert status == 0
    key = read_key_file(home / "keys" / "alice.key", PASSPHRASE)
    assert shown == {
        "name": "alice",
        "peer_id": key.peer_id,
        "did": key.did,
        "public": key.public.hex(),
        "file": str(home / "keys" / "alice.key"),
    }


def test_two_keys_differ(capsys: pytest.CaptureFixture[str]) -> None:
    ids = {run(capsys, "new", name)[1][0]["peer_id"] for name in ("alice", "bob")}
    assert len(ids) == 2


def test_plain_output_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "new", "alice"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "alice"]
    assert lines[1].split()[1].startswith("12D3KooW")


def test_a_key_is_never_overwritten(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "new", "alice")
    before = (home / "keys" / "alice.key").read_bytes()
    status, out, err = run(capsys, "new", "alice")
    assert (status, out) == (1, [])
    assert "never overwritten" in err
    assert (home / "keys" / "alice.key").read_bytes() == before


def test_show_lists_all_keys_and_needs_no_passphrase(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [run(capsys, "new", name)[1][0] for name in ("alice", "bob")]
    monkeypatch.delenv(VARIABLE)
    assert run(capsys, "show") == (0, made, "")
    assert run(capsys, "show", "bob") == (0, made[1:], "")


def test_show_without_keys_says_how_to_make_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "show") == (0, [], "")
    assert main(["key", "show"]) == 0
    assert "ainp2p key new NAME" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "export"])
def test_an_unknown_key_says_how_to_make_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, command, "nobody")
    assert status == 1
    assert "ainp2p key new nobody" in err


def test_an_exported_key_comes_back_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [made] = run(capsys, "new", "alice")[1]
    assert main(["key", "export", "alice"]) == 0
    exported = tmp_path / "alice.txt"
    exported.write_text(capsys.readouterr().out)
    monkeypatch.setenv("AINP2P_HOME", str(tmp_path / "elsewhere"))
    status, [there], _ = run(capsys, "import", "alice2", str(exported))
    assert status == 0
    assert (there["name"], there["peer_id"]) == ("alice2", made["peer_id"])
    assert run(capsys, "show")[1] == [there]


def test_what_is_exported_is_encrypted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "new", "alice")
    _, [exported], _ = run(capsys, "export", "alice")
    data = base64.b64decode(exported["key"])
    assert data == (home / "keys" / "alice.key").read_bytes()
    assert read_key_file(home / "keys" / "alice.key", PASSPHRASE).seed not in data
    assert exported["peer_id"] == peer_id(keystore.sealed_public(data))


def test_an_export_may_go_into_a_new_file_for_its_owner_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [made] = run(capsys, "new", "alice")[1]
    backup = tmp_path / "backup.txt"
    status, [written], _ = run(capsys, "export", "alice", str(backup))
    assert (status, written["file"], written["peer_id"]) == (0, str(backup), made["peer_id"])
    assert backup.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("AINP2P_HOME", str(tmp_path / "elsewhere"))
    assert run(capsys, "import", "alice", str(backup))[1][0]["peer_id"] == made["peer_id"]


@pytest.mark.parametrize(("name", "says"), [("taken", "exists"), ("no/such/place", "cannot be written")])
def test_an_export_overwrites_nothing(
    name: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "new", "alice")
    (tmp_path / "taken").write_text("mine")
    status, _, err = run(capsys, "export", "alice", str(tmp_path / name))
    assert status == 1
    assert says in err
    assert (tmp_path / "taken").read_text() == "mine"


def test_one_key_has_one_name_since_each_name_has_books(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "new", "alice")
    status, _, err = run(capsys, "import", "copy", str(home / "keys" / "alice.key"))
    assert status == 1
    assert "already, as 'alice'" in err
    assert not (home / "keys" / "copy.key").exists()


def test_a_damaged_key_stops_no_import(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "new", "alice")
    (home / "keys" / "alice.key").rename(tmp_path / "alice.key")
    (home / "keys" / "broken.key").touch(mode=0o600)
    assert run(capsys, "import", "alice", str(tmp_path / "alice.key"))[0] == 0


def test_a_key_file_itself_can_be_imported(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "new", "alice")
    (home / "keys" / "alice.key").rename(tmp_path / "alice.key")
    status, [shown], _ = run(capsys, "import", "copy", str(tmp_path / "alice.key"))
    assert (status, shown["name"]) == (0, "copy")


def test_a_key_can_come_from_standard_input(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(capsys, "new", "alice")
    data = base64.b64encode((home / "keys" / "alice.key").read_bytes()) + b"\n"
    (home / "keys" / "alice.key").unlink()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert run(capsys, "import", "copy", "-")[0] == 0


def test_a_key_of_another_passphrase_is_not_imported(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = keystore.seal_key(Key(bytes(32)), b"another", lambda n: bytes(n), Cost(1, 8))
    (tmp_path / "theirs").write_bytes(theirs)
    status, _, err = run(capsys, "import", "theirs", str(tmp_path / "theirs"))
    assert status == 1
    assert "passphrase" in err
    assert list((home / "keys").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "status"), [(b"", 1), (b"nonsense", 1), (b"bm9uc2Vuc2U=", 1), (b"\xff" * 9000, 1), (None, 2)]
)
def test_what_is_no_key_is_not_imported(
    content: bytes | None, status: int, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    assert run(capsys, "import", "x", str(file))[0] == status
    assert run(capsys, "show")[1] == []


def test_importing_never_overwrites(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "new", "alice")
    run(capsys, "new", "bob")
    status, _, err = run(capsys, "import", "bob", str(home / "keys" / "alice.key"))
    assert status == 1
    assert "never overwritten" in err


@pytest.mark.parametrize("name", ["../alice", "a/b", ".hidden", "", "a b"])
@pytest.mark.parametrize("command", ["new", "show", "export"])
def test_names_do_not_lead_out_of_the_home(
    command: str, name: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, command, name)[0] == 2
    assert not home.exists() or [path for path in home.rglob("*") if path.is_file()] == []


def test_without_a_passphrase_no_key_is_made(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setattr("ainp2p.passphrase._has_terminal", lambda: False)
    status, _, err = run(capsys, "new", "alice")
    assert status == 2
    assert VARIABLE in err
    assert list((home / "keys").iterdir()) == []


def test_the_only_key_is_the_one_that_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInput, match="ainp2p key new"):
        chosen_key(None)
    run(capsys, "new", "alice")
    assert chosen_key(None) == "alice"
    run(capsys, "new", "bob")
    with pytest.raises(InvalidInput, match="name one of alice, bob"):
        chosen_key(None)
    assert chosen_key("bob") == "bob"
    with pytest.raises(InvalidInput):
        chosen_key("../bob")


def test_other_commands_open_a_key_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_key_option(parser)
    [made] = run(capsys, "new", "alice")[1]
    assert load_key(parser.parse_args(["--key", "alice"]).key).peer_id == made["peer_id"]
    assert parser.parse_args([]).key is None
    with pytest.raises(KeystoreError, match="ainp2p key new bob"):
        load_key("bob")
