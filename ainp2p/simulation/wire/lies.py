"""Peers that lie: what one says is rewritten before it leaves.

The peer's own code stays honest; the world puts a liar between it and the wire. A lie cannot change who
speaks: the connection proves that, and gossip bears its origin's signature, so an altered relay is dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ainp2p.protocol.network import PeerId


@dataclass(frozen=True, slots=True)
class Sent:
    """One message of a lying peer, as it was meant.

    Attributes:
        kind: ``request``, ``stream`` or ``send`` (calls), ``answer`` or ``chunk`` (replies), ``gossip``.
        protocol: the protocol id; the topic of gossip.
        target: who will hear it; gossip is rewritten for each neighbour.
        body: what the honest code said.
    """

    kind: str
    protocol: str
    target: PeerId
    body: bytes


Rewrite = Callable[[Sent], bytes | list[bytes] | None]
"""What is said instead: other bytes, nothing (None: swallowed), or several messages. The answer to a repeated
request is heard by nobody; of several answers only the first counts."""


def told(rewrite: Rewrite, sent: Sent) -> list[bytes]:
    """The bodies that leave in place of `sent`."""
    said = rewrite(sent)
    if said is None:
        return []
    return said if isinstance(said, list) else [said]
