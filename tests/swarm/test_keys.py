"""The keys of a swarm: one for each process, in files that only their owner can read."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ainp2p.errors import InvalidInput, KeystoreError
from ainp2p.swarm.keys import make_keys, read_key
from ainp2p.swarm.spec import Spec, from_json, to_json

from .test_director import SPEC


def spec_in(directory: Path) -> Spec:
    return msgspec.structs.replace(SPEC, directory=str(directory))


def test_each_process_gets_a_key_that_can_be_read_again(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    keys = make_keys(spec)
    assert set(keys) == set(spec.names)
    assert len({key.public for key in keys.values()}) == len(spec.names)
    assert read_key(spec, "ada").public == keys["ada"].public
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*"))


def test_secrets_are_not_on_the_disk_in_clear(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    keys = make_keys(spec)
    assert keys["ada"].seed not in spec.key_file("ada").read_bytes()


def test_a_second_swarm_in_one_directory_is_refused(tmp_path: Path) -> None:
    make_keys(spec_in(tmp_path))
    with pytest.raises(FileExistsError):
        make_keys(spec_in(tmp_path))


def test_another_swarms_passphrase_opens_nothing(tmp_path: Path) -> None:
    spec = spec_in(tmp_path)
    make_keys(spec)
    spec.passphrase_file.write_text("another\n")
    with pytest.raises(KeystoreError):
        read_key(spec, "ada")


def test_a_specification_travels_in_a_command_line() -> None:
    spec = msgspec.structs.replace(SPEC, sockets={"ada": 7})
    assert from_json(to_json(spec)) == spec
    assert spec.names == (*spec.validators, "ada", "bela", "mina", "rosa", "sam")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"directory": 7}'])
def test_what_is_no_specification_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        from_json(text)
