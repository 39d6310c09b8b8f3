"""Where files live: under one directory, for its owner only, and never outside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ainp2p.errors import InvalidInput, StorageError
from ainp2p.home import Home, checked_name


def test_the_environment_decides(tmp_path: Path) -> None:
    assert Home.from_environment({"AINP2P_HOME": str(tmp_path / "x")}).root == tmp_path / "x"
    assert Home.from_environment({}).root == Path.home() / ".ainp2p"
    assert Home.from_environment({"AINP2P_HOME": ""}).root == Path.home() / ".ainp2p"
    assert Home.from_environment({"AINP2P_HOME": "~/y"}).root == Path.home() / "y"
    assert Home.from_environment({"AINP2P_HOME": "relative"}).root.is_absolute()


def test_nothing_is_made_before_it_is_needed(tmp_path: Path) -> None:
    Home(tmp_path / "home")
    assert list(tmp_path.iterdir()) == []


def test_directories_are_for_their_owner_only(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "home")
    made = [home.keys(), home.networks(), home.network(b"\xab" * 32), home.models(), home.run()]
    assert [str(path.relative_to(home.root)) for path in made] == [
        "keys",
        "networks",
        "networks/" + "ab" * 32,
        "models",
        "run",
    ]
    for path in (home.root, *made):
        assert path.stat().st_mode & 0o777 == 0o700


def test_asking_again_finds_the_same(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (home.run() / "dev.json").touch()
    assert [path.name for path in home.run().iterdir()] == ["dev.json"]


def test_keys_are_listed_by_name(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert home.key_names() == []
    for name in ("bob", "alice.old"):
        home.key_file(name).touch()
    (home.keys() / ".bob.key.123.tmp").touch()
    assert home.key_names() == ["alice.old", "bob"]


@pytest.mark.parametrize("name", ["alice", "a", "Agent_7", "a.b-c", "x" * 64])
def test_a_name_is_taken(name: str) -> None:
    assert checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-rf", "a/b", "../a", "a\0", "a b", "ä", "a\n", "x" * 65, "/etc/passwd"],
)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        Home(tmp_path).key_file(name)


def test_a_home_that_is_a_file_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError, match="AINP2P_HOME"):
            Home(root).keys()
