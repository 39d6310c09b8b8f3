"""`ainp2p network leave`: what it opens, and what it refuses; that the ledger does it is tested there."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from ainp2p.cli import network_leave
from ainp2p.cli.network_leave import _do_leave
from ainp2p.errors import InsufficientFunds, InvalidInput
from ainp2p.ledger.rules.committee import is_waiver
from ainp2p.ledger.rules.genesis import DEVELOPMENT, Genesis, new_genesis
from ainp2p.ledger.rules.locks import Lock, open_lock
from ainp2p.ledger.rules.operations import (
    LockTerms,
    Seat,
    Share,
    account_id,
    plain_inception,
    purpose_digest,
)
from ainp2p.protocol.identity import Key

KEYS = tuple(Key(bytes([n]) * 32) for n in range(6))


class FakeWallet:
    """The account of one key, on a network whose epoch has these seats."""

    def __init__(self, genesis: Genesis, key: Key, seats: tuple[Key, ...], poor: bool = False) -> None:
        self.account_id = account_id(genesis.network_id, plain_inception(key.public))
        self.epoch = SimpleNamespace(
            number=3, opened_at=1_000, seats=tuple(Seat(each.public, 1, ()) for each in seats)
        )
        self.parameters, self.poor = DEVELOPMENT, poor
        self.opened: list[Lock] = []

    async def balance(self) -> None:
        """Nobody is asked."""

    async def open_lock(
        self, pays: Any, closer: bytes, deposit: int, step: int, life_ms: int, purpose: bytes, authority: Any
    ) -> SimpleNamespace:
        """As the wallet's, without a ledger."""
        if self.poor:
            raise InsufficientFunds(0, 4)
        shares = tuple(Share(account, parts) for account, parts in pays)
        terms = LockTerms(shares, deposit, step, authority, 1, closer, life_ms, purpose_digest(purpose))
        self.opened.append(open_lock(self.account_id, b"o" * 32, 0, terms))
        return SimpleNamespace(id=self.opened[-1].id)


@pytest.fixture
def genesis(tmp_path: Path) -> Genesis:
    members: list[tuple[bytes, int, list[str]]] = [(key.public, 1, []) for key in KEYS[:5]]
    genesis = new_genesis("town", 1, members, [(plain_inception(KEYS[0].public), 5)], None, DEVELOPMENT)
    genesis.write(tmp_path / "genesis")
    return genesis


def leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wallet: FakeWallet, key: Key, yes: bool = False
) -> None:
    monkeypatch.setattr(network_leave, "public_key", lambda word: key.public)
    args = argparse.Namespace(network=str(tmp_path / "genesis"), key="k", yes=yes, json=True)
    trio.run(_do_leave, args, wallet)


def test_it_opens_the_lock_that_gives_the_seat_up(
    tmp_path: Path, genesis: Genesis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wallet = FakeWallet(genesis, KEYS[1], KEYS[:5])
    leave(tmp_path, monkeypatch, wallet, KEYS[1])
    (lock,) = wallet.opened
    assert is_waiver(lock, genesis.network_id)
    assert (lock.closer, lock.deposit, lock.authority) == (KEYS[1].public, 1, (genesis.network_id,))
    assert '"waiver"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "account", "seats", "poor", "message"),
    [
        pytest.param(5, 5, range(6), False, "gave this key no seat", id="brought by bonds"),
        pytest.param(1, 2, range(5), False, "the account of the key alone", id="an account with guardians"),
        pytest.param(1, 1, (0, 2, 3, 4), False, "nothing to give up", id="gone already"),
        pytest.param(1, 1, (1,), False, "nobody would be left", id="alone"),
        pytest.param(1, 1, (0, 1, 2, 3), False, "say --yes", id="of four"),
        pytest.param(1, 1, range(5), True, "send 4 uain to ain:", id="no money"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(
    tmp_path: Path,
    genesis: Genesis,
    monkeypatch: pytest.MonkeyPatch,
    key: int,
    account: int,
    seats: Any,
    poor: bool,
    message: str,
) -> None:
    wallet = FakeWallet(genesis, KEYS[account], tuple(KEYS[n] for n in seats), poor)
    with pytest.raises(InvalidInput, match=message):
        leave(tmp_path, monkeypatch, wallet, KEYS[key])
    assert wallet.opened == []


def test_one_of_four_leaves_if_it_insists(
    tmp_path: Path, genesis: Genesis, monkeypatch: pytest.MonkeyPatch
) -> None:
    wallet = FakeWallet(genesis, KEYS[1], KEYS[:4])
    leave(tmp_path, monkeypatch, wallet, KEYS[1], yes=True)
    assert len(wallet.opened) == 1
