"""Which directed paths between peers are cut: single cuts, partitions, pauses. Plain data, no wire.

A partition is kept as its two sides, so that one of ten thousand peers costs no more than its lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ainp2p.protocol.network import PeerId

Path = tuple[PeerId, PeerId]


@dataclass(slots=True)
class _Wall:
    """Nothing gets from one side to the other."""

    sources: set[PeerId]
    targets: set[PeerId]
    holes: set[Path] = field(default_factory=set)  # paths that were mended

    def stops(self, path: Path) -> bool:
        return path[0] in self.sources and path[1] in self.targets and path not in self.holes


class Cuts:
    """What does not get through at the moment. Sets are only ever asked, never gone through."""

    def __init__(self) -> None:
        self._cuts: set[Path] = set()
        self._walls: list[_Wall] = []
        self._paused: set[PeerId] = set()

    def is_cut(self, source: PeerId, target: PeerId) -> bool:
        """Whether nothing gets from `source` to `target`."""
        if self._paused and (source in self._paused or target in self._paused):
            return True
        path = (source, target)
        return path in self._cuts or (bool(self._walls) and any(wall.stops(path) for wall in self._walls))

    def cut(self, source: PeerId, target: PeerId, *, oneway: bool) -> None:
        """Cut one path, and the way back unless `oneway`."""
        self._cuts.add((source, target))
        if not oneway:
            self._cuts.add((target, source))

    def partition(
        self, side_a: Iterable[PeerId], side_b: Iterable[PeerId], *, oneway: bool
    ) -> tuple[_Wall, ...]:
        """Cut all paths from one side to the other, and the ways back unless `oneway`; what `lift` takes."""
        here, there = set(side_a), set(side_b)
        walls = (_Wall(here, there),) if oneway else (_Wall(here, there), _Wall(set(there), set(here)))
        self._walls += walls
        return walls

    def lift(self, walls: tuple[_Wall, ...]) -> None:
        """End one partition; others stay. Nothing happens if it is mended already."""
        self._walls = [wall for wall in self._walls if not any(wall is each for each in walls)]

    def heal_all(self) -> None:
        """Mend all paths; paused peers stay paused."""
        self._cuts.clear()
        self._walls.clear()

    def heal_around(self, peer: PeerId) -> None:
        """Mend all paths from and to a peer."""
        self._cuts = {path for path in self._cuts if peer not in path}
        for wall in self._walls:
            wall.sources.discard(peer)
            wall.targets.discard(peer)

    def heal_between(self, one: PeerId, other: PeerId) -> None:
        """Mend both paths between two peers."""
        for path in ((one, other), (other, one)):
            self._cuts.discard(path)
            for wall in self._walls:
                wall.holes.add(path)

    def pause(self, peer: PeerId) -> None:
        """Nothing gets to or from a peer."""
        self._paused.add(peer)

    def resume(self, peer: PeerId) -> None:
        """It takes part again."""
        self._paused.discard(peer)
