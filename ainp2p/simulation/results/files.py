"""Files and directories that are written whole, once, or not at all: results are never overwritten."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ainp2p.errors import InvalidInput


@contextmanager
def new_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft to write; it becomes `path` when the block ends well.

    Raises:
        InvalidInput: `path` exists, now or when the block ends; it stays as it was. Or nothing can be
            written there.
    """
    path = Path(path)
    if path.exists():
        raise InvalidInput(f"{path} exists already: results are not overwritten, choose another name")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(path)
    try:
        with writing(path):
            yield draft
        try:
            os.link(draft, path)  # unlike a rename, this fails if somebody else was faster
        except FileExistsError as exc:
            raise InvalidInput(f"{path} has appeared meanwhile: it was not overwritten") from exc
    finally:
        with suppress(OSError):  # nothing is there, or nothing could be
            draft.unlink()


@contextmanager
def new_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A draft directory to fill; it becomes `path` when the block ends well.

    Raises:
        InvalidInput: `path` exists and is not an empty directory, now or when the block ends. Or nothing can
            be written there.
    """
    path = Path(path)
    check_free(path)
    draft = _new_draft(path)
    try:
        with writing(path):
            yield draft
        try:
            draft.replace(path)  # POSIX replaces nothing but an empty directory
        except OSError as exc:
            raise InvalidInput(f"{path} has been filled meanwhile: it was not overwritten") from exc
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def check_free(path: Path) -> None:
    """Raises InvalidInput unless a directory can be made at `path` without losing anything."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InvalidInput(f"{path} exists already: results are not overwritten, choose another name")


def check_writable(path: Path) -> None:
    """Raises InvalidInput unless something can be written at `path`, before hours of work for it."""
    _new_draft(path).rmdir()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the file system refuses becomes InvalidInput, which names `path` and not a draft beside it."""
    try:
        yield
    except (OSError, InvalidInput) as exc:
        cause = exc.__cause__ if isinstance(exc, InvalidInput) else exc  # of a file in a draft, said already
        if not isinstance(cause, OSError):
            raise
        raise InvalidInput(f"{path} cannot be written: {cause.strerror or cause}") from cause


def _new_draft(path: Path) -> Path:
    draft = _draft(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.mkdir()
    return draft


def _draft(path: Path) -> Path:
    """A name beside `path` that no other process and no other thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
