"""How a stream ends whose tokens are made in the caller's process: it is counted among its model's, once."""

from __future__ import annotations

from typing import Generic, Protocol, Self, TypeVar

import trio

from ainp2p.agents.models.model import Finish, Token


class _Counting(Protocol):
    _live: int  # streams that have begun and not ended


M = TypeVar("M", bound=_Counting)


class LocalStream(Generic[M]):
    """What `TokenStream` asks for but the tokens: these a subclass makes, in `__anext__`.

    Whoever begins sets `n_in` and counts itself in `_live` of the model; `_end` takes it out again.
    """

    def __init__(self, model: M) -> None:
        self.n_in: int | None = None
        self.finish: Finish | None = None
        self._model = model

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Token:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Stop."""
        self._end("canceled")
        await trio.lowlevel.checkpoint()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._end("canceled")

    def _begin(self, n_in: int) -> None:
        self.n_in = n_in
        self._model._live += 1

    def _end(self, finish: Finish) -> None:
        if self.finish is None:
            self.finish = finish
            self._model._live -= self.n_in is not None


__all__ = ["LocalStream"]
