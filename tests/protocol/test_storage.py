"""Where things are kept: real files, whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ainp2p.protocol.context import Context
from ainp2p.protocol.storage import FILES, INLINE, Files


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    FILES.write(tmp_path / "new" / "a", b"one")
    FILES.write(tmp_path / "new" / "a", b"two")
    assert FILES.read(tmp_path / "new" / "a") == b"two"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FILES.write(tmp_path / "a", b"one")

    def full(handle: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        FILES.write(tmp_path / "a", b"two")
    assert FILES.read(tmp_path / "a") == b"one"


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    assert FILES.read(tmp_path / "a") is None


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    FILES.write(tmp_path / "a", b"")
    FILES.connect(tmp_path / "b").close()
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "ab"] == [0o600, 0o600]


def test_what_has_no_directory_blocks_nobody() -> None:
    context = Context(lambda: 0, bytes, Context.system().rng, FILES)
    assert context.storage_of(None) is INLINE
    assert context.storage_of(Path("home")) is FILES


async def test_disk_work_is_done_by_the_runner_that_was_given() -> None:
    done: list[object] = []

    async def runner(job: Callable[[], Any]) -> int:
        done.append(job)
        return 7

    assert await Files(runner).run(int) == 7
    assert done == [int]
