"""IOUs: credit that two parties give one another without a committee. Marked as such; no ledger backs them.

LEDGER.md, Beside it: "Receipts without a committee (bilateral IOUs with a credit limit, settled when a
committee is reachable) are allowed and marked as such." An IOU is the debtor's word and nothing else: if it
refuses to settle, what it owes is lost. What it owes is bounded by the *line*'s limit, which both have
signed, so a refusal costs the other one at most that.

    Line signed by both ──► each promises (its counter grows) ──► netted ──► a Lock for the difference ──►
    the creditor closes it

Each direction has one counter that only grows, so the highest IOU says everything, and a replay says nothing.
Signed under a purpose of its own: no validator, wallet or book of receipts takes one for a receipt. No I/O.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainp2p.errors import InvalidInput, InvalidReceipt
from ainp2p.ledger.rules.locks import Lock
from ainp2p.ledger.rules.operations import Share, Signer, purpose_digest
from ainp2p.ledger.rules.receipts import SignedReceipt, read_receipt, verify_receipt
from ainp2p.protocol.codec import Bytes32, Message, Signature, Uint, decode, encode
from ainp2p.protocol.identity import digest, verify

VERSION = 1
MARK = "unbacked IOU"  # every print of an amount that only IOUs promise says this
SIGN_LINE = b"ainp2p/line/1"
SIGN_IOU = b"ainp2p/iou/1"
_TWO = msgspec.Meta(min_length=2, max_length=2)
_SIZE_MAX = 512  # bytes of a line or an IOU


class Party(Message, frozen=True):
    """One side of a line."""

    account: Bytes32  # where it is paid once a committee is reachable
    key: Bytes32  # what signs its IOUs
    limit: Uint  # uain that it may owe, net; 0: it gets no credit


class Line(Message, frozen=True):
    """A line of credit between two parties, sorted by account; `salt` tells one line from the next."""

    version: Uint
    network: Bytes32
    parties: Annotated[tuple[Party, ...], _TWO]  # sorted by account
    salt: Bytes32

    @property
    def id(self) -> bytes:
        """What its IOUs name."""
        return digest(b"ainp2p/ioline/1", encode(self))


class SignedLine(Message, frozen=True):
    """A line as it travels, with both signatures in the order of the parties."""

    body: Annotated[bytes, msgspec.Meta(max_length=_SIZE_MAX)]
    signatures: Annotated[tuple[Signature, ...], _TWO]


class LineOffer(Message, frozen=True):
    """A line that one party has signed: the other one signs it, or does not."""

    body: Annotated[bytes, msgspec.Meta(max_length=_SIZE_MAX)]
    key: Bytes32
    signature: Signature


class Iou(Message, frozen=True):
    """`debtor` owes `cumulative` uain in all on this line, for `units` delivered; an *unbacked* promise."""

    line: Bytes32
    debtor: Bytes32
    cumulative: Uint
    units: Uint
    context: Bytes32


class SignedIou(Message, frozen=True):
    """An IOU as it travels."""

    body: Annotated[bytes, msgspec.Meta(max_length=_SIZE_MAX)]
    signature: Signature


class Settlement(Message, frozen=True):
    """A receipt for the whole of a Lock that was opened to settle a line: money, not an IOU any more."""

    line: Bytes32
    lock: Bytes32
    receipt: SignedReceipt


# --- lines ----------------------------------------------------------------------------------------


def new_line(network: bytes, one: Party, other: Party, salt: bytes) -> Line:
    """A line between two parties.

    Raises:
        InvalidInput: they are one and the same, or neither gets credit.
    """
    if one.account == other.account or one.key == other.key:
        raise InvalidInput("a line of credit is between two parties")
    if not one.limit and not other.limit:
        raise InvalidInput("a line without any credit serves nobody: give one side a limit")
    first, second = sorted((one, other), key=lambda party: party.account)
    return Line(VERSION, network, (first, second), salt)


def sign_line(line: Line, signer: Signer) -> bytes:
    """One party's signature: it accepts both limits."""
    return signer.sign(SIGN_LINE, encode(line))


