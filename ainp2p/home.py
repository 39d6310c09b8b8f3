"""Where ainp2p keeps its files: ``$AINP2P_HOME``, else ``~/.ainp2p``. Directories appear when needed.

    keys/<name>.key     encrypted keys            models/   weights, by hash
    networks/<id>/      genesis, wallet, votes    run/      what runs on this machine now

Everything is for its owner only (mode 0700). Nothing here reads or writes the files themselves.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ainp2p.errors import InvalidInput, StorageError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Home:
    """One home directory; each method returns a directory that exists, or raises `StorageError`."""

    root: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Home:
        """``$AINP2P_HOME``, else ``~/.ainp2p``."""
        chosen = environ.get("AINP2P_HOME")
        return cls(Path(chosen).expanduser().absolute() if chosen else Path.home() / ".ainp2p")

    def keys(self) -> Path:
        """Key files."""
        return self._directory("keys")

    def key_file(self, name: str) -> Path:
        """Where the key called `name` is, whether or not it exists.

        Raises:
            InvalidInput: the name could lead out of the directory, or hide in it.
        """
        return self.keys() / f"{checked_name(name)}.key"

    def key_names(self) -> list[str]:
        """Names of all keys, sorted."""
        return sorted(path.stem for path in self.keys().glob("*.key"))

    def network(self, network_id: bytes) -> Path:
        """All that belongs to one network, by its 32-byte id."""
        return self._directory("networks", network_id.hex())

    def networks(self) -> Path:
        """The directories of all networks, each named by its id in hex."""
        return self._directory("networks")

    def models(self) -> Path:
        """Weights, fetched and converted once."""
        return self._directory("models")

    def run(self) -> Path:
        """What runs on this machine now, such as ``dev.json``."""
        return self._directory("run")

    def _directory(self, *parts: str) -> Path:
        path = self.root
        try:
            self.root.parent.mkdir(parents=True, exist_ok=True)
            for part in ("", *parts):
                path = path / part
                path.mkdir(mode=0o700, exist_ok=True)
        except OSError as exc:
            raise StorageError(f"{path} cannot be used ({exc.strerror}): set AINP2P_HOME elsewhere") from exc
        return path


def checked_name(name: str) -> str:
    """`name` if it can be a file's name on every system.

    Raises:
        InvalidInput: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} is no name: at most 64 of letters, digits, '_', '-' and '.', not first")
    return name
