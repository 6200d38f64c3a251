"""Seven methods on four datasets, three splits and three numbers of clients, three seeds each.

    python benchmarks/baselines.py run   --data FOLDER --backbone FOLDER/bert
    python benchmarks/baselines.py table            # --json FILE for the numbers behind it

FOLDER holds glue/SST-2 and glue/RTE (the official files), trec/TREC.train.all and TREC.test.all,
and subj/subj.all. `run` trains every cell that is not finished: dataset by dataset the learning
rates, then 10 clients, then 3 and 50 on all datasets; stop it when you like and call it again. A
method's rate on a dataset is the one with the best accuracy on rows held out of the training set,
with 10 clients and the mild split; it serves all splits and numbers of clients. `table` prints
accuracy after the last round, mean ± standard deviation over seeds, as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from grid import Cell, run_cells
from methods import METHODS
from scores import accuracy, sent, shown, summarize

RATES = ("3e-3", "1e-2", "3e-2")
TUNING_SEED = 100
TUNING_SPLIT = "mild"  # between the two others
SEEDS = (0, 1, 2)
CLIENTS = (10, 3, 50)
COHORT = 10
VISITS = 10  # of each client, on average: as many rounds, or more where only a cohort takes part
BATCHES = ("--data.max_length", "32", "--data.batch_size", "16")
GLUE = ("--data", "fedtt_lightning.data.GlueData", *BATCHES, "--data.data_dir", "{data}/glue")
LINES = ("--data", "fedtt_lightning.data.LabelledText", *BATCHES, "--data.encoding", "latin-1")
DATASETS: dict[str, tuple[str, ...]] = {
    "SST-2": (*GLUE, "--data.task", "sst2", "--data.train_limit", "800"),
    "TREC": (
        *LINES, "--data.train_file", "{data}/trec/TREC.train.all",
        "--data.test_file", "{data}/trec/TREC.test.all", "--data.train_limit", "800",
    ),
    "SUBJ": (
        *LINES, "--data.train_file", "{data}/subj/subj.all",
        "--data.test_fraction", "0.1", "--data.train_limit", "800",
    ),
    "RTE": (
        *GLUE, "--data.task", "rte", "--data.train_limit", "500", "--data.max_length", "64",
    ),
}  # fmt: skip
SPLITS = {
    "i.i.d.": ("--data.partition", "fedtt_lightning.data.IID"),
    **{
        level: (
            "--data.partition", "fedtt_lightning.data.LabelShares", "--data.partition.level", level,
        )
        for level in ("mild", "severe")
    },
}  # fmt: skip
HOLDOUT = 500


def cell(
    dataset: str, method: str, split: str, clients: int, lr: str, seed: int, holdout: int = 0
) -> Cell:
    kind = "tune" if holdout else "final"
    name = f"{kind}/{dataset}/{clients}/{method}/{split}/lr={lr}/seed={seed}"
    configs, options = METHODS[method]
    cohort = min(clients, COHORT)
    rounds = str(VISITS * clients // cohort)
    common = (
        "--data.clients", str(clients), "--data.holdout", str(holdout),
        "--federation.sampler", "fedtt_lightning.federation.UniformSampler",
        "--federation.sampler.clients_per_round", str(cohort),
        "--trainer.max_epochs", rounds, "--trainer.check_val_every_n_epoch", rounds,
        "--model.lr", lr, "--seed_everything", str(seed),
    )  # fmt: skip
    model = ("--model", "fedtt_lightning.SequenceClassifier")
    return Cell(
        name.replace(" ", "_"),
        ("benchmarks/baselines.yaml", *configs),
        (*model, *options, *DATASETS[dataset], *SPLITS[split], *common),
    )


def tuning(dataset: str, method: str, lr: str) -> Cell:
    return cell(dataset, method, TUNING_SPLIT, 10, lr, TUNING_SEED, HOLDOUT)


def held_out(out: Path, dataset: str, method: str, lr: str) -> float | None:
    """Return the accuracy on held-out rows, None if the run is missing."""
    record = tuning(dataset, method, lr).finished(out)
    return None if record is None else accuracy(record)


def best_rate(out: Path, dataset: str, method: str) -> str | None:
    """Return the best rate (the lowest of equals), None before all are tuned."""
    scores = {lr: held_out(out, dataset, method, lr) for lr in RATES}
    known = {lr: score for lr, score in scores.items() if score is not None}
    return max(known, key=lambda lr: known[lr]) if len(known) == len(RATES) else None


def finals(out: Path, dataset: str, clients: int) -> list[Cell]:
    rates = {method: best_rate(out, dataset, method) for method in METHODS}
    return [
        cell(dataset, method, split, clients, lr, seed)
        for seed in SEEDS
        for split in SPLITS
        for method, lr in rates.items()
        if lr is not None
    ]


def run(args: argparse.Namespace) -> bool:
    """Run what is missing in order of use; False if a run failed."""
    good = True
    for clients in args.clients:
        for dataset in args.datasets:
            tune = [tuning(dataset, method, lr) for lr in RATES for method in METHODS]
            good &= run_cells(tune, args.out, args.data, args.backbone, args.jobs)
            final = finals(args.out, dataset, clients)
            good &= run_cells(final, args.out, args.data, args.backbone, args.jobs)
    return good


def results(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row for each dataset, number of clients, method and split that has a run."""
    rows = []
    for dataset in args.datasets:
        for method in METHODS:
            lr = best_rate(args.out, dataset, method)
            for clients in args.clients if lr is not None else ():
                for split in SPLITS:
                    cells = [cell(dataset, method, split, clients, lr, seed) for seed in SEEDS]
                    records = [one.finished(args.out) for one in cells]
                    done = [record for record in records if record is not None]
                    if done:
                        rows.append(
                            {"dataset": dataset, "clients": clients, "method": method}
                            | {"split": split, "lr": lr, **summarize(done)}
                        )
    return rows


