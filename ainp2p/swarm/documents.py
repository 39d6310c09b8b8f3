"""Reads the files and folders that a person names: text and Markdown in UTF-8, and nothing else.

What cannot be used is refused by name with the reason; one bad file never stops the others. Reading is
bounded in size, number and depth and never waits: a pipe or a device is not opened. The same tree gives the
same result. Inside a folder, names that start with a dot (.git, .venv) are a tool's and are passed over.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ainp2p.errors import InvalidInput

TEXT_SUFFIXES = frozenset({".txt", ".text", ".rst"})
MARKDOWN_SUFFIXES = frozenset({".md", ".markdown", ".mdown"})


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is read; what is beyond is refused by name."""

    file_bytes: int = 2 << 20  # a long book is about 1 MiB
    total_bytes: int = 16 << 20
    files: int = 1_000
    depth: int = 16
    entries: int = 20_000  # looked at in all folders together


@dataclass(frozen=True, slots=True)
class Document:
    """One file: `text` has ``\\n`` line ends only and no byte order mark."""

    path: str
    text: str
    size: int
    markdown: bool


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was not read, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that was named: read or refused, each in the order of names."""

    documents: tuple[Document, ...]
    refused: tuple[Refusal, ...]


class _Unusable(InvalidInput):
    """This one file or folder cannot be used."""


def read(paths: Sequence[str | Path], limits: Limits | None = None) -> Reading:
    """Read all files named and all files below the folders named."""
    limits = limits or Limits()
    documents: list[Document] = []
    refused: list[Refusal] = []
    seen: set[tuple[int, int]] = set()
    total = 0
    for path in _walk(paths, limits, refused):
        name = _name(path)
        try:
            if len(documents) >= limits.files:
                raise _Unusable(f"more than {limits.files} files; name fewer")
            identity, data = _bytes(path, limits)
            if identity in seen:
                continue  # named twice, or reached through a link as well
            if total + len(data) > limits.total_bytes:
                raise _Unusable(f"more than {limits.total_bytes:,} bytes in all; name fewer or smaller files")
            text = _decode(data)
        except _Unusable as exc:
            refused.append(Refusal(name, str(exc)))
            continue
        seen.add(identity)
        total += len(data)
        documents.append(Document(name, text, len(data), path.suffix.lower() in MARKDOWN_SUFFIXES))
    return Reading(tuple(documents), tuple(refused))


# --- finding ------------------------------------------------------------------------------------------


def _walk(paths: Sequence[str | Path], limits: Limits, refused: list[Refusal]) -> Iterator[Path]:
    """Every file, each folder's entries in the order of their names; folders are entered once."""
    entered: set[tuple[int, int]] = set()
    waiting = [(Path(path), 0) for path in reversed(paths)]
    looked_at = 0
    while waiting:
        path, depth = waiting.pop()
        looked_at += 1
        if looked_at > limits.entries:
            refused.append(Refusal(_name(path), f"the rest is left out after {limits.entries:,} entries"))
            return
        try:
            entry = _stat(path)
            if not stat.S_ISDIR(entry.st_mode):
                yield path
                continue
            if (entry.st_dev, entry.st_ino) in entered:
                raise _Unusable("a folder that was read before (a link makes a loop, or it was named twice)")
            if depth > limits.depth:
                raise _Unusable(f"more than {limits.depth} folders deep")
            entered.add((entry.st_dev, entry.st_ino))
            children = sorted(os.listdir(path), reverse=True)
        except (_Unusable, OSError) as exc:
            refused.append(Refusal(_name(path), _reason(exc)))
            continue
        waiting += [(path / child, depth + 1) for child in children if not child.startswith(".")]


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except (OSError, ValueError) as exc:
        raise _Unusable(_reason(exc)) from exc


# --- reading ------------------------------------------------------------------------------------------


def _bytes(path: Path, limits: Limits) -> tuple[tuple[int, int], bytes]:
    """The file's identity and content.

    Raises:
        _Unusable: not a regular file, of another kind, too large, or not readable.
    """
    suffix = path.suffix.lower()
    if suffix and suffix not in TEXT_SUFFIXES | MARKDOWN_SUFFIXES:
        raise _Unusable(f"{path.suffix} is neither text (.txt, .rst) nor Markdown (.md)")
    if not stat.S_ISREG(_stat(path).st_mode):
        raise _Unusable("not a regular file")  # opening a pipe would wait for its writer
    try:
        # O_NONBLOCK: should it have become a pipe since, opening still does not wait.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            entry = os.fstat(handle)
            if not stat.S_ISREG(entry.st_mode):
                raise _Unusable("not a regular file")
            data = file.read(limits.file_bytes + 1)
    except OSError as exc:
        raise _Unusable(_reason(exc)) from exc
    if len(data) > limits.file_bytes:
        raise _Unusable(f"larger than {limits.file_bytes:,} bytes; split it")
    return (entry.st_dev, entry.st_ino), data


def _decode(data: bytes) -> str:
    """UTF-8 text with ``\\n`` line ends.

    Raises:
        _Unusable: empty, binary, or in another encoding.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Unusable("UTF-16; save it as UTF-8")
    if b"\0" in data:
        raise _Unusable("binary (it has zero bytes)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise _Unusable(f"not UTF-8 (byte {exc.start}); save it as UTF-8") from exc
    if not text.strip():
        raise _Unusable("empty")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _name(path: Path) -> str:
    """The path as text; bytes that are no UTF-8 are shown as such."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError):
        known = {
            errno.ELOOP: "links that lead to one another",
            errno.ENOENT: "no such file or folder",
            errno.EACCES: "no permission to read it",
            errno.ENAMETOOLONG: "the name is too long",
        }
        return known.get(exc.errno or 0, os.strerror(exc.errno) if exc.errno else str(exc))
    return str(exc)
