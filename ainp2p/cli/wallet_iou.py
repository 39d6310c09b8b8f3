"""`ainp2p wallet iou …`: credit between two parties without a committee. Everything it prints says so.

What it prints in hexadecimal goes to the other party by whatever way: both run these commands in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ainp2p.cli import exit_codes
from ainp2p.cli.choosing import add_network_option, chosen_genesis, public_key
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.key import chosen_key, load_key
from ainp2p.cli.opening import account_from, run_with_wallet
from ainp2p.cli.output import emit
from ainp2p.errors import InvalidInput, Malformed
from ainp2p.home import Home

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.ledger.wallets.iou import IouBook
    from ainp2p.ledger.wallets.iou_store import Ious
    from ainp2p.ledger.wallets.wallet import Wallet

Use = Callable[[argparse.Namespace, "Ious"], Awaitable[None]]


def register(wallet_commands: Subparsers) -> None:
    """Add `iou` to the wallet's commands."""
    commands = add_group(
        wallet_commands,
        "iou",
        "unbacked credit between two parties, for where no committee is reachable",
        "ainp2p wallet iou line alice 12D3KooW… --owe 5ain --lend 5ain   # prints what the other one signs\n"
        "ainp2p wallet iou list alice",
    )
    line = _command(commands, "line", "offer a line of credit, or sign one that was offered", _line)
    line.add_argument("other", help="the other party's key name, peer id or did:key; or its offer, in hex")
    line.add_argument("--owe", default="0", help="what you may owe, at most (0)")
    line.add_argument("--lend", default="0", help="what the other one may owe you: all of it can be lost (0)")
    promise = _command(commands, "promise", "owe more; prints the IOU", _promise)
    promise.add_argument("line", help="its id, as `list` shows it")
    promise.add_argument("amount", help="250 (uain), or 1.5ain")
    accept = _command(commands, "accept", "take an IOU of the other party", _accept)
    accept.add_argument("line", help="its id")
    accept.add_argument("iou", help="what `promise` printed")
    _command(commands, "list", "lines, and what is owed on them", _list)
    _command(commands, "settle", "turn what you owe into deposits; prints the settlements", _settle)
    take = _command(commands, "take", "collect a settlement: money, once it is final", _take)
    take.add_argument("settlement", help="what `settle` printed")


