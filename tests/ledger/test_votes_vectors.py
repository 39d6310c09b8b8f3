"""The wire form of votes, pinned: a change of these bytes is a choice, and makes another network.

`python -m tests.ledger.test_votes_vectors > tests/vectors/votes.json` writes them anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.merkle import EMPTY_ROOT, MerkleTree
from ainp2p.ledger.voting.certificate import build_certificate, verify_certificate, verify_prepared
from ainp2p.ledger.voting.effects import TWO_BATCHES, Evidence
from ainp2p.ledger.voting.votelog import OwnLog, batch_id, commit_entry, lock_entry, open_batch
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.identity import Key

VECTORS = Path(__file__).parents[1] / "vectors" / "votes.json"
NETWORK, OPERATION, OTHER, WHY = b"n" * 32, b"o" * 32, b"p" * 32, b"w" * 32
KEYS = sorted((Key(bytes([i]) * 32) for i in range(4)), key=lambda key: key.public)
COMMITTEE = Committee(tuple(key.public for key in KEYS), (1, 2, 3, 4))
TIME = 1_700_000_000_000
LEAVES = [lock_entry(0, OPERATION), commit_entry(0, OPERATION), lock_entry(1, OTHER, WHY)]


def make() -> dict[str, str]:
    """name → hex."""
    logs = [OwnLog(key, NETWORK, 0, member) for member, key in enumerate(KEYS)]
    batches = {}
    for member, log in enumerate(logs):
        for leaf in LEAVES:
            log.add(leaf, TIME)
        batches[member] = log.seal(TIME + member)
    empty = logs[0].seal(TIME + 20_000)

    def certificate(position: int) -> bytes:
        return build_certificate([(m, 1, position) for m in batches], lambda m, _: batches[m], COMMITTEE)

    made = {
        "lock": LEAVES[0],
        "commit": LEAVES[1],
        "lock justified": LEAVES[2],
        "root of none": EMPTY_ROOT,
        "root of one": MerkleTree(LEAVES[:1]).root,
        "root of three": MerkleTree(LEAVES).root,
        "path of the second": MerkleTree(LEAVES).path(1),
        "header": encode(batches[0].header),
        "batch id": batch_id(encode(batches[0].header)),
        "batch": batches[0].raw,
        "empty batch": empty.raw,
        "prepared certificate": certificate(0),
        "commit certificate": certificate(1),
        "prepared certificate, justified": certificate(2),
        "evidence": encode(Evidence(TWO_BATCHES, KEYS[0].public, (b"one", b"two"))),
    }
    return {name: raw.hex() for name, raw in made.items()}


@pytest.mark.parametrize("name", make())
def test_the_wire_form_is_pinned(name: str) -> None:
    assert make()[name] == json.loads(VECTORS.read_text())[name]


def test_no_vector_is_left_over() -> None:
    assert list(json.loads(VECTORS.read_text())) == list(make())


def test_the_pinned_bytes_are_read() -> None:
    raw = {name: bytes.fromhex(text) for name, text in json.loads(VECTORS.read_text()).items()}
    assert open_batch(raw["batch"], NETWORK, 0, COMMITTEE).id == raw["batch id"]
    assert open_batch(raw["empty batch"], NETWORK, 0, COMMITTEE).header.previous == raw["batch id"]
    assert verify_certificate(raw["commit certificate"], COMMITTEE, 0, NETWORK) == OPERATION
    assert verify_prepared(raw["prepared certificate"], COMMITTEE, 0, NETWORK) == (0, OPERATION)
    justified = raw["prepared certificate, justified"]
    assert verify_prepared(justified, COMMITTEE, 0, NETWORK) == (1, OTHER)
    assert decode(raw["evidence"], Evidence).items == (b"one", b"two")


if __name__ == "__main__":
    sys.stdout.write(json.dumps(make(), indent=1) + "\n")
