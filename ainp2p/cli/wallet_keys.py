"""`ainp2p wallet create, rotate, beat, delegate, recover`: keys that can be lost, or lent."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ainp2p.cli import exit_codes
from ainp2p.cli.choosing import add_checkpoint_option, add_network_option, chosen_genesis, public_key
from ainp2p.cli.command import add_command, add_group
from ainp2p.cli.key import load_key
from ainp2p.cli.opening import (
    beside_key,
    duration_ms,
    inception_of,
    open_passing_network,
    read_inception,
    run_with_wallet,
)
from ainp2p.cli.output import emit
from ainp2p.errors import InvalidInput, StorageError

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.ledger.wallets.wallet import Wallet
    from ainp2p.protocol.identity import Key

_CLOCK_MS = 60_000  # that the host's clock may be behind ours
_SUBMIT_TIMEOUT_S = 900.0  # guardians wait until validators have been in contact for ten minutes


def register(wallet_commands: Subparsers) -> None:
    """Add the commands to the wallet's."""
    create = add_command(
        wallet_commands,
        "create",
        "give a new key an account whose key can change: by you, or by guardians",
        _create,
        "ainp2p wallet create alice                                      # can rotate\n"
        "ainp2p wallet create alice --guardian g1 --guardian g2 --guardian g3 --m 2 --lease 7d",
    )
    create.add_argument("key", help="name of a key of yours that has no account yet")
    create.add_argument(
        "--guardian", metavar="KEY", action="append", default=[], help="key name, peer id or did:key"
    )
    create.add_argument("--m", type=int, help="so many of them can recover the account (more than half)")
    create.add_argument("--lease", default="7d", help="once you have been silent for so long (7d)")
    rotate = add_command(
        wallet_commands,
        "rotate",
        "replace the account's key by the next one, which was made when the account was",
        _rotate,
        "ainp2p wallet rotate alice",
    )
    beat = add_command(
        wallet_commands,
        "beat",
        "say that you are alive, so that guardians cannot take the account; agents do it by themselves",
        _beat,
        "ainp2p wallet beat alice",
    )
    for parser in (rotate, beat):
        parser.add_argument("key", help="name of a key of yours")
        add_network_option(parser)
        add_checkpoint_option(parser)
    _register_delegate(wallet_commands)
    _register_recover(wallet_commands)


def _register_delegate(wallet_commands: Subparsers) -> None:
    delegate = add_command(
        wallet_commands,
        "delegate",
        "let another key sell for this account for a time: whoever hosts its agent needs no other key",
        _delegate,
        "ainp2p wallet delegate alice did:key:z6Mk… alice.mandate --life 7d\n"
        "ainp2p wallet delegate alice host-1 alice.mandate --allowance 5ain    # it buys, too\n"
        "ainp2p serve mypackage.skills:summarise --key host-1 --delegation alice.mandate   # there",
    )
    delegate.add_argument("key", help="name of a key of yours: whose account it is")
    delegate.add_argument("to", metavar="SESSION-KEY", help="who hosts it: key name, peer id or did:key")
    delegate.add_argument("file", type=Path, help="a new file, for them; nothing in it is secret")
    delegate.add_argument(
        "--replace",
        action="store_true",
        help="put it in the place of an older one: `serve` takes it from there",
    )
    delegate.add_argument("--life", default="7d", help="it ends after so long: 12h, 7d (7d)")
    delegate.add_argument(
        "--epoch", type=int, metavar="N", help="a higher one ends all with a lower one; the time if left out"
    )
    delegate.add_argument(
        "--allowance",
        metavar="AMOUNT",
        help="let it buy, too: 250 (uain) or 1.5ain go to the session key's own account; 0: nothing now",
    )
    add_network_option(delegate)
    add_checkpoint_option(delegate)


def _register_recover(wallet_commands: Subparsers) -> None:
    commands = add_group(
        wallet_commands,
        "recover",
        "guardians give a silent account a new key: a file that they sign one after another",
        "ainp2p wallet recover request alice.inception --key alice2 ask.recovery\n"
        "ainp2p wallet recover sign g1 ask.recovery\n"
        "ainp2p wallet recover submit ask.recovery",
    )
    request = add_command(
        commands,
        "request",
        "ask for a key of yours as the account's new key",
        _request,
        "ainp2p wallet recover request alice.inception --key alice2 ask.recovery",
    )
    request.add_argument("inception", type=Path, help="what `ainp2p wallet create` wrote; keep a copy of it")
    request.add_argument("file", type=Path, help="a new file, for the guardians")
    request.add_argument("--key", required=True, metavar="NAME", help="a new key of yours, without account")
    sign = add_command(
        commands, "sign", "sign a request, as a guardian", _sign, "ainp2p wallet recover sign g1 ask.recovery"
    )
    sign.add_argument("key", help="name of a key of yours: the guardian's")
    sign.add_argument("file", type=Path, help="the request; your signature is added to it")
    submit = add_command(
        commands,
        "submit",
        "submit a request that enough guardians have signed; returns once it is final",
        _submit,
        "ainp2p wallet recover submit ask.recovery",
    )
    submit.add_argument("file", type=Path, help="the request")
    for parser in (request, sign, submit):
        add_network_option(parser)
    add_checkpoint_option(request)


