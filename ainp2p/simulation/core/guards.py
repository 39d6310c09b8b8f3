"""While a world runs, a model that reads the real world is stopped at that line, and told the remedy.

Each name of ambient.py is replaced by a guard that looks at its caller: the standard library, installed
packages and ainp2p itself pass; everybody else (the model) gets `Ambient`. Names bound earlier (`from
time import time`, `from datetime import datetime`, a default argument, a class attribute) are found in
the model's modules and replaced too. Leaving the block puts everything back, also what a module imported
meanwhile has bound.

What is imported for the first time inside the block is guarded as soon as it is there (late.py).

Only the thread that entered is watched. Not found: a name kept in a container or a closure, an instance of a
subclass of `random.Random`, a generator that a library made for itself, clocks that C code reads,
`hash(str)` and the order of sets. docs/simulation.md has examples.
"""

from __future__ import annotations

import functools
import site
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ainp2p.errors import InvalidInput
from ainp2p.simulation.core.ambient import SOURCES, Source
from ainp2p.simulation.core.late import late_imports
from ainp2p.simulation.errors import Ambient

_OURS = str(Path(__file__).parents[2]) + "/"
_KERNEL = {str(Path(__file__).with_name(name)) for name in ("kernel.py", "loop.py")}
_PACKAGES = ("/site-packages/", "/dist-packages/")
_LIBRARIES = tuple(
    {
        path + "/"
        for path in [
            *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
            *site.getsitepackages(),
            site.getusersitepackages(),
        ]
    }
)

Put = tuple[Any, str, Any, Any]  # where, which name, what was there, what is there now


class _Watch:
    """One `guarded` block: whom it watches, and whether it does just now."""

    def __init__(self, strict: bool, report: Callable[[Ambient], object] | None) -> None:
        self.strict, self.report = strict, report
        self.thread = threading.get_ident()
        self.paused = 0
        self.active = True

    def check(self, frame: types.FrameType | None, source: Source) -> None:
        """Stop the caller at `frame` if it is the model's.

        Raises:
            Ambient: it is.
        """
        if not self.active or self.paused or threading.get_ident() != self.thread:
            return
        blamed = _blamed(frame, source.deep, self.strict)
        if blamed is not None:
            where = f"{blamed.f_code.co_filename}:{blamed.f_lineno}"
            error = Ambient(f"{source.module}.{source.name}".removesuffix(".__init__"), where, source.remedy)
            if self.report is not None:
                self.report(error)
            raise error


_current: _Watch | None = None


@contextmanager
def guarded(*, strict: bool = False, report: Callable[[Ambient], object] | None = None) -> Iterator[None]:
    """Stop the model where it reads what no seed decides, in this thread, inside this block.

    `strict` watches ainp2p's own code too. `report` hears of each violation before it is raised (a world ends
    itself by it, since the model may swallow exceptions).

    Raises:
        Ambient: in the model, at that line.
        InvalidInput: a block inside another one.
    """
    global _current
    if _current is not None:
        raise InvalidInput("already guarded: one world at a time in a process")
    _current = watch = _Watch(strict, report)
    before = set(sys.modules)
    guards = _Guards(watch)
    try:
        guards.install({source.module for source in SOURCES} & before)
        for module in _model_modules():
            _swap_names(module, guards.of, guards.puts)
        with late_imports({source.module for source in SOURCES} - before, guards.install):
            yield
    finally:
        watch.active = False
        _current = None
        for where, name, was, is_ in reversed(guards.puts):
            if _attribute(where, name) is is_:
                _put_back(where, name, was)
        _swap_back(guards, before)


@contextmanager
def allowed() -> Iterator[None]:
    """Let the real world be read inside this block; it must not contain an `await`."""
    watch = _current
    if watch is None:
        yield
        return
    watch.paused += 1
    try:
        yield
    finally:
        watch.paused -= 1


# --- who calls ----------------------------------------------------------------------------------


