"""`ainp2p wallet lock …`: deposits of every kind: channels, escrows, bounties, splits."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainp2p.cli.choosing import add_checkpoint_option, add_network_option, chosen_genesis, public_key
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.opening import account_from, duration_ms, run_with_wallet
from ainp2p.cli.output import emit
from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.ledger.rules.genesis import Genesis
    from ainp2p.ledger.wallets.wallet import LockState, Wallet


def register(wallet_commands: Subparsers) -> None:
    """Add `lock` to the wallet's commands."""
    commands = add_group(
        wallet_commands,
        "lock",
        "deposits: put one up, release it, settle it, end it, look",
        "ainp2p wallet lock open alice 1ain --pay bob=2 --pay carol --life 7d\n"
        "ainp2p wallet lock open alice 5ain --bounty --verifier v1 --verifier v2 --threshold 2\n"
        "ainp2p wallet lock release v1 ain:9Xq… 5ain --payee bob\n"
        "ainp2p wallet lock settle alice ain:9Xq…",
    )
    _register_open(commands)
    release = add_command(
        commands,
        "release",
        "sign as a verifier, or collect what verifiers have signed",
        _release,
        "ainp2p wallet lock release v1 ain:9Xq… 700 --reason 'translated well'   # prints your part\n"
        "ainp2p wallet lock release bob ain:9Xq… --add 93c4…                      # collects a part",
    )
    _add_key_and_lock(release)
    release.add_argument("amount", nargs="?", help="uain that are earned in all")
    release.add_argument("--payee", help="who earned a bounty: ain:… id, key name, peer id or did:key")
    release.add_argument("--reason", default="", help="why an escrow pays; the same for every verifier")
    release.add_argument(
        "--add", metavar="PART", action="append", default=[], help="a verifier's part, in hex"
    )
    for name, help_, run in (
        ("settle", "pay what is earned; anybody may", _settle),
        ("close", "pay what is earned, and give the rest back to the payer", _close),
        ("refund", "end an expired deposit: the rest goes back to its payer", _refund),
        ("show", "one deposit, its parties, what each has got", _show),
    ):
        _add_key_and_lock(
            add_command(commands, name, help_, run, f"ainp2p wallet lock {name} alice ain:9Xq…")
        )
    list_ = add_command(
        commands,
        "list",
        "open deposits that concern an account, told of or not",
        _list,
        "ainp2p wallet lock list alice --json",
    )
    list_.add_argument("key", nargs="?", help="name of a key of yours; the only one if left out")
    add_network_option(list_)
    add_checkpoint_option(list_)


def _register_open(commands: Subparsers) -> None:
    open_ = add_command(
        commands,
        "open",
        "put up a deposit; returns once it is final",
        _open,
        "ainp2p wallet lock open alice 1ain --pay bob --life 12h               # a channel\n"
        "ainp2p wallet lock open alice 1ain --pay bob --verifier v1 --verifier v2 --threshold 1\n"
        'ainp2p wallet lock open alice 1ain --split shares.json                # [["bob", 1], [[[…]], 2]]',
    )
    open_.add_argument("key", help="name of a key of yours: who pays")
    open_.add_argument("deposit", help="250 (uain), or 1.5ain")
    open_.add_argument("--pay", metavar="WHO[=PARTS]", action="append", default=[], help="a beneficiary")
    open_.add_argument(
        "--split", metavar="FILE", type=Path, help="JSON: [[who or another such list, parts], …]"
    )
    open_.add_argument("--bounty", action="store_true", help="verifiers will name who is paid")
    open_.add_argument(
        "--verifier", metavar="KEY", action="append", default=[], help="signs releases, not you"
    )
    open_.add_argument("--threshold", metavar="K", type=int, help="so many verifiers must agree (all)")
    open_.add_argument("--closer", metavar="KEY", help="may end it early; the only payee's key, else nobody")
    open_.add_argument("--step", default="1", help="the least that a settlement pays (1)")
    open_.add_argument(
        "--life", default="1h", help="how long until it can be refunded: 90s, 30m, 12h, 7d (1h)"
    )
    open_.add_argument("--purpose", default="", help="what it is for; only a digest is stored")
    open_.add_argument("--note", default="", help="names it, so that a repetition is not a second one")
    add_network_option(open_)
    add_checkpoint_option(open_)


