"""Names made from keys, and E12: one verdict on every signature that is not exactly right."""

from __future__ import annotations

import base58
import nacl.bindings
import nacl.exceptions
import nacl.signing
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, InvalidInput
from ainp2p.protocol import identity
from ainp2p.protocol.identity import Key

SEED = bytes(range(32))
L = 2**252 + 27742317777372353535851937790883648493  # the order of Ed25519's base point

# Points whose order divides 8 (libsodium's list, without encodings that differ only in the sign of zero):
# with such a key, signatures can be made that fit many messages.
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


# --- names --------------------------------------------------------------------------------------


def test_the_first_vector_of_rfc_8032() -> None:
    key = Key(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


def test_a_did_key_of_the_specification() -> None:
    # did:key specification, Ed25519 test vectors: seed 00…00.
    assert Key(bytes(32)).did == "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"


def test_names_of_a_key_never_change() -> None:
    key = Key(SEED)
    assert key.public.hex() == "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    assert key.peer_id == "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"
    assert key.did == "did:key:z6MkehRgf7yJbgaGfYsdoAsKdBPE3dj2CYhowQdcjqSJgvVd"
    assert identity.id_text(SEED) == "ain:1thX6LZfHDZZKUs92febYZhYRcXddmzfzF2NvTkPNE"


def test_a_peer_id_is_libp2ps_own() -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    for number in range(8):
        seed = bytes([number]) * 32
        theirs = ID.from_pubkey(create_new_key_pair(seed).public_key)
        assert theirs.to_base58() == Key(seed).peer_id


@given(st.binary(min_size=32, max_size=32))
def test_names_and_keys_are_one_to_one(public: bytes) -> None:
    assert identity.public_from_peer_id(identity.peer_id(public)) == public
    assert identity.public_from_did_key(identity.did_key(public)) == public
    assert identity.id_from_text(identity.id_text(public)) == public


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("0OIl", id="not base58"),
        pytest.param("ä", id="not ascii"),
        pytest.param(identity.peer_id(SEED)[:-1], id="truncated"),
        pytest.param(identity.peer_id(SEED) + "1", id="too long"),
        pytest.param("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", id="a peer id of an RSA key"),
        pytest.param(base58.b58encode(bytes.fromhex("002408021220") + SEED).decode(), id="another key type"),
    ],
)
def test_what_is_no_ed25519_peer_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        identity.public_from_peer_id(text)


@pytest.mark.parametrize("text", ["", "did:web:example.org", "did:key:", "did:key:z", "did:key:z6Mk", "6Mk"])
def test_what_is_no_did_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        identity.public_from_did_key(text)


@pytest.mark.parametrize("text", ["", "ain:", "ain:0", "nia:" + base58.b58encode(SEED).decode(), "ain:11"])
def test_what_is_no_agent_id_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        identity.id_from_text(text)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_seed_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(InvalidInput, match=f"not {size}"):
        Key(bytes(size))


def test_a_key_does_not_show_its_secret() -> None:
    key = Key(SEED)
    assert key.seed.hex() not in repr(key) + str(key)
    assert repr(key) == f"Key({key.peer_id})"
    assert not hasattr(key, "__dict__")


def test_digests_of_two_purposes_differ() -> None:
    assert identity.digest(b"ainp2p/a/1", b"x") != identity.digest(b"ainp2p/b/1", b"x")
    assert identity.digest(b"ainp2p/a/1", b"x", b"y") == identity.digest(b"ainp2p/a/1", b"xy")
    with pytest.raises(ValueError, match="16"):
        identity.digest(b"a purpose of more than 16", b"")


# --- E12 ----------------------------------------------------------------------------------------


def both_verdicts(public: bytes, message: bytes, signature: bytes) -> set[bool]:
    """What our code path and PyNaCl's own (which libp2p uses) say; E12 wants one verdict."""
    verdicts = set()
    try:
        identity.verify(public, b"purpose", message, signature)
        verdicts.add(True)
    except BadSignature:
        verdicts.add(False)
    try:
        nacl.signing.VerifyKey(public).verify(b"purpose\0" + message, signature)
        verdicts.add(True)
    except (nacl.exceptions.CryptoError, ValueError):
        verdicts.add(False)
    return verdicts


@given(
    st.binary(min_size=1, max_size=16).filter(lambda purpose: b"\0" not in purpose), st.binary(max_size=300)
)
def test_a_signature_fits_its_key_purpose_and_payload(purpose: bytes, payload: bytes) -> None:
    key = Key(SEED)
    identity.verify(key.public, purpose, payload, key.sign(purpose, payload))


