"""A spammer in a process of its own: eight peers that send a committee all that they can, and never listen.

    funded    four peers: valid SPENDs at the fee floor, chains of eight poor accounts each
    forged    SETTLEs of the honest payee's own Locks, which weigh what is in them, with false receipts
    unfunded  well signed SPENDs of accounts and credits that nobody has ever heard of
    repeats   what was decided long ago, again
    garbage   bytes that are no operation

All go to every member, with the request to push them on to the others; who is cut off dials again at once.
Spammers have machines of their own. Here they share the validators' two cores, which is why they only send
what was made and encoded beforehand: their process takes a quarter of a core, which is told as `spam_cores`.
What they could not hand over since nobody read it counts as offered as long as their own buffers take it.
"""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from ainp2p.ledger.rules import accounts
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import SignedOperation, plain_inception, sign_operation
from ainp2p.ledger.serving.messages import OPERATIONS_MAX, Submit
from ainp2p.ledger.serving.sync import Validators
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key
from ainp2p.protocol.libp2p import open_network
from ainp2p.protocol.network import PeerId
from benchmarks.ledger_load import Load

FUNDED_PEERS = 4
LATE_S = 1.0  # what was not sent for so long is not made up for
_U32 = struct.Struct("!I")


def what_they_send(load: Load, count: int) -> list[list[bytes]]:
    """For each peer encoded operations, `count` of each kind but the funded."""
    funded = [encode(signed) for some in zip(*load.spam, strict=True) for signed in some]
    repeats = funded[: 10 * len(load.spam)]
    garbage = [bytes([at % 256]) * 300 for at in range(count)]
    return [
        *(funded[peer::FUNDED_PEERS] for peer in range(FUNDED_PEERS)),
        [encode(_forged(signed)) for chain in load.chains for signed in chain[: count // len(load.chains)]],
        [encode(_unfunded(load, at)) for at in range(count)],
        repeats,
        garbage,
    ]


def _forged(signed: SignedOperation) -> SignedOperation:
    signature = signed.signatures[0]
    return SignedOperation(
        signed.raw, (signature[:8] + bytes([signature[8] ^ 1]) + signature[9:],), signed.closer
    )


def _unfunded(load: Load, number: int) -> SignedOperation:
    key = Key(b"unfunded" + number.to_bytes(24, "big"))
    inception = plain_inception(key.public)
    account = accounts.unopened_account(load.network, inception)
    credit = number.to_bytes(34, "big")
    operation = accounts.spend(
        account,
        {credit: 10**9},
        load.genesis.parameters,
        network=load.network,
        now_ms=load.now_ms,
        inception=inception,
    )
    return sign_operation(operation, key)


# --- their process ------------------------------------------------------------------------------------


class Spammer:
    """That process."""

    def __init__(self, path: Path, load: Load, per_s: float, count: int) -> None:
        """Begin to offer `per_s` operations a second to each member; `path` is where they are written."""
        with path.open("wb") as file:
            genesis = encode(load.genesis)
            for part in ([genesis], *what_they_send(load, count)):
                file.write(_U32.pack(len(part)) + b"".join(_U32.pack(len(each)) + each for each in part))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ledger_spam", str(path), str(per_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    async def end(self) -> dict[str, Any]:
        """How many it has offered to each member in a second (`offered`), and the `cores` that it took."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        line = await trio.to_thread.run_sync(self._process.stdout.readline)
        self._process.wait()
        found: dict[str, Any] = json.loads(line)
        return found


async def spam_forever(genesis: Genesis, peers: Sequence[list[bytes]], per_s: float) -> None:
    """Submit these again and again, each from its own peer, until standard input ends; say how many."""
    offered = [0] * len(genesis.validators)
    begun_s, used_s = time.monotonic(), time.process_time()

    async def one(peer: int) -> None:
        async with open_network(Key(bytes([peer + 1]) * 32)) as network, trio.open_nursery() as nursery:
            validators, mine = Validators(network, genesis), peers[peer]
            starts = range(0, len(mine), OPERATIONS_MAX)
            messages = [Submit(tuple(mine[at : at + OPERATIONS_MAX])) for at in starts]
            for number, member in enumerate(validators.others):
                nursery.start_soon(send, validators, member.peer, number, messages)

    async def send(validators: Validators, member: PeerId, number: int, messages: list[Submit]) -> None:
        due_s = trio.current_time()
        for message in itertools.cycle(messages):
            due_s = max(due_s + len(peers) * OPERATIONS_MAX / per_s, trio.current_time() - LATE_S)
            await trio.sleep_until(due_s)
            if await validators.tell(member, message):  # nobody waits for answers
                offered[number] += len(message.operations)

    async with trio.open_nursery() as nursery:
        for peer in range(len(peers)):
            nursery.start_soon(one, peer)
        await trio.lowlevel.FdStream(os.dup(0)).receive_some(1)
        nursery.cancel_scope.cancel()
    wall_s = time.monotonic() - begun_s
    cores = (time.process_time() - used_s) / wall_s
    print(
        json.dumps({"offered": round(sum(offered) / len(offered) / wall_s), "cores": round(cores, 2)}),
        flush=True,
    )


def main() -> None:
    """What the process does: read the file, send."""
    data, at, parts = Path(sys.argv[1]).read_bytes(), 0, list[list[bytes]]()

    def take() -> int:
        nonlocal at
        at += _U32.size
        return int(_U32.unpack_from(data, at - _U32.size)[0])

    while at < len(data):
        part = []
        for _ in range(take()):
            size = take()
            part.append(data[at : at + size])
            at += size
        parts.append(part)
    (genesis,), *peers = parts
    trio.run(spam_forever, Genesis.from_bytes(genesis), peers, float(sys.argv[2]))


if __name__ == "__main__":
    main()
