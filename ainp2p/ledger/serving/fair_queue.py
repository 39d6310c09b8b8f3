"""Work of many accounts, served in proportion to their weights, in bounds. No I/O, no clock, no chance.

Two designs in one. Accounts of about one weight form a class, four classes to an octave, and take turns in
it (Nano's buckets by the log2 of a balance, but finer). Between classes: stride scheduling with dynamic
shares (Waldspurger and Weihl, 1995); a class has the weights of all its waiting accounts together, moves on
by STRIDE / weight when it is served, and the one that is least far is next. So

- an account that comes waits for no more than the others' weights allow while it earns one item, and for one
  item per class: no burst of theirs is served before it, and nothing is saved up by staying away;
- making more accounts gains only the weights that they have; all of weight 0 together have a sixteenth of
  what the least weight has: little, and not nothing.

When there is too much, the account goes first that has most waiting for its weight, the newcomer among
equals; of it the item that came last. An account's items are served in the order of their coming, each with
its own weight. A step costs O(1) in accounts and items; classes are 250 at most, in practice a handful.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection
from typing import Generic, TypeVar

from ainp2p.errors import InvalidInput

T = TypeVar("T")
STRIDE = 2**128  # passes are integers, equal on every machine, and no stride is rounded to nothing
WEIGHT_MAX = 2**63 - 1  # uain, or whatever is weighed
_CLASS_BITS = 3  # of a weight that count: 1 to 7 exactly, above that to a fifth at worst
_UNIT = 16  # shares of a weight of 1; all that weighs nothing has one share


class FairQueue(Generic[T]):
    """Items of accounts, in bounds; see the module's text."""

    def __init__(self, total_max: int, per_account_max: int) -> None:
        """Hold so many items at most, and so many of one account.

        Raises:
            InvalidInput: less than one.
        """
        if total_max < 1 or per_account_max < 1:
            raise InvalidInput("a queue holds at least one item, and one of each account")
        self._total_max, self._per_account_max = total_max, per_account_max
        self._accounts: dict[bytes, _Account[T]] = {}
        self._classes: dict[int, _Class[T]] = {}  # all that ever were: how far each came is remembered
        self._waiting: dict[int, _Class[T]] = {}
        self._passed = 0  # how far the queue is: the pass of the class served last
        self._turns = 0
        self._count = 0

    def __len__(self) -> int:
        """How many items wait."""
        return self._count

    def count(self, account: bytes) -> int:
        """How many items of one account wait."""
        held = self._accounts.get(account)
        return len(held.items) if held is not None else 0

    @property
    def next_weight(self) -> int | None:
        """What the class weighs whose turn it is; None if nothing waits."""
        return _nearest(self._waiting.values()).weight if self._waiting else None

    @property
    def heaviest(self) -> int:
        """What the heaviest class weighs that waits; 0 if nothing does."""
        return max(self._waiting, default=0)

    def push(self, account: bytes, weight: int, item: T) -> list[T]:
        """Add an item that has this weight; returns what had to go, maybe this very item.

        Raises:
            InvalidInput: a negative weight.
        """
        if weight < 0:
            raise InvalidInput(f"a weight of {weight}")
        held = self._accounts.get(account)
        if held is None:
            held = self._accounts[account] = _Account(account)
            held.items.append((_rounded(weight), item))
            self._enter(held)
        elif len(held.items) < self._per_account_max:
            held.items.append((_rounded(weight), item))
            self._classes[held.weight].count(held, len(held.items) - 1, len(held.items))
        else:
            return [item]
        self._count += 1
        return [self._drop()] if self._count > self._total_max else []

    def pop(self, least: int = 0) -> T | None:
        """Take the item that is next, or None: only of accounts whose class weighs at least so much."""
        waiting: Collection[_Class[T]] = self._waiting.values()
        if least:
            waiting = [class_ for class_ in waiting if class_.weight >= least]
        if not waiting:
            return None
        class_ = _nearest(waiting)
        self._passed = class_.passed
        self._turns += 1
        class_.turn = self._turns
        class_.passed += STRIDE // class_.shares
        held = next(iter(class_.ring.values()))
        return self._take(held, newest=False)

    def _drop(self) -> T:
        class_ = max(self._waiting.values(), key=_burden)
        held = class_.longest()
        return self._take(held, newest=True)

    def _take(self, held: _Account[T], *, newest: bool) -> T:
        """An account's oldest or newest item; it goes to the end of its class, or to another, or away."""
        class_ = self._classes[held.weight]
        length = len(held.items)
        _, item = held.items.pop() if newest else held.items.popleft()
        self._count -= 1
        if not held.items or held.items[0][0] != held.weight:
            self._leave(held, length)
            if held.items:
                self._enter(held)
            else:
                del self._accounts[held.key]
            return item
        class_.count(held, length, length - 1)
        if not newest:
            class_.ring.move_to_end(held.key)
        return item

    def _enter(self, held: _Account[T]) -> None:
        """Put an account into the class of its oldest item."""
        held.weight = held.items[0][0]
        class_ = self._classes.get(held.weight)
        if class_ is None:
            class_ = self._classes[held.weight] = _Class(held.weight)
        before = class_.shares
        class_.ring[held.key] = held
        class_.count(held, 0, len(held.items))
        if held.weight in self._waiting:
            class_.rescale(before, self._passed)
        else:  # stride scheduling: who joins is one stride ahead of the queue, or where it was when it left
            self._waiting[held.weight] = class_
            class_.passed = max(class_.passed, self._passed + STRIDE // class_.shares)

    def _leave(self, held: _Account[T], length: int) -> None:
        class_ = self._classes[held.weight]
        before = class_.shares
        del class_.ring[held.key]
        class_.count(held, length, 0)
        if class_.ring:
            class_.rescale(before, self._passed)
        else:
            del self._waiting[held.weight]


class _Account(Generic[T]):
    """One account's items, (weight, item), oldest first; `weight` is its class."""

    __slots__ = ("items", "key", "weight")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.weight = 0
        self.items: deque[tuple[int, T]] = deque()


class _Class(Generic[T]):
    """Waiting accounts of one weight.

    Attributes:
        passed: how far it is; the queue serves it when it comes there.
        turn: grows with each service: of two that are equally far the one served longest ago is next.
        ring: its accounts, whose turn it is first.
        most: the length of the longest account.
    """

    __slots__ = ("_lengths", "most", "passed", "ring", "turn", "weight")

    def __init__(self, weight: int) -> None:
        self.weight, self.passed, self.turn, self.most = weight, 0, 0, 0
        self.ring: OrderedDict[bytes, _Account[T]] = OrderedDict()
        self._lengths: dict[int, OrderedDict[bytes, _Account[T]]] = {}  # that one came last is at the end

    @property
    def shares(self) -> int:
        """What it weighs: its accounts together, but whoever weighs nothing gains nothing by being many."""
        return self.weight * _UNIT * len(self.ring) or 1

    def rescale(self, before: int, now: int) -> None:
        """Its shares were `before`: what is left of its stride shrinks or grows with them."""
        if self.passed > now:
            self.passed = now + (self.passed - now) * before // self.shares

    def longest(self) -> _Account[T]:
        """An account with the most items; of several the one that came to have so many last."""
        return next(reversed(self._lengths[self.most].values()))

    def count(self, held: _Account[T], before: int, after: int) -> None:
        """An account has `after` items now."""
        if before:
            same = self._lengths[before]
            del same[held.key]
            if not same:
                del self._lengths[before]
        if after:
            self._lengths.setdefault(after, OrderedDict())[held.key] = held
        self.most = max(self.most, after)
        while self.most and self.most not in self._lengths:  # a step, but for an account that leaves
            self.most -= 1


def _rounded(weight: int) -> int:
    """The least weight of the same class."""
    weight = min(weight, WEIGHT_MAX)
    shift = max(0, weight.bit_length() - _CLASS_BITS)
    return weight >> shift << shift


def _nearest(classes: Collection[_Class[T]]) -> _Class[T]:
    """The one whose turn it is."""
    return next(iter(classes)) if len(classes) == 1 else min(classes, key=_nearness)


def _nearness(class_: _Class[T]) -> tuple[int, int]:
    return class_.passed, class_.turn


def _burden(class_: _Class[T]) -> tuple[int, int]:
    """How much its longest account has waiting for its weight; whoever weighs nothing has most."""
    return (class_.most * STRIDE // class_.weight if class_.weight else STRIDE * STRIDE), -class_.weight