# --- creating and rotating ----------------------------------------------------------------------------


def _create(args: argparse.Namespace) -> int:
    from ainp2p.ledger.rules.operations import Inception, key_digest
    from ainp2p.protocol.codec import encode
    from ainp2p.protocol.context import Context

    path = beside_key(args.key, "inception")
    if path.exists():
        raise InvalidInput(f"{args.key!r} has an account: {path}")
    key = public_key(args.key)
    guardians = tuple(sorted({public_key(word) for word in args.guardian}))
    m = args.m if args.m is not None else len(guardians) // 2 + bool(guardians)
    if not min(1, len(guardians)) <= m <= len(guardians) or key in guardians:
        raise InvalidInput(f"{m} of {len(guardians)} guardians is impossible; you are none of them yourself")
    lease_ms = duration_ms(args.lease) if guardians else 0
    following = _sealed(beside_key(args.key, "next"))
    salt = Context.system().token_bytes(32)
    inception = Inception(key, key_digest(following), guardians, m, lease_ms, salt)
    _write(path, encode(inception))
    emit(
        args,
        f"{args.key}: {m} of {len(guardians)} guardians; keep {path} and {beside_key(args.key, 'next')} "
        "somewhere else as well",
        {"key": args.key, "guardians": len(guardians), "m": m, "lease_ms": lease_ms, "inception": str(path)},
    )
    return exit_codes.OK


def _rotate(args: argparse.Namespace) -> int:
    from ainp2p.passphrase import read_passphrase
    from ainp2p.protocol.keystore import open_key, read_sealed

    next_file, after_file = beside_key(args.key, "next"), beside_key(args.key, "after")
    if not next_file.exists() and after_file.exists():
        after_file.replace(next_file)  # a rotation was cut off just before its end
    if not next_file.exists():
        raise InvalidInput(
            f"{args.key!r} was made without a next key: `ainp2p wallet create` makes such accounts"
        )
    following = open_key(read_sealed(next_file), read_passphrase(f"the next key of {args.key!r}"))
    after = _sealed(after_file)

    async def rotate(args: argparse.Namespace, wallet: Wallet) -> None:
        await wallet.balance()
        if wallet.account.key != following.public:  # else it is final already, and its files were not moved
            await wallet.rotate(following, after)

    run_with_wallet(args, rotate, signs=True, other_keys=[following])
    _move_keys(args.key, following)
    emit(
        args,
        f"{args.key}: the next key is the key now, {following.did}",
        {"key": args.key, "did": following.did},
    )
    return exit_codes.OK


def _move_keys(name: str, following: Key) -> None:
    """The old key is kept: Locks that name it as their closer still need it."""
    old = public_key(name)
    if old != following.public:
        beside_key(name, f"old-{old.hex()[:8]}").write_bytes(beside_key(name, "key").read_bytes())
        beside_key(name, f"old-{old.hex()[:8]}").chmod(0o600)
    beside_key(name, "next").replace(beside_key(name, "key"))
    beside_key(name, "after").replace(beside_key(name, "next"))


def _sealed(path: Path) -> bytes:
    """The public half of the key in a file; it is made, and sealed, where there is none."""
    from ainp2p.passphrase import read_passphrase
    from ainp2p.protocol.context import Context
    from ainp2p.protocol.identity import Key
    from ainp2p.protocol.keystore import read_sealed, sealed_public, write_key_file

    if path.exists():
        return sealed_public(read_sealed(path))
    context = Context.system()
    key = Key(context.token_bytes(32))
    write_key_file(path, key, read_passphrase(f"the key in {path.name}", confirm=True), context.token_bytes)
    return key.public


def _beat(args: argparse.Namespace) -> int:
    return run_with_wallet(args, _do_beat, signs=True)


async def _do_beat(args: argparse.Namespace, wallet: Wallet) -> None:
    await wallet.beat()
    account = wallet.account
    until = account.timestamp + account.lease
    emit(args, f"alive: nobody can take the account before {until}", {"until_ms": until, "seq": account.seq})


# --- lending ------------------------------------------------------------------------------------------


def _delegate(args: argparse.Namespace) -> int:
    from ainp2p.ledger.rules.amounts import amount_from_text

    args.amount = amount_from_text(args.allowance) if args.allowance is not None else 0
    if args.file.exists() and not args.replace:
        raise InvalidInput(f"{args.file} exists already: name a new file, or say --replace")
    if args.amount:
        run_with_wallet(args, _allow, signs=True)
    return _seal(args)


