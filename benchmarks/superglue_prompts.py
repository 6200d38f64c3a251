"""Prompts for a LLaMA: BoolQ, WiC, CB, COPA and WSC from 32 rows, and SST-2, over 3 and 10 clients.

    python benchmarks/superglue_prompts.py run   --data FOLDER --backbone FOLDER/llama
    python benchmarks/superglue_prompts.py table

FOLDER holds superglue/ (the official folders; a training file of 32 rows each) and glue/SST-2. A
method's learning rate is the one with the best accuracy on rows held out of SST-2's training set,
with 10 clients; it serves all tasks, since those with 32 rows have none to tune on. `table` prints
accuracy on the validation sets after the last round, of CB accuracy / mean F1 of its classes, mean
± standard deviation over three seeds, beside the base model and answering the largest class; then
that of the learning rates. Runs that are finished are kept: stop `run` and call it again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from decoders import METHODS, SEEDS, TUNING_SEED, best_rate, make_cell, spread, upload, values
from grid import Cell, run_cells

METRIC = "val_acc"
ROUNDS = 10
CLIENTS = (3, 10)
HOLDOUT = 500
# The share of the largest class in the official validation sets, and CB's F1 if always answered.
CB_F1 = 0.222
TASKS = {"boolq": 0.622, "wic": 0.5, "cb": 0.5, "copa": 0.55, "wsc": 0.635, "sst2": 0.509}


def cell(
    task: str, clients: int, method: str, lr: str, seed: int, holdout: int, args: argparse.Namespace
) -> Cell:
    limits = ("--data.train_limit", "800") if task == "sst2" else ()
    folder = "glue" if task == "sst2" else "superglue"
    options = (
        "--data", "fedtt_lightning.SuperGlueData", "--data.task", task,
        "--data.data_dir", f"{{data}}/{folder}", "--data.clients", str(clients),
        "--data.max_length", "256", "--data.batch_size", "16", "--data.eval_batch_size", "32",
        "--data.holdout", str(holdout), *limits,
    )  # fmt: skip
    name = f"{'tune' if holdout else 'final'}/{task}/{clients}"
    return make_cell(name, method, lr, seed, args.rounds, *options)


def tuning(method: str, lr: str, args: argparse.Namespace) -> Cell:
    return cell("sst2", 10, method, lr, TUNING_SEED, HOLDOUT, args)


def finals(task: str, clients: int, method: str, args: argparse.Namespace) -> list[Cell]:
    lr = best_rate(args.out, method, lambda rate: tuning(method, rate, args), METRIC)
    seeds = SEEDS[:1] if method == "base model" else SEEDS
    if lr is None or (method == "base model" and clients != CLIENTS[0]):
        return []
    return [cell(task, clients, method, lr, seed, 0, args) for seed in seeds]


def metrics(task: str) -> tuple[str, ...]:
    """Return SuperGLUE's official metrics of a task."""
    return (METRIC, "val_f1") if task == "cb" else (METRIC,)


def table(args: argparse.Namespace) -> None:
    print(f"{args.rounds} rounds of one pass, accuracy; of CB accuracy / F1\n")
    print(f"| clients | method | {' | '.join(args.tasks)} | KiB up a visit |")
    print("|---|---|" + "---|" * (len(args.tasks) + 1))
    largest = [f"{TASKS[task]:.3f}" + f" / {CB_F1}" * (task == "cb") for task in args.tasks]
    print(f"| | largest class | {' | '.join(largest)} | |")
    for clients in CLIENTS:
        for method in METHODS:
            cells = [finals(task, clients, method, args) for task in args.tasks]
            if not any(cells):
                continue
            shown = [
                " / ".join(spread(values(args.out, some, name)) for name in metrics(task))
                for task, some in zip(args.tasks, cells, strict=True)
            ]
            base = method == "base model"
            sent = "" if base else upload(args.out, [one for some in cells for one in some])
            print(f"| {'' if base else clients} | {method} | {' | '.join(shown)} | {sent} |")
    print("\nAccuracy of learning rates on the rows held out of SST-2, one seed:")
    for method, (_, _, rates) in METHODS.items():
        tuned = [(lr, values(args.out, [tuning(method, lr, args)], METRIC)) for lr in rates]
        if shown := [f"{lr} {score:.3f}" for lr, scores in tuned for score in scores]:
            print(f"{method}: {', '.join(shown)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--data", default="", help="folder of superglue/ and glue/")
    parser.add_argument("--backbone", default="", help="folder or hub name of the decoder")
    parser.add_argument("--out", type=Path, default=Path("runs/superglue_prompts"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    if args.command == "run":
        if not args.data or not args.backbone:
            parser.error("run needs --data and --backbone")
        tune = [tuning(m, lr, args) for m in METHODS for lr in METHODS[m][2] if m != "base model"]
        good = run_cells(tune, args.out, args.data, args.backbone, args.jobs)
        for task in args.tasks:
            final = [c for n in CLIENTS for m in METHODS for c in finals(task, n, m, args)]
            good &= run_cells(final, args.out, args.data, args.backbone, args.jobs)
        if not good:
            raise SystemExit("some runs failed: see above and the workers' logs, then run again")
    table(args)


if __name__ == "__main__":
    main()
