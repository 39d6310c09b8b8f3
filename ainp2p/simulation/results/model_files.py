"""Models: from a file, and what their signatures say about their parameters. Runs none of them.

A model is ``async def model(world, *, agents: int = 50, hours: float = 1.0) -> None``; its keyword arguments
are its parameters.
"""

from __future__ import annotations

import builtins
import hashlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ainp2p.errors import InvalidInput

Model = Callable[..., Awaitable[None]]
NAME = "model"  # what the function in a file is called
SCALARS: tuple[type, ...] = (int, float, str, bool)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model by the text of its file, so that it can travel to a process on a machine without that file.

    What runs is `source`, also after the file has been edited: all replicates of a sweep run the same.
    """

    path: str
    source: str

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ModelFile:
        """The file at `path`.

        Raises:
            InvalidInput: there is none, or no text.
        """
        try:
            return cls(str(path), Path(path).read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidInput(f"no model can be read from {path}: {exc}") from exc

    def load(self) -> Model:
        """The function `model` of the file.

        Raises:
            InvalidInput: the file does not run, or defines no model.
        """
        return _load(self)


@lru_cache(maxsize=8)
def _load(file: ModelFile) -> Model:
    path = Path(file.path)
    module = types.ModuleType(f"model_{path.stem}")  # never the name of anything that others import
    module.__file__ = str(path.absolute())
    sys.modules[module.__name__] = module
    beside = str(path.absolute().parent)
    sys.path.insert(0, beside)  # as for a script: what lies beside it can be imported
    try:
        exec(compile(file.source, module.__file__, "exec", dont_inherit=True), module.__dict__)
    except Exception as exc:
        raise InvalidInput(f"{file.path} does not run: {type(exc).__name__}: {exc}") from exc
    finally:
        sys.path.remove(beside)
    model = getattr(module, NAME, None)
    if not inspect.iscoroutinefunction(model):
        raise InvalidInput(
            f"{file.path} defines no model: it needs `async def {NAME}(world, *, agents: int = 50, …)`"
        )
    return typing.cast(Model, model)


def name_of(model: Model | ModelFile) -> str:
    """What a result and a sweep call it: the file, or ``module:function``."""
    if isinstance(model, ModelFile):
        return model.path
    return f"{getattr(model, '__module__', '')}:{getattr(model, '__qualname__', type(model).__name__)}"


def digest_of(model: Model | ModelFile) -> str:
    """A short hash of the model's source; empty where there is none (typed into a notebook)."""
    if isinstance(model, ModelFile):
        source = model.source
    else:
        try:
            source = Path(inspect.getsourcefile(inspect.unwrap(model)) or "").read_text("utf-8")
        except (OSError, TypeError):
            return ""
    return hashlib.blake2b(source.encode(), digest_size=16).hexdigest()


# --- parameters -----------------------------------------------------------------------------------

REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Parameter:
    """One keyword argument of a model.

    Attributes:
        default: `REQUIRED` if there is none.
        type: int, float, str or bool; None if it is something that a command line cannot say.
        choices: the values of a `Literal`, or empty.
        optional: whether None is a value.
    """

    name: str
    default: Any
    type: type | None
    choices: tuple[Any, ...] = ()
    optional: bool = False


def parameters_of(model: Model) -> tuple[dict[str, Parameter], bool]:
    """The model's parameters by name, and whether it takes any others (``**parameters``).

    Raises:
        InvalidInput: it has no place for the world.
    """
    signature = list(inspect.signature(model).parameters.values())
    if not signature or signature[0].kind not in (
        signature[0].POSITIONAL_ONLY,
        signature[0].POSITIONAL_OR_KEYWORD,
    ):
        raise InvalidInput(
            f"{name_of(model)} takes no world: `async def {NAME}(world, *, agents: int = 50, …)`"
        )
    named = [p for p in signature[1:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return {p.name: _parameter(model, p) for p in named}, any(p.kind == p.VAR_KEYWORD for p in signature)


def check_names(model: Model, names: typing.Iterable[str]) -> None:
    """Raises InvalidInput if the model has no such parameter, or needs one that is not among `names`."""
    names = list(names)
    known, others = parameters_of(model)
    for name in names:
        if name not in known and not others:
            listed = ", ".join(known) or "none"
            raise InvalidInput(f"{name_of(model)} has no parameter {name!r}; it has {listed}")
    for name, parameter in known.items():
        if parameter.default is REQUIRED and name not in names:
            raise InvalidInput(f"{name_of(model)} needs a value for its parameter {name!r}")


def _parameter(model: Model, parameter: inspect.Parameter) -> Parameter:
    hint = _evaluated(parameter.annotation, model)
    optional = parameter.default is None
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        rest = [part for part in typing.get_args(hint) if part is not type(None)]
        optional = optional or len(rest) < len(typing.get_args(hint))
        hint = rest[0] if len(rest) == 1 else None
    choices: tuple[Any, ...] = ()
    if typing.get_origin(hint) is typing.Literal:
        choices = typing.get_args(hint)
        hint = type(choices[0]) if len({type(choice) for choice in choices}) == 1 else None
    if hint is REQUIRED and type(parameter.default) in SCALARS:
        hint = type(parameter.default)
    return Parameter(parameter.name, parameter.default, hint if hint in SCALARS else None, choices, optional)


def _evaluated(hint: Any, model: Model) -> Any:
    """An annotation that is text (``from __future__ import annotations``) as what it names, if known."""
    if not isinstance(hint, str):
        return hint
    try:
        return eval(hint, {**vars(builtins), **vars(typing), **inspect.unwrap(model).__globals__})
    except Exception:  # a name under TYPE_CHECKING, say: not one of ours then
        return None
