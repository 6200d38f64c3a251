"""Perplexity on stories nobody trains on: the base model, federated by world, and pooled.

    python benchmarks/stories.py run   --backbone FOLDER/llama     # trained on TinyStories
    python benchmarks/stories.py table

The built-in stories have twelve worlds, each with children, places and things of its own, and
each client has worlds of its own. Pooled training is one visit of one client that holds all
stories, with as many passes over them as rounds otherwise. A method's learning rate is the one with
the lowest perplexity on training stories put aside, of twelve clients and of pooled training each.
`table` prints the perplexity of all worlds' test stories after the last round, mean ± standard
deviation over three seeds. Runs that are finished are kept: stop `run` and call it again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from decoders import METHODS, SEEDS, TUNING_SEED, best_rate, make_cell, spread, upload, values
from grid import Cell, run_cells

METRIC = "val_perplexity"
ROUNDS = 10
HOLDOUT = 240
SETTINGS = {"3 clients": 3, "12 clients": 12, "pooled": 1}


def cell(
    method: str, setting: str, lr: str, seed: int, holdout: int, args: argparse.Namespace
) -> Cell:
    clients, rounds = SETTINGS[setting], args.rounds
    stories = 24 if method == "base model" else args.stories  # which change nothing
    options = (
        "--data", "fedtt_lightning.StoryData", "--data.clients", str(clients),
        "--data.train_size", str(stories), "--data.max_length", "256",
        "--data.holdout", str(holdout),
    )  # fmt: skip
    if setting == "pooled":
        options = (*options, "--federation.local_epochs", str(rounds))
        rounds = 1
    name = f"{'tune' if holdout else 'final'}/{setting}"
    return make_cell(name, method, lr, seed, rounds, *options)


def tuned_at(setting: str) -> str:
    return "pooled" if setting == "pooled" else "12 clients"


def tuning(method: str, setting: str, args: argparse.Namespace) -> list[Cell]:
    rates = METHODS[method][2]
    at = tuned_at(setting)
    return [cell(method, at, lr, TUNING_SEED, HOLDOUT, args) for lr in rates if len(rates) > 1]


def finals(method: str, setting: str, args: argparse.Namespace) -> list[Cell]:
    def tuned(lr: str) -> Cell:
        return cell(method, tuned_at(setting), lr, TUNING_SEED, HOLDOUT, args)

    lr = best_rate(args.out, method, tuned, METRIC, least=True)
    return [] if lr is None else [cell(method, setting, lr, seed, 0, args) for seed in SEEDS]


def cases() -> list[tuple[str, str]]:
    """Return every (method, setting); the base model is the same in all."""
    pairs = [(method, setting) for setting in SETTINGS for method in METHODS]
    return [pair for pair in pairs if pair[0] != "base model" or pair[1] == "3 clients"]


def table(args: argparse.Namespace) -> None:
    print(f"{args.stories} stories, {args.rounds} rounds of one pass\n")
    print(
        f"| perplexity | {' | '.join(SETTINGS)} | KiB up a visit |\n|---|"
        + "---|" * (1 + len(SETTINGS))
    )
    for method in METHODS:
        cells = {s: finals(method, s, args) for m, s in cases() if m == method}
        shown = [spread(values(args.out, cells.get(s, []), METRIC)) for s in SETTINGS]
        sent = upload(args.out, cells.get("12 clients", []))
        print(f"| {method} | {' | '.join(shown)} | {sent} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--backbone", default="", help="folder or hub name of the decoder")
    parser.add_argument("--out", type=Path, default=Path("runs/stories"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--stories", type=int, default=1200, help="training stories in all")
    args = parser.parse_args()
    if args.command == "run":
        if not args.backbone:
            parser.error("run needs --backbone")
        for work in (tuning, finals):
            cells = [one for method, setting in cases() for one in work(method, setting, args)]
            if not run_cells(list(dict.fromkeys(cells)), args.out, "", args.backbone, args.jobs):
                raise SystemExit(
                    "some runs failed: see above and the workers' logs, then run again"
                )
    table(args)


if __name__ == "__main__":
    main()
