"""`python -m fedtt_lightning privacy`: noise and ε of a run, for local and central DP."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from math import nan
from typing import Any

from fedtt_lightning.arguments import Parser
from fedtt_lightning.errors import ConfigError


def _count(text: str) -> int:
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0: give one")
    return int(text)


def _between(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = nan
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no number from {least:g} to {most:g}: give one"
            )
        return value

    return number


def _parser() -> Parser:
    parser = Parser(
        prog="python -m fedtt_lightning privacy",
        description=(
            "Plans the privacy of a run before it is started: the noise that an epsilon needs, or "
            "the epsilon that a noise costs, for local DP (LocalDP: DP-SGD in each client, which "
            "protects each of its examples) and central DP (CentralDP: clipped updates and noise "
            "in the server, which protects each client). Cohorts are drawn as the run will draw "
            "them, so that both callbacks come to the same numbers."
        ),
    )
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument(
        "--epsilon", type=_between(1e-6, 1e6), nargs="+", help="find the noise that each needs"
    )
    wanted.add_argument(
        "--noise",
        type=_between(1e-3, 1e6),
        nargs="+",
        help="noise multipliers, in units of the clip: find the epsilon of each",
    )
    parser.add_argument("--clients", type=_count, required=True, help="clients in all")
    parser.add_argument("--rounds", type=_count, required=True, help="rounds of the run")
    parser.add_argument("--cohort", type=_count, help="clients of a round (default: all)")
    parser.add_argument(
        "--sampling",
        choices=["poisson", "uniform"],
        default="poisson",
        help=(
            "of the cohorts. poisson: each client by chance, which hides who takes part and so "
            "costs central DP less; uniform: always --cohort clients (default: poisson)"
        ),
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed_everything of the run (default: 0)"
    )
    parser.add_argument(
        "--delta",
        type=_between(1e-300, 1.0),
        default=1e-5,
        help="at which epsilon holds; below 1 / examples and 1 / clients (default: 1e-5)",
    )
    parser.add_argument(
        "--accountant",
        choices=["rdp", "prv", "gdp"],
        default="rdp",
        help="of opacus; prv: tighter, slower; gdp: may underestimate (default: rdp)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    local = parser.add_argument_group("for local DP")
    local.add_argument(
        "--examples", type=_count, help="of each client; without it only central DP is planned"
    )
    local.add_argument(
        "--batch-size", type=_count, default=32, help="expected size of a batch (default: 32)"
    )
    training = local.add_mutually_exclusive_group()
    training.add_argument(
        "--local-epochs", type=_count, default=1, help="passes of a visit (default: 1)"
    )
    training.add_argument("--local-steps", type=_count, help="steps of a visit, instead of passes")
    return parser


def _check(args: argparse.Namespace) -> None:
    if args.cohort > args.clients:
        raise ConfigError(
            f"--cohort is {args.cohort}, but there are {args.clients} clients: lower it, or raise "
            "--clients"
        )
    what = {"client's update": args.clients, "example of a client": args.examples}
    for unit, number in what.items():
        if number is not None and args.delta >= 1 / number:
            raise ConfigError(
                f"--delta is {args.delta:g}, but must be below 1/{number}: an algorithm that "
                f"publishes one {unit} as it is would fulfil it. Lower --delta"
            )


def main(argv: list[str]) -> int:
    """Print the plan of a run's privacy and return the exit code: 0, or 2 for bad input."""
    try:
        args = _parser().parse_args(argv)
        args.cohort = args.clients if args.cohort is None else args.cohort
        _check(args)
        result = _plan(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(result, indent=2))
        return 0
    from fedtt_lightning.privacy.report import as_text

    print(as_text(result))
    return 0


def _plan(args: argparse.Namespace) -> dict[str, Any]:
    from tqdm import tqdm

    # Which imports torch, and that takes a second: after --help and what can be refused at once.
    from fedtt_lightning.privacy.planned_run import PlannedRun, plan_privacy

    run = PlannedRun(
        clients=args.clients,
        rounds=args.rounds,
        cohort=args.cohort,
        sampling=args.sampling,
        examples=args.examples,
        batch_size=args.batch_size,
        local_epochs=args.local_epochs,
        local_steps=args.local_steps,
        seed=args.seed,
        delta=args.delta,
        accountant=args.accountant,
    )
    values = args.epsilon or args.noise
    each = (0 if args.sampling == "poisson" else args.rounds) + (args.clients * bool(args.examples))
    total = args.rounds + len(values) * each
    with tqdm(total=total, desc="Planning", leave=False, disable=None) as bar:
        return plan_privacy(run, "epsilon" if args.epsilon else "noise", values, bar.update)