async def _allow(args: argparse.Namespace, wallet: Wallet) -> None:
    """What a session key may spend is in its own account: a SPEND needs the account's own key."""
    from ainp2p.ledger.rules.operations import account_id, plain_inception

    network = chosen_genesis(args.network).network_id
    await wallet.send(account_id(network, plain_inception(public_key(args.to))), args.amount)


def _seal(args: argparse.Namespace) -> int:
    from ainp2p.agents.standing import SESSION_PURPOSES
    from ainp2p.ledger.rules.operations import account_id
    from ainp2p.ledger.rules.receipts import SIGN_RECEIPT
    from ainp2p.ledger.wallets.delegation import Delegation, Mandate, seal_delegation
    from ainp2p.protocol.codec import encode
    from ainp2p.protocol.context import Context
    from ainp2p.protocol.identity import id_text, peer_id

    network, inception = chosen_genesis(args.network).network_id, inception_of(args.key)
    signer, session, now_ms = load_key(args.key), public_key(args.to), Context.system().now_ms()
    buys = args.allowance is not None
    delegation = Delegation(
        network=network,
        account=account_id(network, inception),
        key=session,
        epoch=args.epoch if args.epoch is not None else now_ms,
        not_before=now_ms - _CLOCK_MS,
        not_after=now_ms + duration_ms(args.life),
        purposes=tuple(sorted((*SESSION_PURPOSES, SIGN_RECEIPT))) if buys else SESSION_PURPOSES,
    )
    mandate = Mandate(inception, seal_delegation(delegation, signer))
    _write(args.file, encode(mandate), replace=args.replace)
    account = id_text(delegation.account)
    emit(
        args,
        f"{args.file}: {peer_id(session)} may sell for {account} until {delegation.not_after}"
        + (f", and buy for what is in its own account ({args.amount} uain more)" if buys else ""),
        {
            "file": str(args.file),
            "account": account,
            "session": peer_id(session),
            "epoch": delegation.epoch,
            "until_ms": delegation.not_after,
            "buys": buys,
            "allowance": args.amount,
        },
    )
    return exit_codes.OK


# --- recovering ---------------------------------------------------------------------------------------


def _request(args: argparse.Namespace) -> int:
    from ainp2p.ledger.rules.operations import account_id
    from ainp2p.protocol.codec import encode
    from ainp2p.protocol.identity import id_text

    inception = read_inception(args.inception)
    mine = beside_key(args.key, "inception")
    if mine.exists() and inception_of(args.key) != inception:
        raise InvalidInput(f"{args.key!r} has an account of its own: make a new key")
    following = _sealed(beside_key(args.key, "next"))
    if not mine.exists():
        _write(mine, encode(inception))
    genesis = chosen_genesis(args.network)

    async def ask(args: argparse.Namespace, wallet: Wallet) -> None:
        await wallet.balance()
        recovery = await wallet.ask_guardians(public_key(args.key), following)
        _write(args.file, encode(recovery))
        account = id_text(account_id(genesis.network_id, inception))
        emit(
            args,
            f"{args.file}: {recovery.missing} guardians of {account} must sign it",
            {"file": str(args.file), "account": account, "missing": recovery.missing},
        )

    return run_with_wallet(args, ask)


def _sign(args: argparse.Namespace) -> int:
    from ainp2p.ledger.wallets.recovery import read_recovery, sign_recovery
    from ainp2p.protocol.codec import encode
    from ainp2p.protocol.identity import id_text

    recovery = read_recovery(_read(args.file), chosen_genesis(args.network).network_id)
    recovery = sign_recovery(recovery, load_key(args.key))
    _write(args.file, encode(recovery), replace=True)
    account = id_text(recovery.account.id)
    emit(
        args,
        f"signed for {account}: {recovery.missing} more must sign",
        {"account": account, "missing": recovery.missing},
    )
    return exit_codes.OK


def _submit(args: argparse.Namespace) -> int:
    import trio

    from ainp2p.ledger.wallets.publishing import publish
    from ainp2p.ledger.wallets.recovery import finished_recovery, read_recovery
    from ainp2p.protocol.identity import id_text

    genesis = chosen_genesis(args.network)
    recovery = read_recovery(_read(args.file), genesis.network_id)
    signed = finished_recovery(recovery)

    async def submit() -> None:
        async with open_passing_network() as network:
            await publish(network, genesis, signed, timeout_s=_SUBMIT_TIMEOUT_S)

    trio.run(submit)
    account, operation = id_text(recovery.account.id), id_text(recovery.id)
    emit(
        args,
        f"{account} has its new key: final, operation {operation}",
        {"account": account, "operation": operation, "final": True},
    )
    return exit_codes.OK


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise InvalidInput(f"cannot read {path}: {exc.strerror}") from exc


def _write(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file whole or not at all; an existing one only if it shall be replaced."""
    if path.exists() and not replace:
        raise InvalidInput(f"{path} exists already")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as exc:
        raise StorageError(f"cannot write {path}: {exc.strerror}") from exc
