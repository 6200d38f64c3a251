"""Fits the private toy in one of two processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import AdamW

from fedtt_lightning.strategies import SiloDDPStrategy
from private_run import local_dp, private_run

NOISE, CLIP = 0.7, 0.5
DTYPES: dict[str, Any] = {"64-true": torch.float64, "32-true": torch.float32}


def adamw(params: Any) -> Any:
    return AdamW(params, lr=0.02, weight_decay=0.1)


class KeepSecond(Callback):
    """Keeps the checkpoint of the second round's end."""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "second.ckpt")


def fit(
    folder: Path, precision: str, batch_size: int = 4, ckpt_path: Path | None = None, **options: Any
) -> dict[str, Any]:
    """Train under FedTT+ and return what equal runs agree on."""
    trainer, module, data, record = private_run(
        folder,
        KeepSecond(),
        dp={"noise_multiplier": NOISE, "clip": CLIP},
        configure=adamw,
        every_n_visits=0,
        precision=precision,
        **options,
    )
    data.inner.batch_size, data.inner.dtype = batch_size, DTYPES[precision]  # type: ignore[attr-defined]
    trainer.fit(module.to(DTYPES[precision]), datamodule=data, ckpt_path=ckpt_path)
    ledger = local_dp(trainer).ledger
    metrics = record.rounds[2]
    return {
        "state": module.state_dict(),
        "clients": [data.clients[client].tolist() for client in range(4)],
        "spent": ledger.state_dict()["spent"],
        "epsilons": [ledger.epsilon(client) for client in range(4)],
        "metrics": {name: metrics[name] for name in metrics if not name.startswith("val_")},
    }


def run_private(folder: Path) -> None:
    """Leave in FOLDER/<precision>-<rank>.pt what this process has found."""
    rank = ""
    for precision in DTYPES:
        found = {}
        for name, silos, batch_size, resumed in (
            ("silo", 1, 2, None),
            ("lanes", 2, 4, None),
            ("resumed", 2, 4, folder / f"one-{precision}" / "second.ckpt"),
        ):
            strategy = SiloDDPStrategy(silos)
            options: dict[str, Any] = {"devices": 2, "strategy": strategy}
            path = folder / f"{name}-{precision}"
            found[name] = fit(path, precision, batch_size, resumed, **options)
            rank = str(strategy.global_rank)
        torch.save(found, folder / f"{precision}-{rank}.pt")
