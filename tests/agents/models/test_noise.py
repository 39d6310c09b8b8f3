"""The public noise is the same everywhere: pinned to the bit."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from ainp2p.agents.models import noise

KNOWN = [
    (b"", 0, 0x77005721D0DF0DB3),
    (b"request 1", 0, 0x660D0095E4EEECC4),
    (b"request 1", 1, 0x6591A4A039A14A5F),
]


def test_splitmix64_agrees_with_the_published_sequence() -> None:
    # The first outputs of the reference implementation (prng.di.unimi.it/splitmix64.c) from state 1234567.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [noise.hashed(1234567, token) for token in range(4)] == published


@pytest.mark.parametrize(("seed", "position", "key"), KNOWN)
def test_keys_are_pinned(seed: bytes, position: int, key: int) -> None:
    assert noise.noise_key(seed, position) == key


def test_torch_and_plain_integers_give_the_same_noise() -> None:
    key = noise.noise_key(b"seed", 3)
    tensor = noise.gumbel(key, 1000).tolist()
    assert tensor == pytest.approx([noise.gumbel_of(key, token) for token in range(1000)], rel=1e-12)


def test_noise_is_pinned() -> None:
    key = noise.noise_key(b"request 1", 0)
    known = [-0.7028151571175628, 1.9984850201868845, 2.3886642280094974]
    assert [noise.gumbel_of(key, token) for token in (0, 1, 49151)] == pytest.approx(known, rel=1e-12)


def test_noise_is_finite_for_the_smallest_and_largest_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    for extreme in (0, 2**64 - 1):
        monkeypatch.setattr(noise, "hashed", lambda key, token, extreme=extreme: extreme)
        assert math.isfinite(noise.gumbel_of(0, 0))


def test_each_position_and_seed_has_its_own_noise() -> None:
    keys = {noise.noise_key(seed, position) for seed in (b"", b"a", b"b", b"ab") for position in range(50)}
    assert len(keys) == 200


def test_sampling_with_the_noise_follows_the_softmax() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).double()
    drawn = Counter(int((logits + noise.gumbel(noise.noise_key(b"s", at), 4)).argmax()) for at in range(5000))
    for token, share in enumerate(torch.softmax(logits, -1).tolist()):
        assert drawn[token] / 5000 == pytest.approx(share, abs=0.02)
