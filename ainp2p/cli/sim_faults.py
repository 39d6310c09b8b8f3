"""`ainp2p sim run --faults` and `sim replay FILE`: a model under faults, and the fewest that make it fail.

As the pytest plugin does it for tests: seed, virtual time, reason, the faults that are left, the last events,
and the command that does it again.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainp2p.cli import exit_codes
from ainp2p.cli.output import emit, note
from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    from ainp2p.simulation.results.model_files import ModelFile
    from ainp2p.simulation.trials.faults import Schedule
    from ainp2p.simulation.trials.injecting import Faults
    from ainp2p.simulation.trials.replay import Attempt, Trial

DRAWN = "drawn"  # faults that the seed decides


def add_faults(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """The option; `otherwise` says what happens without it."""
    parser.add_argument(
        "--faults",
        metavar="TEXT",
        help="what goes wrong, such as '12+8.5 partition alice/bob; 20+3 crash validator1'; @FILE reads it,"
        f" {DRAWN!r} has the seed decide ({otherwise})",
    )


def faults_of(text: str) -> Faults:
    """The faults that a command line asks for.

    Raises:
        InvalidInput: something in it is no fault, or there is no such file.
    """
    from ainp2p.simulation.trials.faults import Schedule
    from ainp2p.simulation.trials.profile import Profile

    if text == DRAWN:
        return Profile()
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidInput(f"{text[1:]} cannot be read: {exc}") from exc
    return Schedule.parse(text)


def trial_of(file: ModelFile, args: argparse.Namespace, parameters: dict[str, Any]) -> Trial:
    """The run that a command line asks for, to be tried again and again."""
    from ainp2p.simulation.running import bind
    from ainp2p.simulation.trials.replay import Trial

    model = file.load()
    bind(model, parameters)
    faults = None if args.faults is None else faults_of(args.faults)
    model = functools.partial(model, **parameters)
    return Trial(model, args.seed, faults=faults, signed=args.signed, within_s=args.within)


def tell_failure(trial: Trial, file: ModelFile, args: argparse.Namespace, parameters: dict[str, Any]) -> int:
    """Look for the fewest faults with which a run that failed still does, and say what was found."""
    note(args, "it failed; looking for the fewest faults that make it fail …")
    found, again = trial.shrunk(trial.attempt()), _command(file, args, parameters)
    end = found.last if found.shrunk is not None else found.first
    return _tell(end, found.told(again), again, args)


def replay(file: ModelFile, args: argparse.Namespace, parameters: dict[str, Any]) -> int:
    """Run a model once under a seed and faults, and say how it ended; a failure is the exit status, too."""
    from ainp2p.simulation.trials.injecting import Misnamed
    from ainp2p.simulation.trials.replay import Found

    ended, again = trial_of(file, args, parameters).attempt(), _command(file, args, parameters)
    if ended.error is None:
        data = {"failed": None, "seed": ended.seed, "faults": str(ended.faults), "hash": ended.hash}
        emit(args, f"seed {ended.seed}: nothing failed\nhash {ended.hash}", data)
        return exit_codes.OK
    if isinstance(ended.error, Misnamed):
        raise ended.error
    return _tell(ended, Found(ended, ended, _as_it_is(ended.faults)).told(again), again, args)


def _as_it_is(faults: Schedule) -> Any:
    from ainp2p.simulation.trials.shrink import Shrunk

    return Shrunk(faults, len(faults), runs=0, done=False)


def _tell(ended: Attempt, words: str, again: Any, args: argparse.Namespace) -> int:
    from ainp2p.simulation.trials.replay import reason

    data = {
        "failed": reason(ended.error),
        "seed": ended.seed,
        "at_s": ended.at_s,
        "faults": str(ended.faults),
        "hash": ended.hash,
        "again": again(ended.seed, ended.faults),
    }
    emit(args, words, data)
    return exit_codes.FAILED


def _command(file: ModelFile, args: argparse.Namespace, parameters: dict[str, Any]) -> Any:
    """(seed, faults) → the command that runs this model under them."""
    from ainp2p.simulation.trials.replay import command

    given = [f"--{name.replace('_', '-')}={_said(value)}" for name, value in parameters.items()]
    settings = [] if args.signed == "cached" else [f"--signed={args.signed}"]
    settings += [] if args.within is None else [f"--within={round(args.within)}s"]

    def again(seed: int, faults: Schedule) -> str:
        chosen = [f"--faults={faults}"] if faults else []
        return command("ainp2p", "sim", "replay", file.path, f"--seed={seed}", *chosen, *settings, *given)

    return again


def _said(value: Any) -> str:
    """A parameter's value as its option reads it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