def accept_offer(offer: LineOffer, signer: Signer) -> SignedLine:
    """The line with our signature beside the other one's; `open_line` checks it.

    Raises:
        Malformed: it is none.
        InvalidInput: it is not between the one who offers and us.
    """
    line = decode(offer.body, Line, size_max=_SIZE_MAX)
    by_key = {offer.key: offer.signature, signer.public: signer.sign(SIGN_LINE, offer.body)}
    if len(by_key) != 2 or {party.key for party in line.parties} != set(by_key):
        raise InvalidInput("this line of credit is not between whoever offers it and this key")
    return SignedLine(offer.body, tuple(by_key[party.key] for party in line.parties))


def open_line(signed: SignedLine, network: bytes) -> Line:
    """The line that both parties have signed.

    Raises:
        Malformed, BadSignature: it is none.
        InvalidReceipt: rules ``"version"``, ``"network"``, ``"parties"``.
    """
    line = decode(signed.body, Line, size_max=_SIZE_MAX)
    if line.version != VERSION:
        raise InvalidReceipt("version", f"{line.version}, this release knows {VERSION}")
    if line.network != network:
        raise InvalidReceipt("network", "a line of another network")
    first, second = line.parties
    if first.account >= second.account or first.key == second.key:
        raise InvalidReceipt("parties", "two different ones, sorted by account")
    for party, signature in zip(line.parties, signed.signatures, strict=True):
        verify(party.key, SIGN_LINE, signed.body, signature)
    return line


def settlement_purpose(line: bytes, settled: int) -> bytes:
    """The purpose of the Lock that settles more, after `settled` uain of this debtor's were settled."""
    return b"ainp2p/iou/1" + line + settled.to_bytes(8, "big")


# --- one line, seen by one of its parties ---------------------------------------------------------


class _Side:
    """What one party has promised, and how much of that was settled by Locks."""

    def __init__(self, party: Party) -> None:
        self.party = party
        self.best: Iou | None = None
        self.signed: SignedIou | None = None
        self.settled = 0

    @property
    def promised(self) -> int:
        return self.best.cumulative if self.best is not None else 0

    @property
    def owed(self) -> int:
        return self.promised - self.settled


