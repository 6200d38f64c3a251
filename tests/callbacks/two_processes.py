"""Fits the toy with plain DDP on two processes: `two_processes.py FOLDER` (starts the second)."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from fedtt_lightning import (
    FactorFreezing,
    FederatedCheckpoint,
    FederatedDataModule,
    FederatedRounds,
)
from fedtt_lightning.callbacks import Communication
from fedtt_lightning.data import BySize
from toy import ToyData, ToyModule


def main(folder: Path, devices: int, batch_size: int) -> None:
    torch.manual_seed(3)
    module = ToyModule().double()
    module.net.dropout.p = 0.0  # masks are drawn for each process's share of a batch
    data = FederatedDataModule(
        ToyData(examples=64, batch_size=batch_size), clients=3, partition=BySize([1, 3, 4])
    )
    communication = Communication()
    trainer = Trainer(
        callbacks=[
            FederatedRounds(seed=11),
            FactorFreezing(),
            communication,
            FederatedCheckpoint(dirpath=str(folder / f"checkpoints-{devices}")),
        ],
        max_epochs=4,
        strategy="ddp" if devices > 1 else "auto",
        devices=devices,
        accelerator="cpu",
        precision="64-true",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    result = {"state": module.state_dict(), "uploaded": communication.uploaded_total}
    torch.save(result, folder / f"{devices}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
