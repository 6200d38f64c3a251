"""What two silos cannot work with, each tried in one of their processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.optim import SGD

from fedtt_lightning import FederatedCheckpoint, FederatedDataModule, FederatedRounds
from fedtt_lightning.errors import FedTTError
from fedtt_lightning.federation import ClientFailures, ClientSampler, FedAvgM
from fedtt_lightning.strategies import SiloDDPStrategy
from toy import ToyData, ToyModule
from toy_run import At


class AsksForSteps(Callback):
    """Asks for the run's steps where optimizers and their schedules are made."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.configure = lambda params: trainer.estimated_stepping_batches  # type: ignore[assignment]


class LogsOfAll(Callback):
    """Logs a mean over all processes' batches."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.log("of_all", 1.0, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)


class Synced(Callback):
    """Has a layer that averages over the processes of all silos."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.net.dropout = nn.SyncBatchNorm(8, track_running_stats=False)  # type: ignore[union-attr]


class OneRound(ClientSampler):
    """Knows of no round after the first."""

    def cohort(self, experiment: int, round: int, sizes: np.ndarray) -> tuple[int, ...]:
        return [tuple(range(len(sizes)))][round]


# A name, the number of silos, a callback, and options of the Trainer.
REFUSED: list[tuple[str, int, Callable[[], Callback] | None, dict[str, Any]]] = [
    ("silos", 3, None, {}),
    ("max_steps", 2, None, {"max_steps": 5}),
    ("max_time", 2, None, {"max_time": "00:01:00:00"}),
    ("every_n_visits", 2, FederatedCheckpoint, {}),
    ("on_exception", 2, lambda: OnExceptionCheckpoint("unused"), {}),
    ("save_on_exception", 2, lambda: ModelCheckpoint(save_on_exception=True), {}),
    ("16-mixed", 2, None, {"precision": None, "plugins": [MixedPrecision("16-mixed", "cpu")]}),
    ("steps", 2, AsksForSteps, {}),
    ("synced", 2, Synced, {}),
    ("inside", 2, lambda: At(1, lambda trainer: trainer.save_checkpoint("unused")), {}),
    ("resumed_inside", 2, None, {}),
    ("of_all", 2, LogsOfAll, {"clients": 1}),
]


def fit(
    folder: Path,
    *callbacks: Callback,
    module: ToyModule | None = None,
    ckpt_path: Any = None,
    federation: dict[str, Any] | None = None,
    clients: int = 3,
    **options: Any,
) -> None:
    """Fit a round of the plain toy."""
    trainer = Trainer(
        callbacks=[FederatedRounds(**federation or {}), *callbacks],
        **{"max_epochs": 1, "precision": "64-true", **options},
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
    )
    data = FederatedDataModule(ToyData(), clients=clients)
    trainer.fit(module or ToyModule(), datamodule=data, ckpt_path=ckpt_path)


def said(folder: Path, *callbacks: Callback, silos: int = 2, **options: Any) -> str:
    """What a fit of two processes ends with."""
    try:
        fit(folder, *callbacks, strategy=SiloDDPStrategy(silos), devices=2, **options)
    except FedTTError as error:
        return str(error)
    return "nothing"


def refused(folder: Path) -> dict[str, str]:
    """What is said of each thing that two silos cannot work with."""
    found = {}
    for name, silos, callback, options in REFUSED:
        made = [callback()] if callback else []
        inside = folder / "inside.ckpt" if name == "resumed_inside" else None
        found[name] = said(folder, *made, ckpt_path=inside, silos=silos, **options)
    return found


def unlike(folder: Path, rank: int) -> dict[str, str]:
    """What is said where the second process was started for another run than the first."""
    other_model, slower = ToyModule(), ToyModule(lambda p: SGD(p, lr=0.1 / (1 + rank)))
    other_model.net.head = nn.Linear(8, 2 + rank)
    failures = ClientFailures(dropout_rate=0.9 * rank)
    served = {"server": FedAvgM(momentum=0.5 + rank / 10)}
    return {
        "nothing": said(folder, federation={"sampler": OneRound()}),
        "model": said(folder, module=other_model),
        "model, in one silo": said(folder, silos=1, module=other_model),
        "data": said(folder, clients=3 + rank),
        "optimizer": said(folder, module=slower),
        "optimizer, in one silo": said(folder, silos=1, module=slower),
        "rounds": said(folder, federation={"failures": failures, **served}, max_epochs=1 + rank),
    }
