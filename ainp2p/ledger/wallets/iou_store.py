"""The IOU lines of one account: their books, on a disk, and their settlement once a committee is reachable.

What we promise is durable before it is handed out, and what they promise before it counts; so is how much was
settled. After a restart the same IOUs and the same settlements come out: none is made twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ainp2p.errors import InvalidInput, InvalidReceipt
from ainp2p.ledger.disk import Disk, open_disk
from ainp2p.ledger.rules.operations import Signer
from ainp2p.ledger.rules.receipts import Payer
from ainp2p.ledger.wallets.iou import IouBook, Settlement, SignedIou, SignedLine, open_line
from ainp2p.protocol.codec import decode, encode
from ainp2p.protocol.storage import FILES, Storage

if TYPE_CHECKING:
    from ainp2p.ledger.wallets.wallet import Wallet

FILE_NAME = "ious.sqlite"
LINES_MAX = 1024
ATTEMPTS_MAX = 16
SETTLEMENT_LIFE_MS = 3_600_000  # the creditor closes at once; until then a crash of it costs nothing
_SCHEMA = """
CREATE TABLE IF NOT EXISTS lines (line BLOB PRIMARY KEY, signed BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ious (
    line BLOB, debtor BLOB, signed BLOB NOT NULL, PRIMARY KEY (line, debtor)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settlements (
    n INTEGER PRIMARY KEY, lock BLOB NOT NULL UNIQUE, line BLOB NOT NULL, debtor BLOB NOT NULL,
    amount INTEGER NOT NULL, settlement BLOB NOT NULL);
"""


class Ious:
    """All lines of one account; `open_ious` makes it."""

    def __init__(self, disk: Disk, network: bytes, account: bytes, signer: Signer) -> None:
        self._disk, self._network, self._account, self.signer = disk, network, account, signer
        self.books: dict[bytes, IouBook] = {}
        self._settled: dict[bytes, Settlement] = {}  # Lock → …, the oldest first
        self._by_us: set[bytes] = set()
        for lock, debtor, raw in disk.read_now("SELECT lock, debtor, settlement FROM settlements ORDER BY n"):
            self._settled[lock] = decode(raw, Settlement)
            if debtor == account:
                self._by_us.add(lock)
        for line, raw in disk.read_now("SELECT line, signed FROM lines"):
            self.books[line] = self._restored(line, decode(raw, SignedLine))

    @property
    def balance(self) -> int:
        """Netted over all lines, in uain; unbacked (`iou.MARK`)."""
        return sum(book.balance for book in self.books.values())

    async def open(self, signed: SignedLine) -> IouBook:
        """Begin a line that both have signed; a repeat gives the same book.

        Raises:
            As `iou.open_line`; InvalidInput: we are no party of it, or have too many.
        """
        line = open_line(signed, self._network)
        known = self.books.get(line.id)
        if known is not None:
            return known
        if len(self.books) >= LINES_MAX:
            raise InvalidInput(f"at most {LINES_MAX} lines of credit")
        book = IouBook(line, self._account)
        self._disk.put("INSERT INTO lines VALUES (?, ?)", (line.id, encode(signed)))
        await self._disk.synced()
        return self.books.setdefault(line.id, book)

    async def promise(self, line: bytes, amount: int, units: int, context: bytes) -> SignedIou:
        """Owe more on a line; on disk when this returns.

        Raises:
            As `IouBook.promise`.
        """
        book = self._book(line)
        signed = book.promise(amount, units, context, self.signer)
        await self._keep(line, book.us.party.account, signed)
        return signed

    async def accept(self, line: bytes, signed: SignedIou) -> int:
        """Take their IOU; on disk when this returns how many uain it brought.

        Raises:
            As `IouBook.accept`.
        """
        book = self._book(line)
        gained = book.accept(signed)
        await self._keep(line, book.them.party.account, signed)
        return gained

    async def settle(self, wallet: Wallet, line: bytes) -> Settlement | None:
        """Turn what we owe on a line into a final Lock; what its creditor needs, or None if nothing is due.

        After a crash, or a call that gave up waiting, the same Lock is found again by its note.

        Raises:
            As `Wallet.open_lock`; nothing is settled then.
        """
        book = self._book(line)
        if not book.due:
            return self._last(line)
        them = book.them.party
        life_ms = min(SETTLEMENT_LIFE_MS, wallet.parameters.lock_life_ms_max)
        for attempt in range(ATTEMPTS_MAX):
            state = await wallet.open_lock(
                [(them.account, 1)],
                them.key,
                book.due,
                book.due,
                life_ms,
                book.purpose,
                note=book.purpose + bytes([attempt]),
            )
            if wallet.now_ms() < state.lock.expiry - life_ms // 2:
                break  # else it is one of before a long outage, which nobody was told of: it is refunded
        lock = state.lock  # its deposit counts: by the note it may be one of before a crash, for less
        receipt = Payer(self._network, lock, self.signer).sign(lock.deposit, 0, line)
        settlement = Settlement(line, lock.id, receipt)
        if lock.id not in self._settled:
            book.note_settled(lock.deposit)
            await self._keep_settlement(settlement, book.us.party.account, lock.deposit)
        return settlement

    async def take_settlement(self, wallet: Wallet, settlement: Settlement) -> int:
        """Their Lock settles a line: check it, book the receipt, close it. How many uain; 0 for a repeat.

        Raises:
            As `IouBook.take_settlement` and `Wallet.close`; the Lock closes by itself later then.
        """
        book = self._book(settlement.line)
        amount = 0
        if settlement.lock not in self._settled:
            lock = (await wallet.lock(settlement.lock)).lock
            margin_ms = wallet.parameters.margin(lock.expiry - wallet.now_ms())
            await wallet.accept(settlement.receipt)  # durable; the wallet settles it whatever happens here
            if settlement.lock not in self._settled:
                amount = book.take_settlement(lock, settlement, wallet.now_ms(), margin_ms)
                await self._keep_settlement(settlement, book.them.party.account, amount)
        await wallet.close(settlement.lock)
        return amount

    def _book(self, line: bytes) -> IouBook:
        if line not in self.books:
            raise InvalidReceipt("line", "no such line of credit here")
        return self.books[line]

    def _restored(self, line: bytes, signed: SignedLine) -> IouBook:
        book = IouBook(open_line(signed, self._network), self._account)
        rows = self._disk.read_now("SELECT signed FROM ious WHERE line = ?", (line,))
        sums = self._disk.read_now(
            "SELECT debtor, SUM(amount) FROM settlements WHERE line = ? GROUP BY debtor", (line,)
        )
        book.restore([decode(raw, SignedIou) for (raw,) in rows], dict(sums))
        return book

    async def _keep(self, line: bytes, debtor: bytes, signed: SignedIou) -> None:
        self._disk.put(
            "INSERT INTO ious VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET signed = excluded.signed",
            (line, debtor, encode(signed)),
            replaces=("iou", line, debtor),
        )
        await self._disk.synced()

    def _last(self, line: bytes) -> Settlement | None:
        """Our newest settlement of a line, for a creditor who may not have got it."""
        ours = [s for id_, s in self._settled.items() if s.line == line and id_ in self._by_us]
        return ours[-1] if ours else None

    async def _keep_settlement(self, settlement: Settlement, debtor: bytes, amount: int) -> None:
        row = (settlement.lock, settlement.line, debtor, amount, encode(settlement))
        self._settled[settlement.lock] = settlement
        if debtor == self._account:
            self._by_us.add(settlement.lock)
        columns = "(lock, line, debtor, amount, settlement)"
        self._disk.put(f"INSERT INTO settlements {columns} VALUES (?, ?, ?, ?, ?)", row)
        await self._disk.synced()


@asynccontextmanager
async def open_ious(
    directory: Path | None,
    network: bytes,
    account: bytes,
    signer: Signer,
    *,
    storage: Storage = FILES,
) -> AsyncIterator[Ious]:
    """Open an account's lines of credit; they need no committee, and no network.

    Args:
        directory: where they are kept; None: in memory, for tests.

    Raises:
        StorageError: it cannot be opened, or another process has it open.
    """
    async with open_disk(directory and directory / FILE_NAME, _SCHEMA, storage) as disk:
        yield Ious(disk, network, account, signer)


async def settle_ious(wallet: Wallet, ious: Ious) -> list[Settlement]:
    """Settle all that we owe; each settlement goes to its line's creditor, by whatever way.

    Raises:
        InsufficientFunds, NotFinal, TimedOut: as `Wallet.open_lock`; what was settled before stays settled,
            and the next call gives those settlements again.
    """
    return [found for line in sorted(ious.books) if (found := await ious.settle(wallet, line)) is not None]
