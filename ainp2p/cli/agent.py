"""`ainp2p serve`, `find`, `ask` and `plan`: sell a skill, look for one, buy one, or see what it costs."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ainp2p.cli import exit_codes
from ainp2p.cli.command import add_command
from ainp2p.cli.joining import (
    add_delegation_option,
    add_network_options,
    make_agent,
    remove_run_file,
    write_run_file,
)
from ainp2p.cli.output import emit, note, printable
from ainp2p.errors import InvalidInput

if TYPE_CHECKING:
    from ainp2p.agents.agent import Agent
    from ainp2p.agents.offers import Offer
    from ainp2p.agents.skill import Skill
    from ainp2p.cli.command import Subparsers


def register(subparsers: Subparsers) -> None:
    """Add the commands to the command line."""
    _register_serve(subparsers)
    find = add_command(
        subparsers,
        "find",
        "look for agents that offer a skill",
        _find,
        "ainp2p find summarise\nainp2p find summarise --max-price 3/token --json",
    )
    _add_search(find)
    ask = add_command(
        subparsers,
        "ask",
        "have one task done, and print the result as it comes",
        _ask,
        "ainp2p ask summarise --input @notes.md --budget 600\n"
        'ainp2p ask label --set text="a good day" --budget 50 --json',
    )
    plan = add_command(
        subparsers,
        "plan",
        "tell what `ask` could cost and what would forbid it; moves no money",
        _plan,
        "ainp2p plan echo --budget 100\nainp2p plan summarise --input @notes.md --budget 600 --json",
    )
    for parser in (ask, plan):
        _add_search(parser)
        parser.add_argument("--budget", type=int, required=True, metavar="UAIN", help="the most it may cost")
        parser.add_argument(
            "--input",
            metavar="TEXT",
            help="a JSON object, or text for the input `text`; @FILE reads a file, - standard input",
        )
        parser.add_argument(
            "--set", metavar="NAME=VALUE", action="append", default=[], help="one input; VALUE may be JSON"
        )


def _register_serve(subparsers: Subparsers) -> None:
    serve = add_command(
        subparsers,
        "serve",
        "offer skills to other agents until interrupted",
        _serve,
        "ainp2p serve examples/echo.py:echo\n"
        "ainp2p serve mypackage.skills:summarise --model smollm2-135m --network main.genesis --key alice\n"
        "ainp2p serve mypackage.skills:summarise --key host-1 --delegation alice.mandate",
    )
    serve.add_argument(
        "skill", nargs="+", metavar="MODULE:SKILL", help="a module or a file, and the skill in it"
    )
    serve.add_argument("--name", default="agent", help="what the card calls it (agent)")
    serve.add_argument(
        "--model", action="append", default=[], help="a model that the skills use; again for more"
    )
    serve.add_argument("--slots", type=int, default=4, help="jobs worked on at once (4)")
    add_network_options(serve)
    add_delegation_option(serve)


def _add_search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("skill", help="its name")
    parser.add_argument("--max-price", metavar="PRICE", help="such as '3/token + 10/call'")
    parser.add_argument(
        "--timeout", type=float, default=5.0, metavar="S", help="wait so long for the first live offer (5)"
    )
    add_network_options(parser)


# --- serve ----------------------------------------------------------------------------------------


def _serve(args: argparse.Namespace) -> int:
    import trio

    skills = [load_skill(target) for target in args.skill]
    agent = make_agent(
        args, name=args.name, skills=skills, models=args.model, slots=args.slots, found=not args.bootstrap
    )
    trio.run(_serve_until_told, args, agent)
    return exit_codes.OK


async def _serve_until_told(args: argparse.Namespace, agent: Agent) -> None:
    import trio

    from ainp2p.protocol.background import background
    from ainp2p.protocol.identity import id_text

    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        note(args, "starting …")
        async with agent, background() as nursery:
            if args.delegation is not None:
                nursery.start_soon(agent.renew_from, args.delegation)
            genesis = agent.genesis
            network = genesis.name.decode(errors="replace")
            told = f"{network} (free money: for trying things out)" if genesis.is_development else network
            path: Path | None = None
            try:  # an interrupt may come at any moment from here on
                if genesis.is_development:
                    path = write_run_file(agent.address, genesis.network_id.hex())
                emit(
                    args,
                    f"serving {', '.join(skill.name for skill in agent.skills)} as {agent.name}\n"
                    f"  agent    {id_text(agent.id)}\n  network  {told}\n  address  {agent.address}",
                    {
                        "agent": id_text(agent.id),
                        "address": agent.address,
                        "network": genesis.network_id.hex(),
                        "development": genesis.is_development,
                        "skills": [skill.name for skill in agent.skills],
                    },
                )
                async for _ in signals:
                    break
            finally:
                if path is not None:
                    remove_run_file(path)


def load_skill(target: str) -> Skill:
    """The skill that ``module:name`` or ``path/to/file.py:name`` names.

    Raises:
        InvalidInput: there is no such thing, or it is no skill.
    """
    from ainp2p.agents.skill import Skill

    where, colon, name = target.rpartition(":")
    if not colon or not where or not name:
        raise InvalidInput(f"{target!r} is not MODULE:SKILL, such as examples/echo.py:echo")
    try:
        module = _module_of_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except ImportError as exc:
        raise InvalidInput(f"{where} cannot be imported: {exc}") from exc
    skill = getattr(module, name, None)
    if not isinstance(skill, Skill):
        raise InvalidInput(f"{where} has no skill {name!r}: decorate a function with @ainp2p.skill(…)")
    return skill


def _module_of_file(path: Path) -> Any:
    if not path.is_file():
        raise InvalidInput(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# --- find, ask, plan ------------------------------------------------------------------------------


def _find(args: argparse.Namespace) -> int:
    import trio

    async def run() -> None:
        async with make_agent(args, name="find") as agent:
            for offer in await agent.find(args.skill, max_price=args.max_price, timeout_s=args.timeout):
                emit(args, offer.explain(), offer_as_json(offer))

    trio.run(run)
    return exit_codes.OK


def offer_as_json(offer: Offer) -> dict[str, Any]:
    """An offer for programs: who, where, and every number with its origin."""
    from ainp2p.protocol.identity import id_text

    return {
        "agent": id_text(offer.agent),
        "name": offer.name,
        "peer": offer.peer,
        "skill": offer.skill.name.decode(errors="replace"),
        "description": offer.skill.description.decode(errors="replace"),
        "price": str(offer.price),
        "input_schema": json.loads(offer.skill.input_schema),
        "facts": [{"what": fact.what, "value": fact.value, "origin": fact.origin} for fact in offer.facts()],
    }


def _ask(args: argparse.Namespace) -> int:
    import trio

    trio.run(partial(_buy, args, read_input(args)))
    return exit_codes.OK


async def _buy(args: argparse.Namespace, input_: dict[str, Any]) -> None:
    async with make_agent(args, name="ask") as agent:
        offers = await agent.find(args.skill, max_price=args.max_price, timeout_s=args.timeout)
        pieces: list[Any] = []
        async with agent.hire(offers, input=input_, budget=args.budget) as job:
            async for piece in job:
                pieces.append(piece)
                if not args.json:
                    print(_shown(piece), end="" if isinstance(piece, str) else "\n", flush=True)
        told = ", ".join(f"{leg.name} ({leg.units} units, {leg.amount} uain)" for leg in job.legs)
        if args.json:
            legs = [{"seller": leg.name, "units": leg.units, "uain": leg.amount} for leg in job.legs]
            result = "".join(pieces) if all(isinstance(piece, str) for piece in pieces) else pieces
            bill = {"finish": job.finish, "paid_uain": job.paid, "units": job.units, "legs": legs}
            emit(args, "", {"result": result, **bill})
        else:
            print(flush=True)
            note(args, f"{job.finish}: paid {job.paid} uain to {told or 'nobody'}")


def _shown(piece: object) -> str:
    if isinstance(piece, str):
        return printable(piece)
    return repr(piece) if isinstance(piece, bytes) else printable(json.dumps(piece, ensure_ascii=False))


def _plan(args: argparse.Namespace) -> int:
    import trio

    async def run() -> int:
        async with make_agent(args, name="plan") as agent:
            plan = await agent.plan(
                args.skill, budget=args.budget, max_price=args.max_price, input=read_input(args)
            )
            best = plan.offers[0]
            lines = [
                f"at most {plan.budget} uain, of {plan.available} in the purse",
                f"buys up to {plan.units_max} {best.price.unit}s from {best.name} at {best.price}",
                *(f"refused: {violation}" for violation in plan.violations),
            ]
            data = {
                "budget": plan.budget,
                "available": plan.available,
                "units_max": plan.units_max,
                "possible": plan.possible,
                "offers": [offer_as_json(offer) for offer in plan.offers],
                "violations": [str(violation) for violation in plan.violations],
            }
            emit(args, "\n".join(lines), data)
            return exit_codes.OK if plan.possible else exit_codes.BUDGET

    return trio.run(run)


def read_input(args: argparse.Namespace) -> dict[str, Any]:
    """The skill's input from ``--input`` and ``--set``.

    Raises:
        InvalidInput: a file cannot be read, or an option is not of its form.
    """
    input_: dict[str, Any] = {}
    if args.input is not None:
        text = _text_of(args.input)
        try:
            value = json.loads(text)
        except ValueError:
            value = None
        input_ = value if isinstance(value, dict) else {"text": text}
    for option in args.set:
        name, equals, value = option.partition("=")
        if not equals:
            raise InvalidInput(f"--set {option!r} is not NAME=VALUE")
        try:
            input_[name] = json.loads(value)
        except ValueError:
            input_[name] = value
    return input_


def _text_of(option: str) -> str:
    if option == "-":
        return sys.stdin.read()
    if not option.startswith("@"):
        return option
    try:
        return Path(option[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidInput(f"{option[1:]} cannot be read as text: {exc}") from exc
