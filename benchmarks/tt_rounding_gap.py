"""What averaging TT cores one by one costs against averaging what they multiply to, on SST-2.

    python benchmarks/tt_rounding_gap.py --data FOLDER --backbone FOLDER/bert

Runs FedTT and FedTT+ with the weighted mean of the cores and with TTRounding, i.i.d. and severe, 10
clients, three seeds (the cells of baselines.py at one learning rate), and prints as Markdown the
accuracy after the last round and how far each round's new operators lie from the mean of the
clients' operators: relative Frobenius distance over all trains, mean over rounds and seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from dataclasses import replace
from pathlib import Path

from baselines import METHODS, SEEDS, accuracy, cell
from grid import Cell, run_cells

RULES: dict[str, tuple[str, ...]] = {
    "cores averaged": (),
    "TTRounding": ("callbacks/tt_rounding.yaml",),
}
FEDTT_METHODS = tuple(method for method in METHODS if method.startswith("FedTT"))
SPLITS = ("i.i.d.", "severe")


def gap_cell(method: str, rule: str, split: str, lr: str, seed: int) -> Cell:
    base = cell("SST-2", method, split, 10, lr, seed)
    return replace(
        base,
        name=f"{rule.replace(' ', '_')}/{base.name}",
        configs=(*base.configs, *RULES[rule], "benchmarks/operator_gap.yaml"),
    )


def gaps(out: Path, cells: list[Cell], key: str) -> list[list[float]]:
    """Return a list of rounds for each seed."""
    runs = [json.loads((out / one.name / "gaps.json").read_text()) for one in cells]
    return [[gap[key] for gap in run] for run in runs]


def table(out: Path, lr: str) -> None:
    print("| split | method | rule | accuracy | off the mean operator | of the round's change |")
    print("|---|---|---|---|---|---|")
    for split in SPLITS:
        for method in FEDTT_METHODS:
            for rule in RULES:
                cells = [gap_cell(method, rule, split, lr, seed) for seed in SEEDS]
                records = [record for one in cells if (record := one.finished(out)) is not None]
                if len(records) < len(cells):
                    continue
                scores = [accuracy(record) for record in records]
                operator, change = (
                    statistics.mean(gap for run in gaps(out, cells, key) for gap in run)
                    for key in ("of_operator", "of_change")
                )
                print(
                    f"| {split} | {method} | {rule} | {statistics.mean(scores):.3f} ± "
                    f"{statistics.stdev(scores):.3f} | {operator:.2%} | {change:.1%} |"
                )
    print("\nOf the round's change, round by round (mean of the seeds):\n")
    for split in SPLITS:
        for method in FEDTT_METHODS:
            for rule in RULES:
                cells = [gap_cell(method, rule, split, lr, seed) for seed in SEEDS]
                if all(one.finished(out) for one in cells):
                    rounds = zip(*gaps(out, cells, "of_change"), strict=True)
                    shown = " ".join(f"{statistics.mean(seeds):.1%}" for seeds in rounds)
                    print(f"- {split}, {method}, {rule}: {shown}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", required=True, help="folder of glue/")
    parser.add_argument("--backbone", required=True, help="folder or hub name of the encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/tt_rounding_gap"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--lr", default="5e-3")
    args = parser.parse_args()
    cells = [
        gap_cell(method, rule, split, args.lr, seed)
        for seed in SEEDS
        for split in SPLITS
        for method in FEDTT_METHODS
        for rule in RULES
    ]
    good = run_cells(cells, args.out, args.data, args.backbone, args.jobs)
    table(args.out, args.lr)
    if not good:
        raise SystemExit("some runs failed: see above and the workers' logs, then run again")


if __name__ == "__main__":
    main()
