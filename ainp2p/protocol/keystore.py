"""Encrypted key files: the only place where secrets touch a disk.

    file = "ainp2p key file 1\\n" ‖ body ‖ blake2b-256 of all before it
    body = [public key, argon2id passes, argon2id memory in KiB, salt, nonce, box]   (ainp2p.protocol.codec)
    box  = XSalsa20-Poly1305 of the 32-byte seed under argon2id(passphrase, salt)

The public half stands in clear, so that a key can be shown without its passphrase. The checksum is no
secret: it tells a damaged file from a wrong passphrase. There is no unencrypted form; a key that shall
never be stored is `identity.Key` itself.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nacl.bindings as sodium
import nacl.exceptions

from ainp2p.errors import (
    DamagedKeyFile,
    InvalidInput,
    KeystoreError,
    LoosePermissions,
    Malformed,
    WrongPassphrase,
)
from ainp2p.protocol.codec import Bytes32, Message, Uint, decode, encode
from ainp2p.protocol.identity import Key, digest

FILE_SIZE_MAX = 4096  # bytes; a key file has about 200
PASSES_MAX = 16
MEMORY_KIB_MAX = 512 * 1024  # a hostile file must not ask for a tebibyte before its passphrase is tried
MEMORY_KIB_MIN = 8  # libsodium's own bound
SALT_SIZE = 16
NONCE_SIZE = 24
_VERSION = b"1"
_HEADER = re.compile(rb"ainp2p key file (\d{1,9})\n")
_CHECKSUM_SIZE = 32


@dataclass(frozen=True, slots=True)
class Cost:
    """What trying one passphrase costs, to us and to a thief: argon2id's passes and memory."""

    passes: int = 3
    memory_kib: int = 64 * 1024


DEFAULT_COST = Cost()


class _Body(Message, frozen=True):
    public: Bytes32
    passes: Uint
    memory_kib: Uint
    salt: bytes
    nonce: bytes
    box: bytes


# --- bytes, without I/O -------------------------------------------------------------------------


def seal_key(
    key: Key, passphrase: bytes, token_bytes: Callable[[int], bytes], cost: Cost | None = None
) -> bytes:
    """The bytes of a key file. `token_bytes` gives salt and nonce; see `Context.token_bytes`.

    Raises:
        InvalidInput: the passphrase is empty, or the cost is beyond what will be opened again.
    """
    cost = cost or DEFAULT_COST
    if not passphrase:
        raise InvalidInput("an empty passphrase protects nothing; give one, or use a key in memory only")
    if not _is_bounded(cost.passes, cost.memory_kib):
        raise InvalidInput(f"argon2id takes 1 to {PASSES_MAX} passes and at most {MEMORY_KIB_MAX} KiB")
    salt, nonce = token_bytes(SALT_SIZE), token_bytes(NONCE_SIZE)
    box = sodium.crypto_secretbox(key.seed, nonce, _stretch(passphrase, salt, cost))
    body = _Body(key.public, cost.passes, cost.memory_kib, salt, nonce, box)
    data = b"ainp2p key file " + _VERSION + b"\n" + encode(body)
    return data + _checksum(data)


def open_key(data: bytes, passphrase: bytes) -> Key:
    """The key inside the bytes of a key file. Takes about 0.2 s and 64 MiB.

    Raises:
        DamagedKeyFile: no key file, an unknown version, or changed bytes.
        WrongPassphrase: the file is well and the passphrase does not open it.
    """
    body = _read(data)
    secret = _stretch(passphrase, body.salt, Cost(body.passes, body.memory_kib))
    try:
        seed = sodium.crypto_secretbox_open(body.box, body.nonce, secret)
    except nacl.exceptions.CryptoError as exc:
        raise WrongPassphrase("the passphrase does not open this key file") from exc
    key = Key(seed)
    if key.public != body.public:
        raise DamagedKeyFile("the key file names another public key than the one it holds")
    return key


def sealed_public(data: bytes) -> bytes:
    """The public key that the bytes of a key file name; needs no passphrase.

    Raises:
        DamagedKeyFile: as `open_key`.
    """
    return _read(data).public


