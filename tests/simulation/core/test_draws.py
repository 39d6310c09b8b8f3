"""Streams of draws: independent, repeatable, counted, and good enough dice."""

from __future__ import annotations

import copy
import pickle
import random
import statistics
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import InvalidInput
from ainp2p.simulation.core import draws as draws_module
from ainp2p.simulation.core.draws import Draws

NAMES = st.lists(st.one_of(st.text(max_size=4), st.integers(-5, 300), st.binary(max_size=4)), max_size=3)


def test_the_same_seed_and_names_give_the_same_draws() -> None:
    first, second = (Draws(7).stream("agent", 3) for _ in range(2))
    assert [first.random() for _ in range(100)] == [second.random() for _ in range(100)]


def test_streams_do_not_depend_on_the_order_in_which_they_are_asked_for() -> None:
    one, two = Draws(7), Draws(7)
    a, b = one.stream("a"), one.stream("b")
    drawn = [a.random(), b.random(), a.random()]
    b, a = two.stream("b"), two.stream("a")
    second_b = b.random()
    assert [a.random(), second_b, a.random()] == drawn


def test_another_seed_gives_other_draws() -> None:
    seeds: list[int | str] = [1, 2, "1", "one"]
    assert len({Draws(seed).stream("a").random() for seed in seeds}) == 4


def test_asking_again_goes_on_where_the_stream_was_left() -> None:
    draws = Draws(1)
    numbers = [draws.stream("a").random() for _ in range(5)]
    whole = Draws(1).stream("a")
    assert numbers == [whole.random() for _ in range(5)]


@given(NAMES, NAMES)
def test_no_two_lists_of_names_are_one_stream(
    one: list[str | int | bytes], two: list[str | int | bytes]
) -> None:
    draws = Draws(1)
    assert (draws.derive(*one) == draws.derive(*two)) == (one == two)


def test_every_draw_is_counted_and_deriving_is_none() -> None:
    draws = Draws(1)
    rng = draws.stream("a")
    draws.derive("x")
    draws.key("alice")
    assert draws.count == 0
    rng.random()
    rng.getrandbits(7)
    rng.choice("abc")
    assert draws.count >= 3
    before = draws.count
    draws.stream("b").random()
    assert draws.count == before + 1


def test_every_method_of_random_can_be_used() -> None:
    rng = Draws(5).stream("all")
    deck = list(range(20))
    rng.shuffle(deck)
    assert sorted(deck) == list(range(20))
    assert len(set(rng.sample(deck, 10))) == 10
    assert rng.choice(deck) in deck
    assert len(rng.choices(deck, weights=range(20), k=5)) == 5
    assert 3 <= rng.randint(3, 5) <= 5
    assert rng.randrange(10) in range(10)
    assert 1.0 <= rng.uniform(1, 2) <= 2.0
    assert len(rng.randbytes(33)) == 33
    for value in (
        rng.gauss(0, 1),
        rng.gauss(0, 1),
        rng.normalvariate(0, 1),
        rng.lognormvariate(0, 1),
        rng.expovariate(2.0),
        rng.betavariate(1, 2),
        rng.gammavariate(2, 3),
        rng.triangular(0, 1, 0.5),
        rng.paretovariate(3),
        rng.weibullvariate(1, 2),
        rng.vonmisesvariate(0, 1),
    ):
        assert isinstance(value, float)


def test_every_public_method_of_random_is_there() -> None:
    rng = Draws(5).stream("all")
    for name in vars(random.Random):
        if not name.startswith("_") and name not in ("VERSION",):
            assert hasattr(rng, name), f"random.Random.{name} is new: add it to draws.Stream"


@pytest.mark.parametrize("bits", [0, 1, 7, 53, 63, 64, 65, 128, 200, 1000])
def test_random_bits_fill_their_width(bits: int) -> None:
    rng = Draws(1).stream("bits", bits)
    values = [rng.getrandbits(bits) for _ in range(60)]
    assert all(0 <= value < 1 << bits for value in values)
    union = 0
    for value in values:
        union |= value
    assert union == (1 << bits) - 1


def test_negative_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="non-negative"):
        Draws(1).stream("a").getrandbits(-1)


def test_numbers_are_spread_evenly() -> None:
    rng = Draws(11).stream("even")
    numbers = [rng.random() for _ in range(20_000)]
    assert min(numbers) >= 0.0
    assert max(numbers) < 1.0
    assert statistics.fmean(numbers) == pytest.approx(0.5, abs=0.01)
    assert statistics.pvariance(numbers) == pytest.approx(1 / 12, abs=0.003)
    tenths = Counter(int(number * 10) for number in numbers)
    assert sum((count - 2000) ** 2 / 2000 for count in tenths.values()) < 33.7  # chi², 9 degrees, p = 0.0001


def test_neighbouring_streams_are_not_correlated() -> None:
    draws = Draws(3)
    one, two = draws.stream("path", 1, 2), draws.stream("path", 2, 1)
    pairs = [(one.random() - 0.5, two.random() - 0.5) for _ in range(5000)]
    assert sum(a * b for a, b in pairs) / len(pairs) == pytest.approx(0.0, abs=0.006)


def test_keys_and_tokens_belong_to_the_seed() -> None:
    assert Draws(1).key("alice").public == Draws(1).key("alice").public
    assert Draws(1).key("alice").public != Draws(2).key("alice").public
    assert Draws(1).key("alice").public != Draws(1).key("bob").public
    draws = Draws(1)
    assert [draws.token_bytes(16), draws.token_bytes(8)] == [
        (again := Draws(1)).token_bytes(16),
        again.token_bytes(8),
    ]


def test_a_stream_cannot_be_seeded_or_copied() -> None:
    rng = Draws(1).stream("a")
    for refused in (rng.seed, lambda: rng.seed(3), rng.getstate, lambda: rng.setstate(())):
        with pytest.raises(InvalidInput):
            refused()
    with pytest.raises(InvalidInput):
        copy.copy(rng)
    with pytest.raises(InvalidInput):
        pickle.dumps(rng)


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_draws_are_the_same_in_any_process(hash_seed: str) -> None:
    code = "from ainp2p.simulation.core.draws import Draws; print(Draws('s').stream('a', 1, b'x').random())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    # Pinned: another number here means that no seed of before can be replayed.
    assert float(done.stdout) == Draws("s").stream("a", 1, b"x").random() == PINNED


PINNED = 0.6071770336919623


def test_mutant_names_that_are_merely_joined_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws_module, "_part", lambda name: str(name).encode())
    draws = Draws(1)
    assert draws.derive("ab", "c") == draws.derive("a", "bc")
