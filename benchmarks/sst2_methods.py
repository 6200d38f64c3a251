"""FedTT, FedTT+ and LoRA on SST-2: 10 clients, i.i.d. and severe label split, 3 seeds.

    python benchmarks/sst2_methods.py run   --data FOLDER/glue --backbone FOLDER/bert
    python benchmarks/sst2_methods.py table

`run` trains every cell that is not finished, several at a time, each with a folder of its own:
first the learning rates, judged on rows held out of the training set, then the best one of each
method and split with three seeds on the dev set. `table` prints accuracy (mean ± standard
deviation over seeds, after the last round) and bytes as Markdown. `inits` compares the adapters'
starts on the held-out rows.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Iterable
from pathlib import Path

from grid import Cell, run_cells

CONFIG = "configs/glue/sst2_fedtt.yaml"
LEARNING_RATES = ("2e-3", "5e-3", "1e-2", "2e-2")
SEEDS = (0, 1, 2)
TUNING_SEEDS = (0, 1)
SPLITS = {
    "i.i.d.": ["--data.partition", "fedtt_lightning.data.IID"],
    "severe": [
        "--data.partition", "fedtt_lightning.data.LabelShares", "--data.partition.level", "severe",
    ],
}  # fmt: skip
Method = tuple[tuple[str, ...], tuple[str, ...]]  # config files, options
FEDTT: Method = ((CONFIG,), ("--model.peft.tt_classifier", "true"))
FEDTT_PLUS: Method = ((CONFIG, "callbacks/fedtt_plus.yaml"), FEDTT[1])
LORA = (
    "--model.peft", "peft.LoraConfig", "--model.peft.r", "8",
    "--model.peft.target_modules", "[query, value]",
)  # fmt: skip
METHODS: dict[str, Method] = {
    "FedTT r=5": FEDTT,
    "FedTT+ r=5": FEDTT_PLUS,
    "LoRA r=8": ((CONFIG,), LORA),
}
INITS: dict[str, Method] = {
    f"{name}, {init}": (configs, (*options, "--model.peft.init", init))
    for name, (configs, options) in METHODS.items()
    if name.startswith("FedTT")
    for init in ("orthonormal", "gaussian", "loretta")
}


def cell(
    args: argparse.Namespace,
    name: str,
    method: Method,
    split: str,
    lr: str,
    seed: int,
    holdout: int,
) -> Cell:
    configs, options = method
    kind = "tune" if holdout else "final"
    folder = f"{kind}/{name}/{split}/lr={lr}/seed={seed}".replace(" ", "_").replace(",", "")
    common = (
        "--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false",
        "--trainer.accelerator", "cpu", "--data.data_dir", "{data}", "--data.max_length", "64",
        "--data.train_limit", str(args.examples), "--data.holdout", str(holdout),
        "--trainer.max_epochs", str(args.rounds),
        "--trainer.check_val_every_n_epoch", str(args.rounds),
        "--model.lr", lr, "--seed_everything", str(seed),
    )  # fmt: skip
    return Cell(folder, configs, (*options, *SPLITS[split], *common))


def tuned(
    args: argparse.Namespace, methods: dict[str, Method], splits: Iterable[str]
) -> list[Cell]:
    return [
        cell(args, name, method, split, lr, seed, args.holdout)
        for seed in args.tuning_seeds
        for split in splits
        for name, method in methods.items()
        for lr in args.rates
    ]


def held_out(
    args: argparse.Namespace, name: str, method: Method, split: str, lr: str
) -> float | None:
    """Return the mean accuracy on held-out rows over the tuning seeds, if all have finished."""
    cells = [cell(args, name, method, split, lr, s, args.holdout) for s in args.tuning_seeds]
    done = [record["summary"] for c in cells if (record := c.finished(args.out)) is not None]
    scores = [summary["metrics"]["val_acc"] for summary in done]
    return statistics.mean(scores) if len(scores) == len(cells) else None


def best_lr(args: argparse.Namespace, name: str, method: Method, split: str) -> str:
    scores = {lr: held_out(args, name, method, split, lr) for lr in args.rates}
    if None in scores.values():
        raise SystemExit(f"{name}, {split}: not every rate is tuned yet: run `run` again")
    return max(scores, key=lambda lr: scores[lr] or 0.0)


def finals(
    args: argparse.Namespace, methods: dict[str, Method], splits: Iterable[str]
) -> list[Cell]:
    return [
        cell(args, name, method, split, best_lr(args, name, method, split), seed, 0)
        for split in splits
        for name, method in methods.items()
        for seed in SEEDS
    ]


def table(args: argparse.Namespace, methods: dict[str, Method], splits: Iterable[str]) -> None:
    print(f"{args.rounds} rounds, {args.examples} training examples over 10 clients\n")
    print("| split | method | lr | accuracy | trained | up a visit | total up |")
    print("|---|---|---|---|---|---|---|")
    for split in splits:
        for name, method in methods.items():
            lr = best_lr(args, name, method, split)
            cells = [cell(args, name, method, split, lr, seed, 0) for seed in SEEDS]
            done = [
                record["summary"] for c in cells if (record := c.finished(args.out)) is not None
            ]
            if not done:
                continue
            scores = [summary["metrics"]["val_acc"] for summary in done]
            spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            one = done[0]
            kib, total = one["upload_bytes_per_client"] / 1024, one["upload_bytes_total"] / 1024
            print(
                f"| {split} | {name} | {lr} | {statistics.mean(scores):.3f}{spread} "
                f"({len(scores)} seeds) | {one['trainable_parameters']:,} "
                f"| {kib:.1f} KiB | {total / 1024:.2f} MiB |"
            )


def tuning_table(
    args: argparse.Namespace, methods: dict[str, Method], splits: Iterable[str]
) -> None:
    print(f"\nAccuracy on {args.holdout} held-out rows, mean of {len(args.tuning_seeds)} seeds\n")
    print(f"| split | method | {' | '.join(f'lr {lr}' for lr in args.rates)} |")
    print("|---|---|" + "---|" * len(args.rates))
    for split in splits:
        for name, method in methods.items():
            scores = [held_out(args, name, method, split, lr) for lr in args.rates]
            shown = " | ".join("" if score is None else f"{score:.3f}" for score in scores)
            print(f"| {split} | {name} | {shown} |")


def run(cells: list[Cell], args: argparse.Namespace) -> None:
    if not run_cells(cells, args.out, args.data, args.backbone, args.jobs):
        raise SystemExit("some runs failed: see above and the workers' logs, then run again")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=["run", "table", "inits", "inits-table"])
    parser.add_argument("--data", default="", help="folder of the official GLUE files")
    parser.add_argument("--backbone", default="", help="folder of the pretrained encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/sst2_methods"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--examples", type=int, default=3000, help="training examples in all")
    parser.add_argument("--rates", nargs="+", default=LEARNING_RATES, help="learning rates tried")
    parser.add_argument("--tuning-seeds", nargs="+", type=int, default=TUNING_SEEDS)
    parser.add_argument("--holdout", type=int, default=1000, help="rows held out to tune on")
    args = parser.parse_args()
    if not args.command.endswith("table") and not (args.data and args.backbone):
        parser.error("run and inits need --data and --backbone")
    if args.command.startswith("inits"):
        if args.command == "inits":
            run(tuned(args, INITS, ["i.i.d."]), args)
        tuning_table(args, INITS, ["i.i.d."])
        return
    if args.command == "run":
        run(tuned(args, METHODS, SPLITS), args)
        run(finals(args, METHODS, SPLITS), args)
    table(args, METHODS, SPLITS)
    tuning_table(args, METHODS, SPLITS)


if __name__ == "__main__":
    main()
