"""`ainp2p swarm`: agents with real models work for pay on the user's documents."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ainp2p.cli.command import add_command

if TYPE_CHECKING:
    from ainp2p.cli.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add the command to the command line."""
    parser = add_command(
        subparsers,
        "swarm",
        "agents with real models, processes of their own, work for pay on your documents",
        _run,
        """ainp2p swarm docs/ README.md
        ainp2p swarm notes/ --ask "What is still open?"
        ainp2p swarm README.md --model scripted --json     # no model needed
        ainp2p swarm docs/ --keep                          # they go on when the view has gone""",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="text or Markdown files, or folders of them")
    parser.add_argument(
        "--ask",
        default="",
        metavar="TEXT",
        help="the question asked at the end; one about the documents if left out",
    )
    parser.add_argument(
        "--model",
        default="smollm2-135m",
        help="text model: a known one (smollm2-135m), a directory, or 'scripted'",
    )
    parser.add_argument("--sellers", type=int, metavar="N", help="sellers in all; default: what fits")
    parser.add_argument("--buyers", type=int, metavar="N", help="buyers; default: 2")
    parser.add_argument(
        "--budget", type=int, default=100_000, metavar="UAIN", help="in each buyer's purse (100000)"
    )
    parser.add_argument(
        "--parts", type=int, default=24, metavar="N", help="parts of the documents, at most (24)"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of prices and sampling (1)")
    parser.add_argument(
        "--report", default="swarm-report", metavar="DIR", help="where the report is written (swarm-report)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave all processes running when the view closes"
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=900,
        metavar="S",
        help="seconds after which buyers are not waited for (900)",
    )


def _run(args: argparse.Namespace) -> int:
    from ainp2p.swarm.options import Options
    from ainp2p.swarm.run import run

    return run(
        Options(
            paths=args.paths,
            sellers=args.sellers,
            buyers=args.buyers,
            model=args.model,
            seed=args.seed,
            budget=args.budget,
            parts=args.parts,
            ask=args.ask,
            json=args.json,
            report=args.report,
            keep=args.keep,
            limit_s=args.limit,
        )
    )
