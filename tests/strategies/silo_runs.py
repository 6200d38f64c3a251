"""Fits the toy in silos, one of their processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor
from torch.utils.data import DataLoader

from fedtt_lightning import (
    FactorFreezing,
    FederatedCheckpoint,
    FederatedDataModule,
    FederatedRounds,
)
from fedtt_lightning.callbacks import (
    CentralDP,
    ClientEvaluation,
    Communication,
    EarlySigns,
    Personalization,
    RoundReport,
    Scaffold,
)
from fedtt_lightning.data import BySize
from fedtt_lightning.errors import FedTTError
from fedtt_lightning.federation import (
    ClientFailures,
    CoordinateMedian,
    Int8,
    Krum,
    PrivateMean,
    UniformSampler,
)
from fedtt_lightning.strategies import SiloDDPStrategy
from strategies.silo_refusals import refused, unlike
from toy import ToyData, ToyModule
from toy_run import At, kill_itself

ROUNDS = 4


class Data(ToyData):
    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, batch_size=16)  # several batches in each process


class Scored(ToyModule):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if isinstance(self.trainer.strategy, SiloDDPStrategy):
            gathered = self.all_gather(torch.ones(1))
            assert gathered.numel() == self.trainer.strategy.silo.size  # type: ignore[union-attr]
        return super().training_step(batch, batch_idx)

    def score(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return -torch.nn.functional.cross_entropy(self.net(x), y, reduction="none")


def setting(name: str) -> tuple[dict[str, Any], list[Callback]]:
    """Arguments of FederatedRounds and further callbacks."""
    if name == "kept":  # what clients keep, and losses, in FedTT+
        rounds = {"sampler": UniformSampler(3), "upload": Int8(), "seed": 11}
        return rounds, [FactorFreezing(), Personalization(["head"]), ClientEvaluation()]
    if name == "drifting":
        failures = ClientFailures(dropout_rate=0.4)
        rounds = {
            "failures": failures,
            "min_clients": 3,
            "aggregation": CoordinateMedian(),
            "seed": 4,
        }
        return rounds, [Scaffold(), FactorFreezing()]
    if name == "krum":
        return {"aggregation": Krum(0), "local_epochs": 2}, []
    private = CentralDP(noise_multiplier=0.5, delta=0.01)
    rounds = {"aggregation": PrivateMean(0.5), "sampler": UniformSampler(2), "weighting": "equal"}
    return rounds, [private, FactorFreezing()]


def run(
    folder: Path,
    name: str,
    processes: int = 1,
    silos: int = 1,
    rounds: int = ROUNDS,
    precision: Any = "64-true",
    dropout: float = 0.0,
    extra: tuple[Callback, ...] = (),
) -> dict[str, Any]:
    """Fit, or go on from the folder's last checkpoint, and tell what came out."""
    torch.manual_seed(3 + int(os.environ.get("LOCAL_RANK", 0)))  # the first's weights are to hold
    module = Scored()
    module.net.dropout.p = dropout
    size = processes // silos
    dtype = torch.float64 if precision == "64-true" else torch.float32
    data = FederatedDataModule(
        Data(examples=100, batch_size=8 // size, dtype=dtype),
        clients=4,
        partition=BySize([1, 2, 3, 4]),  # 8, 16, 24 and 32 to train on: whole batches
        client_holdout=0.2,
    )
    settings, callbacks = setting(name)
    communication = Communication()
    checkpoint = FederatedCheckpoint(every_n_visits=0, monitor="fed/train_loss", save_top_k=2)
    trainer = Trainer(
        callbacks=[
            FederatedRounds(**settings),
            communication,
            EarlySigns(),
            RoundReport(),
            *callbacks,
            checkpoint,
            *extra,
        ],
        max_epochs=rounds,
        strategy=SiloDDPStrategy(silos) if processes > 1 else "auto",
        devices=processes,
        accelerator="cpu",
        precision=precision,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data, ckpt_path="last")
    metrics = {name: value.double() for name, value in trainer.callback_metrics.items()}
    epoch_loop = trainer.fit_loop.epoch_loop
    return {
        "state": module.state_dict(),
        "metrics": {name: value for name, value in metrics.items() if not name.startswith("val_")},
        "bytes": [communication.uploaded_total, communication.downloaded_total],
        "steps": [
            trainer.global_step,
            epoch_loop._batches_that_stepped,
            epoch_loop.batch_progress.total.completed,
        ],
        "best": [Path(path).name for path in checkpoint.best_k_models],
    }


def run_silos(folder: Path, processes: int, cases: list[str]) -> None:
    """Do each `name:silos:precision:dropout:rounds` in FOLDER/<that>, and what else is named."""
    rank = os.environ["LOCAL_RANK"]
    others = {
        "refused": lambda: refused(folder),
        "unlike": lambda: unlike(folder, int(rank)),
        "terminated": lambda: terminated(folder / "terminated"),
        "stopped": lambda: stopped(folder / "stopped"),
    }
    for case in cases:
        if case in others:
            torch.save(others[case](), folder / f"{case}-{rank}.pt")
            continue
        name, silos, precision, dropout, rounds = case.split(":")
        options = (processes, int(silos), int(rounds), precision, float(dropout))
        result = run(folder / case, name, *options)
        torch.save(result, folder / f"{case}-{rank}.pt")


def terminated(folder: Path) -> dict[str, Any]:
    """Send SIGTERM to the second process alone, in the second round, and then go on."""
    second = os.environ["LOCAL_RANK"] == "1"
    try:
        run(folder, "kept", 2, 2, extra=(At(6, terminate),) if second else ())
    except SIGTERMException:
        last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {"epoch": last["epoch"], **run(folder, "kept", 2, 2)}


def stopped(folder: Path) -> dict[str, Any]:
    """Tell the second process alone to stop, in the second round."""
    second = os.environ["LOCAL_RANK"] == "1"
    return run(folder, "kept", 2, 2, extra=(At(6, stop),) if second else ())


def stop(trainer: Trainer) -> None:
    trainer.should_stop = True


def terminate(trainer: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Late(Callback):
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 1:
            time.sleep(1)


def lose(folder: Path, processes: int, waited_for: bool) -> None:
    """Lose the last process inside the second round, and keep what the others say of it.

    They wait for it at the round's end already, or come there when it is gone.
    """
    rank, last = int(os.environ["LOCAL_RANK"]), processes - 1
    late = (Late(),) if (rank == last) == waited_for else ()
    dies = (At(6, kill_itself),) if rank == last else ()
    try:
        run(folder, "kept", processes, processes, extra=(*late, *dies))
    except FedTTError as error:
        (folder / f"said-{rank}").write_text(str(error))
