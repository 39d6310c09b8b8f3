"""One task's contract net, without I/O (FIPA contract net, with counter-proposals).

    Buyer                                   Seller
      call(seller) ── CallForProposals ──▶    handle
      handle       ◀── Proposal, Refusal ──
                   ── CounterProposal ───▶    handle         at most ROUNDS_MAX times
      best, award  ── Award ─────────────▶    award → Deal; the Lock is checked outside
      accepted     ◀── Accepted, Refusal ──   accepted, refusal
      declines     ── Decline ───────────▶    handle

An award may also come unasked, by the seller's card (`Buyer.unasked`, `messages.DIRECT`).

Everything is signed, has a deadline and names what it answers; `transcript.verify_transcript` checks it
later. Deadlines hold on the clock of whoever set them. Pricing and bidding are strategies
(`strategies.py`).
"""

from __future__ import annotations

from ainp2p.protocol.buyer_negotiation import Buyer as Buyer
from ainp2p.protocol.buyer_negotiation import Task as Task
from ainp2p.protocol.seller_negotiation import OPEN_PER_BUYER_MAX as OPEN_PER_BUYER_MAX
from ainp2p.protocol.seller_negotiation import PROPOSAL_LIFE_MS as PROPOSAL_LIFE_MS
from ainp2p.protocol.seller_negotiation import Deal as Deal
from ainp2p.protocol.seller_negotiation import Listing as Listing
from ainp2p.protocol.seller_negotiation import Seller as Seller
from ainp2p.protocol.strategies import Bid as Bid
from ainp2p.protocol.strategies import No as No
