"""`ainp2p network bond`, and what `ainp2p network status` says of the epoch: committee, weights, bonds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ainp2p.cli.choosing import add_checkpoint_option, add_network_option, chosen_genesis, public_key
from ainp2p.cli.command import add_command
from ainp2p.cli.output import emit
from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.ledger.rules.genesis import Genesis
    from ainp2p.ledger.rules.parameters import Parameters
    from ainp2p.ledger.serving.proofs import Proofs
    from ainp2p.ledger.serving.sync import Validators
    from ainp2p.ledger.voting.committee_chain import Epoch
    from ainp2p.ledger.wallets.wallet import Wallet

CLOSING_MS = 10_000  # from an epoch's end until its COMMITTEE is proposed, beside the gate; normally 2 s


def register_bond(commands: Subparsers) -> None:
    """Add `bond` to the commands of `ainp2p network`."""
    bond = add_command(
        commands,
        "bond",
        "put up a bond: with the next epoch it brings a validator a seat",
        _bond,
        "ainp2p network bond alice 1000ain --life 30d                   # for alice's own key\n"
        "ainp2p network bond alice 1000ain --validator val --life 30d\n"
        "ainp2p network validate home/ --key val --listen /ip4/0.0.0.0/tcp/4100",
    )
    bond.add_argument("key", help="name of a key of yours: who pays, and gets it back")
    bond.add_argument("amount", help="250 (uain), or 1.5ain; it weighs as much as its part of all money")
    bond.add_argument("--validator", metavar="KEY", help="whose seat it is: key name, peer id or did:key")
    bond.add_argument(
        "--life",
        default="7d",
        help="it returns with the first epoch after so long: 12h, 7d (7d); it cannot be taken back sooner",
    )
    add_network_option(bond)
    add_checkpoint_option(bond)


def _bond(args: argparse.Namespace) -> int:
    from ainp2p.cli.opening import run_with_wallet

    return run_with_wallet(args, _do_bond, signs=True)


async def _do_bond(args: argparse.Namespace, wallet: Wallet) -> None:
    from ainp2p.cli.opening import duration_ms
    from ainp2p.ledger.rules.amounts import amount_from_text
    from ainp2p.ledger.rules.operations import BOND
    from ainp2p.protocol.identity import id_text, peer_id

    genesis = chosen_genesis(args.network)
    amount = amount_from_text(args.amount)
    weight = weight_of(genesis, amount)
    if not weight:
        least = -(-genesis.supply // sum(member.weight for member in genesis.validators))
        raise InvalidInput(f"a bond of {amount} uain weighs nothing here: at least {least} uain")
    validator = public_key(args.validator or args.key)
    life_ms = duration_ms(args.life)
    await wallet.balance()  # the epoch that runs is known then
    ends_ms = wallet.epoch.opened_at + wallet.parameters.epoch_ms
    least_ms = least_life_ms(wallet.parameters, ends_ms - wallet.now_ms())
    if life_ms < least_ms:
        raise InvalidInput(
            f"a bond of {args.life} is over before it is counted, as the epoch ends: it brings no seat. "
            f"At least --life {-(-least_ms // 1000)}s now"
        )
    # LEDGER.md, "Epochs": "a bond is a Lock whose purpose is “bond”, whose authority is the System".
    state = await wallet.open_lock(
        [(wallet.account_id, 1)],
        validator,
        amount,
        amount,
        life_ms,
        BOND,
        authority=(genesis.network_id,),
    )
    emit(
        args,
        f"{id_text(state.id)}  a bond of {amount} uain for {peer_id(validator)}: weight {weight} with the "
        f"epoch after {wallet.epoch.number}, which ends at {ends_ms}; it returns after {state.lock.expiry}",
        {
            "bond": id_text(state.id),
            "validator": peer_id(validator),
            "amount": amount,
            "weight": weight,
            "epoch_ends_ms": ends_ms,
            "expiry_ms": state.lock.expiry,
        },
    )


def least_life_ms(parameters: Parameters, left_ms: int) -> int:
    """How long a bond must live to be counted, when its epoch goes on for so long (has ended, if negative).

    What is too late for this epoch's end is counted at the next one's.
    """
    closing_ms = parameters.gate_hold_ms + CLOSING_MS
    counted_ms = left_ms if left_ms > CLOSING_MS // 2 else max(left_ms, 0) + closing_ms + parameters.epoch_ms
    return counted_ms + closing_ms


def weight_of(genesis: Genesis, amount: int) -> int:
    """What a bond of so much weighs in a committee."""
    from ainp2p.ledger.rules.committee import bond_weight

    return bond_weight(amount, genesis.supply, sum(member.weight for member in genesis.validators))


async def print_epoch(
    args: argparse.Namespace, genesis: Genesis, validators: Validators, proofs: Proofs, now_ms: int
) -> None:
    """The newest epoch that its certificates prove, its committee, and the open bonds."""
    from ainp2p.protocol.identity import id_text, peer_id

    epoch: Epoch = proofs.chain.newest
    ends_ms = epoch.opened_at + epoch.parameters.epoch_ms
    total = sum(seat.weight for seat in epoch.seats)
    left_s = (ends_ms - now_ms) // 1000
    when = f"ends in {left_s} s" if left_s > 0 else f"has been ending for {-left_s} s"
    emit(
        args,
        f"epoch {epoch.number}  {len(epoch.seats)} members, {when}; checkpoint {id_text(epoch.opening)}",
        {
            "epoch": epoch.number,
            "opening": epoch.opening.hex(),
            "checkpoint": id_text(epoch.opening),
            "ends_ms": ends_ms,
            "weight": total,
        },
    )
    for seat in epoch.seats:
        where = [address.decode(errors="replace") for address in seat.addresses]
        facts = {"member": peer_id(seat.key), "weight": seat.weight, "of": total, "addresses": where}
        emit(
            args,
            f"  member  {peer_id(seat.key)}  weight {seat.weight} of {total}  {' '.join(where)}".rstrip(),
            facts,
        )
    for facts in await _bonds(genesis, validators, proofs):
        if facts["leaves"]:
            told = f"  leaves  {facts['validator']}  by {facts['bond']}"
        else:
            told = (
                f"  bond    {facts['bond']}  {facts['amount']} uain for {facts['validator']}, "
                f"weight {facts['weight']}, until {facts['expiry_ms']}"
            )
        emit(args, told, facts)


async def _bonds(genesis: Genesis, validators: Validators, proofs: Proofs) -> list[dict[str, Any]]:
    """Open bonds and waivers, as far as validators prove them: Locks over which the System has authority."""
    from ainp2p.errors import NetworkError, NotFinal
    from ainp2p.ledger.rules.committee import is_waiver
    from ainp2p.ledger.serving.messages import GetLocksOf, LockIds
    from ainp2p.ledger.serving.sync import LAST_WORD_S
    from ainp2p.ledger.wallets.lookup import newest_lock
    from ainp2p.protocol.identity import id_text, peer_id

    network, first = genesis.network_id, {member.key for member in genesis.validators}
    question = GetLocksOf(network, b"")
    try:
        answers = await validators.ask_all(question, LockIds, last_word_s=LAST_WORD_S)
    except NetworkError:
        return []
    found = []
    for id_ in sorted({id_ for _, page in answers for id_ in page.locks}):
        try:
            lock, _ = await newest_lock(validators, proofs, id_)
        except (NetworkError, NotFinal):
            continue  # somebody made it up
        if not lock.ended:
            leaves = lock.closer in first and is_waiver(lock, network)
            facts = {
                "bond": id_text(lock.id),
                "validator": peer_id(lock.closer),
                "amount": lock.deposit,
                "weight": 0 if leaves else weight_of(genesis, lock.deposit),
                "expiry_ms": lock.expiry,
                "leaves": leaves,
            }
            found.append(facts)
    return found


__all__ = ["least_life_ms", "print_epoch", "register_bond", "weight_of"]
