"""Fits the toy with plain DDP, one of its processes."""

from __future__ import annotations

from pathlib import Path

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from fedtt_lightning import (
    FactorFreezing,
    FederatedCheckpoint,
    FederatedDataModule,
    FederatedRounds,
)
from fedtt_lightning.callbacks import (
    ClientEvaluation,
    Communication,
    EarlySigns,
    Personalization,
)
from fedtt_lightning.data import BySize
from fedtt_lightning.federation import Int8
from toy import ToyData, ToyModule


class Scored(ToyModule):
    def score(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return -torch.nn.functional.cross_entropy(self.net(x), y, reduction="none")


def run_ddp(folder: Path, devices: int, batch_size: int) -> None:
    torch.manual_seed(3)
    module = Scored().double()
    module.net.dropout.p = 0.0  # masks are drawn for each process's share of a batch
    data = FederatedDataModule(
        ToyData(examples=80, batch_size=batch_size),
        clients=3,
        partition=BySize([1, 3, 4]),  # 8, 24 and 32 to train on: whole batches
        client_holdout=0.2,
    )
    communication = Communication()
    trainer = Trainer(
        callbacks=[
            FederatedRounds(seed=11, upload=Int8()),
            FactorFreezing(),
            communication,
            Personalization(["head"]),
            EarlySigns(),
            ClientEvaluation(),
            FederatedCheckpoint(dirpath=str(folder / f"checkpoints-{devices}")),
        ],
        max_epochs=4,
        strategy="ddp" if devices > 1 else "auto",
        devices=devices,
        accelerator="cpu",
        precision="64-true",
        default_root_dir=folder / f"root-{devices}",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    metrics = {name: value.double() for name, value in trainer.callback_metrics.items()}
    result = {
        "state": module.state_dict(),
        "uploaded": communication.uploaded_total,
        "metrics": {name: value for name, value in metrics.items() if not name.startswith("val_")},
    }
    torch.save(result, folder / f"{devices}-{trainer.global_rank}.pt")
