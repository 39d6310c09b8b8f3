"""Key files: nobody without the passphrase gets the key, and nothing that is wrong goes unnoticed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nacl.bindings as sodium
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ainp2p.errors import DamagedKeyFile, InvalidInput, KeystoreError, LoosePermissions, WrongPassphrase
from ainp2p.protocol import keystore
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key
from ainp2p.protocol.keystore import (
    Cost,
    open_key,
    read_key_file,
    seal_key,
    sealed_public,
    store_sealed,
    write_key_file,
)

KEY = Key(bytes(range(32)))
CHEAP = Cost(passes=1, memory_kib=8)  # libsodium's least, so that hundreds of openings take no time
PASSPHRASE = b"correct horse"


def tokens() -> Callable[[int], bytes]:
    return random.Random(1).randbytes


def sealed() -> bytes:
    return seal_key(KEY, PASSPHRASE, tokens(), CHEAP)


def body_of(data: bytes) -> Any:
    return keystore._read(data)


def file_with(**fields: object) -> bytes:
    """A key file, whole but for some fields, with the checksum that fits."""
    body = body_of(sealed())
    values = {name: fields.get(name, getattr(body, name)) for name in body.__struct_fields__}
    data = b"ainp2p key file 1\n" + encode(list(values.values()))
    return data + keystore._checksum(data)


# --- bytes --------------------------------------------------------------------------------------


def test_what_was_sealed_opens_with_its_passphrase() -> None:
    assert open_key(sealed(), PASSPHRASE).seed == KEY.seed


def test_the_public_half_needs_no_passphrase() -> None:
    assert sealed_public(sealed()) == KEY.public


def test_the_default_cost_is_64_mib_and_3_passes() -> None:
    body = body_of(seal_key(KEY, PASSPHRASE, tokens()))
    assert (body.passes, body.memory_kib) == (3, 64 * 1024)


def test_the_secret_is_not_in_the_file() -> None:
    assert KEY.seed not in sealed()
    assert PASSPHRASE not in sealed()


def test_two_files_of_one_key_share_neither_salt_nor_nonce_nor_box() -> None:
    token_bytes = tokens()
    one, two = (body_of(seal_key(KEY, PASSPHRASE, token_bytes, CHEAP)) for _ in range(2))
    assert one.salt != two.salt
    assert one.nonce != two.nonce
    assert one.box != two.box


def test_the_format_is_pinned() -> None:
    fixed = seal_key(KEY, PASSPHRASE, lambda n: bytes([n]) * n, CHEAP)
    assert fixed.hex() == PINNED
    assert open_key(bytes.fromhex(PINNED), PASSPHRASE).seed == KEY.seed


PINNED = (  # a change here makes every stored key unreadable: raise the version instead
    "61696e703270206b65792066696c6520310a96c42003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc86"
    "64125531b80108c41010101010101010101010101010101010c418181818181818181818181818181818181818181818"
    "181818c430b491e8e0a4c9f1d7dae15d5f16df5cde096900da37f6c9b94370b03d12571746dd6932cb7ca402e7a35eb2"
    "a540a45b7e84ea9396a3fcd4d269779c7bcb2b552e45f5118549d07253563d030ba3230021"
)


@pytest.mark.parametrize("wrong", [b"", b"correct hors", b"correct horse ", b"Correct horse"])
def test_a_wrong_passphrase_is_told_from_a_damaged_file(wrong: bytes) -> None:
    with pytest.raises(WrongPassphrase):
        open_key(sealed(), wrong)


def test_an_empty_passphrase_seals_nothing() -> None:
    with pytest.raises(InvalidInput, match="empty passphrase"):
        seal_key(KEY, b"", tokens(), CHEAP)


@pytest.mark.parametrize("cost", [Cost(0, 8), Cost(17, 8), Cost(1, 7), Cost(1, 1 << 20), Cost(-1, 8)])
def test_a_cost_that_would_not_be_opened_is_not_sealed(cost: Cost) -> None:
    with pytest.raises(InvalidInput):
        seal_key(KEY, PASSPHRASE, tokens(), cost)


@settings(max_examples=300)
@given(st.data())
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    raw = bytearray(sealed())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(DamagedKeyFile):
        open_key(bytes(raw), PASSPHRASE)


@given(st.integers(0, len(sealed()) - 1))
def test_a_truncated_file_is_noticed(size: int) -> None:
    with pytest.raises(DamagedKeyFile):
        open_key(sealed()[:size], PASSPHRASE)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"-----BEGIN OPENSSH PRIVATE KEY-----\n", id="an ssh key"),
        pytest.param(b"\xff" * 200, id="noise"),
        pytest.param(b"ainp2p key file 1\n", id="nothing but the header"),
        pytest.param(b"ainp2p key file x\n" + bytes(100), id="no version"),
    ],
)
def test_what_is_no_key_file_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedKeyFile):
        open_key(data, PASSPHRASE)


def test_a_later_version_is_refused_by_its_number() -> None:
    with pytest.raises(DamagedKeyFile, match="version 2; this release knows 1"):
        open_key(sealed().replace(b"file 1\n", b"file 2\n"), PASSPHRASE)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"memory_kib": 1 << 30}, id="a tebibyte of memory"),
        pytest.param({"memory_kib": keystore.MEMORY_KIB_MAX + 1}, id="a little too much memory"),
        pytest.param({"memory_kib": 0}, id="no memory"),
        pytest.param({"passes": 0}, id="no passes"),
        pytest.param({"passes": 10**9}, id="a billion passes"),
        pytest.param({"salt": bytes(15)}, id="a short salt"),
        pytest.param({"salt": bytes(17)}, id="a long salt"),
        pytest.param({"nonce": bytes(12)}, id="a short nonce"),
        pytest.param({"box": bytes(47)}, id="a short box"),
        pytest.param({"box": b""}, id="no box"),
        pytest.param({"public": bytes(31)}, id="a short public key"),
        pytest.param({"passes": b"1"}, id="a field of another type"),
    ],
)
def test_a_hostile_file_is_refused_before_any_work(
    fields: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = file_with(**fields)
    monkeypatch.setattr(keystore, "_stretch", lambda *_: pytest.fail("argon2id was run"))
    with pytest.raises(DamagedKeyFile):
        open_key(hostile, PASSPHRASE)


def test_mutant_without_the_bounds_a_hostile_file_reaches_argon2id(monkeypatch: pytest.MonkeyPatch) -> None:
    hostile, asked = file_with(memory_kib=1 << 30), list[int]()

    def stretch(_passphrase: bytes, _salt: bytes, cost: Cost) -> bytes:
        asked.append(cost.memory_kib)
        return bytes(32)

    monkeypatch.setattr(keystore, "_is_bounded", lambda *_: True)
    monkeypatch.setattr(keystore, "_stretch", stretch)
    with pytest.raises(WrongPassphrase):
        open_key(hostile, PASSPHRASE)
    assert asked == [1 << 30]


def test_a_file_that_names_another_public_key_is_refused() -> None:
    with pytest.raises(DamagedKeyFile, match="another public key"):
        open_key(file_with(public=Key(bytes(32)).public), PASSPHRASE)


def test_too_little_memory_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(sodium, "crypto_pwhash_alg", no_memory)
    with pytest.raises(KeystoreError, match="memory"):
        open_key(sealed(), PASSPHRASE)


# --- files --------------------------------------------------------------------------------------


def test_a_stored_key_comes_back(tmp_path: Path) -> None:
    write_key_file(tmp_path / "a.key", KEY, PASSPHRASE, tokens(), CHEAP)
    assert read_key_file(tmp_path / "a.key", PASSPHRASE).seed == KEY.seed


def test_a_key_file_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_key_file(tmp_path / "a.key", KEY, PASSPHRASE, tokens(), CHEAP)
    finally:
        os.umask(before)
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600


def test_nothing_is_left_beside_the_key(tmp_path: Path) -> None:
    write_key_file(tmp_path / "a.key", KEY, PASSPHRASE, tokens(), CHEAP)
    assert [path.name for path in tmp_path.iterdir()] == ["a.key"]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key_file(path, KEY, PASSPHRASE, tokens(), CHEAP)
    before = path.read_bytes()
    with pytest.raises(KeystoreError, match="never overwritten"):
        write_key_file(path, Key(bytes(32)), PASSPHRASE, tokens(), CHEAP)
    assert path.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir()] == ["a.key"]


def test_a_dangling_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "a.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeystoreError, match="never overwritten"):
        write_key_file(tmp_path / "a.key", KEY, PASSPHRASE, tokens(), CHEAP)
    assert not (tmp_path / "elsewhere").exists()


def test_mutant_a_rename_would_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rename(source: Path, target: Path) -> None:
        source.replace(target)
        source.touch()  # store_sealed unlinks it

    monkeypatch.setattr(os, "link", rename)
    write_key_file(tmp_path / "a.key", KEY, PASSPHRASE, tokens(), CHEAP)
    write_key_file(tmp_path / "a.key", Key(bytes(32)), PASSPHRASE, tokens(), CHEAP)
    assert read_key_file(tmp_path / "a.key", PASSPHRASE).public == Key(bytes(32)).public


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_a_disk_that_refuses_leaves_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(KeystoreError, match="No space left"):
        write_key_file(tmp_path / "a.key", KEY, PASSPHRASE, tokens(), CHEAP)
    assert list(tmp_path.iterdir()) == []


def test_the_bytes_are_synced_before_the_name_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        steps.append("sync")
        real_fsync(descriptor)

    def link(source: Path, target: Path) -> None:
        steps.append("link")
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    write_key_file(tmp_path / "a.key", KEY, PASSPHRASE, tokens(), CHEAP)
    assert steps == ["sync", "link", "sync"]


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match="cannot be written"):
        store_sealed(tmp_path / "absent" / "a.key", sealed(), tokens())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601])
def test_a_file_open_to_others_is_not_opened(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    write_key_file(path, KEY, PASSPHRASE, tokens(), CHEAP)
    path.chmod(mode)
    with pytest.raises(LoosePermissions, match="chmod 600"):
        read_key_file(path, PASSPHRASE)
    path.chmod(0o600)
    assert read_key_file(path, PASSPHRASE).public == KEY.public


def test_an_absent_key_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError, match="ainp2p key new bob"):
        read_key_file(tmp_path / "bob.key", PASSPHRASE)


def test_a_directory_or_a_pipe_is_no_key(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.key", 0o600)
    for name in (".", "pipe.key"):
        with pytest.raises(KeystoreError, match="is no file"):
            read_key_file(tmp_path / name, PASSPHRASE)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.key"
    path.touch(0o600)
    os.truncate(path, 1 << 40)
    with pytest.raises(DamagedKeyFile, match="too large"):
        read_key_file(path, PASSPHRASE)
