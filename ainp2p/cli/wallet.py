"""`ainp2p wallet`: balance, payments, history and deposits of a key of yours."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from ainp2p.cli import wallet_iou, wallet_keys, wallet_lock
from ainp2p.cli.choosing import add_checkpoint_option, add_network_option, chosen_genesis
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.opening import account_from, run_with_wallet
from ainp2p.cli.output import emit

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.ledger.wallets.wallet import Wallet

Use = Callable[[argparse.Namespace, "Wallet"], Awaitable[None]]


def register(subparsers: Subparsers) -> None:
    """Add the group to the command line."""
    commands = add_group(
        subparsers,
        "wallet",
        "money: what a key of yours has, and paying",
        "ainp2p wallet balance\nainp2p wallet send alice bob 250\nainp2p wallet settle alice",
    )
    balance = add_command(
        commands,
        "balance",
        "what the account has",
        _balance,
        "ainp2p wallet balance               # of the only key there is\nainp2p wallet balance alice --json",
    )
    _register_send(commands)
    history = add_command(
        commands,
        "history",
        "operations on this machine, newest first",
        _history,
        "ainp2p wallet history alice",
    )
    locks = add_command(commands, "locks", "open deposits", _locks, "ainp2p wallet locks alice --json")
    settle = add_command(
        commands,
        "settle",
        "collect what others owe: close each deposit that pays this account, at its highest receipt",
        _settle,
        "ainp2p wallet settle alice      # for a seller that will not serve again before its deposits expire",
    )
    for parser in (balance, history, locks, settle):
        parser.add_argument(
            "key", nargs="?", help="name of a key of yours: whose money it is; the only one if left out"
        )
        add_network_option(parser)
        add_checkpoint_option(parser)
    wallet_lock.register(commands)
    wallet_keys.register(commands)
    wallet_iou.register(commands)
    history.add_argument("--limit", type=int, default=20, help="at most so many (20)")


def _register_send(commands: Subparsers) -> None:
    send = add_command(
        commands,
        "send",
        "pay somebody; returns once it is final",
        _send,
        "ainp2p wallet send alice bob 250\n"
        "ainp2p wallet send alice ain:7Yx… 1.5ain --note rent-may   # again: still one payment",
    )
    send.add_argument("key", help="name of a key of yours: who pays")
    add_network_option(send)
    add_checkpoint_option(send)
    send.add_argument("to", help="ain:… id, or the key name, peer id or did:key of the payee")
    send.add_argument("amount", help="250 (uain), or 1.5ain")
    send.add_argument(
        "--note", default="", help="names the payment, so that a repetition is not a second one"
    )


# --- commands -----------------------------------------------------------------------------------------


def _balance(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _show_balance)


def _send(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _pay, signs=True)


def _history(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _show_history)


def _locks(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _show_locks)


def _settle(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _collect, signs=True)


async def _show_balance(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.ledger.rules.amounts import ain_text
    from ainp2p.protocol.identity import id_text

    balance = await wallet.balance()
    account = id_text(wallet.account_id)
    parts = {name: getattr(balance, name) for name in ("available", "locked", "owed", "total")}
    lines = [f"{name:<10} {value:>20} uain  {ain_text(value)}" for name, value in parts.items()]
    emit(args, "\n".join([f"account    {account}", *lines]), {"account": account, **parts})


async def _pay(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.ledger.rules.amounts import amount_from_text
    from ainp2p.protocol.identity import id_text

    amount = amount_from_text(args.amount)
    to = account_from(args.to, chosen_genesis(args.network))
    final = await wallet.send(to, amount, note=args.note.encode() or None)
    operation, payee = id_text(final.operation), id_text(to)
    emit(
        args,
        f"paid {amount} uain to {payee}: final, operation {operation}",
        {"amount": amount, "to": payee, "operation": operation, "final": True},
    )


async def _show_history(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.protocol.identity import id_text

    for recorded in await wallet.history(args.limit):
        operation = recorded.parsed.operation
        data = {
            "operation": id_text(recorded.parsed.id),
            "kind": type(operation.body).__name__.lower(),
            "object": id_text(operation.object),
            "seq": operation.seq,
            "at_ms": recorded.at_ms,
            "received": recorded.received,
            "spent": recorded.spent,
            "final": bool(recorded.certificate),
        }
        grade = "final" if recorded.certificate else "pending"
        change = f"{recorded.received - recorded.spent:+}"
        emit(args, f"{data['kind']:<7} {change:>16} uain  {grade:<8} {data['operation']}", data)


async def _show_locks(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.protocol.identity import id_text

    for state in await wallet.locks():
        lock = state.lock
        ours = "we pay" if lock.payer == wallet.account_id else "we are paid"
        unsettled = wallet.book.unsettled(lock.id)
        emit(
            args,
            f"{id_text(lock.id)}  {ours}, {lock.paid} of {lock.deposit} uain settled, "
            f"{unsettled} more promised, step {lock.step}, until {lock.expiry}",
            {
                "lock": id_text(lock.id),
                "payer": id_text(lock.payer),
                "beneficiaries": [[id_text(b.account), b.parts] for b in lock.beneficiaries],
                "deposit": lock.deposit,
                "paid": lock.paid,
                "promised": unsettled,
                "step": lock.step,
                "expiry_ms": lock.expiry,
            },
        )


async def _collect(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.protocol.identity import id_text

    for state in await wallet.close_all():
        lock = state.lock
        emit(
            args,
            f"{id_text(lock.id)}  closed: {lock.paid} of {lock.deposit} uain were for its payees",
            {"lock": id_text(lock.id), "paid": lock.paid, "deposit": lock.deposit},
        )
    await _show_balance(args, wallet)
