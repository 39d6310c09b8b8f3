"""What importing costs: nothing heavy is loaded until it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ainp2p

HEAVY = ("torch", "libp2p", "trio", "nacl", "transformers", "msgpack", "msgspec", "sqlite3", "rich")


def loaded_by(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter has after running `code`."""
    check = f"{code}\nimport sys\nprint(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import ainp2p", id="the package"),
        pytest.param("import ainp2p; dir(ainp2p)", id="listing its names"),
        pytest.param("import ainp2p.cli; ainp2p.cli.main(['--help'])", id="the help"),
        pytest.param("import ainp2p.cli; ainp2p.cli.main(['key', 'new', '--help'])", id="a command's help"),
        pytest.param("import ainp2p.cli; ainp2p.cli.main(['--version'])", id="the version"),
        pytest.param("import ainp2p.home", id="the home directory"),
        pytest.param("import ainp2p.passphrase", id="passphrases"),
    ],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded_by(code) == []


def test_mutant_the_check_sees_a_heavy_import() -> None:
    assert "nacl" in loaded_by("import ainp2p.protocol.identity")


def test_every_public_name_can_be_imported() -> None:
    for name in ainp2p.__all__:
        assert getattr(ainp2p, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ainp2p.nonsense
