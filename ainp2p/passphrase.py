"""Where a passphrase comes from: the file named by ``AINP2P_PASSPHRASE_FILE``, else the terminal.

Never from an argument or from an environment variable itself (other processes can read both), and
never by waiting for somebody who is not there.
"""

from __future__ import annotations

import getpass
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ainp2p.errors import InvalidInput, LoosePermissions

VARIABLE = "AINP2P_PASSPHRASE_FILE"
PASSPHRASE_SIZE_MAX = 4096  # bytes


def read_passphrase(what: str, *, confirm: bool = False, environ: Mapping[str, str] = os.environ) -> bytes:
    """The passphrase for `what` (such as ``"key alice"``), never empty.

    Args:
        confirm: ask twice on a terminal, for a new key.

    Raises:
        InvalidInput: no file is named and there is no terminal; or nothing, or two things, were typed.
        LoosePermissions: others may read the file.
    """
    named = environ.get(VARIABLE)
    if named:
        return passphrase_from_file(Path(named))
    if not _has_terminal():
        raise InvalidInput(f"no terminal to ask for the passphrase of {what}: name a file in {VARIABLE}")
    typed = _ask(f"Passphrase of {what}: ")
    if confirm and _ask("The same again: ") != typed:
        raise InvalidInput("the two passphrases differ")
    return _checked(typed.encode(), "the passphrase")


def passphrase_from_file(path: Path) -> bytes:
    """The content of a file, without a newline at its end.

    Raises:
        InvalidInput: it cannot be read, is empty or too long.
        LoosePermissions: others may read it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if stat.S_ISREG(mode) and mode & 0o077:
                raise LoosePermissions(f"{path} is open to others: `chmod 600 {path}`")
            data = file.read(PASSPHRASE_SIZE_MAX + 1)
    except OSError as exc:
        raise InvalidInput(f"the passphrase file {path} cannot be read: {exc.strerror}") from exc
    return _checked(data.removesuffix(b"\n").removesuffix(b"\r"), str(path))


def _checked(passphrase: bytes, where: str) -> bytes:
    if not 1 <= len(passphrase) <= PASSPHRASE_SIZE_MAX:
        raise InvalidInput(f"{where} has {len(passphrase)} bytes; 1 to {PASSPHRASE_SIZE_MAX} are taken")
    return passphrase


def _has_terminal() -> bool:
    """Whether somebody could answer: a controlling terminal whose foreground job we are."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _ask(prompt: str) -> str:
    try:
        return getpass.getpass(prompt)
    except EOFError as exc:
        raise InvalidInput("no passphrase was typed") from exc
