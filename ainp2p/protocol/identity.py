"""Ed25519 keys and the names made from them: peer id, did:key, and signatures under a purpose.

One key serves as libp2p peer id, as did:key and as signer of cards, receipts and operations. Each
signature covers a literal purpose tag, so that none can be read as another. No I/O, no libp2p.
"""

from __future__ import annotations

import functools
import hashlib

import base58
import nacl.bindings
import nacl.exceptions

from ainp2p.errors import BadSignature, InvalidInput

PUBLIC_KEY_SIZE = 32
SEED_SIZE = 32
# A peer id is the identity multihash of the key's protobuf: 00 24, then 08 01 (Ed25519) 12 20 and 32 bytes.
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
_DID_KEY_PREFIX = bytes.fromhex("ed01")  # multicodec ed25519-pub, as a varint


class Key:
    """A signing key. Its secret stays inside; `repr` shows only the public half."""

    __slots__ = ("_secret", "public")

    def __init__(self, seed: bytes) -> None:
        """Make the key that belongs to a 32-byte `seed`.

        Raises:
            InvalidInput: the seed is not 32 bytes long.
        """
        if len(seed) != SEED_SIZE:
            raise InvalidInput(f"a key's seed has {SEED_SIZE} bytes, not {len(seed)}")
        self.public, self._secret = nacl.bindings.crypto_sign_seed_keypair(seed)

    @property
    def seed(self) -> bytes:
        """The secret itself, for the keystore and for libp2p's handshake only."""
        return self._secret[:SEED_SIZE]

    @property
    def peer_id(self) -> str:
        """The libp2p peer id, base58 (``12D3KooW…``)."""
        return peer_id(self.public)

    @property
    def did(self) -> str:
        """The W3C decentralised identifier, ``did:key:z6Mk…``."""
        return did_key(self.public)

    def sign(self, purpose: bytes, payload: bytes) -> bytes:
        """A 64-byte signature of `payload` for this purpose only."""
        return _sign(self._secret, purpose + b"\0" + payload)

    def __repr__(self) -> str:
        return f"Key({self.peer_id})"


def verify(public: bytes, purpose: bytes, payload: bytes, signature: bytes) -> None:
    """Check a signature made by `Key.sign`; libsodium's rules: no small-order keys, no malleable S.

    Raises:
        BadSignature: it does not fit.
    """
    if len(signature) != 64 or len(public) != PUBLIC_KEY_SIZE:
        raise BadSignature("a signature has 64 bytes and a public key 32")
    try:
        _open(public, purpose + b"\0" + payload, signature)
    except nacl.exceptions.BadSignatureError as exc:
        raise BadSignature(
            f"signature does not fit its key for {purpose.decode(errors='replace')!r}"
        ) from exc


# Every signature of the library goes through these two names; a simulation may put cheaper ones in their
# place for the time of a run (ainp2p/simulation/core/signatures.py).


def _sign(secret: bytes, message: bytes) -> bytes:
    return nacl.bindings.crypto_sign(message, secret)[:64]


def _open(public: bytes, message: bytes, signature: bytes) -> None:
    nacl.bindings.crypto_sign_open(signature + message, public)


@functools.lru_cache(maxsize=4096)  # base58 takes 30 us, and every message of a peer asks
def peer_id(public: bytes) -> str:
    """The libp2p peer id of a public key."""
    return base58.b58encode(_PEER_ID_PREFIX + public).decode()


def did_key(public: bytes) -> str:
    """The did:key of a public key."""
    return "did:key:z" + base58.b58encode(_DID_KEY_PREFIX + public).decode()


@functools.lru_cache(maxsize=4096)
def public_from_peer_id(text: str) -> bytes:
    """The public key inside an Ed25519 peer id.

    Raises:
        InvalidInput: not such a peer id.
    """
    return _unwrap(text, _PEER_ID_PREFIX, "an Ed25519 peer id (12D3KooW…)")


def public_from_did_key(text: str) -> bytes:
    """The public key inside a did:key.

    Raises:
        InvalidInput: not an Ed25519 did:key.
    """
    if not text.startswith("did:key:z"):
        raise InvalidInput(f"{text!r} is not a did:key (did:key:z6Mk…)")
    return _unwrap(text.removeprefix("did:key:z"), _DID_KEY_PREFIX, "an Ed25519 did:key (did:key:z6Mk…)")


def digest(person: bytes, *parts: bytes) -> bytes:
    """blake2b-256 of `parts` under a purpose tag of at most 16 bytes: how every id is made.

    Parts are simply joined: give all but the last a fixed length.
    """
    state = _prepared(person).copy()  # half of what making one by its parameters takes
    state.update(parts[0] if len(parts) == 1 else b"".join(parts))
    return state.digest()


@functools.lru_cache(maxsize=128)
def _prepared(person: bytes) -> hashlib.blake2b:
    """A state that nothing was fed to: never to be updated, only to be copied."""
    return hashlib.blake2b(digest_size=32, person=person)


def id_text(id_: bytes) -> str:
    """An agent's, account's, lock's or operation's 32-byte id as text: ``ain:`` and base58."""
    return "ain:" + base58.b58encode(id_).decode()


def id_from_text(text: str) -> bytes:
    """The 32 bytes behind `id_text`.

    Raises:
        InvalidInput: not such an id.
    """
    if not text.startswith("ain:"):
        raise InvalidInput(f"{text!r} is not an agent id (ain:…)")
    return _unwrap(text.removeprefix("ain:"), b"", "an agent id (ain:…)")


def _unwrap(text: str, prefix: bytes, what: str) -> bytes:
    try:
        raw = base58.b58decode(text)
    except ValueError as exc:
        raise InvalidInput(f"{text!r} is not {what}") from exc
    if not raw.startswith(prefix) or len(raw) != len(prefix) + 32:
        raise InvalidInput(f"{text!r} is not {what}")
    return raw[len(prefix) :]
