"""Accuracy against ε: SST-2, 10 clients, four methods, local and central DP, three seeds each.

    python benchmarks/privacy.py run --data FOLDER --backbone FOLDER/bert   # then table, plot
    python benchmarks/privacy.py table                      # --json FILE for the numbers behind it
    python benchmarks/privacy.py plot -o docs/images/privacy.svg        # and privacy.png beside it

FOLDER holds glue/SST-2, the official files, of which all training sentences are dealt out i.i.d.
`run` trains every cell that is not finished; stop it when you like and call it again. A method's
learning rate and clip are those with the best accuracy on rows held out of the training set, one
seed, for each kind of privacy at ε = 3; they serve the other ε too. `table` prints accuracy on the
dev set after the last round, mean ± standard deviation over seeds, as Markdown. The plot needs
matplotlib: pip install 'fedtt-lightning[benchmarks]'. Tuning looks at data, and no ε counts that.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import methods
from grid import Cell, run_cells
from scores import accuracy, sent, shown, summarize

EPSILONS = ("6", "3", "1")
DELTA = "1e-5"
TUNING_EPSILON = "3"
TUNING_SEED = 100
HOLDOUT = 1000
SEEDS = (0, 1, 2)
MAJORITY = 444 / 872  # of the dev set
NAMES = ("FedTT r=5", "FedTT+ r=5", "LoRA r=8", "FFA-LoRA r=8")
METHODS = {name: methods.METHODS[name] for name in NAMES}
DATA = (
    "--data", "fedtt_lightning.data.GlueData", "--data.task", "sst2",
    "--data.data_dir", "{data}/glue", "--data.max_length", "32", "--data.batch_size", "128",
    "--data.clients", "10", "--data.partition", "fedtt_lightning.data.IID",
)  # fmt: skip


# All clients take part in each round: a sampling of ten clients would save little privacy and
# leave out half of their updates.
ROUNDS, STEPS = 5, 4
TRAINING = (
    "--federation.sampler", "fedtt_lightning.federation.UniformSampler",
    "--federation.local_steps", str(STEPS),
    "--trainer.max_epochs", str(ROUNDS), "--trainer.check_val_every_n_epoch", str(ROUNDS),
)  # fmt: skip


class Setting(NamedTuple):
    """What is tuned."""

    lr: str
    clip: str = ""  # nothing to clip without privacy


class Privacy(NamedTuple):
    """A kind of privacy: presets, the key of its clip, what is tried and for which ε.

    Options of trainer.callbacks speak to the last callback, and so the preset has to come last.
    """

    presets: tuple[str, ...]
    clip: str
    settings: tuple[Setting, ...]
    epsilons: tuple[str, ...] = EPSILONS


def tried(rates: tuple[str, ...], clips: tuple[str, ...] = ("",)) -> tuple[Setting, ...]:
    return tuple(Setting(lr, clip) for lr in rates for clip in clips)


KINDS = {
    "none": Privacy((), "", tried(("3e-3", "1e-2", "3e-2")), ("∞",)),
    "local": Privacy(
        ("callbacks/local_dp.yaml",),
        "--trainer.callbacks.clip",
        tried(("1e-2", "3e-2"), ("1", "3")),
    ),
    "central": Privacy(
        ("callbacks/central_dp.yaml",),
        "--federation.aggregation.clip",
        tried(("3e-3", "1e-2"), ("0.1", "0.5")),
    ),
}


def cell(
    kind: str, method: str, epsilon: str, setting: Setting, seed: int, holdout: int = 0
) -> Cell:
    privacy, (configs, options) = KINDS[kind], METHODS[method]
    name = (
        f"{'tune' if holdout else 'final'}/{kind}/epsilon={epsilon}/{method}/"
        f"lr={setting.lr},clip={setting.clip}/seed={seed}"
    )
    own: tuple[str, ...] = ()
    if privacy.presets:
        own = (
            "--trainer.callbacks.epsilon", epsilon, "--trainer.callbacks.delta", DELTA,
            privacy.clip, setting.clip,
        )  # fmt: skip
    return Cell(
        name.replace(" ", "_").replace("∞", "inf"),
        ("benchmarks/baselines.yaml", *configs, *privacy.presets),
        (
            "--model", "fedtt_lightning.SequenceClassifier", *options, *DATA, *TRAINING, *own,
            "--data.holdout", str(holdout), "--model.lr", setting.lr,
            "--seed_everything", str(seed),
        ),
    )  # fmt: skip


def tuning(kind: str, method: str, setting: Setting) -> Cell:
    epsilon = TUNING_EPSILON if KINDS[kind].presets else "∞"
    return cell(kind, method, epsilon, setting, TUNING_SEED, HOLDOUT)


def held_out(out: Path, kind: str, method: str) -> dict[Setting, float | None]:
    """Return the accuracy on held-out rows of each setting, None where the run is missing."""
    records = {
        setting: tuning(kind, method, setting).finished(out) for setting in KINDS[kind].settings
    }
    return {setting: record and accuracy(record) for setting, record in records.items()}


def best(out: Path, kind: str, method: str) -> Setting | None:
    """Return the best setting (the first of equals), None before all are tried."""
    scores = held_out(out, kind, method)
    if None in scores.values():
        return None
    return max(scores, key=lambda setting: scores[setting] or 0.0)


def run(args: argparse.Namespace) -> bool:
    """Run what is missing, tuning first, then seed by seed; False if a run failed."""
    tune = [tuning(k, m, s) for k in KINDS for s in KINDS[k].settings for m in METHODS]
    good = run_cells(tune, args.out, args.data, args.backbone, args.jobs)
    final = [
        cell(kind, method, epsilon, setting, seed)
        for seed in SEEDS
        for kind in KINDS
        for epsilon in KINDS[kind].epsilons
        for method in METHODS
        if (setting := best(args.out, kind, method)) is not None
    ]
    return run_cells(final, args.out, args.data, args.backbone, args.jobs) and good


def results(out: Path) -> list[dict[str, Any]]:
    """Return one row for each kind of privacy, method and ε that has a run."""
    rows = []
    for kind in KINDS:
        for method in METHODS:
            if (setting := best(out, kind, method)) is None:
                continue
            for epsilon in KINDS[kind].epsilons:
                cells = [cell(kind, method, epsilon, setting, seed) for seed in SEEDS]
                done = [record for one in cells if (record := one.finished(out)) is not None]
                if done:
                    spent = [r["summary"]["metrics"].get("dp/epsilon_max") for r in done]
                    rows.append(
                        {"privacy": kind, "epsilon": epsilon, "method": method, "spent": spent}
                        | {"lr": setting.lr, "clip": setting.clip, **summarize(done)}
                    )
    return rows


def table(rows: list[dict[str, Any]]) -> None:
    columns = [(kind, epsilon) for kind in KINDS for epsilon in KINDS[kind].epsilons]
    heads = [f"ε = {e}" if kind == "none" else f"{kind}, ε = {e}" for kind, e in columns]
    print(f"\n| method | {' | '.join(heads)} | up a visit | without head |")
    print("|---|" + "---|" * (len(columns) + 2))
    for method in METHODS:
        ours = {(row["privacy"], row["epsilon"]): row for row in rows if row["method"] == method}
        if ours:
            scores = [shown(ours.get(column), len(SEEDS)) for column in columns]
            print(f"| {method} | {' | '.join(scores)} | {sent(next(iter(ours.values())))} |")
    whole = len(METHODS) * len(columns) * len(SEEDS)
    print(f"\n{sum(row['seeds'] for row in rows)} of {whole} runs are done.")


def tuning_table(out: Path) -> None:
    for kind, privacy in KINDS.items():
        heads = [f"lr {s.lr}" + f", clip {s.clip}" * bool(s.clip) for s in privacy.settings]
        print(f"\n| {kind}, {HOLDOUT} held-out rows | {' | '.join(heads)} |")
        print("|---|" + "---|" * len(heads))
        for method in METHODS:
            scores = held_out(out, kind, method).values()
            texts = ["–" if score is None else f"{score:.3f}"[1:] for score in scores]
            print(f"| {method} | {' | '.join(texts)} |")


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    from privacy_plot import figure, save

    if not rows:
        raise SystemExit("nothing to plot: `run` first")
    for written in save(figure(rows, EPSILONS[::-1], MAJORITY), file):
        print(written)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("command", choices=["run", "table", "plot"])
    parser.add_argument("--data", default="", help="folder of glue/")
    parser.add_argument("--backbone", default="", help="folder or hub name of the encoder")
    parser.add_argument("--out", type=Path, default=Path("runs/privacy"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--json", type=Path, help="file for the table's numbers")
    parser.add_argument("-o", "--plot", type=Path, default=Path("privacy.svg"), help="the plot")
    args = parser.parse_args()
    if args.command == "run":
        if not args.data or not args.backbone:
            parser.error("run needs --data and --backbone")
        if not run(args):
            raise SystemExit("some runs failed: see above and the workers' logs, then run again")
    rows = results(args.out)
    if args.command != "plot":
        table(rows)
        tuning_table(args.out)
        if args.json is not None:
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.command != "table":
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
