"""`ainp2p key`: make, show, export and import encrypted keys."""

from __future__ import annotations

import argparse
import base64
import binascii
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ainp2p.cli import exit_codes
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.output import emit
from ainp2p.errors import InvalidInput, KeystoreError
from ainp2p.home import Home, checked_name

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.protocol.identity import Key

_EXPORT_SIZE_MAX = 8192  # bytes of text; an exported key has about 300


def register(subparsers: Subparsers) -> None:
    """Add the group to the command line."""
    commands = add_group(
        subparsers,
        "key",
        "keys: who an agent is, and what signs for it",
        "ainp2p key new alice\nainp2p key show\nainp2p key export alice backup.txt",
    )
    new = add_command(
        commands,
        "new",
        "make a key and store it encrypted",
        _new,
        "ainp2p key new alice\nAINP2P_PASSPHRASE_FILE=secret.txt ainp2p key new alice --json",
    )
    new.add_argument("name", help="how you will call it; the file is $AINP2P_HOME/keys/NAME.key")
    show = add_command(
        commands,
        "show",
        "show the public half of one key, or of all; needs no passphrase",
        _show,
        "ainp2p key show\nainp2p key show alice --json",
    )
    show.add_argument("name", nargs="?", help="which key; all of them if left out")
    export = add_command(
        commands,
        "export",
        "print a key, still encrypted, as one line of text",
        _export,
        "ainp2p key export alice backup.txt\nainp2p key export alice | ssh other ainp2p key import alice -",
    )
    export.add_argument("name", help="which key")
    export.add_argument(
        "file",
        nargs="?",
        type=Path,
        help="a new file to write, for its owner only; standard output if left out",
    )
    import_ = add_command(
        commands,
        "import",
        "store a key that was exported, after trying its passphrase",
        _import,
        "ainp2p key import alice backup.txt\nssh other ainp2p key export alice | ainp2p key import alice -",
    )
    import_.add_argument("name", help="how you will call it here")
    import_.add_argument("file", help="what `ainp2p key export` printed, or a key file; - for standard input")


def add_key_option(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add ``--key NAME`` (`args.key`) to a command of any group; `load_key` opens what it names."""
    parser.add_argument(
        "--key", metavar="NAME", required=required, help="the key to use; see `ainp2p key show`"
    )


def chosen_key(name: str | None) -> str:
    """The name of the key that is meant: `name`, or where none was given the only key that there is.

    Raises:
        InvalidInput: not a name, or none was given and there is not just one key.
    """
    if name is not None:
        return checked_name(name)
    names = Home.from_environment().key_names()
    if not names:
        raise InvalidInput("there is no key yet: `ainp2p key new NAME` makes one")
    if len(names) > 1:
        raise InvalidInput(f"which key? name one of {', '.join(names)}")
    return names[0]


def load_key(name: str) -> Key:
    """Open the key called `name`, asking for its passphrase where one can be asked.

    Raises:
        InvalidInput, KeystoreError: no such name, key or passphrase.
    """
    from ainp2p.passphrase import read_passphrase
    from ainp2p.protocol.keystore import open_key, read_sealed

    data = read_sealed(Home.from_environment().key_file(name))
    return open_key(data, read_passphrase(f"key {name!r}"))


def _new(args: argparse.Namespace) -> int:
    from ainp2p.passphrase import read_passphrase
    from ainp2p.protocol.context import Context
    from ainp2p.protocol.identity import SEED_SIZE, Key
    from ainp2p.protocol.keystore import write_key_file

    path = Home.from_environment().key_file(args.name)
    if path.exists():  # before a passphrase is asked for; the write refuses again, atomically
        raise KeystoreError(f"{path} exists; keys are never overwritten: choose another name")
    token_bytes = Context.system().token_bytes
    key = Key(token_bytes(SEED_SIZE))
    passphrase = read_passphrase(f"the new key {args.name!r}", confirm=True)
    write_key_file(path, key, passphrase, token_bytes)
    return _print_key(args, args.name, key.public, path)


def _show(args: argparse.Namespace) -> int:
    from ainp2p.protocol.keystore import read_sealed, sealed_public

    home = Home.from_environment()
    names = [args.name] if args.name is not None else home.key_names()
    if not names and not args.json:
        emit(args, "there are no keys yet: `ainp2p key new NAME` makes one", {})
    for name in names:
        path = home.key_file(name)
        _print_key(args, name, sealed_public(read_sealed(path)), path)
    return exit_codes.OK


def _export(args: argparse.Namespace) -> int:
    from ainp2p.protocol.identity import peer_id
    from ainp2p.protocol.keystore import read_sealed, sealed_public

    data = read_sealed(Home.from_environment().key_file(args.name))
    text, who = base64.b64encode(data).decode(), peer_id(sealed_public(data))
    if args.file is not None:
        _write_new(args.file, f"{text}\n")
        emit(args, f"written to {args.file}", {"name": args.name, "peer_id": who, "file": str(args.file)})
    else:
        emit(args, text, {"name": args.name, "peer_id": who, "key": text})
    return exit_codes.OK


def _write_new(path: Path, text: str) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except FileExistsError as exc:
        raise KeystoreError(f"{path} exists; nothing was written: choose another file") from exc
    except OSError as exc:
        raise KeystoreError(f"{path} cannot be written: {exc.strerror}") from exc


def _import(args: argparse.Namespace) -> int:
    from ainp2p.passphrase import read_passphrase
    from ainp2p.protocol.context import Context
    from ainp2p.protocol.keystore import open_key, sealed_public, store_sealed

    home = Home.from_environment()
    path = home.key_file(args.name)
    if path.exists():  # before a passphrase is asked for; the write refuses again, atomically
        raise KeystoreError(f"{path} exists; keys are never overwritten: choose another name")
    data = _exported(args.file)
    _refuse_second_name(home, sealed_public(data))
    key = open_key(data, read_passphrase(f"the key in {args.file}"))
    store_sealed(path, data, Context.system().token_bytes)
    return _print_key(args, args.name, key.public, path)


def _refuse_second_name(home: Home, public: bytes) -> None:
    """Books belong to a key's name: two names would keep two, and sign twice for one slot of the account."""
    from ainp2p.protocol.keystore import read_sealed, sealed_public

    for name in home.key_names():
        try:
            here = sealed_public(read_sealed(home.key_file(name)))
        except KeystoreError:  # damaged, or open to others: no reason to refuse another key
            continue
        if here == public:
            raise KeystoreError(f"this key is here already, as {name!r}: use that name")


def _exported(file: str) -> bytes:
    """The bytes of a key file, from its exported text or as they are."""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_EXPORT_SIZE_MAX)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(_EXPORT_SIZE_MAX)
    except OSError as exc:
        raise InvalidInput(f"{file} cannot be read: {exc.strerror}") from exc
    try:
        return base64.b64decode(data.strip(), validate=True)
    except binascii.Error:
        return data


def _print_key(args: argparse.Namespace, name: str, public: bytes, path: Path) -> int:
    from ainp2p.protocol.identity import did_key, peer_id

    data = {
        "name": name,
        "peer_id": peer_id(public),
        "did": did_key(public),
        "public": public.hex(),
        "file": str(path),
    }
    width = max(len(word) for word in data)
    emit(args, "\n".join(f"{word:<{width}}  {value}" for word, value in data.items()), data)
    return exit_codes.OK
