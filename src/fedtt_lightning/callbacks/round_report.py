"""A line for each round and a table at the end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fedtt_lightning.account.reference import lora_reference
from fedtt_lightning.callbacks.client_evaluation import ClientEvaluation
from fedtt_lightning.callbacks.communication import Communication
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    FactorSchedule,
    FederatedLoop,
    FFALoRA,
    RoLoRA,
    RoundPlan,
)

_ADAPTER = re.compile(r"\.tt_adapter\.|\.lora_")
# PEFT's name of a method, and ours.
_METHODS = {
    "TT_ADAPTER": "FedTT",
    "LORA": "LoRA",
    "IA3": "(IA)³",
    "PROMPT_TUNING": "prompt tuning",
    "PREFIX_TUNING": "prefix tuning",
}
_SCHEDULES: dict[str, dict[type, str]] = {
    "TT_ADAPTER": {FactorSchedule: "FedTT+"},
    "LORA": {FFALoRA: "FFA-LoRA", RoLoRA: "RoLoRA"},
}
# A model's own weights, by the patterns of SequenceClassifier's `trainable`.
_PATTERNS = {None: "full fine-tuning", (): "head only", (r"\.bias$",): "BitFit"}


class RoundReport(Callback):
    """Prints each round's metrics and bytes, and at the end the method beside LoRA r=8.

    Needs the Communication callback. The row of LoRA r=8 on PEFT's default targets in the same
    backbone (query and value in most families) holds its parameters and bytes for the same visits,
    with a dense head as the backbone defines it or, for a module of your own, with what else trains
    in it; it is left out where PEFT knows no targets. The numbers are written to `summary.json` in
    `default_root_dir`.
    """

    def __init__(self) -> None:
        self._validated = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            _communication(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = find_federation(trainer).loop
        if loop.is_open or loop.plan is None:
            return
        metrics = trainer.callback_metrics
        rounds = f"/{trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        parts = [f"round {trainer.current_epoch + 1}{rounds}"]
        if loop.skipped:
            parts[0] += f" skipped: {_why_skipped(loop, loop.plan)}"
        else:
            if "fed/train_loss" in metrics:
                parts.append(f"loss {float(metrics['fed/train_loss']):.3f}")
            if self._validated:
                parts += [f"{name} {float(metrics[name]):.3f}" for name in _scores(metrics)]
        self._validated = False
        evaluation = _evaluation(trainer)
        if evaluation is not None and evaluation.round == trainer.current_epoch:
            parts += [f"{k} {v:.3f}" for k, v in _client_scores(metrics).items()]
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
        ):
            if clients:
                parts.append(f"{len(clients)} {what}")
        if trainer.is_global_zero:
            _print(trainer, "  ".join(parts))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        comm = _communication(trainer)
        if not trainer.is_global_zero or not comm.uploads:
            return
        loop = find_federation(trainer).loop
        summary = {
            "method": method_name(pl_module, loop.schedule),
            "rounds": loop.round + (not loop.is_open),
            "uploads": comm.uploads,
            "downloads": comm.downloads,
            "trainable_parameters": loop.schema.numel,
            "upload_bytes_per_client": comm.uploaded_total / comm.uploads,
            "upload_bytes_total": comm.uploaded_total,
            "download_bytes_total": comm.downloaded_total,
            "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        }
        besides = [spec for spec in loop.schema.specs if not _ADAPTER.search(spec.name)]
        head = getattr(pl_module, "fresh_parameters", sum(spec.numel for spec in besides))
        if (lora := lora_reference(pl_module, head)) is not None:
            summary["lora_r8_trainable_parameters"], summary["lora_r8_upload_bytes"] = lora
        _print(trainer, _table(summary))
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            _write(Path(trainer.default_root_dir) / "summary.json", summary)


def _why_skipped(loop: FederatedLoop, plan: RoundPlan) -> str:
    if plan.visits:
        usable = len(plan.visits) - len(loop.rejected)
        why = f"{usable} of {len(plan.visits)} updates without NaN or Inf"
    elif cohort := len(plan.unused) + len(plan.dropped) + len(plan.late):
        why = f"{len(plan.unused)} of {cohort} clients answered in time"
    else:
        why = "no clients"
    return f"{why}, {plan.needed} needed"


def _scores(metrics: Iterable[str]) -> list[str]:
    """Return the validation metrics to show: the losses too, if a task has nothing else."""
    names = [name for name in metrics if name.startswith("val_")]
    return [name for name in names if not name.endswith("_loss")] or names


def _client_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return ClientEvaluation's scores to show: those with the clients' own tensors, if any."""
    kind = "personal" if "client/personal_mean" in metrics else "global"
    names = {"clients": f"client/{kind}_mean", "worst tenth": f"client/{kind}_worst_decile"}
    return {label: float(metrics[name]) for label, name in names.items() if name in metrics}


def _table(summary: dict[str, Any]) -> Table:
    metrics = summary["metrics"]
    scores = {name: f"{metrics[name]:.3f}" for name in _scores(metrics)}
    scores |= {label: f"{value:.3f}" for label, value in _client_scores(metrics).items()}
    uploads = summary["uploads"]
    caption = "* not trained: its bytes on PEFT's default targets, with a dense head"
    table = Table(
        title=f"{summary['rounds']} rounds, {uploads} client visits",
        caption=caption if "lora_r8_upload_bytes" in summary else None,
    )
    table.add_column("method")
    for column in ("trainable", "up a visit", "total up", "total down", *scores):
        table.add_column(column, justify="right")
    table.add_row(
        summary["method"],
        f"{summary['trainable_parameters']:,}",
        human_bytes(summary["upload_bytes_per_client"]),
        human_bytes(summary["upload_bytes_total"]),
        human_bytes(summary["download_bytes_total"]),
        *scores.values(),
    )
    if (size := summary.get("lora_r8_upload_bytes")) is not None:
        table.add_row(
            "LoRA r=8 *",
            f"{summary['lora_r8_trainable_parameters']:,}",
            *(human_bytes(count) for count in (size, size * uploads, size * summary["downloads"])),
            *("" for _ in scores),
        )
    return table


def _write(path: Path, summary: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def method_name(module: LightningModule, schedule: object) -> str:
    """Name what is run: FedTT, FedTT+, LoRA, FFA-LoRA, dense adapter, BitFit, ..."""
    for part in module.modules():
        configs = getattr(part, "peft_config", None)
        if isinstance(configs, dict) and configs:
            config = next(iter(configs.values()))
            name = str(getattr(config.peft_type, "value", config.peft_type))
            if name == "TT_ADAPTER" and not config.tensorized:
                return "dense adapter"
            for kind, scheduled in _SCHEDULES.get(name, {}).items():
                if isinstance(schedule, kind):
                    return scheduled
            return _METHODS.get(name, name)
    if not hasattr(module, "fresh_parameters"):  # not a SequenceClassifier
        return "no PEFT method"
    patterns = getattr(module, "trainable", None)
    return _PATTERNS.get(None if patterns is None else tuple(patterns), "weights by name")


def human_bytes(count: float) -> str:
    """Write a number of bytes in B, KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


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
