from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ainp2p.errors import InvalidInput
from ainp2p.ledger.rules.genesis import (
    DEVELOPMENT,
    DEVELOPMENT_PURSE,
    DEVELOPMENT_SUPPLY,
    PRODUCTION,
    Faucet,
    Genesis,
    Grant,
    Member,
    new_genesis,
)
from ainp2p.ledger.rules.operations import account_id, plain_inception
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key

FAUCET = Key(b"f" * 32).public
VALIDATORS = sorted(Key(bytes([n]) * 32).public for n in range(4))


def development(**changes: Any) -> Genesis:
    genesis = new_genesis(
        "dev",
        5,
        [(key, 1, ["/ip4/127.0.0.1/tcp/1"]) for key in reversed(VALIDATORS)],
        [(plain_inception(FAUCET), DEVELOPMENT_SUPPLY)],
        Faucet(FAUCET, DEVELOPMENT_PURSE),
        DEVELOPMENT,
    )
    return msgspec.structs.replace(genesis, **changes)


def test_a_genesis_file_reads_back_and_keeps_its_network_id(tmp_path: Path) -> None:
    genesis = development()
    genesis.write(tmp_path / "genesis")
    read = Genesis.load(tmp_path / "genesis")
    assert read == genesis
    assert read.network_id == genesis.network_id
    assert [path.name for path in tmp_path.iterdir()] == ["genesis"]


def test_any_other_byte_makes_another_network() -> None:
    assert development().network_id != development(created=6).network_id
    assert development().network_id != development(name=b"deV").network_id


def test_the_faucet_s_account_and_the_supply_follow_from_the_grants() -> None:
    genesis = development()
    assert genesis.supply == DEVELOPMENT_SUPPLY
    assert genesis.faucet_account == account_id(genesis.network_id, plain_inception(FAUCET))
    assert genesis.is_development
    assert not development(faucet=None).is_development
    assert development(faucet=None).faucet_account is None


def test_the_same_inception_is_another_account_on_another_network() -> None:
    assert development().faucet_account != development(created=6).faucet_account


def test_validators_are_sorted_by_key() -> None:
    assert [member.key for member in development().validators] == VALIDATORS


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"version": 2}, id="unknown version"),
        pytest.param({"name": b""}, id="no name"),
        pytest.param({"validators": ()}, id="no validator"),
        pytest.param({"validators": (Member(VALIDATORS[0], 1, ()),) * 2}, id="a validator twice"),
        pytest.param(
            {"validators": (Member(VALIDATORS[1], 1, ()), Member(VALIDATORS[0], 1, ()))}, id="not sorted"
        ),
        pytest.param({"validators": (Member(VALIDATORS[0], 0, ()),)}, id="a validator without weight"),
        pytest.param(
            {"validators": tuple(Member(key, 2**63 - 1, ()) for key in VALIDATORS)}, id="weights overflow"
        ),
        pytest.param({"grants": (Grant(plain_inception(FAUCET), 0),)}, id="a grant of nothing"),
        pytest.param({"grants": (Grant(plain_inception(FAUCET), 2**63 - 1),) * 2}, id="supply overflows"),
        pytest.param({"grants": (Grant(plain_inception(FAUCET), -1),)}, id="a negative grant"),
        pytest.param(
            {"grants": (Grant(msgspec.structs.replace(plain_inception(FAUCET), m=1), 1),)},
            id="1 of 0 guardians",
        ),
        pytest.param({"faucet": Faucet(VALIDATORS[0], 1)}, id="a faucet without a grant"),
        pytest.param({"faucet": Faucet(FAUCET, 0)}, id="an empty purse"),
        pytest.param(
            {"parameters": msgspec.structs.replace(DEVELOPMENT, credits_max=513)}, id="too many credits"
        ),
        pytest.param({"parameters": msgspec.structs.replace(DEVELOPMENT, credits_max=0)}, id="no credits"),
        pytest.param(
            {"parameters": msgspec.structs.replace(DEVELOPMENT, lock_life_ms_max=0)}, id="no lock life"
        ),
        pytest.param({"parameters": msgspec.structs.replace(DEVELOPMENT, fee_floor=0)}, id="no fee"),
    ],
)
def test_a_genesis_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Genesis.from_bytes(encode(development(**changes)))


def test_what_is_no_genesis_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(encode(development()) + b"\0")
    with pytest.raises(InvalidInput, match="not a genesis"):
        Genesis.load(tmp_path / "x")
    with pytest.raises(InvalidInput, match="cannot read"):
        Genesis.load(tmp_path / "absent")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "genesis").mkdir()
    with pytest.raises(InvalidInput, match="cannot write"):
        development().write(tmp_path / "genesis")
    assert [path.name for path in tmp_path.iterdir()] == ["genesis"]


def test_the_margin_is_the_larger_of_a_time_and_a_share_of_the_life() -> None:
    assert PRODUCTION.margin(3_600_000) == 600_000
    assert PRODUCTION.margin(86_400_000) == 4_320_000
    assert DEVELOPMENT.margin(3_600_000) == 2_000
