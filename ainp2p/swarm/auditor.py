"""The auditor: at the end it reopens dead sellers' wallets to settle up, and has the money counted.

Started by the view as ``python -m ainp2p.swarm.auditor SPEC`` when it is needed. It has no money of its own
and asks on the ledger's protocol, as anybody may.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import NoReturn

import trio

from ainp2p.errors import Error
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.serving.messages import GetStatistics, Statistics
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.wallets.settling import SettlePolicy
from ainp2p.ledger.wallets.wallet import open_wallet
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key, id_from_text
from ainp2p.protocol.libp2p import open_network
from ainp2p.protocol.network import Network
from ainp2p.swarm import events as ev
from ainp2p.swarm import process
from ainp2p.swarm.books import Books
from ainp2p.swarm.keys import read_key
from ainp2p.swarm.line import Audit, Line, Reopen
from ainp2p.swarm.process import Serve
from ainp2p.swarm.spec import AUDITOR, Spec, from_json

AGREE_TIMEOUT_S = 6.0  # for all validators to have decided the same
AGREE_EVERY_S = 0.1
REOPEN_TIMEOUT_S = 20.0
# Settle-only: nothing is refunded or timed, and Locks are closed because we say so.
SETTLE_ONLY = SettlePolicy(refund=False, at_close_s=0)


def main(argv: list[str]) -> NoReturn:
    """Serve the line of the specification in `argv`, and end this process."""
    spec = from_json(argv[1])
    process.run_and_exit(AUDITOR, auditor(spec), socket.socket(fileno=spec.sockets[AUDITOR]))


def auditor(spec: Spec) -> Serve:
    """What the auditor's process does."""

    async def serve(line: Line) -> None:
        context = Context.system()
        genesis = Genesis.load(spec.genesis_file)
        async with open_network(Key(context.token_bytes(32))) as network:
            line.say(
                ev.PeerUp(
                    at_ms=context.now_ms(),
                    name=AUDITOR,
                    role="auditor",
                    peer=network.peer_id,
                    pid=os.getpid(),
                )
            )
            async for command in line.commands():
                if isinstance(command, Reopen):
                    await reopen(spec, genesis, command, line)
                elif isinstance(command, Audit):
                    await audit(spec, genesis, network, line)

    return serve


async def reopen(spec: Spec, genesis: Genesis, command: Reopen, line: Line) -> None:
    """Open a dead seller's wallet from its disk, close its Locks at their highest receipts, and leave."""
    now_ms, name = Context.system().now_ms, command.name
    try:
        key = read_key(spec, name)
        with trio.fail_after(REOPEN_TIMEOUT_S):
            async with (
                open_network(key) as network,
                open_wallet(network, genesis, key, spec.home(name) / "wallet", policy=SETTLE_ONLY) as wallet,
            ):
                for lock in command.locks:  # it may have died before it heard of one
                    await wallet.lock(id_from_text(lock))
                before = {state.id: state.lock.paid for state in await wallet.locks()}
                closed = await Books(name, wallet, line).close_all()
                line.say(
                    ev.WalletReopened(
                        at_ms=now_ms(),
                        name=name,
                        locks=len(before),
                        closed=sum(not state.is_open for state in closed),
                        collected=sum(state.lock.paid - before.get(state.id, 0) for state in closed),
                    )
                )
    except (Error, trio.TooSlowError) as exc:
        line.say(ev.Note(at_ms=now_ms(), text=f"wallet of {name}: {exc or 'too slow'}", level="error"))
    line.say(ev.StageReached(at_ms=now_ms(), name=name, stage="reopened"))


async def audit(spec: Spec, genesis: Genesis, network: Network, line: Line) -> None:
    """Have every validator that is alive count, once they have all decided the same."""
    names = {read_key(spec, name).public: name for name in spec.validators}
    counts: list[Statistics] = []
    with trio.move_on_after(AGREE_TIMEOUT_S):
        while True:
            counts = await _counts(network, genesis)
            if counts and len({count.state_root for count in counts}) == 1:
                break
            await trio.sleep(AGREE_EVERY_S)
    at_ms = network.context.now_ms()
    for count in counts:
        line.say(
            ev.SupplyChecked(
                at_ms=at_ms,
                validator=names[count.validator],
                minted=genesis.supply,
                balances=count.balances,
                credits=count.credits,
                locks=count.locks,
                burnt=count.burnt,
                state=count.state_root.hex()[:16],
            )
        )
    line.say(ev.StageReached(at_ms=at_ms, name=AUDITOR, stage="audited"))


async def _counts(network: Network, genesis: Genesis) -> list[Statistics]:
    try:
        answers = await Validators(network, genesis).ask_all(GetStatistics(), Statistics, timeout_s=2.0)
    except Error:
        return []
    return sorted((count for _, count in answers), key=lambda count: count.validator)


if __name__ == "__main__":
    main(sys.argv)
