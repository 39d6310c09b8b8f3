"""Skills: what an agent offers, written as an async function with a price.

    @skill("summarise", price="2/token")
    async def summarise(job, text: str):
        async for token in job.model.stream(f"Summarise: {text}"):
            yield token

The schema of the input comes from the type hints of the parameters after `job`; what a buyer sends is
checked against it before the function sees it. Nothing is registered anywhere: a `Skill` is a value.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ainp2p.errors import InvalidInput
from ainp2p.protocol import canonical_json
from ainp2p.protocol.price import Price

NAME_SIZE_MAX = 64  # bytes
DESCRIPTION_SIZE_MAX = 1024  # bytes
# Names of options of `hire`, `ask` and `plan`: an input of that name could not be given as a keyword.
RESERVED = frozenset(
    {
        "budget",
        "input",
        "max_price",
        "model",
        "offers",
        "prefix",
        "resume",
        "seed",
        "self",
        "skill",
        "timeout_s",
    }
)


@dataclass(frozen=True, slots=True)
class Skill:
    """Something an agent does for a price. Make one with `@skill`.

    Attributes:
        name: by which buyers look for it; 1 to 64 bytes.
        input_schema: JSON Schema (2020-12) of the input object, canonical JSON.
        function: as it was written; calling the Skill calls it.
    """

    name: str
    price: Price
    description: str
    input_schema: bytes
    function: Callable[..., Any]
    _input_type: type = field(repr=False)

    @property
    def unit(self) -> str:
        """The unit in which windows and steps of its jobs are counted."""
        return self.price.unit

    def __call__(self, job: object, **input_: object) -> Any:
        """The function itself: an async iterator, or an awaitable."""
        return self.function(job, **input_)

    def read_input(self, data: bytes) -> dict[str, Any]:
        """A buyer's canonical JSON as the function's keyword arguments.

        Raises:
            InvalidInput: it does not fit the schema; the message says where.
            Malformed: it is no canonical JSON.
        """
        return self.check_input(canonical_json.decode(data))

    def check_input(self, value: object) -> dict[str, Any]:
        """A JSON value as the function's keyword arguments.

        Raises:
            InvalidInput: it does not fit the schema; the message says where.
        """
        try:
            struct: Any = msgspec.convert(value, self._input_type, strict=True)
        except msgspec.ValidationError as exc:
            raise InvalidInput(f"the input of {self.name!r} does not fit its schema: {exc}") from exc
        return {name: getattr(struct, name) for name in struct.__struct_fields__}

    def run(self, job: object, input_: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Everything the function yields; what it returns, if it is a plain async function."""
        result = self.function(job, **input_)
        streams: bool = inspect.isasyncgen(result)
        return result if streams else _only(result)


async def _only(result: Awaitable[Any]) -> AsyncGenerator[Any, None]:
    value = await result
    if value is not None:
        yield value


def skill(
    name: str, *, price: str | Price, description: str | None = None
) -> Callable[[Callable[..., Any]], Skill]:
    """Make a skill of an async function or async generator function whose first parameter is the job.

    Args:
        price: such as ``"2/token + 50/call"`` (docs/concepts.md); under ``/token`` the function may yield
            only what `job.model` generated.
        description: for buyers; by default the first paragraph of the function's docstring.

    Raises:
        InvalidInput: the name, the price or the signature cannot be used.
    """
    if not 1 <= len(name.encode()) <= NAME_SIZE_MAX:
        raise InvalidInput(f"a skill's name has 1 to {NAME_SIZE_MAX} bytes")
    parsed = Price.parse(price) if isinstance(price, str) else price

    def decorate(function: Callable[..., Any]) -> Skill:
        if not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            raise InvalidInput(f"skill {name!r}: write it as `async def`")
        told = description if description is not None else (inspect.getdoc(function) or "").split("\n\n")[0]
        type_ = _input_type(name, function)
        return Skill(name, parsed, told[:DESCRIPTION_SIZE_MAX], _schema(name, type_), function, type_)

    return decorate


def _input_type(name: str, function: Callable[..., Any]) -> type:
    """A struct with one field for each parameter after `job`."""
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        raise InvalidInput(f"skill {name!r}: the first parameter is the job")
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except NameError as exc:
        raise InvalidInput(f"skill {name!r}: a type hint cannot be resolved: {exc}") from exc
    fields: list[Any] = []
    for parameter in parameters[1:]:
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InvalidInput(f"skill {name!r}: *args and **kwargs have no schema")
        if parameter.name in RESERVED:
            raise InvalidInput(
                f"skill {name!r}: {parameter.name!r} is an option of hire(); call the input otherwise"
            )
        if parameter.name not in hints:
            raise InvalidInput(f"skill {name!r}: give {parameter.name!r} a type hint, such as `text: str`")
        described = (parameter.name, hints[parameter.name])
        fields.append(described if parameter.default is parameter.empty else (*described, parameter.default))
    return msgspec.defstruct(f"{name}_input", fields, kw_only=True, forbid_unknown_fields=True, frozen=True)


def _schema(name: str, type_: type) -> bytes:
    """The input's JSON Schema without references at its top, so that anybody's validator reads it."""
    try:
        (top,), definitions = msgspec.json.schema_components([type_], ref_template="#/$defs/{name}")
    except TypeError as exc:
        raise InvalidInput(f"skill {name!r}: a type hint has no JSON form: {exc}") from exc
    own = definitions.pop(top["$ref"].rsplit("/", 1)[1])
    own.pop("title", None)
    return canonical_json.encode({**own, **({"$defs": definitions} if definitions else {})})
