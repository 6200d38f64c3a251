"""Fits the toy in silos, one of their processes: `silo_runs.py FOLDER PROCESSES WHAT...`."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.plugins import MixedPrecision
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
from toy import ToyData, ToyModule
from toy_run import At, kill_itself

ROUNDS = 4


class AsksForSteps(Callback):
    """Asks for the run's steps where optimizers and their schedules are made."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        pl_module.configure = lambda params: trainer.estimated_stepping_batches  # type: ignore[assignment]


class LogsOfAll(Callback):
    """Logs a mean over all processes' batches."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        pl_module.log("of_all", 1.0, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)


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
    ("inside", 2, lambda: At(1, lambda trainer: trainer.save_checkpoint("unused")), {}),
    ("resumed_inside", 2, None, {}),
    ("of_all", 2, LogsOfAll, {"clients": 1}),
]


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


def main(folder: Path, processes: int, *what: str) -> None:
    """Do each `name:silos:precision:dropout:rounds` in FOLDER/<that>, and what else is named."""
    rank = os.environ["LOCAL_RANK"]
    for case in what:
        if case in ("refused", "stopped"):
            found = refused(folder) if case == "refused" else stopped(folder / case)
            torch.save(found, folder / f"{case}-{rank}.pt")
            continue
        name, silos, precision, dropout, rounds = case.split(":")
        options = (processes, int(silos), int(rounds), precision, float(dropout))
        result = run(folder / case, name, *options)
        torch.save(result, folder / f"{case}-{rank}.pt")


def fit(folder: Path, *callbacks: Callback, ckpt_path: Any = None, **options: Any) -> None:
    """Fit a round of the plain toy."""
    data = FederatedDataModule(ToyData(), clients=options.pop("clients", 3))
    trainer = Trainer(
        callbacks=[FederatedRounds(), *callbacks],
        **{"max_epochs": 1, "precision": "64-true", **options},
        accelerator="cpu",
        logger=False,
        default_root_dir=folder,
    )
    trainer.fit(ToyModule(), datamodule=data, ckpt_path=ckpt_path)


def refused(folder: Path) -> dict[str, str]:
    """What is said of each thing that two silos cannot work with."""
    found = {}
    for name, silos, callback, options in REFUSED:
        made = [callback()] if callback else []
        inside = folder / "inside.ckpt" if name == "resumed_inside" else None
        two = {"strategy": SiloDDPStrategy(silos), "devices": 2}
        try:
            fit(folder, *made, ckpt_path=inside, **two, **options)
        except FedTTError as error:
            found[name] = str(error)
    return found


def stopped(folder: Path) -> dict[str, Any]:
    """Send SIGTERM to the second process alone, in the second round, and then go on."""
    second = os.environ["LOCAL_RANK"] == "1"
    try:
        run(folder, "kept", 2, 2, extra=(At(6, terminate),) if second else ())
    except SIGTERMException:
        last = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return {"epoch": last["epoch"], **run(folder, "kept", 2, 2)}


def terminate(trainer: Trainer) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def lose(folder: Path, processes: int) -> None:
    """Lose the last process inside the second round."""
    rank = int(os.environ["LOCAL_RANK"])
    dies = (At(6, kill_itself),) if rank == processes - 1 else ()
    try:
        run(folder, "kept", processes, processes, extra=dies)
    except FedTTError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(150, exit=True)  # says where a process hangs
    if sys.argv[3] == "lose":
        lose(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
