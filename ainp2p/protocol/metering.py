"""One Lock's credit window, as cores without I/O: who may go on, what is due, what may be lost.

    seller                                              buyer
      allowance(job) > 0                                  receive(chunk)  in the Lock's order, counted again
      deliver(job, …)          ── Chunk ──▶               taken(job, weight)  the reader goes on
      accept(receipt)          ◀── ReceiptNotice ──       due() → Position to sign; signed(position)
      pause() … resume(job)    ◀── Resume ──              resume_point(job)

Bounds, whatever the other side or the network does (RELIABILITY V4). The seller has delivered at most
*window* units that are not paid, over all jobs of the Lock together. It is at most *step* units ahead of
each job's reader, so a buyer that leaves pays for at most a step more than was read. The buyer signs only
for chunks that it has, in order, counted and priced by itself. Amounts signed never fall.

Both sides rebuild from the last receipt that either holds: a meter starts at any `Position`.
"""

from __future__ import annotations

from ainp2p.protocol.buyer_meter import BuyerMeter as BuyerMeter
from ainp2p.protocol.delivery import FIRST_WINDOW as FIRST_WINDOW
from ainp2p.protocol.delivery import STEP as STEP
from ainp2p.protocol.delivery import WINDOW as WINDOW
from ainp2p.protocol.delivery import LockChain as LockChain
from ainp2p.protocol.delivery import Position as Position
from ainp2p.protocol.delivery import Terms as Terms
from ainp2p.protocol.seller_meter import SellerMeter as SellerMeter
