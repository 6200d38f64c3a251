"""A line for each round and a table at the end."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table

from fedtt_lightning.callbacks.communication import Communication
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import RotatingFactor


class RoundReport(Callback):
    """Prints each round's metrics and bytes, and at the end the method beside LoRA r=8.

    Needs the Communication callback. The row of LoRA r=8 on the same backbone holds its bytes
    only; it is left out where the backbone has no query and value projections that PEFT knows.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            _communication(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if find_federation(trainer).loop.is_open:
            return
        metrics = trainer.callback_metrics
        parts = [f"round {trainer.current_epoch + 1}/{trainer.max_epochs}"]
        for name, label in (("fed/train_loss", "train loss"), *_validation(metrics)):
            if name in metrics:
                parts.append(f"{label} {float(metrics[name]):.3f}")
        comm = _communication(trainer)
        for label, now, total in (
            ("up", comm.uploaded, comm.uploaded_total),
            ("down", comm.downloaded, comm.downloaded_total),
        ):
            parts.append(f"{label} {human_bytes(now)} (so far {human_bytes(total)})")
        rejected = len(find_federation(trainer).loop.rejected)
        if rejected:
            parts.append(f"{rejected} clients left out")
        if trainer.is_global_zero:
            _printer(trainer)("  ".join(parts))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        comm = _communication(trainer)
        if not trainer.is_global_zero or not comm.uploads:
            return
        loop = find_federation(trainer).loop
        rounds = trainer.current_epoch
        table = Table(title=f"{rounds} rounds, {comm.uploads} client visits")
        for column in ("method", "trainable", "up / client / round", "total up", "total down"):
            table.add_column(column, justify="left" if column == "method" else "right")
        scores = list(_validation(trainer.callback_metrics))
        for _, label in scores:
            table.add_column(label, justify="right")
        table.add_row(
            method_name(pl_module, loop.schedule),
            f"{loop.schema.numel:,}",
            human_bytes(comm.uploaded_total / comm.uploads),
            human_bytes(comm.uploaded_total),
            human_bytes(comm.downloaded_total),
            *(f"{float(trainer.callback_metrics[name]):.3f}" for name, _ in scores),
        )
        if (lora := _lora(pl_module)) is not None:
            parameters, size = lora
            table.add_row(
                "LoRA r=8 (bytes only)",
                f"{parameters:,}",
                human_bytes(size),
                human_bytes(size * comm.uploads),
                human_bytes(size * comm.uploads),
                *("" for _ in scores),
            )
        Console().print(table)


def method_name(module: LightningModule, schedule: object) -> str:
    """Name the PEFT method and schedule: FedTT, FedTT+, LORA, ... or `no PEFT method`."""
    for part in module.modules():
        configs = getattr(part, "peft_config", None)
        if isinstance(configs, dict) and configs:
            name = str(getattr(next(iter(configs.values())).peft_type, "value", "PEFT"))
            if name == "TT_ADAPTER":
                return "FedTT+" if isinstance(schedule, RotatingFactor) else "FedTT"
            return name
    return "no PEFT method"


def human_bytes(count: float) -> str:
    """Write a number of bytes in B, KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def _validation(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, name) for name in metrics if name.startswith("val_")]


def _communication(trainer: Trainer) -> Communication:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Communication):
            return callback
    raise ConfigError("RoundReport needs the Communication callback in trainer.callbacks before it")


def _printer(trainer: Trainer) -> Any:
    bar = trainer.progress_bar_callback
    return bar.print if bar is not None else print
