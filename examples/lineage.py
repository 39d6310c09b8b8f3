"""A split of revenue along a lineage: data, a base model made of it, and fine-tuned models made of that.

    ainp2p sim run examples/lineage.py --agents 12 --hours 0.2 --split 40 --seed 7

Every Lock that a buyer opens names all of them, so each receipt pays each of them; nobody has to be trusted
to pass anything on. All pay for their upkeep, and who cannot is gone: too small a split starves the base, too
large a one the tuners.
"""

from __future__ import annotations

from collections import Counter
from statistics import fmean

import ainp2p
import ainp2p.simulation as sim
from ainp2p.ledger.rules.receipts import Payer, SignedReceipt, read_receipt
from ainp2p.ledger.rules.shares import Split
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.network import Call
from ainp2p.simulation.results.metrics import gini

PROTOCOL = "/lineage-example/1"
PRICE, COST, WORTH = (
    10,
    2,
    40,
)  # uain: of an answer; to who makes it; to its buyer, while data and base are fresh
UPKEEP, SAVINGS = 100, 200  # uain: a minute, for each maker; and what each begins with
DECAY = 0.6  # of its worth an answer keeps for each minute that the base, or the data, is not looked after
DEPOSIT = 3_000


async def model(
    world: sim.World, *, agents: int = 10, hours: float = 0.1, split: int = 40, pause_s: float = 5.0
) -> None:
    """A quarter of the agents tune and sell, two are what they build on; `split` percent go there."""
    tuners = [f"tuner-{i}" for i in range(max(1, agents // 4))]
    makers = ["data", "base", *tuners]
    buyers = agents - len(makers)
    ended = dict[str, float]()
    income = Counter[str](dict.fromkeys(makers, 0))  # hundredths of uain, by the receipts

    async def live(agent: ainp2p.Agent) -> None:
        """Make something, and pay for it every minute, as long as there is money."""
        if agent.name in tuners:
            agent.network.serve(PROTOCOL, lambda call: sell(agent, call))
        while True:
            await world.run_for(60)
            await agent.wallet.settle_all()
            await agent.wallet.refresh()
            if (await agent.balance()).available <= UPKEEP:
                ended[agent.name] = world.now
                return
            await agent.wallet.send(world.node("host").agent.id, UPKEEP)

    async def sell(agent: ainp2p.Agent, call: Call) -> bytes:
        signed = decode(call.body, SignedReceipt)
        await agent.wallet.lock(read_receipt(signed.body).lock)  # it is final, and pays us
        await agent.wallet.accept(signed)
        return b"an answer"

    def worth() -> int:
        stale_s = sum(world.now - ended[name] for name in ("data", "base") if name in ended)
        return int(WORTH * DECAY ** (stale_s / 60))

    async def shop(agent: ainp2p.Agent) -> None:
        rng, me = world.rng("buyer", agent.name), world.node(agent.name)
        name = tuners[int(agent.name.removeprefix("buyer-")) % len(tuners)]
        tuner = world.node(name).agent
        upstream: Split = [(world.node(above).agent.id, 1) for above in ("data", "base")]
        shares: list[tuple[bytes | Split, int]] = [(tuner.id, 100 - split), (upstream, split)]
        paid = [share for share in shares if share[1]]
        closer = world.node(name).key.public
        lock = await agent.wallet.open_lock(paid, closer, DEPOSIT, step=PRICE, life_ms=3_600_000)
        payer = Payer(agent.genesis.network_id, lock.lock, me.key)
        agent.network.add_addresses(tuner.peer_id, tuner.addresses)
        while payer.left >= PRICE:
            await world.run_for(pause_s * rng.uniform(0.5, 1.5))
            world.measure("optimum", WORTH - COST)
            if worth() <= PRICE or name in ended:
                continue  # not what it was, or nobody is there
            receipt = payer.sign(payer.cumulative + PRICE, payer.units + 1, bytes(32))
            await agent.network.request(tuner.peer_id, PROTOCOL, encode(receipt))
            world.traded(agent.name, name, "answer", units=1, amount=PRICE, price=f"{PRICE}/item")
            world.measure("surplus", worth() - COST)
            income.update(
                {name: PRICE * (100 - split), "data": PRICE * split // 2, "base": PRICE * split // 2}
            )

    world.spawn("host", role="host", balance=1_000)
    for name in makers:
        world.spawn(name, main=live, role="maker", balance=SAVINGS)
    for name in ("host", *makers):
        await world.node(name).ready()
    for i in range(buyers):
        world.spawn(f"buyer-{i}", main=shop, role="buyer", balance=2 * DEPOSIT)
    await world.run_for(3600 * hours)
    world.measure("makers_left", len(makers) - len(ended))
    world.measure("worth", worth())
    world.measure("makers_lived_s", fmean(ended.get(name, world.now) for name in makers))
    world.measure("gini_makers", gini(income.values()) or 0.0)


def main() -> None:
    print("split  makers left  worth of an answer  Gini of makers' income  trades  welfare")
    for split in (0, 40, 90):
        numbers = sim.run(model, seed=7, split=split).summary()
        print(
            f"{split:4}%  {numbers['makers_left']:11.0f}  {numbers['worth']:18.0f}"
            f"  {numbers['gini_makers']:22.2f}  {numbers['trades']:6}  {numbers['welfare']:7.0%}"
        )


if __name__ == "__main__":
    main()
