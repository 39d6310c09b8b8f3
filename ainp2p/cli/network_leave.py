"""`ainp2p network leave`: a member of the first committee gives its seat up."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ainp2p.cli.choosing import add_checkpoint_option, add_network_option, chosen_genesis, public_key
from ainp2p.cli.command import add_command
from ainp2p.cli.output import emit, note
from ainp2p.errors import InsufficientFunds, InvalidInput

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.ledger.rules.genesis import Genesis
    from ainp2p.ledger.wallets.wallet import Wallet

DEPOSIT = 1  # uain; it stays inside for ever
SAFE_MEMBERS = 4  # fewer survive nothing


def register_leave(commands: Subparsers) -> None:
    """Add `leave` to the commands of `ainp2p network`."""
    leave = add_command(
        commands,
        "leave",
        "give up a seat that the genesis gave, for good, with the end of the epoch",
        _leave,
        "ainp2p wallet send treasurer alice 100   # the key's account pays a fee\n"
        "ainp2p network leave alice     # go on running it until `network status` shows it no more",
    )
    leave.add_argument("key", help="name of the member's key")
    leave.add_argument(
        "--yes", action="store_true", help="also if those who stay decide with fewer than four members"
    )
    add_network_option(leave)
    add_checkpoint_option(leave)


def _leave(args: argparse.Namespace) -> int:
    from ainp2p.cli.opening import run_with_wallet

    return run_with_wallet(args, _do_leave, signs=True)


async def _do_leave(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.ledger.rules.operations import BOND
    from ainp2p.protocol.identity import id_text, peer_id

    genesis = chosen_genesis(args.network)
    network, key = genesis.network_id, public_key(args.key)
    _refuse_stranger(genesis, network, key, wallet)
    await wallet.balance()  # the epoch that runs is known then
    _refuse_who_is_needed(args, wallet, key)
    # LEDGER.md, "Epochs": weights are "plus and minus bonds". This one subtracts: `committee.is_waiver`.
    life_ms = wallet.parameters.lock_life_ms_max
    try:
        state = await wallet.open_lock(
            [(network, 1)], key, DEPOSIT, DEPOSIT, life_ms, BOND, authority=(network,)
        )
    except InsufficientFunds as exc:
        account = id_text(wallet.account_id)
        raise InvalidInput(f"the key's own account pays: send {exc.needed} uain to {account} first") from exc
    ends_ms = wallet.epoch.opened_at + wallet.parameters.epoch_ms
    note(args, "go on running the validator until `ainp2p network status` shows it without a seat")
    emit(
        args,
        f"{id_text(state.id)}  {peer_id(key)} gives up its seat with the epoch after {wallet.epoch.number}, "
        f"which ends at {ends_ms}",
        {"waiver": id_text(state.id), "validator": peer_id(key), "epoch_ends_ms": ends_ms},
    )


def _refuse_stranger(genesis: Genesis, network: bytes, key: bytes, wallet: Wallet) -> None:
    from ainp2p.ledger.rules.operations import account_id, plain_inception

    if key not in {member.key for member in genesis.validators}:
        raise InvalidInput(
            "the genesis gave this key no seat: one that bonds have brought ends with them, let them run out"
        )
    if wallet.account_id != account_id(network, plain_inception(key)):
        raise InvalidInput(
            "only the account of the key alone can give its seat up, not one with guardians or a next key: "
            "copy the key's file to another home, without its .inception, and say it there"
        )


def _refuse_who_is_needed(args: argparse.Namespace, wallet: Wallet, key: bytes) -> None:
    seats = {seat.key: seat for seat in wallet.epoch.seats}
    if key not in seats:
        raise InvalidInput("this key has no seat in the epoch that runs: there is nothing to give up")
    if len(seats) == 1:
        raise InvalidInput(
            "without this member nobody would be left: let another one join first (`ainp2p network bond`)"
        )
    if len(seats) <= SAFE_MEMBERS and not args.yes:
        raise InvalidInput(
            f"{len(seats) - 1} members would be left, and fewer than {SAFE_MEMBERS} survive nothing: let "
            "another one join first (`ainp2p network bond`), or say --yes"
        )


__all__ = ["register_leave"]