def test_e12_both_paths_accept_what_is_right() -> None:
    key = Key(SEED)
    assert both_verdicts(key.public, b"payload", key.sign(b"purpose", b"payload")) == {True}


def test_e12_a_signature_of_another_key_is_refused() -> None:
    signature = Key(bytes(32)).sign(b"purpose", b"payload")
    assert both_verdicts(Key(SEED).public, b"payload", signature) == {False}


def test_e12_a_signature_for_another_purpose_is_refused() -> None:
    key = Key(SEED)
    signature = key.sign(b"ainp2p/card/1", b"payload")
    for purpose in (b"ainp2p/op/1", b"ainp2p/card/2", b"ainp2p/card/", b"ainp2p/card/1 ", b""):
        with pytest.raises(BadSignature):
            identity.verify(key.public, purpose, b"payload", signature)


def test_e12_bytes_do_not_move_between_purpose_and_payload() -> None:
    key = Key(SEED)
    signature = key.sign(b"ainp2p/card/1", b"payload")
    for purpose, payload in ((b"ainp2p/card", b"/1payload"), (b"ainp2p/card/1p", b"ayload")):
        with pytest.raises(BadSignature):
            identity.verify(key.public, purpose, payload, signature)


@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 128])
def test_e12_a_signature_of_another_length_is_refused(size: int) -> None:
    key = Key(SEED)
    signature = (key.sign(b"purpose", b"payload") * 2)[:size]
    assert both_verdicts(key.public, b"payload", signature) == {False}


@pytest.mark.parametrize("size", [0, 31, 33])
def test_e12_a_public_key_of_another_length_is_refused(size: int) -> None:
    key = Key(SEED)
    with pytest.raises(BadSignature):
        identity.verify((key.public * 2)[:size], b"purpose", b"payload", key.sign(b"purpose", b"payload"))


def test_e12_a_malleable_signature_is_refused() -> None:
    # RFC 8032 §5.1.7: S must be below L; S + L would be a second signature of the same bytes.
    key = Key(SEED)
    signature = key.sign(b"purpose", b"payload")
    s = int.from_bytes(signature[32:], "little")
    for multiple in (1, 2, 7):
        forged = signature[:32] + (s + multiple * L).to_bytes(32, "little")
        assert both_verdicts(key.public, b"payload", forged) == {False}


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_e12_a_key_of_small_order_is_refused(point: str) -> None:
    public = bytes.fromhex(point)
    # With S = 0 and R = the key or the neutral element, lenient verifiers accept many of these.
    for r in (public, bytes.fromhex(SMALL_ORDER[1])):
        for message in (b"", b"a", b"b", b"payload"):
            assert both_verdicts(public, message, r + bytes(32)) == {False}


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_e12_a_commitment_of_small_order_is_refused(point: str) -> None:
    signature = bytes.fromhex(point) + Key(SEED).sign(b"purpose", b"payload")[32:]
    assert both_verdicts(Key(SEED).public, b"payload", signature) == {False}


@given(st.integers(0, 511))
def test_e12_a_signature_with_a_flipped_bit_is_refused(bit: int) -> None:
    key = Key(SEED)
    signature = bytearray(key.sign(b"purpose", b"payload"))
    signature[bit // 8] ^= 1 << bit % 8
    assert both_verdicts(key.public, b"payload", bytes(signature)) == {False}


@given(st.binary(min_size=64, max_size=64), st.binary(min_size=32, max_size=32))
def test_e12_random_signatures_are_refused_by_every_path(signature: bytes, public: bytes) -> None:
    assert both_verdicts(public, b"payload", signature) == {False}


def test_e12_mutant_a_verifier_without_purposes_accepts_the_replay() -> None:
    """Shows that the cross-purpose tests above depend on the purpose and on nothing else."""

    def verify_without_purpose(public: bytes, _purpose: bytes, payload: bytes, signature: bytes) -> None:
        nacl.bindings.crypto_sign_open(signature + payload, public)

    key = Key(SEED)
    signature = nacl.bindings.crypto_sign(b"payload", key._secret)[:64]
    verify_without_purpose(key.public, b"ainp2p/card/1", b"payload", signature)
    verify_without_purpose(key.public, b"ainp2p/op/1", b"payload", signature)
    with pytest.raises(BadSignature):
        identity.verify(key.public, b"ainp2p/op/1", b"payload", signature)