def _read(data: bytes) -> _Body:
    header = _HEADER.match(data)
    if header is None:
        raise DamagedKeyFile("this is no key file of ainp2p")
    if header[1] != _VERSION:
        theirs, ours = header[1].decode(), _VERSION.decode()
        raise DamagedKeyFile(f"key file of version {theirs}; this release knows {ours}: upgrade ainp2p")
    inner, checksum = data[:-_CHECKSUM_SIZE], data[-_CHECKSUM_SIZE:]
    if _checksum(inner) != checksum:
        raise DamagedKeyFile("the key file's bytes have changed: restore it from a copy")
    try:
        body = decode(inner[header.end() :], _Body, size_max=FILE_SIZE_MAX)
    except Malformed as exc:
        raise DamagedKeyFile(f"the key file cannot be read: {exc}") from exc
    if not _is_bounded(body.passes, body.memory_kib):
        raise DamagedKeyFile(
            f"the key file asks for {body.passes} passes over {body.memory_kib} KiB: refused"
        )
    sizes = (len(body.salt), len(body.nonce), len(body.box))
    if sizes != (SALT_SIZE, NONCE_SIZE, 32 + sodium.crypto_secretbox_MACBYTES):
        raise DamagedKeyFile("the key file's fields have wrong sizes")
    return body


def _is_bounded(passes: int, memory_kib: int) -> bool:
    return 1 <= passes <= PASSES_MAX and MEMORY_KIB_MIN <= memory_kib <= MEMORY_KIB_MAX


def _stretch(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    try:
        return sodium.crypto_pwhash_alg(
            sodium.crypto_secretbox_KEYBYTES,
            passphrase,
            salt,
            cost.passes,
            cost.memory_kib * 1024,
            sodium.crypto_pwhash_ALG_ARGON2ID13,
        )
    except (nacl.exceptions.CryptoError, MemoryError) as exc:
        raise KeystoreError(f"argon2id needs {cost.memory_kib} KiB of memory, which is not free") from exc


def _checksum(data: bytes) -> bytes:
    return digest(b"ainp2p/keyfile/1", data)


# --- files --------------------------------------------------------------------------------------


def write_key_file(
    path: Path, key: Key, passphrase: bytes, token_bytes: Callable[[int], bytes], cost: Cost | None = None
) -> None:
    """Store a key under a name that nothing has yet; whole and durable, or not at all.

    Raises:
        KeystoreError: something is there already (keys are never overwritten), or the disk refuses.
    """
    store_sealed(path, seal_key(key, passphrase, token_bytes, cost), token_bytes)


def store_sealed(path: Path, data: bytes, token_bytes: Callable[[int], bytes]) -> None:
    """Store the bytes of a key file, as `write_key_file` does."""
    temporary = path.with_name(f".{path.name}.{token_bytes(8).hex()}.tmp")
    try:
        try:
            _write_durably(temporary, data)
            # Not a rename: a link fails where something exists, even if it came a moment ago.
            os.link(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except FileExistsError as exc:
        raise KeystoreError(f"{path} exists; keys are never overwritten: choose another name") from exc
    except OSError as exc:
        raise KeystoreError(f"{path} cannot be written: {exc.strerror}") from exc


def read_key_file(path: Path, passphrase: bytes) -> Key:
    """Open a stored key.

    Raises:
        KeystoreError: there is none, or it cannot be read.
        LoosePermissions: others may read it, or write to it.
        DamagedKeyFile, WrongPassphrase: as `open_key`.
    """
    return open_key(read_sealed(path), passphrase)


def read_sealed(path: Path) -> bytes:
    """The bytes of a stored key file, unopened.

    Raises:
        KeystoreError, LoosePermissions: as `read_key_file`.
    """
    try:
        # NONBLOCK: opening a named pipe must fail below, not wait for somebody to write.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as exc:
        raise KeystoreError(f"there is no key file {path}: `ainp2p key new {path.stem}` makes one") from exc
    except OSError as exc:
        raise KeystoreError(f"{path} cannot be read: {exc.strerror}") from exc
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise KeystoreError(f"{path} is no file")
        if mode & 0o077:
            raise LoosePermissions(
                f"{path} is open to others (mode {stat.S_IMODE(mode):04o}): `chmod 600 {path}`, and think "
                "about who has read it"
            )
        data = os.read(descriptor, FILE_SIZE_MAX + 1)
    except OSError as exc:
        raise KeystoreError(f"{path} cannot be read: {exc.strerror}") from exc
    finally:
        os.close(descriptor)
    if len(data) > FILE_SIZE_MAX:
        raise DamagedKeyFile(f"{path} is too large for a key file")
    return data


def _write_durably(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _sync_directory(path: Path) -> None:
    """Make a new name in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
