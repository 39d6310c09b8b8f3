"""Whom a buyer of a swarm waits for: sellers whose models still load, but none that has died. No I/O."""

from __future__ import annotations

from collections.abc import Set

from ainp2p.swarm.skills import EMBEDDING_SKILLS
from ainp2p.swarm.spec import EMBEDDING_SELLER, Spec

OPENS_WITHIN_S = 90.0  # for the sellers' models to load
SETTLING_S = (2.0, 20.0)  # once there is a seller of each kind, its competitors get as long again: from, to


class Market:
    """The sellers of one swarm, as one buyer knows them.

    Attributes:
        gone: names whose processes have ended.
    """

    def __init__(self, spec: Spec) -> None:
        self.gone: set[str] = set()
        self._spec = spec
        self._began: float | None = None
        self._competes_since: float | None = None  # when there was one of each kind

    def is_ready(self, offering: Set[str], now: float) -> bool:
        """Whether to begin: all who live offer something, or some of each kind have for a while.

        Args:
            offering: names that have skills on their cards.
            now: in seconds; the wait begins with the first call.
        """
        began = self._began = now if self._began is None else self._began
        if offering >= set(self._spec.sellers) - self.gone or now > began + OPENS_WITHIN_S:
            return True
        texts = offering & set(self._spec.text_sellers)
        if not texts or EMBEDDING_SELLER not in offering | self.gone:
            return False
        if self._competes_since is None:
            self._competes_since = now
        least_s, most_s = SETTLING_S
        return now > self._competes_since + min(max(self._competes_since - began, least_s), most_s)

    def lacks(self, skill: str) -> bool:
        """Whether everybody who could offer this skill has died."""
        able = (EMBEDDING_SELLER,) if skill in EMBEDDING_SKILLS else self._spec.text_sellers
        return self.gone.issuperset(able)
