"""A federated toy run that can be stopped anywhere, and what came out of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fedtt_lightning import (
    FactorFreezing,
    FederatedCheckpoint,
    FederatedDataModule,
    FederatedRounds,
)
from fedtt_lightning.callbacks import ClientStore, Communication
from fedtt_lightning.data import BySize
from fedtt_lightning.federation import FreezingSchedule, UniformSampler
from toy import ToyData, ToyModule

ROUNDS = 3


def one_cycle(params: Any) -> Any:
    optimizer = torch.optim.AdamW(params, lr=0.02, weight_decay=0.1)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=60)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Record(Callback):
    """Keeps each round's metrics as the loggers get them, in the checkpoint too."""

    def __init__(self) -> None:
        self.rounds: dict[int, dict[str, float]] = {}

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rounds[trainer.current_epoch] = metrics


class At(Callback):
    """Does something at the start or end of the n-th batch of the whole run (from 0)."""

    def __init__(self, batch: int, action: Callable[[Trainer], None], end: bool = False) -> None:
        self.batch, self.action, self.end = batch, action, end

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if not self.end and trainer.fit_loop.total_batch_idx == self.batch:
            self.action(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.end and trainer.fit_loop.total_batch_idx == self.batch:
            self.action(trainer)


def kill_itself(trainer: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Dies(Callback):
    """Kills the process of a rank in the second round."""

    def __init__(self, rank: int = 0) -> None:
        self.rank = rank

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_rank == self.rank and trainer.current_epoch == 1:
            kill_itself(trainer)


def make_run(
    folder: Path,
    *extra: Callback,
    plus: bool = True,
    every_n_visits: int = 1,
    schedule: FreezingSchedule | None = None,
    federation: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Trainer, ToyModule, FederatedDataModule, Record]:
    """Build a run of 3 rounds of 3 out of 4 clients of different size, with dropout.

    `federation` holds further arguments of FederatedRounds.
    """
    torch.manual_seed(3)
    module = ToyModule(one_cycle).double()
    data = FederatedDataModule(ToyData(), clients=4, partition=BySize([1, 2, 3, 5]))
    record = Record()
    callbacks = [
        FederatedRounds(
            **{"sampler": UniformSampler(3), "local_epochs": 2, "seed": 11, **(federation or {})}
        ),
        *([FactorFreezing(schedule)] if plus else []),
        Communication(),
        FederatedCheckpoint(every_n_visits=every_n_visits),
        record,
        *extra,
    ]
    settings: dict[str, Any] = {
        "max_epochs": ROUNDS,
        "precision": "64-true",
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "logger": False,
        **options,
    }
    trainer = Trainer(
        callbacks=callbacks,
        default_root_dir=folder,
        enable_model_summary=False,
        **settings,
    )
    return trainer, module, data, record


def clients_files(folder: Path) -> ClientStore:
    """What the only run that started in a folder keeps of its clients."""
    (run,) = folder.iterdir()
    return ClientStore(run)


def outcome(module: ToyModule, record: Record) -> dict[str, Any]:
    """What two equal runs agree on: every parameter and the last round's metrics."""
    state = {name: value.tolist() for name, value in module.state_dict().items()}
    return {"state": state, "metrics": record.rounds[max(record.rounds)]}


def run_to_file(folder: Path, result: Path, *extra: Callback, **options: Any) -> None:
    """Fit from the last checkpoint, if there is one, and write the outcome."""
    trainer, module, data, record = make_run(folder, *extra, **options)
    trainer.fit(module, datamodule=data, ckpt_path="last")
    result.write_text(json.dumps(outcome(module, record)))
