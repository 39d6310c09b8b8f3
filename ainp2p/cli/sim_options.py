"""The options of `ainp2p sim` that a model's file adds: its parameters, with the types of its signature.

They are known only when the file has been read, so the file comes before them, and a second parser takes all
that follows it. An option that stands before the file holds as well; the one after it wins.
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    from ainp2p.simulation.results.model_files import ModelFile, Parameter

# What `sim.run` and the two commands call their own options.
_RESERVED = (
    *("world", "seed", "signed", "guard", "within_s", "within", "json", "debug", "help"),
    *("report", "format", "seeds", "out", "processes", "keep_failures", "faults", "file", "moved"),
)


def parsed(
    first: argparse.Namespace, *, many: bool = False
) -> tuple[ModelFile, argparse.Namespace, dict[str, Any]]:
    """The file, the standard options, and the parameters that were given (lists of values if `many`)."""
    from ainp2p.simulation.results.model_files import ModelFile, check_names

    if first.file.startswith("-"):
        first.parser.error(f"FILE comes before the model's parameters: {first.file}")
    file = ModelFile.read(first.file)
    parser, known = first.parser_of(file)
    for parameter in known.values():
        _add_parameter(parser, parameter, many)
    args = parser.parse_args(first.rest, namespace=argparse.Namespace(**_standard(first)))
    first.debug = args.debug  # `main` looks at the first
    given = {name: getattr(args, f"model_{name}") for name in known if hasattr(args, f"model_{name}")}
    check_names(file.load(), given)
    return file, args, given


def parsed_rest(first: argparse.Namespace, add: Any) -> argparse.Namespace:
    """Options that stand after the first word, where that is no model's file."""
    parser = argparse.ArgumentParser(
        prog=first.parser.prog, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    add(parser)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    _add_common(parser)
    args = parser.parse_args(first.rest, namespace=argparse.Namespace(**_standard(first)))
    first.debug = args.debug
    return args


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)


def _standard(first: argparse.Namespace) -> dict[str, Any]:
    """Options that stood before FILE hold as well; those after it win."""
    return {k: v for k, v in vars(first).items() if k not in ("file", "rest", "parser_of", "run", "parser")}


def model_parser(
    prog: str, file: ModelFile, add: Any
) -> tuple[argparse.ArgumentParser, dict[str, Parameter]]:
    """The parser of what follows FILE, and the model's parameters, which are not in it yet."""
    from ainp2p.simulation.results.model_files import parameters_of

    model = file.load()
    words = (model.__doc__ or "").strip()
    parser = argparse.ArgumentParser(
        prog=f"{prog} {file.path}",
        description=words,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add(parser)
    for action in parser._actions:
        action.default = argparse.SUPPRESS  # the first parser has the defaults, and what stood before FILE
    _add_common(parser)
    known, _ = parameters_of(model)
    for name in known:
        if name in _RESERVED:
            raise InvalidInput(f"{file.path}: a parameter cannot be called {name!r}: there is such an option")
    return parser, known


def _add_parameter(parser: argparse.ArgumentParser, parameter: Parameter, many: bool) -> None:
    from ainp2p.simulation.results.model_files import REQUIRED

    if parameter.type is None:
        return  # a strategy, say: only programs can give it
    said = "needed" if parameter.default is REQUIRED else str(parameter.default)
    options: dict[str, Any] = {
        "dest": f"model_{parameter.name}",
        "type": _reader(parameter),
        "help": f"parameter of the model ({said})",
        "metavar": "|".join(map(str, parameter.choices)) or parameter.type.__name__.upper(),
    }
    if many:
        options["nargs"] = "+"
    parser.add_argument(f"--{parameter.name.replace('_', '-')}", **options)


def _reader(parameter: Parameter) -> Any:
    """The function that makes a parameter's value of an argument."""

    def read(text: str) -> Any:
        if parameter.optional and text == "none":
            return None
        if parameter.type is bool:
            value: Any = {"true": True, "yes": True, "false": False, "no": False}[text.lower()]
        else:
            value = (parameter.type or str)(text)
        if parameter.choices and value not in parameter.choices:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(map(str, parameter.choices))}")
        return value

    def read_or_refuse(text: str) -> Any:
        try:
            return read(text)
        except (KeyError, ValueError):
            kind = "true or false" if parameter.type is bool else getattr(parameter.type, "__name__", "")
            raise argparse.ArgumentTypeError(f"{text!r} is no {kind}") from None

    return read_or_refuse


def seeds_of(words: list[str]) -> list[int]:
    """``1-3 7`` → [1, 2, 3, 7]."""
    seeds: list[int] = []
    for word in words:
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", word)
        if found is None:
            raise InvalidInput(f"{word!r} is neither a seed nor a range of seeds, such as 1-30")
        low, high = int(found[1]), int(found[2] or found[1])
        if high < low:
            raise InvalidInput(f"the range of seeds {word} is empty")
        seeds += range(low, high + 1)
    return seeds