def table(args: argparse.Namespace) -> None:
    rows = results(args)
    found = {(row["dataset"], row["method"], row["clients"], row["split"]): row for row in rows}
    for dataset in args.datasets:
        if not any(row["dataset"] == dataset for row in rows):
            continue
        ran = {(clients, split) for of, _, clients, split in found if of == dataset}
        columns = [
            (n, split) for n in sorted(args.clients) for split in SPLITS if (n, split) in ran
        ]
        print(f"\n**{dataset}**\n")
        heads = [f"{clients}, {split}" for clients, split in columns]
        print(f"| method | lr | {' | '.join(heads)} | up a visit | without head |")
        print("|---|---|" + "---|" * (len(columns) + 2))
        for method in METHODS:
            ours = [found.get((dataset, method, *column)) for column in columns]
            if (one := next((row for row in ours if row is not None), None)) is None:
                continue
            scores = [shown(row, len(SEEDS)) for row in ours]
            print(f"| {method} | {one['lr']} | {' | '.join(scores)} | {sent(one)} |")
    whole = len(args.datasets) * len(METHODS) * len(args.clients) * len(SPLITS) * len(SEEDS)
    runs = sum(row["seeds"] for row in rows)
    print(f"\n{runs} of {whole} runs are done" + (":" if runs < whole else "."))
    for dataset in args.datasets:
        untuned = [method for method in METHODS if best_rate(args.out, dataset, method) is None]
        if untuned:
            print(f"- {dataset}: no learning rate yet for {', '.join(untuned)}")
        for clients in sorted(args.clients):
            done = [row for row in rows if (row["dataset"], row["clients"]) == (dataset, clients)]
            missing = len(METHODS) * len(SPLITS) * len(SEEDS) - sum(row["seeds"] for row in done)
            if missing:
                print(f"- {dataset}, {clients} clients: {missing} runs are missing")


def tuning_table(args: argparse.Namespace) -> None:
    print(f"\n| accuracy on {HOLDOUT} held-out rows | {' | '.join(f'lr {lr}' for lr in RATES)} |")
    print("|---|" + "---|" * len(RATES))
    for dataset in args.datasets:
        for method in METHODS:
            scores = [held_out(args.out, dataset, method, lr) for lr in RATES]
            if any(score is not None for score in scores):
                texts = ["–" if score is None else f"{score:.3f}"[1:] for score in scores]
                print(f"| {dataset}, {method} | {' | '.join(texts)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=["run", "table"])
    parser.add_argument("--data", default="", help="folder of glue/, trec/ and subj/")
    parser.add_argument("--backbone", default="", help="folder or hub name of the encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/baselines"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--clients", nargs="+", type=int, choices=CLIENTS, default=CLIENTS)
    parser.add_argument("--json", type=Path, help="file for the table's numbers")
    args = parser.parse_args()
    if args.command == "run":
        if not args.data or not args.backbone:
            parser.error("run needs --data and --backbone")
        if not run(args):
            raise SystemExit("some runs failed: see above and the workers' logs, then run again")
    table(args)
    tuning_table(args)
    if args.json is not None:
        args.json.write_text(json.dumps(results(args), indent=1) + "\n")


if __name__ == "__main__":
    main()