class IouBook:
    """One line of credit from the side of `account`."""

    def __init__(self, line: Line, account: bytes) -> None:
        """A book of a line that was checked by `open_line`.

        Raises:
            InvalidInput: the account is no party of it.
        """
        if account not in (line.parties[0].account, line.parties[1].account):
            raise InvalidInput("this account is no party of the line")
        self.line, self.id = line, line.id
        ours = int(line.parties[1].account == account)
        self.us, self.them = _Side(line.parties[ours]), _Side(line.parties[1 - ours])

    @property
    def balance(self) -> int:
        """Netted, in uain: above 0 they owe us, below 0 we owe them. Unbacked (`MARK`)."""
        return self.them.owed - self.us.owed

    @property
    def credit_left(self) -> int:
        """uain that we can still promise."""
        return max(0, self.us.party.limit + self.balance)

    def promise(self, amount: int, units: int, context: bytes, signer: Signer) -> SignedIou:
        """Owe `amount` uain more. Journal what this returns before it leaves (`IouStore.put_iou`).

        Raises:
            InvalidReceipt: ``"cumulative"`` (nothing more), ``"limit"``, ``"units"`` fewer than before.
            InvalidInput: the signer is not the party's key. Nothing was signed.
        """
        if signer.public != self.us.party.key:
            raise InvalidInput("IOUs of this line are signed by another key")
        iou = Iou(self.id, self.us.party.account, self.us.promised + amount, units, context)
        self._refuse(self.us, iou, -self.balance)
        body = encode(iou)
        signed = SignedIou(body, signer.sign(SIGN_IOU, body))
        self.us.best, self.us.signed = iou, signed
        return signed

    def accept(self, signed: SignedIou) -> int:
        """Take their IOU; how many uain more they owe, 0 for a repeat of the highest.

        Raises:
            Malformed: it is none.
            InvalidReceipt: rules ``"line"``, ``"debtor"`` (our own, shown back), ``"cumulative"`` (stale),
                ``"limit"`` (they owe more than the line allows: deliver nothing for it), ``"units"``.
            BadSignature: not theirs.
        """
        iou = decode(signed.body, Iou, size_max=_SIZE_MAX)
        if iou.line != self.id:
            raise InvalidReceipt("line", "an IOU of another line")
        if iou.debtor != self.them.party.account:
            raise InvalidReceipt("debtor", "this IOU is our own")
        verify(self.them.party.key, SIGN_IOU, signed.body, signed.signature)
        if iou == self.them.best:
            return 0
        self._refuse(self.them, iou, self.balance)
        gained = iou.cumulative - self.them.promised
        self.them.best, self.them.signed = iou, signed
        return gained

    def _refuse(self, side: _Side, iou: Iou, net_owed: int) -> None:
        if iou.cumulative <= side.promised:
            raise InvalidReceipt("cumulative", f"{iou.cumulative} uain, promised {side.promised}")
        if side.best is not None and iou.units < side.best.units:
            raise InvalidReceipt("units", f"{iou.units}, said {side.best.units} before")
        owed = net_owed + iou.cumulative - side.promised
        if owed > side.party.limit:
            raise InvalidReceipt("limit", f"{owed} uain owed then, at most {side.party.limit}: settle first")

    # --- settling -----------------------------------------------------------------------------------

    @property
    def due(self) -> int:
        """uain that we have to settle: the net debt."""
        return max(0, -self.balance)

    @property
    def purpose(self) -> bytes:
        """The purpose of our next settlement's Lock."""
        return settlement_purpose(self.id, self.us.settled)

    def note_settled(self, amount: int) -> None:
        """Our Lock over `amount` uain is final and the receipt for all of it signed."""
        self.us.settled += amount

    def take_settlement(self, lock: Lock, settlement: Settlement, now_ms: int, margin_ms: int) -> int:
        """Their Lock settles part of the line; how many uain. Give the receipt to `Wallet.accept` as well.

        Args:
            lock: the *final* Lock that the settlement names.
            margin_ms: it must not expire sooner than that: we still have to close it.

        Raises:
            InvalidReceipt: rules ``"line"``, ``"lock"`` (terms that are not a settlement's, or one that was
                taken before), ``"expired"``.
            Malformed, BadSignature: the receipt is none of theirs.
        """
        them, us = self.them.party, self.us.party
        if settlement.line != self.id:
            raise InvalidReceipt("line", "a settlement of another line")
        purpose = purpose_digest(settlement_purpose(self.id, self.them.settled))
        fits = (
            lock.id == settlement.lock
            and lock.payer == them.account
            and lock.beneficiaries == (Share(us.account, 1),)
            and lock.closer == us.key
            and lock.purpose == purpose  # a Lock that was taken before names an older sum
            and not lock.paid
            and not lock.ended
        )
        if not fits:
            raise InvalidReceipt("lock", "its terms are not those of this line's next settlement")
        if now_ms + margin_ms >= lock.expiry:
            raise InvalidReceipt("expired", "it expires before it could be closed")
        receipt = read_receipt(settlement.receipt.body)
        whole = (receipt.network, receipt.lock, receipt.cumulative)
        if whole != (self.line.network, lock.id, lock.deposit):
            raise InvalidReceipt("lock", "the receipt is not for the whole of it")
        verify_receipt(lock, settlement.receipt.body, (settlement.receipt.signature,))
        self.them.settled += lock.deposit
        return lock.deposit

    def restore(self, ious: list[SignedIou], settled: dict[bytes, int]) -> None:
        """Take up what the disk kept: the highest IOU of each side, and uain settled by each account.

        Raises:
            Malformed, BadSignature, InvalidReceipt: the disk kept something else.
        """
        for side in (self.us, self.them):
            side.settled = settled.get(side.party.account, 0)
        for signed in ious:
            iou = decode(signed.body, Iou, size_max=_SIZE_MAX)
            side = self.us if iou.debtor == self.us.party.account else self.them
            if iou.line != self.id or iou.debtor != side.party.account:
                raise InvalidReceipt("line", "an IOU of another line")
            verify(side.party.key, SIGN_IOU, signed.body, signed.signature)
            side.best, side.signed = iou, signed


__all__ = [
    "MARK",
    "Iou",
    "IouBook",
    "Line",
    "LineOffer",
    "Party",
    "Settlement",
    "SignedIou",
    "SignedLine",
    "accept_offer",
    "new_line",
    "open_line",
    "settlement_purpose",
    "sign_line",
]
