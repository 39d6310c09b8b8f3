from __future__ import annotations

import pytest

from ainp2p.errors import BadSignature
from ainp2p.ledger.voting import seen_votes as module
from ainp2p.ledger.voting.seen_votes import SeenVotes
from ainp2p.protocol.identity import verify

from ..world import key_of

KEY, PURPOSE = key_of("validator"), b"ainp2p/votes/1"


def count_verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    verified: list[bytes] = []

    def counted(public: bytes, purpose: bytes, payload: bytes, signature: bytes) -> None:
        verified.append(payload)
        verify(public, purpose, payload, signature)

    monkeypatch.setattr(module, "verify", counted)
    return verified


def test_what_was_verified_once_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    verified, seen = count_verifications(monkeypatch), SeenVotes()
    for payload in (b"one", b"two", b"one", b"one", b"two"):
        seen.check(KEY.public, PURPOSE, payload, KEY.sign(PURPOSE, payload))
    assert verified == [b"one", b"two"]


def test_a_bad_signature_is_refused_each_time_also_over_what_is_known() -> None:
    seen = SeenVotes()
    good = KEY.sign(PURPOSE, b"one")
    seen.check(KEY.public, PURPOSE, b"one", good)
    bad = bytes([good[0] ^ 1]) + good[1:]
    for _ in range(2):
        with pytest.raises(BadSignature):
            seen.check(KEY.public, PURPOSE, b"one", bad)
    for key, purpose, payload in (
        (key_of("other").public, PURPOSE, b"one"),
        (KEY.public, b"ainp2p/other/1", b"one"),
        (KEY.public, PURPOSE, b"two"),
    ):
        with pytest.raises(BadSignature):
            seen.check(key, purpose, payload, good)


def test_of_too_many_the_first_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    verified, seen = count_verifications(monkeypatch), SeenVotes(2)
    for payload in (b"one", b"two", b"three", b"two", b"one"):
        seen.check(KEY.public, PURPOSE, payload, KEY.sign(PURPOSE, payload))
    assert verified == [b"one", b"two", b"three", b"one"]
    assert len(seen) == 2


def test_mutant_a_memory_without_the_signature_passes_on_bad_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(SeenVotes):
        def check(self, public: bytes, purpose: bytes, payload: bytes, signature: bytes) -> None:
            if payload not in self._seen:
                super().check(public, purpose, payload, signature)
                self._seen[payload] = None

    monkeypatch.setitem(globals(), "SeenVotes", Careless)
    with pytest.raises(pytest.fail.Exception):
        test_a_bad_signature_is_refused_each_time_also_over_what_is_known()
