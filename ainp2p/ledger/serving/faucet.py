"""A development network's faucet: one purse for each peer that asks, from an account of the genesis.

The peer's id, which the connection proves, is the note under which the wallet journals the payment: a
repeated question, also after a restart, is answered with the first payment. Never on a real network.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from ainp2p.errors import Error, InvalidInput, Malformed, NetworkError, NotFinal, Refused, TimedOut
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import Signer
from ainp2p.ledger.serving.messages import FAUCET_PROTOCOL, AskPurse, Purse
from ainp2p.ledger.wallets.wallet import Wallet, open_wallet
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.network import Call, Network, PeerId
from ainp2p.protocol.storage import Storage

ASK_TIMEOUT_S = 40.0  # the payment is awaited until it is final
RETRY_AFTER_S = 0.5


@asynccontextmanager
async def open_faucet(
    network: Network,
    genesis: Genesis,
    key: Signer,
    directory: Path | None,
    *,
    asking: Network | None = None,
    storage: Storage | None = None,
) -> AsyncIterator[Wallet]:
    """Hand out purses until the block ends; yields the wallet that pays them.

    Args:
        asking: where its wallet asks the committee, if not on `network`: a faucet beside a validator asks the
            others there, for nobody asks itself; where there are none (`is_alone`) it needs another one.

    Raises:
        InvalidInput: this network has no faucet, or its key is another.
        StorageError: the directory cannot be used.
    """
    if genesis.faucet is None or genesis.faucet.key != key.public:
        raise InvalidInput("this network has no faucet, or its key is another")
    inception = next(grant.inception for grant in genesis.grants if grant.inception.key == key.public)
    amount = genesis.faucet.purse
    where = asking or network
    async with open_wallet(where, genesis, key, directory, inception=inception, storage=storage) as wallet:

        async def handle(call: Call) -> bytes:
            try:
                question = decode(call.body, AskPurse)
                final = await wallet.send(question.account, amount, note=b"purse:" + call.peer.encode())
            except Malformed as exc:
                raise Refused("malformed", str(exc)) from exc
            except (NotFinal, NetworkError) as exc:
                raise Refused("busy", f"the purse is on its way, ask again: {exc}") from exc
            except Error as exc:
                raise Refused("empty", str(exc)) from exc
            return encode(Purse(final.operation, amount))

        network.serve(FAUCET_PROTOCOL, handle)
        yield wallet


def is_alone(genesis: Genesis, key: Signer) -> bool:
    """Whether this key is the first committee's only member."""
    return [member.key for member in genesis.validators] == [key.public]


async def ask_purse(
    network: Network, faucet: PeerId, account: bytes, *, timeout_s: float = ASK_TIMEOUT_S
) -> Purse:
    """Ask a development network's faucet for the one purse that our peer id gets; asks again if need be.

    Raises:
        NetworkError: it cannot be reached, or not in time.
        Refused: it is empty.
    """
    body, problem = encode(AskPurse(account)), Error("never asked")
    with trio.move_on_after(timeout_s):
        while True:
            try:
                answer = await network.request(faucet, FAUCET_PROTOCOL, body, timeout_s=timeout_s)
                return decode(answer, Purse)
            except (NetworkError, Refused) as exc:
                if isinstance(exc, Refused) and exc.code != "busy":
                    raise
                problem = exc
            await trio.sleep(RETRY_AFTER_S)
    raise TimedOut(f"no purse from the faucet in {timeout_s:g} s: {problem}")
