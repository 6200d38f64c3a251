"""A line for each round and a table at the end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fedtt_lightning.callbacks.bar_items import bar_items, clear_bar, show_on_bar
from fedtt_lightning.callbacks.client_evaluation import ClientEvaluation
from fedtt_lightning.callbacks.communication import Communication
from fedtt_lightning.callbacks.csv_file import write_csv
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.parts import client_data
from fedtt_lightning.callbacks.run_origin import run_origin
from fedtt_lightning.callbacks.summary_table import (
    client_scores,
    run_summary,
    summary_table,
)
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import FederatedLoop, RoundPlan
from fedtt_lightning.wording import human_bytes, shown_scores


class RoundReport(Callback):
    """Prints each round's metrics and bytes, and at the end the method beside LoRA r=8.

    Needs the Communication callback. The row of LoRA r=8 on PEFT's default targets in the same
    backbone (query and value in most families) holds its parameters and bytes for the same visits,
    with a dense head as the backbone defines it or, for a module of your own, with what else trains
    in it; it is left out where PEFT knows no targets. Uploads are those of late clients and of
    skipped rounds too. The numbers are written to `summary.json` in `default_root_dir`, with the
    command, the versions, and the seconds of this `fit`, which began in `first_round` (from 1); the
    examples of each label that clients train on to `partition.csv`. The progress bar shows the
    round, who trains, the bytes up so far and ε as well.

    Args:
        table: print the table at the end; the files are written in any case.
    """

    def __init__(self, table: bool = True) -> None:
        self.table = table
        self._validated = False
        self._moved = False  # by the aggregation rule in this round, perhaps without any client
        self._started = (0.0, 1)  # when, and in which round
        self._reset()

    def _reset(self) -> None:
        self._totals = {"skipped_rounds": 0, "dropped": 0, "late": 0}
        self._epsilon: dict[str, str] = {}  # of the last closed round

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            comm = _communication(trainer)
            if trainer.current_epoch == 0:
                self._reset()  # not the counts of an earlier fit
            federation = find_federation(trainer)
            show_on_bar(trainer, lambda: bar_items(federation.loop, comm) | self._epsilon)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._started = (time.monotonic(), trainer.current_epoch + 1)

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        self._moved = False

    def on_aggregate(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._moved = True

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        self._totals["skipped_rounds"] += find_federation(trainer).loop.skipped and not self._moved
        self._totals["dropped"] += len(plan.dropped)
        self._totals["late"] += len(plan.late)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = find_federation(trainer).loop
        if loop.is_open or loop.plan is None:
            return
        metrics = trainer.callback_metrics
        rounds = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        parts = [f"round {trainer.current_epoch + 1}{rounds}"]
        if loop.skipped and self._moved:
            parts[0] += " of noise alone: nobody was drawn"
        elif loop.skipped:
            parts[0] += f" skipped: {_why_skipped(loop, loop.plan)}"
        else:
            if "fed/train_loss" in metrics:
                parts.append(f"loss {float(metrics['fed/train_loss']):.3f}")
            if self._validated:
                parts += [f"{name} {float(metrics[name]):.3f}" for name in shown_scores(metrics)]
        self._validated = False
        evaluation = _evaluation(trainer)
        if evaluation is not None and evaluation.round == trainer.current_epoch:
            parts += [f"{k} {v:.3f}" for k, v in client_scores(metrics).items()]
        self._epsilon = {
            what: f"{float(metrics[name]):.2f}"
            for name, what in (("dp/epsilon_max", "ε"), ("dp/central_epsilon_max", "central ε"))
            if name in metrics
        }
        parts += [f"{what} {value}" for what, value in self._epsilon.items()]
        comm = _communication(trainer)
        for label, now, total in (
            ("up", comm.uploaded, comm.uploaded_total),
            ("down", comm.downloaded, comm.downloaded_total),
        ):
            parts.append(f"{label} {human_bytes(now)} (so far {human_bytes(total)})")
        for clients, what in (
            (loop.plan.dropped, "dropped"),
            (loop.plan.late, "late"),
            (loop.rejected, "left out for NaN or Inf"),
            (loop.plan.exhausted, "without privacy budget"),
        ):
            if clients:
                parts.append(f"{len(clients)} {what}")
        if trainer.is_global_zero:
            _print(trainer, "  ".join(parts))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        comm = _communication(trainer)
        if not trainer.is_global_zero:
            return
        loop = find_federation(trainer).loop
        summary = run_summary(trainer, pl_module, loop, comm) | self._totals
        if self.table:
            _print(trainer, summary_table(summary))
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            start, first = self._started
            summary |= {"seconds": time.monotonic() - start, "first_round": first, **run_origin()}
            folder = Path(trainer.default_root_dir)
            write_csv(folder / "partition.csv", *client_data(trainer).label_counts())
            _write(folder / "summary.json", summary)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        clear_bar(trainer)

    def state_dict(self) -> dict[str, Any]:
        return dict(self._totals)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._totals.update(state_dict)


def _why_skipped(loop: FederatedLoop, plan: RoundPlan) -> str:
    if plan.visits:
        usable = len(plan.visits) - len(loop.rejected)
        why = f"{usable} of {len(plan.visits)} updates without NaN or Inf"
        if usable >= plan.needed and (problem := loop.aggregation.problem(usable)):
            return f"{why}, {problem}"
    elif cohort := len(plan.unused) + len(plan.dropped) + len(plan.late):
        why = f"{len(plan.unused)} of {cohort} clients answered in time"
    else:
        why = "no clients"
    return f"{why}, {plan.needed} needed"


def _write(path: Path, summary: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _communication(trainer: Trainer) -> Communication:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Communication):
            return callback
    raise ConfigError("RoundReport needs the Communication callback: add it to trainer.callbacks")


def _evaluation(trainer: Trainer) -> ClientEvaluation | None:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ClientEvaluation):
            return callback
    return None


def _print(trainer: Trainer, what: str | Table) -> None:
    """Print above the progress bar, if there is one."""
    bar = trainer.progress_bar_callback
    progress = getattr(bar, "progress", None)
    if isinstance(progress, Progress) and progress.live.is_started:
        # Rich prints outside the lock of its refresh thread (100 times a second): when the
        # validation bar has just gone, a refresh in between would erase the line.
        with progress.live._lock:
            progress.console.print(what, highlight=False, markup=False)
    elif isinstance(what, Table) or bar is None:
        console = Console(highlight=False)
        width = None if console.is_terminal else 120
        console.print(what, soft_wrap=isinstance(what, str), width=width)
    else:
        bar.print(what)
