"""Signing and verifying inside a world: forgeries and tampering are refused in every mode."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from ainp2p.errors import BadSignature, InvalidInput
from ainp2p.protocol import identity
from ainp2p.protocol.identity import Key, verify
from ainp2p.simulation.core import signatures as signatures_module
from ainp2p.simulation.core.signatures import Mode, signatures

ALICE, BOB = Key(b"a" * 32), Key(b"b" * 32)
MODES: list[Mode] = ["ed25519", "cached", "keyed"]


def flipped(raw: bytes, bit: int) -> bytes:
    changed = bytearray(raw)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("mode", MODES)
def test_what_a_key_signed_verifies_again_and_again(mode: Mode) -> None:
    with signatures(mode):
        signature = ALICE.sign(b"purpose", b"payload")
        assert len(signature) == 64
        for _ in range(3):
            verify(ALICE.public, b"purpose", b"payload", signature)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("warm", [False, True])
def test_forgeries_and_tampering_are_refused(mode: Mode, warm: bool) -> None:
    with signatures(mode):
        signature = ALICE.sign(b"purpose", b"payload")
        if warm:
            verify(ALICE.public, b"purpose", b"payload", signature)
        refused = [
            (BOB.public, b"purpose", b"payload", signature),
            (ALICE.public, b"another", b"payload", signature),
            (ALICE.public, b"purpose", b"Payload", signature),
            (ALICE.public, b"purpose", b"payload", BOB.sign(b"purpose", b"payload")),
            (ALICE.public, b"purpose", b"payload", bytes(64)),
            (ALICE.public, b"purpose\0payload", b"", signature),
            (ALICE.public, b"purpose", b"payload", signature[:63]),
            (ALICE.public[:31], b"purpose", b"payload", signature),
            *((ALICE.public, b"purpose", b"payload", flipped(signature, bit)) for bit in range(0, 512, 7)),
        ]
        for _ in range(2):
            for arguments in refused:
                with pytest.raises(BadSignature):
                    verify(*arguments)


def test_a_hash_that_anybody_can_compute_is_no_signature_of_a_world() -> None:
    with signatures("keyed", secret=b"the world's"):
        message = b"purpose\0payload"
        for guess in (b"", b"the world's", ALICE.public):
            forged = hashlib.blake2b(ALICE.public + message, key=guess).digest()
            with pytest.raises(BadSignature):
                verify(ALICE.public, b"purpose", b"payload", forged)


def test_signatures_of_another_world_are_refused() -> None:
    with signatures("keyed", secret=b"one"):
        one = ALICE.sign(b"p", b"x")
    with signatures("keyed", secret=b"two"):
        assert ALICE.sign(b"p", b"x") != one
        with pytest.raises(BadSignature):
            verify(ALICE.public, b"p", b"x", one)


def test_keyed_and_real_signatures_do_not_mix() -> None:
    real = ALICE.sign(b"p", b"x")
    with signatures("keyed"):
        keyed = ALICE.sign(b"p", b"x")
        with pytest.raises(BadSignature):
            verify(ALICE.public, b"p", b"x", real)
    with pytest.raises(BadSignature):
        verify(ALICE.public, b"p", b"x", keyed)
    verify(ALICE.public, b"p", b"x", real)


def test_keyed_signatures_are_the_same_in_every_run_of_a_seed() -> None:
    made = set()
    for _ in range(2):
        with signatures("keyed", secret=b"seed"):
            made.add(Key(b"a" * 32).sign(b"p", b"x"))
    assert len(made) == 1


def test_cached_signatures_are_the_real_ones() -> None:
    real = ALICE.sign(b"p", b"x")
    with signatures("cached"):
        assert ALICE.sign(b"p", b"x") == real


def counting(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The messages that were really verified, from now on."""
    seen: list[bytes] = []
    really = identity._open

    def open_(public: bytes, message: bytes, signature: bytes) -> None:
        seen.append(message)
        really(public, message, signature)

    monkeypatch.setattr(identity, "_open", open_)
    return seen


def test_a_signature_is_verified_once_in_a_world(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counting(monkeypatch)
    first, second = ALICE.sign(b"p", b"1"), ALICE.sign(b"p", b"2")
    with signatures("cached"):
        for _ in range(5):
            verify(ALICE.public, b"p", b"1", first)
            verify(ALICE.public, b"p", b"2", second)
    assert seen == [b"p\x001", b"p\x002"]


def test_what_was_signed_in_a_world_need_not_be_verified_there(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counting(monkeypatch)
    with signatures("cached"):
        signature = ALICE.sign(b"p", b"1")
        verify(ALICE.public, b"p", b"1", signature)
        for payload, key in [(b"2", ALICE), (b"1", BOB)]:
            with pytest.raises(BadSignature):
                verify(key.public, b"p", payload, signature)
    assert seen == [b"p\x002", b"p\x001"]


def test_a_refusal_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counting(monkeypatch)
    with signatures("cached"):
        for _ in range(3):
            with pytest.raises(BadSignature):
                verify(ALICE.public, b"p", b"1", bytes(64))
    assert len(seen) == 3


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures_module, "CACHE_SIZE", 4)
    seen = counting(monkeypatch)
    made = [(b"%d" % n, ALICE.sign(b"p", b"%d" % n)) for n in range(20)]
    with signatures("cached"):
        for payload, signature in made:
            verify(ALICE.public, b"p", payload, signature)
        verify(ALICE.public, b"p", *made[-1])
        assert len(seen) == 20
        verify(ALICE.public, b"p", *made[0])  # long forgotten
        assert len(seen) == 21


@pytest.mark.parametrize("mode", MODES)
def test_hooks_are_put_back_also_after_an_exception(mode: Mode) -> None:
    before = identity._sign, identity._open
    with pytest.raises(LookupError), signatures(mode):
        raise LookupError
    assert (identity._sign, identity._open) == before
    with signatures(mode), signatures("ed25519"):
        pass
    assert (identity._sign, identity._open) == before


def test_another_mode_is_refused() -> None:
    mode: Any = "none"
    with pytest.raises(InvalidInput, match="'cached'"), signatures(mode):
        pass


# --- mutants ------------------------------------------------------------------------------------


def mutant_accepts(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, name: str, broken: Callable[..., Any]
) -> bool:
    """Whether a tampered message passes where `name` is replaced by `broken`."""
    monkeypatch.setattr(signatures_module, name, broken)
    with signatures(mode):
        signature = ALICE.sign(b"p", b"x")
        verify(ALICE.public, b"p", b"x", signature)
        try:
            verify(ALICE.public, b"p", b"y", signature)
        except BadSignature:
            return False
    return True


def test_mutant_a_cache_that_forgets_the_message_lets_tampering_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def remembering(sign: Callable[..., bytes], check: Callable[..., None]) -> Any:
        seen: set[bytes] = set()

        def open_(public: bytes, message: bytes, signature: bytes) -> None:
            if signature not in seen:
                check(public, message, signature)
            seen.add(signature)

        return sign, open_

    assert mutant_accepts(monkeypatch, "cached", "_remembering", remembering)


def test_mutant_a_keyed_hash_without_the_message_lets_tampering_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def keyed(secret: bytes) -> tuple[Callable[..., bytes], Callable[..., None]]:
        return (lambda secret, message: bytes(64), lambda public, message, signature: None)

    assert mutant_accepts(monkeypatch, "keyed", "_keyed", keyed)


def test_mutant_check_the_real_ones_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not mutant_accepts(monkeypatch, "cached", "_remembering", signatures_module._remembering)
    assert not mutant_accepts(monkeypatch, "keyed", "_keyed", signatures_module._keyed)