def _command(
    commands: Subparsers, name: str, help_: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
    parser = add_command(commands, name, help_, run, f"ainp2p wallet iou {name} alice …")
    parser.add_argument("key", help="name of a key of yours")
    add_network_option(parser)
    return parser


def _with_ious(args: argparse.Namespace, use: Use, signer: Any) -> int:
    import trio

    trio.run(_open, args, use, signer)
    return exit_codes.OK


async def _open(args: argparse.Namespace, use: Use, signer: Any) -> None:
    from ainp2p.ledger.wallets.iou_store import open_ious

    genesis = chosen_genesis(args.network)
    name = chosen_key(args.key)
    directory = Home.from_environment().network(genesis.network_id) / "agents" / name / "wallet"
    account = account_from(name, genesis)
    async with open_ious(directory, genesis.network_id, account, signer) as ious:
        await use(args, ious)


# --- lines --------------------------------------------------------------------------------------------


def _line(args: argparse.Namespace) -> int:
    key = load_key(args.key)
    if len(args.other) > 300:  # an offer: two accounts, two keys
        return _with_ious(args, _sign_offer, key)
    from ainp2p.ledger.rules.amounts import amount_from_text
    from ainp2p.ledger.wallets.iou import LineOffer, Party, new_line, sign_line
    from ainp2p.protocol.codec import encode
    from ainp2p.protocol.context import Context

    genesis = chosen_genesis(args.network)
    us = Party(account_from(args.key, genesis), key.public, amount_from_text(args.owe))
    them = Party(account_from(args.other, genesis), public_key(args.other), amount_from_text(args.lend))
    line = new_line(genesis.network_id, us, them, Context.system().token_bytes(32))
    offer = encode(LineOffer(encode(line), key.public, sign_line(line, key))).hex()
    emit(args, offer, {"offer": offer, "mark": _mark()})
    return exit_codes.OK


async def _sign_offer(args: argparse.Namespace, ious: Ious) -> None:
    from ainp2p.ledger.wallets.iou import LineOffer, SignedLine, accept_offer
    from ainp2p.protocol.codec import decode, encode

    raw = _hex(args.other)
    try:
        signed = decode(raw, SignedLine)
    except Malformed:  # then it is an offer, which we sign as well
        signed = accept_offer(decode(raw, LineOffer), ious.signer)
    book = await ious.open(signed)
    text = encode(signed).hex()
    _print(args, book, {"signed": text})
    if not args.json:
        print(text)


# --- owing --------------------------------------------------------------------------------------------


def _promise(args: argparse.Namespace) -> int:
    return _with_ious(args, _do_promise, load_key(args.key))


async def _do_promise(args: argparse.Namespace, ious: Ious) -> None:
    from ainp2p.ledger.rules.amounts import amount_from_text
    from ainp2p.protocol.codec import encode
    from ainp2p.protocol.identity import id_from_text

    signed = await ious.promise(id_from_text(args.line), amount_from_text(args.amount), 0, bytes(32))
    text = encode(signed).hex()
    emit(args, text, {"iou": text, "mark": _mark()})


def _accept(args: argparse.Namespace) -> int:
    return _with_ious(args, _do_accept, _looker(args))


async def _do_accept(args: argparse.Namespace, ious: Ious) -> None:
    from ainp2p.ledger.wallets.iou import SignedIou
    from ainp2p.protocol.codec import decode
    from ainp2p.protocol.identity import id_from_text

    line = id_from_text(args.line)
    gained = await ious.accept(line, decode(_hex(args.iou), SignedIou))
    _print(args, ious.books[line], {"gained": gained})


def _list(args: argparse.Namespace) -> int:
    return _with_ious(args, _do_list, _looker(args))


async def _do_list(args: argparse.Namespace, ious: Ious) -> None:
    for line in sorted(ious.books):
        _print(args, ious.books[line], {})


# --- settling -----------------------------------------------------------------------------------------


def _settle(args: argparse.Namespace) -> int:
    key = load_key(args.key)

    async def settle(args: argparse.Namespace, wallet: Wallet) -> None:
        from ainp2p.ledger.wallets.iou_store import settle_ious
        from ainp2p.protocol.codec import encode
        from ainp2p.protocol.identity import id_text

        async def all_of_them(args: argparse.Namespace, ious: Ious) -> None:
            for settlement in await settle_ious(wallet, ious):
                text = encode(settlement).hex()
                emit(args, text, {"line": id_text(settlement.line), "settlement": text})

        await _open(args, all_of_them, key)

    return run_with_wallet(args, settle, signs=True)


def _take(args: argparse.Namespace) -> int:
    async def take(args: argparse.Namespace, wallet: Wallet) -> None:
        from ainp2p.ledger.wallets.iou import Settlement
        from ainp2p.protocol.codec import decode

        settlement = decode(_hex(args.settlement), Settlement)

        async def take_it(args: argparse.Namespace, ious: Ious) -> None:
            amount = await ious.take_settlement(wallet, settlement)
            emit(args, f"{amount} uain are settled and final", {"settled": amount, "final": True})

        await _open(args, take_it, _looker(args))

    return run_with_wallet(args, take, signs=True)


# --- printing -----------------------------------------------------------------------------------------


def _looker(args: argparse.Namespace) -> Any:
    from ainp2p.cli.opening import Watcher

    return Watcher(public_key(chosen_key(args.key)))


def _mark() -> str:
    from ainp2p.ledger.wallets.iou import MARK

    return MARK


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as exc:
        raise InvalidInput("that is no hexadecimal") from exc


def _print(args: argparse.Namespace, book: IouBook, more: dict[str, Any]) -> None:
    from ainp2p.protocol.identity import id_text

    who = "they owe you" if book.balance >= 0 else "you owe them"
    emit(
        args,
        f"{id_text(book.id)}  {who} {abs(book.balance)} uain ({_mark()}), "
        f"you may owe {book.us.party.limit}, they {book.them.party.limit}",
        {
            "line": id_text(book.id),
            "with": id_text(book.them.party.account),
            "balance": book.balance,
            "mark": _mark(),
            "limit_ours": book.us.party.limit,
            "limit_theirs": book.them.party.limit,
            **more,
        },
    )
