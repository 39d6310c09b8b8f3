"""`ainp2p sim`: a model of an economy run in virtual time, swept, run again, compared, shown.

A model's parameters are options of the command (`ainp2p.cli.sim_options`).
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainp2p.cli import exit_codes
from ainp2p.cli.command import add_command, add_group, in_its_words
from ainp2p.cli.opening import duration_ms
from ainp2p.cli.output import emit, note
from ainp2p.cli.sim_faults import add_faults, replay, tell_failure, trial_of
from ainp2p.cli.sim_options import model_parser, parsed, parsed_rest, seeds_of
from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers
    from ainp2p.simulation.results.model_files import ModelFile
    from ainp2p.simulation.results.results import Result

SIGNED = ("ed25519", "cached", "keyed")  # ainp2p.simulation.core.signatures


def register(subparsers: Subparsers) -> None:
    """Add the group to the command line."""
    commands = add_group(
        subparsers,
        "sim",
        "run models of agent economies in virtual time, from a seed",
        "ainp2p sim run market.py --agents 1000 --hours 1 --seed 7 --report out/\n"
        "ainp2p sim sweep market.py --agents 10 100 1000 --seeds 1-30 --out runs/",
    )
    run = add_command(
        commands,
        "run",
        "run the model of a file once; the same seed and parameters give the same hash",
        _run,
        "ainp2p sim run market.py --agents 1000 --hours 1 --seed 7 --report out/\n"
        "ainp2p sim run market.py --seed 7 --faults drawn\n"
        "ainp2p sim run market.py --help      # the model's own parameters",
    )
    sweep = add_command(
        commands,
        "sweep",
        "run a model for every combination of parameters, once with each seed",
        _sweep,
        "ainp2p sim sweep market.py --agents 10 100 1000 --loss 0 0.1 --seeds 1-30 --out runs/",
    )
    for parser, add in ((run, _add_run), (sweep, _add_sweep)):
        add(parser)
        _add_file(parser, add)
    _register_saved(commands)


def _register_saved(commands: Subparsers) -> None:
    again = add_command(
        commands,
        "replay",
        "run a saved result's model again and tell whether the same happened, or where it parted;"
        " or a file's model under a seed and faults, and tell how it ends",
        _replay,
        "ainp2p sim replay out/\nainp2p sim replay out/ --file market.py\n"
        "ainp2p sim replay market.py --seed 7 --faults '12+8.5 partition alice/bob' --agents 3",
    )
    _add_replay(again)
    again.add_argument(
        "file",
        metavar="DIR|FILE",
        help="what `sim run --report DIR` has saved, or a Python file with a model",
    )
    again.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="…", help="the model's parameters, of a FILE"
    )
    again.set_defaults(parser_of=lambda file: model_parser(again.prog, file, _add_replay))
    diff = add_command(
        commands, "diff", "tell where two saved results differ", _diff, "ainp2p sim diff out-1/ out-2/"
    )
    diff.add_argument("ours", metavar="A", help="a saved result")
    diff.add_argument("theirs", metavar="B", help="another one")
    show = add_command(
        commands,
        "show",
        "print the numbers of a saved result, or draw its report",
        _show,
        "ainp2p sim show out/\nainp2p sim show out/ --page market.html",
    )
    show.add_argument("result", metavar="DIR", help="what `sim run --report DIR` has saved")
    show.add_argument("--page", metavar="FILE", help="write the report to this new file")


def _add_file(parser: argparse.ArgumentParser, add: Any) -> None:
    """FILE and all that follows it; `parser_of` makes the parser of what follows."""
    parser.add_argument(
        "file", metavar="FILE", help="a Python file that defines `async def model(world, *, …)`"
    )
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="…", help="the model's parameters, see its --help"
    )
    parser.set_defaults(parser_of=lambda file: model_parser(parser.prog, file, add))


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="what everything follows from (0)")
    add_faults(parser, "none")
    _add_settings(parser)
    parser.add_argument(
        "--report", metavar="DIR", help="save the result here, with report.html; nothing is overwritten"
    )
    parser.add_argument(
        "--format", choices=("csv", "parquet"), default="csv", help="of the saved tables (csv)"
    )


def _add_replay(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--file", dest="moved", metavar="FILE", help="of a DIR: the model's file, if it is not where it was"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="of a FILE's run (0)")
    add_faults(parser, "none")
    _add_settings(parser)
    parser.set_defaults(signed=None)


def _add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds", nargs="+", default=["1-10"], metavar="N", help="seeds and ranges of seeds (1-10)"
    )
    _add_settings(parser)
    parser.add_argument(
        "--out", metavar="DIR", help="save rows as they come; an interrupted sweep goes on from there"
    )
    parser.add_argument("--processes", type=int, metavar="N", help="at once; default: one per core")
    parser.add_argument(
        "--keep-failures", action="store_true", help="a run that fails is a row; otherwise it ends the sweep"
    )


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """What `_settings` hands to `sim.run`."""
    parser.add_argument(
        "--signed",
        choices=SIGNED,
        default="cached",
        help="how keys sign: really, really but verified once, or by a cheap keyed hash (cached)",
    )
    parser.add_argument(
        "--within",
        type=in_its_words(_seconds),
        metavar="TIME",
        help="of the model's time, such as 90s, 30m, 6h, 7d: a run that is not over then fails, and tells"
        " where every task waits (no limit)",
    )


def _seconds(text: str) -> float:
    from ainp2p.simulation.core.bounded import check_limit

    return check_limit(duration_ms(text) / 1000)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """Those that were given: a sweep remembers them, and goes on only with the same."""
    within = {} if args.within is None else {"within_s": args.within}
    return {"signed": args.signed, **within}


# --- run and sweep --------------------------------------------------------------------------------


def _run(first: argparse.Namespace) -> int:
    from ainp2p.simulation import running
    from ainp2p.simulation.results.saving import check_format
    from ainp2p.simulation.trials.injecting import Misnamed

    file, args, parameters = parsed(first)
    target = None if args.report is None else Path(args.report)
    trial, world = trial_of(file, args, parameters), dict[str, Any]()
    if args.faults is not None:
        if target is not None:
            raise InvalidInput("a saved result says nothing of faults: no --report with --faults")
        world["faults"] = trial.faults
    if target is not None:
        _check_target(target, file, args, parameters)
        check_format(args.format)
    try:
        result = running.run(file.load(), args.seed, world=world, **_settings(args), **parameters)
    except Exception as exc:
        if args.faults is None or isinstance(exc, Misnamed):
            raise
        return tell_failure(trial, file, args, parameters)
    result = dataclasses.replace(result, model=file.path)
    if target is not None:
        _save(result, target, args.format)
    emit(args, _plain(result), _data(result))
    if target is not None:
        note(args, f"report: {target / 'report.html'}")
    return exit_codes.OK


def _sweep(first: argparse.Namespace) -> int:
    from functools import partial

    from ainp2p.simulation import running
    from ainp2p.simulation.results.sweeping import sweep

    file, args, grid = parsed(first, many=True)
    table = sweep(
        file,
        grid,
        seeds_of(args.seeds),
        processes=args.processes,
        out=args.out,
        on_failure="row" if args.keep_failures else "raise",
        progress=False if args.json else None,
        run=partial(running.run, **_settings(args)),
    )
    failed = sum(bool(error) for error in table["error"])
    if args.json:
        for row in table.dicts():
            emit(args, "", {name: _finite(value) for name, value in row.items()})
    else:
        emit(args, _sweep_text(table, list(grid)), {})
        note(args, f"{len(table)} runs, {failed} failed" + (f": {args.out}/sweep.csv" if args.out else ""))
    return exit_codes.FAILED if failed else exit_codes.OK


# --- saved results --------------------------------------------------------------------------------


def _replay(first: argparse.Namespace) -> int:
    if first.file.endswith(".py"):
        file, args, parameters = parsed(first)
        args.seed, args.signed = args.seed or 0, args.signed or "cached"
        return replay(file, args, parameters)
    args = parsed_rest(first, _add_replay)
    from ainp2p.simulation import running
    from ainp2p.simulation.results.model_files import ModelFile
    from ainp2p.simulation.results.results import Result

    if given := [name for name in ("faults", "seed", "signed", "within") if getattr(args, name) is not None]:
        raise InvalidInput(f"--{given[0]} goes with a model's FILE; what was saved is run again as it was")
    saved = Result.load(first.file)
    model = ModelFile.read(args.moved or saved.model)
    note(args, f"running {model.path} again, seed {saved.seed} …")
    signed: Any = saved.signed
    again = running.run(model.load(), saved.seed, signed=signed, **_callable(saved.parameters))
    again = dataclasses.replace(again, model=saved.model)
    differs = saved.diff(again)
    verdict = f"the same: {saved.hash}" if not differs else f"not the same\n{differs}"
    emit(args, verdict, {"same": not differs, "seed": saved.seed, "hash": saved.hash, "again": again.hash})
    return exit_codes.FAILED if differs else exit_codes.OK


def _diff(args: argparse.Namespace) -> int:
    from ainp2p.simulation.results.results import Result

    found = Result.load(args.ours).diff(Result.load(args.theirs))
    emit(args, str(found), {"same": not found, "difference": str(found) if found else None})
    return exit_codes.FAILED if found else exit_codes.OK


def _show(args: argparse.Namespace) -> int:
    from ainp2p.simulation.results.results import Result

    result = Result.load(args.result)
    if args.page is not None:
        result.report(args.page)
        note(args, f"report: {args.page}")
    emit(args, _plain(result), _data(result))
    return exit_codes.OK


def _callable(parameters: Any) -> dict[str, Any]:
    """Saved parameters as a model takes them: names of functions cannot be called again."""
    for name, value in parameters.items():
        if isinstance(value, str) and re.fullmatch(r"[\w.]+:[\w.]+", value):
            raise InvalidInput(f"parameter {name!r} was the function {value}: run it again from a program")
    return dict(parameters)


def _check_target(
    target: Path, file: ModelFile, args: argparse.Namespace, parameters: dict[str, Any]
) -> None:
    """Refuse before the run what could not be saved after it; the same run may be there already."""
    from ainp2p.simulation.results.files import check_free, check_writable
    from ainp2p.simulation.results.results import label
    from ainp2p.simulation.results.saving import MANIFEST, manifest
    from ainp2p.simulation.running import bind

    if not (target / MANIFEST).exists():
        check_free(target)
        check_writable(target)
        return
    said = manifest(target)
    labels = {name: label(value) for name, value in bind(file.load(), parameters).items()}
    ours = {"model": file.path, "seed": args.seed, "signed": args.signed, "parameters": labels}
    if differ := [name for name, value in ours.items() if said[name] != value]:
        raise InvalidInput(f"{target} holds another run (its {differ[0]} differ): it is not overwritten")


def _save(result: Result, target: Path, format_: str) -> None:
    from ainp2p.simulation.results.results import Result
    from ainp2p.simulation.results.saving import MANIFEST

    if not (target / MANIFEST).exists():
        result.save(target, format=format_, report=True)
    elif differs := Result.load(target).diff(result):
        raise InvalidInput(
            f"{target} holds this run, and now another one came of it: the code changed, or something is not"
            f" decided by the seed. Nothing was overwritten.\n{differs}"
        )


# --- words ----------------------------------------------------------------------------------------


def _data(result: Result) -> dict[str, Any]:
    return {
        "model": result.model,
        "seed": result.seed,
        "hash": result.hash,
        "duration_s": result.duration_s,
        "parameters": dict(result.parameters),
        "metrics": {name: _finite(value) for name, value in result.summary().items()},
    }


def _finite(value: Any) -> Any:
    """JSON has no word for infinity, nor for what is no number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _plain(result: Result) -> str:
    from ainp2p.simulation.results.pictures import said_s
    from ainp2p.simulation.results.report import said

    head = [("model", result.model), ("seed", str(result.seed)), ("hash", result.hash)]
    head += [("virtual time", said_s(result.duration_s))]
    rows = [*head, *((name, said(value)) for name, value in result.summary().items())]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


_SWEEP_SHOWN = ("trades", "fill_rate", "price_mean", "price_dispersion", "welfare", "gini", "cheats_share")
_OWN_SHOWN = 4  # columns of what the model measured; all are in sweep.csv


def _sweep_text(table: Any, parameters: list[str]) -> str:
    """One line for each point of the grid: the means over its seeds."""
    from ainp2p.simulation.results.report import said

    points: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in table.dicts():
        points.setdefault(tuple(row[name] for name in parameters), []).append(row)
    metrics: list[str] = []
    if "bytes" in table.names:  # what the model measured follows it; without it no run has succeeded
        own = table.names[table.names.index("bytes") + 1 : -1]
        metrics = [*_SWEEP_SHOWN, *own[:_OWN_SHOWN]]
    lines = [[*parameters, "runs", *metrics]]
    for point, rows in points.items():
        known = [[row[name] for row in rows if row[name] is not None] for name in metrics]
        means = [said(sum(values) / len(values) if values else None) for values in known]
        lines.append([*map(str, point), str(len(rows)), *means])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)) for line in lines
    )
