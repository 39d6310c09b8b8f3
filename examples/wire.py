"""Only the network: two peers, a protocol of one's own, a stream that is cut short. No agents, no money.

Every call may be cancelled at any await; the channel below is never harmed by it.
"""

from __future__ import annotations

import trio

from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key
from ainp2p.protocol.libp2p import open_network
from ainp2p.protocol.network import Call

TIME = "/example/time/1"
COUNT = "/example/count/1"
NAP = "/example/nap/1"


async def tell_time(call: Call) -> bytes:
    return f"{call.peer[-6:]} asked: {call.body.decode()}".encode()


async def count(call: Call) -> None:
    number = 0
    while True:  # the caller's credit paces us, and its leaving ends us
        number += 1
        await call.send(str(number).encode())


async def nap(call: Call) -> bytes:
    await trio.sleep_forever()
    return b"never said"


async def main() -> None:
    context = Context.system()
    async with (
        open_network(Key(context.token_bytes(32))) as alice,
        open_network(Key(context.token_bytes(32))) as bob,
    ):
        alice.serve(TIME, tell_time)
        alice.serve(COUNT, count)
        alice.serve(NAP, nap)
        peer = await bob.connect(alice.addresses[0])
        print((await bob.request(peer, TIME, b"what time is it?")).decode())
        async with bob.stream(peer, COUNT, b"") as numbers:
            async for number in numbers:
                print(number.decode(), end=" ", flush=True)
                if number == b"10":
                    break
        print("… enough")
        with trio.move_on_after(0.01):
            await bob.request(peer, NAP, b"")
        print((await bob.request(peer, TIME, b"still there?")).decode())


if __name__ == "__main__":
    trio.run(main)
