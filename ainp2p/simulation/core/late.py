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
        self._depth, self._names = 0, set[str]()

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
        if isinstance(loader, type) or not hasattr(loader, "exec_module"):
            return  # built into Python, or a directory: nothing in it is ours to hear of
        load = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            self._depth += 1
            try:
                load(module)
                self._names.add(name)
            finally:
                self._depth -= 1
                if not self._depth:  # while torch is imported it keeps tables of its own functions
                    names, self._names = self._names, set()
                    self._loaded(names)

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
