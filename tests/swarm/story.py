"""A small run as events, for tests: two sellers, one of them killed; everything held."""

from __future__ import annotations

from ainp2p.swarm import events as ev

START_MS = 1_700_000_000_000


def story(*, subject: str = "docs/a.md: locks", held: bool = True) -> list[ev.AnyEvent]:
    """What the processes said, in order."""

    def at(ms: int) -> int:
        return START_MS + ms

    events: list[ev.AnyEvent] = [
        ev.SwarmStarted(
            at_ms=at(0),
            model="scripted",
            model_bytes=1_000_000,
            validators=1,
            sellers=2,
            buyers=1,
            cores=2,
            memory_bytes=4 << 30,
            seed=7,
            sizing="2 cores",
        ),
        ev.NetworkFounded(at_ms=at(5), network="3f9a0c1177e2b8d4", supply=1000),
        ev.PeerUp(at_ms=at(10), name="validator-1", role="validator", peer="12D3KooWV", pid=1),
        ev.StageReached(at_ms=at(15), name="ada", stage="started", pid=2),
        ev.PeerUp(at_ms=at(20), name="ada", role="seller", peer="12D3KooWA", pid=2, account="ain:a"),
        ev.PeerUp(at_ms=at(30), name="bela", role="seller", peer="12D3KooWB", pid=3, account="ain:b"),
        ev.PeerUp(at_ms=at(40), name="cleo", role="buyer", peer="12D3KooWC", pid=4, account="ain:c"),
        ev.DocumentRead(at_ms=at(50), path="docs/a.md", bytes=900, passages=3, sentences=9),
        ev.DocumentRefused(at_ms=at(50), path="docs/b.png", reason=".png is neither text nor Markdown"),
        ev.BalanceKnown(at_ms=at(60), name="cleo", available=1000, locked=0, owed=0),
        ev.TaskOpened(
            at_ms=at(100), task="t1", buyer="cleo", skill="summarise", subject=subject, units_max=24
        ),
        ev.PhaseTimed(at_ms=at(110), task="t1", phase="discover", took_us=1_000),
        ev.PhaseTimed(at_ms=at(120), task="t1", phase="negotiate", took_us=20_000),
        ev.TaskMoved(at_ms=at(130), task="t1", state="working", seller="ada"),
        ev.Progress(at_ms=at(500), task="t1", seller="ada", units=8),
        ev.ReceiptSigned(at_ms=at(510), buyer="cleo", seller="ada", lock="l1", cumulative=16, added=16),
        ev.LockOpened(at_ms=at(550), lock="l1", buyer="cleo", payee="ain:a", deposit=480),
        ev.SellerKilled(at_ms=at(600), name="ada", task="t1"),
        ev.PeerDown(at_ms=at(610), name="ada", reason="killed"),
        ev.TaskTakenOver(
            at_ms=at(900), task="t1", seller_before="ada", seller="bela", kept=8, lost=3, step=32
        ),
        ev.Progress(at_ms=at(2500), task="t1", seller="bela", units=12),
        ev.ReceiptSigned(at_ms=at(2510), buyer="cleo", seller="bela", lock="l2", cumulative=24, added=24),
        ev.TaskMoved(at_ms=at(2600), task="t1", state="completed", seller="bela"),
        ev.Answered(
            at_ms=at(2600),
            task="t1",
            answer="Locks and receipts",
            sources=(ev.Source("docs/a.md", 3, 4, "Locks", "A Lock is a deposit."),),
            units=20,
            paid=40,
        ),
        ev.BalanceKnown(at_ms=at(2700), name="cleo", available=960, locked=0, owed=0),
        ev.Finalised(at_ms=at(2800), operation="o1", kind="settle", name="bela", amount=24, took_us=150_000),
        ev.WalletReopened(at_ms=at(2900), name="ada", locks=1, closed=1, collected=16),
        ev.SupplyChecked(
            at_ms=at(3000), validator="validator-1", minted=1000, balances=960, credits=40, locks=0, burnt=0
        ),
        ev.Checked(at_ms=at(3100), check="supply", held=held, detail="1 of 1 validators"),
        ev.SwarmEnded(at_ms=at(3200), held=held),
    ]
    return events


# One event of every class, in the order of the union.
ONE_OF_EACH: tuple[ev.AnyEvent, ...] = (
    *{type(event): event for event in story()}.values(),
    ev.Note(at_ms=START_MS, text="a word", level="warning"),
)