def _blamed(frame: types.FrameType | None, deep: bool, strict: bool) -> types.FrameType | None:
    """The model's frame that is to blame for a call from `frame`, or None."""
    while frame is not None and frame.f_code.co_filename not in _KERNEL:  # trio's own set-up is nobody's
        kind = _kind(frame)
        if kind == "model" or (kind == "ainp2p" and strict):
            return frame
        if kind == "ainp2p" or not deep or "importlib" in frame.f_code.co_filename:
            return None  # importing a library may do what it likes
        frame = frame.f_back
    return None


def _kind(frame: types.FrameType) -> str:
    name = frame.f_code.co_filename
    if not name.startswith("<"):
        return _kind_of_file(name)
    if name.startswith(("<frozen", "<attrs generated")):
        return "library"
    # `python -c`, a notebook, a doctest; or a dataclass's generated method, whose module is known.
    file = frame.f_globals.get("__file__")
    return _kind_of_file(file) if isinstance(file, str) else "model"


@functools.cache
def _kind_of_file(name: str) -> str:
    if name.startswith(_OURS):
        return "ainp2p"
    if name.startswith(_LIBRARIES) or any(part in name for part in _PACKAGES):
        return "library"
    return "model"


def _model_modules() -> list[types.ModuleType]:
    found = []
    for name, module in list(sys.modules.items()):
        if isinstance(module, types.ModuleType):
            file = getattr(module, "__file__", None)
            if (name == "__main__" and file is None) or (file is not None and _kind_of_file(file) == "model"):
                found.append(module)
    return found


# --- guards in their places ---------------------------------------------------------------------


class _Guards:
    """What stands in front of the sources of one block.

    Attributes:
        of: what was there → what is there now.
        puts: every name that was replaced, in order.
    """

    def __init__(self, watch: _Watch) -> None:
        self.of: dict[Any, Any] = {}
        self.puts: list[Put] = []
        self._watch = watch
        self._stand_ins: dict[type, type] = {}  # of C's classes, which take no new attributes
        self._behind: dict[type, type] = {}  # the same, the other way

    def install(self, modules: Iterable[str]) -> None:
        """Guard every source of these modules, which are imported."""
        for source in SOURCES:
            if source.module in modules and self._watch.active:
                self._install(source)

    def _install(self, source: Source) -> None:
        where: Any = sys.modules.get(source.module)
        *path, name = source.name.split(".")
        for step in path:
            where = getattr(where, step, None)
        where = self._behind.get(where, where) if isinstance(where, type) else where
        was = _attribute(where, name)
        if was is None:
            return
        if isinstance(where, type) and where.__flags__ & _IMMUTABLE:
            # datetime.now: a class of C is replaced by one that stands in for it
            method = getattr(where, name)
            stand_in = self._stand_ins.get(where) or _stand_in(where, None)
            guard = _guard(self._watch, source, method)
            setattr(stand_in, name, staticmethod(guard))
            self.of[method] = guard
            if where not in self._stand_ins:
                self._stand_ins[where] = self.of[where] = stand_in
                self._behind[stand_in] = where
                _put(self.puts, sys.modules[source.module], path[-1], where, stand_in)
            return
        if isinstance(was, type):
            check = functools.partial(_check_call, self._watch, source)
            guard = self.of[was] = self.of.get(was) or _stand_in(was, check)
        else:
            seen = getattr(where, name) if was is _INHERITED else was
            guard = self.of[seen] = _guard(self._watch, source, seen)
        _put(self.puts, where, name, was, guard)


_IMMUTABLE = 1 << 8  # Py_TPFLAGS_IMMUTABLETYPE


_INHERITED = object()  # what a class has of the one that it is derived from: `torch.Tensor.uniform_`


def _attribute(where: Any, name: str) -> Any:
    """A class's own attribute as it lies there, a module's as it is; None if there is none."""
    if isinstance(where, types.FunctionType):
        return getattr(where, name, None)
    if isinstance(where, type) and name not in vars(where):
        return _INHERITED if hasattr(where, name) else None
    return vars(where).get(name) if where is not None else None


