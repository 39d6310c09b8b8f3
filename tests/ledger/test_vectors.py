"""The wire form of the ledger, pinned: a change of these bytes is a choice, and makes another network.

`python -m tests.ledger.test_vectors > tests/vectors/ledger.json` writes them anew.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from ainp2p.ledger.rules import (
    accounts,
    changes,
    genesis,
    locks,
    operations,
    parameters,
    receipts,
    state,
    state_tree,
    system,
)
from ainp2p.protocol.codec import Message, decode, encode
from ainp2p.protocol.identity import Key

VECTORS = Path(__file__).parents[1] / "vectors" / "ledger.json"
MODULES: tuple[ModuleType, ...] = (
    operations,
    parameters,
    genesis,
    receipts,
    accounts,
    locks,
    changes,
    system,
    state_tree,
)
NEVER_TRAVEL = {"Changes", "Booked"}  # values, not messages

KEY = Key(bytes(range(32)))
NETWORK, ACCOUNT, LOCK, CONTEXT = b"n" * 32, b"a" * 32, b"l" * 32, b"c" * 32
INCEPTION = operations.Inception(
    KEY.public, operations.key_digest(KEY.public), (b"g" * 32,), 1, 86_400_000, b"s" * 32
)
TERMS = operations.LockTerms(
    (operations.Share(ACCOUNT, 2), operations.Share(LOCK, 1)),
    1_000,
    10,
    (KEY.public,),
    1,
    b"k" * 32,
    1_700_000_060_000,
    operations.purpose_digest(b"purpose"),
)
SEAT = operations.Seat(KEY.public, 5, (b"/ip4/127.0.0.1/tcp/1",))
ROTATION = operations.Rotation(b"r" * 32, b"d" * 32)
SPEND = operations.Spend(
    0,
    (operations.credit_id(NETWORK, 0),),
    (operations.Out(ACCOUNT, 2**63 - 1),),
    (TERMS,),
    103,
    INCEPTION,
    ROTATION,
    b"e" * 32,
)
OPERATION = operations.Operation(1, NETWORK, ACCOUNT, 1, ACCOUNT, 1_700_000_000_000, SPEND)
RECEIPT = receipts.Receipt(NETWORK, LOCK, 300, 3, CONTEXT)
MEMBER = genesis.Member(KEY.public, 1, (b"/ip4/127.0.0.1/tcp/1",))
GENESIS = genesis.Genesis(
    1,
    b"vector",
    1_700_000_000_000,
    genesis.DEVELOPMENT,
    (MEMBER,),
    (genesis.Grant(INCEPTION, 10**15),),
    genesis.Faucet(KEY.public, 10**6),
)
ACCOUNT_STATE = accounts.Account(
    ACCOUNT, 1, b"h" * 32, 5, 0, KEY.public, b"d" * 32, (b"g" * 32,), 1, 9, 1_700_000_000_000, 0
)
LEAF = state_tree.Leaf(state_tree.ACCOUNT, ACCOUNT, encode(ACCOUNT_STATE))

MESSAGES: dict[str, Message] = {
    type(message).__name__: message
    for message in (
        INCEPTION,
        operations.Out(ACCOUNT, 5),
        operations.Share(ACCOUNT, 1),
        TERMS,
        ROTATION,
        SPEND,
        operations.Settle(300, 3, CONTEXT),
        operations.Close(0, 0, b""),
        operations.Refund(),
        operations.Recover(b"r" * 32, b"d" * 32, b"e" * 32),
        operations.Void(INCEPTION, b"e" * 32),
        operations.EndEpoch(7),
        SEAT,
        operations.NextCommittee(
            8,
            (SEAT,),
            genesis.PRODUCTION,
            (b"h" * 32,),
            (b"v" * 32,),
            b"s" * 32,
            KEY.public,
            (b"o" * 32,),
            (LOCK,),
            (b"m" * 32,),
        ),
        OPERATION,
        operations.sign_operation(OPERATION, KEY),
        genesis.PRODUCTION,
        MEMBER,
        genesis.Grant(INCEPTION, 1),
        genesis.Faucet(KEY.public, 10**6),
        GENESIS,
        RECEIPT,
        receipts.sign_receipt(RECEIPT, KEY),
        receipts.Release.of(receipts.sign_receipt(RECEIPT, KEY)),
        ACCOUNT_STATE,
        locks.open_lock(ACCOUNT, b"o" * 32, 0, TERMS),
        state.Credit(ACCOUNT, 5),
        msgspec.structs.replace(
            system.first_system(GENESIS, NETWORK),
            root=b"s" * 32,
            evidence=(b"v" * 32,),
            barred=(b"o" * 32,),
        ),
        LEAF,
        state_tree.StateProof(LEAF, 1, 5, b"p" * 64),
    )
}
IDS: dict[str, bytes] = {
    "network_id": GENESIS.network_id,
    "account_id": operations.account_id(NETWORK, INCEPTION),
    "operation_id": operations.operation_id(encode(OPERATION)),
    "lock_id": operations.lock_id(b"o" * 32, 1),
    "credit_id": operations.credit_id(b"o" * 32, 258),
    "key_digest": operations.key_digest(KEY.public),
    "purpose_digest": operations.purpose_digest(b"purpose"),
    "account_digest": accounts.account_digest(ACCOUNT_STATE),
    "genesis_root": state.State(GENESIS).root(),
}


def pinned() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(VECTORS.read_text())
    return found


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_keeps_its_wire_form(name: str) -> None:
    raw = bytes.fromhex(pinned()["messages"][name])
    assert encode(MESSAGES[name]) == raw
    assert decode(raw, type(MESSAGES[name])) == MESSAGES[name]


@pytest.mark.parametrize("name", IDS)
def test_an_id_keeps_its_value(name: str) -> None:
    assert IDS[name].hex() == pinned()["ids"][name]


def test_every_message_of_the_ledger_s_state_is_pinned() -> None:
    found = {
        name
        for module in MODULES
        for name, class_ in inspect.getmembers(module, inspect.isclass)
        if issubclass(class_, Message) and class_ is not Message and class_.__module__ == module.__name__
    }
    assert found - NEVER_TRAVEL == set(MESSAGES) == set(pinned()["messages"])
    assert set(IDS) == set(pinned()["ids"])


def test_a_field_that_moves_is_noticed() -> None:
    swapped = msgspec.structs.replace(RECEIPT, network=LOCK, lock=NETWORK)
    assert encode(swapped).hex() != pinned()["messages"]["Receipt"]


if __name__ == "__main__":
    written = {
        "messages": {name: encode(message).hex() for name, message in MESSAGES.items()},
        "ids": {name: id_.hex() for name, id_ in IDS.items()},
    }
    json.dump(written, sys.stdout, indent=2)
    print()
