"""Tells when modules have been imported that were not there before: numpy's `random`, say, or torch.

numpy imports its `random` when somebody first asks for it, and a model may import anything inside a run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class _Finder:
    """First in `sys.meta_path`: finds nothing itself, and listens at the loaders that others find."""

    def __init__(self, wanted: set[str], loaded: Callable[[set[str]], object]) -> None:
        self._wanted, self._loaded = wanted, loaded

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._wanted:
            return None
        for finder in list(sys.meta_path):
            if finder is not self and (spec := finder.find_spec(name, path, target)) is not None:
                self._listen(name, spec)
                return spec
        return None

    def _listen(self, name: str, spec: ModuleSpec) -> None:
        loader: Any = spec.loader
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            load(module)
            self._loaded({name})

        loader.exec_module = exec_module


@contextmanager
def late_imports(wanted: set[str], loaded: Callable[[set[str]], object]) -> Iterator[None]:
    """Call `loaded` with the name of each of the `wanted` modules that is imported inside the block."""
    finder = _Finder(wanted, loaded)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