def _put_back(where: Any, name: str, was: Any) -> None:
    if was is _INHERITED:
        delattr(where, name)
    else:
        setattr(where, name, was)


def _put(puts: list[Put], where: Any, name: str, was: Any, is_: Any) -> None:
    setattr(where, name, is_)
    puts.append((where, name, was, is_))


def _guard(watch: _Watch, source: Source, original: Callable[..., Any]) -> Callable[..., Any]:
    when = source.when

    def guard(*args: Any, **kwargs: Any) -> Any:
        if watch.active and when(args, kwargs):
            watch.check(sys._getframe(1), source)
        return original(*args, **kwargs)

    guard.__name__ = guard.__qualname__ = source.name
    guard.__doc__ = original.__doc__
    return guard


def _check_call(watch: _Watch, source: Source, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if watch.active and source.when(args, kwargs):
        watch.check(sys._getframe(2), source)


def _stand_in(original: type, check: Callable[[tuple[Any, ...], dict[str, Any]], None] | None) -> type:
    """A class that makes instances of `original`, is one with it for isinstance, and can be subclassed."""

    class Meta(type(original)):  # type: ignore[misc]  # whatever the original's is
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls is not stand_in:
                return super().__call__(*args, **kwargs)
            if check is not None:
                check(args, kwargs)
            return original(*args, **kwargs)

        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original) if cls is stand_in else super().__instancecheck__(instance)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, original) if cls is stand_in else super().__subclasscheck__(subclass)

    stand_in: type = Meta(original.__name__, (original,), {"__module__": original.__module__})
    return stand_in


# --- names bound earlier ------------------------------------------------------------------------


def _swap_names(module: types.ModuleType, guards: dict[Any, Any], puts: list[Put]) -> None:
    """Globals, class attributes and default arguments of one of the model's modules."""
    for name, value in list(vars(module).items()):
        guard = _lookup(guards, value)
        if guard is not None:
            _put(puts, module, name, value, guard)
        elif isinstance(value, type | types.FunctionType) and value.__module__ == module.__name__:
            members = list(vars(value).items()) if isinstance(value, type) else []
            for inner, member in members:
                function = member.__func__ if isinstance(member, staticmethod | classmethod) else member
                guard = _lookup(guards, function)
                if guard is not None:
                    _put(puts, value, inner, member, staticmethod(guard))
                else:
                    _swap_defaults(function, guards, puts)
            _swap_defaults(value, guards, puts)


def _swap_defaults(function: object, guards: dict[Any, Any], puts: list[Put]) -> None:
    if not isinstance(function, types.FunctionType):
        return
    old = function.__defaults__ or ()
    new = tuple(_lookup(guards, value) or value for value in old)
    if any(a is not b for a, b in zip(old, new, strict=True)):
        function.__defaults__ = new
        puts.append((function, "__defaults__", old, new))
    named = function.__kwdefaults__ or {}
    replaced = {name: _lookup(guards, value) or value for name, value in named.items()}
    if any(named[name] is not replaced[name] for name in named):
        function.__kwdefaults__ = replaced
        puts.append((function, "__kwdefaults__", named, replaced))


def _lookup(guards: dict[Any, Any], value: object) -> Any:
    if not callable(value):
        return None
    try:
        return guards.get(value)  # by equality: `datetime.now` is another object each time
    except Exception:  # what cannot be hashed or compared is nothing that is guarded
        return None


def _swap_back(guards: _Guards, before: set[str]) -> None:
    """What modules bound while the guards were in place."""
    originals = {id(guard): was for was, guard in guards.of.items()}
    originals |= {id(is_): was for _, _, was, is_ in guards.puts if was is not _INHERITED}
    new = [module for name, module in list(sys.modules.items()) if name not in before]
    for module in [*new, *_model_modules()]:
        if isinstance(module, types.ModuleType):
            for name, value in list(vars(module).items()):
                if id(value) in originals:
                    setattr(module, name, originals[id(value)])