def _add_key_and_lock(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", help="name of a key of yours")
    parser.add_argument("lock", help="the deposit's ain:… id")
    add_network_option(parser)
    add_checkpoint_option(parser)


# --- commands -----------------------------------------------------------------------------------------


def _open(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _do_open, signs=True)


def _release(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _do_release, signs=args.amount is not None)


def _settle(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _do_settle)


def _close(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _do_close, signs=True)


def _refund(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _do_refund)


def _show(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _do_show)


def _list(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _do_list)


async def _do_open(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.ledger.rules.amounts import amount_from_text

    genesis = chosen_genesis(args.network)
    verifiers = [public_key(word) for word in args.verifier]
    state = await wallet.open_lock(
        _beneficiaries(args, genesis),
        _closer(args),
        amount_from_text(args.deposit),
        amount_from_text(args.step),
        duration_ms(args.life),
        args.purpose.encode(),
        authority=verifiers,
        threshold=args.threshold or max(1, len(verifiers)),
        note=args.note.encode() or None,
    )
    _print(args, wallet, state)


def _beneficiaries(args: argparse.Namespace, genesis: Genesis) -> Any:
    from ainp2p.ledger.rules.locks import ANY_PAYEE

    if sum((bool(args.pay), args.split is not None, args.bounty)) != 1:
        raise InvalidInput("say who is paid: --pay (as often as you like), or --split FILE, or --bounty")
    if args.bounty:
        if not args.verifier:
            raise InvalidInput("a bounty needs at least one --verifier, who will name its payee")
        return [(ANY_PAYEE, 1)]
    if args.split is not None:
        return _split(_json(args.split), genesis)
    pairs = [word.partition("=") for word in args.pay]
    return [(account_from(who, genesis), _parts(parts or "1")) for who, _, parts in pairs]


def _parts(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise InvalidInput(f"{text!r} is no number of parts")
    return int(text)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as exc:
        raise InvalidInput(f"cannot read the split {path}: {exc}") from exc


def _split(tree: Any, genesis: Genesis) -> Any:
    if not isinstance(tree, list) or not all(isinstance(e, list) and len(e) == 2 for e in tree):
        raise InvalidInput("a split is a list of [who, parts], where who is a name or another split")
    found = []
    for whom, parts in tree:
        if not isinstance(parts, int):
            raise InvalidInput("parts are whole numbers")
        inner = account_from(whom, genesis) if isinstance(whom, str) else _split(whom, genesis)
        found.append((inner, parts))
    return found


def _closer(args: argparse.Namespace) -> bytes:
    if args.closer is not None:
        return public_key(args.closer)
    if not args.verifier and len(args.pay) == 1 and not args.pay[0].startswith("ain:"):
        return public_key(args.pay[0].partition("=")[0])
    return bytes(32)  # nobody has this key: it ends at its expiry, or when all of it is paid


async def _do_release(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.ledger.rules.amounts import amount_from_text
    from ainp2p.ledger.rules.receipts import read_receipt
    from ainp2p.ledger.rules.releases import Partial
    from ainp2p.protocol.codec import decode, encode

    lock = _lock(args)
    if (args.amount is None) == (not args.add):
        raise InvalidInput("either an amount to sign for, or --add with what others have signed")
    whole = None
    for text in args.add:
        try:
            raw = bytes.fromhex(text)
        except ValueError as exc:
            raise InvalidInput("a part is hexadecimal, as `release` has printed it") from exc
        whole = await wallet.add_release(decode(raw, Partial), lock)
    if args.amount is not None:
        payee = account_from(args.payee, chosen_genesis(args.network)) if args.payee else None
        part = await wallet.sign_release(
            lock, amount_from_text(args.amount), payee=payee, reason=args.reason.encode()
        )
        whole = await wallet.add_release(part, lock)
        emit(args, encode(part).hex(), {"part": encode(part).hex()})
    if whole is None:
        emit(args, "more verifiers must sign the same", {"whole": False})
    else:
        earned = read_receipt(whole.body).cumulative
        emit(args, f"{earned} uain are released: settle it", {"whole": True, "cumulative": earned})


async def _do_settle(args: argparse.Namespace, wallet: Wallet) -> None:
    _print(args, wallet, await wallet.settle(_lock(args)))


async def _do_close(args: argparse.Namespace, wallet: Wallet) -> None:
    _print(args, wallet, await wallet.close(_lock(args)))


async def _do_refund(args: argparse.Namespace, wallet: Wallet) -> None:
    _print(args, wallet, await wallet.refund(_lock(args)))


async def _do_show(args: argparse.Namespace, wallet: Wallet) -> None:
    _print(args, wallet, await wallet.lock(_lock(args)))


async def _do_list(args: argparse.Namespace, wallet: Wallet) -> None:
    for state in await wallet.discover_locks():
        _print(args, wallet, state)


# --- printing -----------------------------------------------------------------------------------------


def _lock(args: argparse.Namespace) -> bytes:
    from ainp2p.protocol.identity import id_from_text

    return id_from_text(args.lock)


def _print(args: argparse.Namespace, wallet: Wallet, state: LockState) -> None:
    from ainp2p.ledger.rules.locks import ANY_PAYEE
    from ainp2p.ledger.rules.shares import dust, received
    from ainp2p.protocol.identity import did_key, id_text

    lock, got = state.lock, received(state.lock)
    total = sum(beneficiary.parts for beneficiary in lock.beneficiaries)
    payees = [
        {
            "account": "whom its verifiers name" if b.account == ANY_PAYEE else id_text(b.account),
            "parts": b.parts,
            "received": got[b.account],
        }
        for b in lock.beneficiaries
    ]
    data = {
        "lock": id_text(lock.id),
        "open": state.is_open,
        "payer": id_text(lock.payer),
        "beneficiaries": payees,
        "deposit": lock.deposit,
        "paid": lock.paid,
        "dust": dust(lock),
        "promised": wallet.unsettled(lock.id),
        "step": lock.step,
        "threshold": lock.threshold,
        "authority": [did_key(key) for key in lock.authority],
        "expiry_ms": lock.expiry,
    }
    lines = [
        f"{data['lock']}  {'open' if state.is_open else 'ended'}, until {lock.expiry}",
        f"  payer    {data['payer']}",
        *(f"  payee    {p['account']}  {p['parts']} of {total} parts, {p['received']} uain" for p in payees),
        f"  paid     {lock.paid} of {lock.deposit} uain, {data['promised']} more promised, "
        f"dust {data['dust']}, step {lock.step}",
        f"  signs    {lock.threshold} of {len(lock.authority)} keys",
    ]
    emit(args, "\n".join(lines), data)
