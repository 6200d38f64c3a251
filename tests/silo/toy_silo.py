"""One client of the toy run as a silo, which can be killed anywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from fedtt_lightning import FederatedDataModule
from fedtt_lightning.callbacks import Personalization
from fedtt_lightning.data import BySize
from fedtt_lightning.federation import Int8, RoundPlan, UniformSampler
from fedtt_lightning.silo.silo_exchange import SiloExchange
from fedtt_lightning.silo.silo_settings import SiloSettings
from private_run import private_run
from silo.own_data import PartOfToyData
from toy import ToyData
from toy_run import At, kill_itself, make_run


def run_silo(
    folder: Path,
    socket: str,
    client: int = 1,
    clients: int = 4,
    own: bool = False,
    private: bool = False,
    upload: bool = False,
    personal: bool = False,
    kill: tuple[str, int] | None = None,
    **settings: Any,
) -> None:
    """Fit one client of the toy run as a silo.

    Args:
        own: the silo's data are its client's part of the toy's, and no others.
        private: with LocalDP.
        upload: with error feedback.
        personal: its head stays with it.
        kill: the round in which the process is killed, in its `visit` or before its `answer`.
        settings: of SiloSettings.
    """

    class Killed(SiloExchange):
        def share(self, trainer: Trainer, plan: RoundPlan) -> tuple[RoundPlan, RoundPlan]:
            if kill == ["answer", plan.round - 1]:
                kill_itself(trainer)
            return super().share(trainer, plan)

        def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if kill == ["answer", trainer.current_epoch - 1]:
                kill_itself(trainer)
            super().on_fit_end(trainer, pl_module)

    extra: list[Callback] = [Personalization(["head"])] if personal else []
    if kill is not None and kill[0] == "visit":
        extra.append(At(6 * kill[1] + 2, kill_itself))  # of 6 batches a visit
    federation = {"sampler": UniformSampler(), "upload": Int8() if upload else None}
    build = private_run if private else make_run
    trainer, module, data, _ = build(folder, *extra, federation=federation)
    if own:
        data = FederatedDataModule(PartOfToyData(client), clients=1)
    exchange = Killed(SiloSettings(client, clients, socket, **settings))
    trainer.callbacks.insert(0, exchange)
    trainer.fit(module, datamodule=data, ckpt_path="last")


def run_process(folder: Path, rank: int, port: int, socket: str) -> None:
    """Fit client 3 as a silo of two processes, of which this is one; without dropout."""
    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
    trainer, module, _, _ = make_run(
        folder,
        federation={"sampler": UniformSampler()},
        strategy="ddp",
        devices=2,
    )
    module.net.dropout.p = 0.0  # masks are drawn for each process's share of a batch
    toys = ToyData(batch_size=2)
    data = FederatedDataModule(toys, clients=4, partition=BySize([1, 2, 3, 5]))
    trainer.callbacks.insert(0, SiloExchange(SiloSettings(3, 4, socket)))  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data, ckpt_path="last")
