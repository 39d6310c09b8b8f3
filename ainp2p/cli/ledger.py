"""`ainp2p ledger`: take facts out of the ledger with everything that proves them, and judge such bundles."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ainp2p.cli import exit_codes
from ainp2p.cli.choosing import add_network_option, chosen_genesis
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.output import emit, note
from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add the group to the command line."""
    commands = add_group(
        subparsers,
        "ledger",
        "facts of the ledger with their proofs: export them, judge them offline",
        "ainp2p ledger export --object ain:7Yx… deposit.bundle\nainp2p ledger verify deposit.bundle",
    )
    export = add_command(
        commands,
        "export",
        "write a bundle: the newest proven state of accounts and deposits, and all that proves it",
        _export,
        "ainp2p ledger export --object ain:7Yx… deposit.bundle\n"
        "ainp2p ledger export --object ain:7Yx… --object ain:9Qk… both.bundle --network home/genesis",
    )
    export.add_argument("file", type=Path, metavar="FILE", help="where to write it; not overwritten")
    export.add_argument(
        "--object",
        action="append",
        required=True,
        metavar="ID",
        help="ain:… id of an account or a deposit; again for more",
    )
    add_network_option(export)
    verify = add_command(
        commands,
        "verify",
        "judge a bundle, or all in a directory, without any network",
        _verify,
        "ainp2p ledger verify deposit.bundle                    # proven within the network that it names\n"
        "ainp2p ledger verify deposit.bundle --network home/genesis\n"
        "ainp2p ledger verify bundles/ --json\n"
        "ainp2p ledger verify deposit.bundle --checkpoint ain:4Hd…",
    )
    verify.add_argument("path", type=Path, metavar="FILE|DIR", help="a bundle, or a directory of bundles")
    verify.add_argument(
        "--network",
        help="genesis file, or the beginning of a joined network's id: a bundle of another one is refused",
    )
    verify.add_argument(
        "--checkpoint",
        metavar="ID",
        help="ain:… id of a COMMITTEE that you trust: nothing is believed that does not follow from it",
    )


def _export(args: argparse.Namespace) -> int:
    import trio

    from ainp2p.protocol.identity import id_from_text, id_text

    objects = [id_from_text(word) for word in args.object]
    if args.file.exists():
        raise InvalidInput(f"{args.file} is there already: choose another name")
    raw = trio.run(_ask, args, objects)
    try:
        with args.file.open("xb") as file:
            file.write(raw)
    except OSError as exc:
        raise InvalidInput(f"cannot write {args.file}: {exc.strerror}") from exc
    facts = {"file": str(args.file), "bytes": len(raw), "objects": [id_text(id_) for id_ in objects]}
    emit(args, f"wrote {args.file}: {len(raw)} bytes, {len(objects)} objects", facts)
    return exit_codes.OK


async def _ask(args: argparse.Namespace, objects: list[bytes]) -> bytes:
    from ainp2p.ledger.serving.sync import Validators
    from ainp2p.ledger.wallets.exporting import export
    from ainp2p.protocol.context import Context
    from ainp2p.protocol.identity import Key
    from ainp2p.protocol.libp2p import open_network

    genesis = chosen_genesis(args.network)
    async with open_network(Key(Context.system().token_bytes(32)), ()) as network:
        return await export(Validators(network, genesis), genesis, objects)


def _verify(args: argparse.Namespace) -> int:
    from ainp2p.ledger.wallets.bundle import all_hold, judge
    from ainp2p.protocol.identity import id_from_text

    network = None if args.network is None else chosen_genesis(args.network).network_id
    checkpoint = None if args.checkpoint is None else id_from_text(args.checkpoint)
    holds = True
    for path in _files(args.path):
        verdicts = judge(_read(path), network=network, checkpoint=checkpoint)
        for verdict in verdicts:
            word = "PROVEN" if verdict.holds else "NOT PROVEN"
            facts = {"file": str(path), "part": verdict.part, "holds": verdict.holds, "says": verdict.says}
            emit(args, f"{path}: {verdict.part}: {word}: {verdict.says}", {**facts, **verdict.facts})
        holds = holds and all_hold(verdicts)
    if network is None and checkpoint is None:
        note(args, "the bundle named its network itself: --network says which one it has to be")
    return exit_codes.OK if holds else exit_codes.FAILED


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
    if not files:
        raise InvalidInput(f"{path} has no files: nothing was judged")
    return files


def _read(path: Path) -> bytes:
    from ainp2p.ledger.wallets.bundle import BUNDLE_SIZE_MAX

    try:
        with path.open("rb") as file:
            return file.read(BUNDLE_SIZE_MAX + 1)
    except OSError as exc:
        raise InvalidInput(f"cannot read {path}: {exc.strerror}") from exc
