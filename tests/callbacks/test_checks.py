"""Everything that cannot be federated is refused in `setup`, with the key to change."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch import nn

from fedtt_lightning import FactorFreezing, FederatedDataModule, FederatedRounds
from fedtt_lightning.data import BySize, ClientDataModule
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import FedAvg, FixedSampler, UniformSampler
from toy import ToyData, ToyModule
from toy_run import make_run

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "val_check_interval": ({"val_check_interval": 0.5}, r"trainer.val_check_interval is 0.5"),
    "check_val": ({"check_val_every_n_epoch": None}, "trainer.check_val_every_n_epoch"),
    "limit": ({"limit_train_batches": 0.5}, "trainer.limit_train_batches is 0.5"),
    "SWA": ({"callbacks": [StochasticWeightAveraging(0.1)]}, "StochasticWeightAveraging.*average"),
    "EMA": ({"callbacks": [EMAWeightAveraging()]}, "EMAWeightAveraging.*average across clients"),
    "steps": ({"callbacks": [ModelCheckpoint(every_n_train_steps=5)]}, "FederatedCheckpoint"),
    "time": (
        {"callbacks": [ModelCheckpoint(train_time_interval=timedelta(1))]},
        "FederatedCheckpoint",
    ),
    "accumulation": (
        {"callbacks": [GradientAccumulationScheduler({0: 1, 2: 2})]},
        "trainer.accumulate_grad_batches",
    ),
}


def fit(
    federation: FederatedRounds | None = None,
    data: Any = None,
    module: LightningModule | None = None,
    callbacks: list[Callback] | None = None,
    folder: Path | str = "unused",
    **options: Any,
) -> None:
    trainer = Trainer(
        callbacks=[federation or FederatedRounds(), *(callbacks or [])],
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"enable_checkpointing": bool(callbacks), **options},
    )
    if data is None:
        data = FederatedDataModule(ToyData(dtype=torch.float32), clients=3)
    trainer.fit(module or ToyModule(), datamodule=data)


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_settings(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(folder=tmp_path, **options)
    assert not list(tmp_path.rglob("*.*")), "nothing may be written"


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        fit(val_check_interval=0.5, limit_train_batches=0.5)
    assert len(str(error.value).splitlines()) == 2


def test_data_without_clients() -> None:
    with pytest.raises(ConfigError, match="ToyData does not know its clients: wrap it"):
        fit(data=ToyData())
    with pytest.raises(ConfigError, match="ClientDataModule has set no `loader` and `train_data`"):
        fit(data=ClientDataModule(clients=3))


@pytest.mark.parametrize(
    ("federation", "message"),
    [
        (FederatedRounds(UniformSampler(4)), "clients_per_round is 4.*3 clients"),
        (FederatedRounds(UniformSampler(0)), "clients_per_round is 0"),
        (FederatedRounds(FixedSampler([0, 3])), "federation.sampler.clients"),
        (FederatedRounds(local_epochs=0), "federation.local_epochs is 0"),
        (FederatedRounds(local_steps=0), "federation.local_steps is 0"),
        (FederatedRounds(server=FedAvg(0.0)), "federation.server.lr"),
    ],
)
def test_refused_federation(federation: FederatedRounds, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(federation)


def test_more_clients_than_examples() -> None:
    data = FederatedDataModule(ToyData(examples=5, dtype=torch.float32), clients=6)
    with pytest.raises(ConfigError, match=r"6.*5"):
        fit(data=data)


@pytest.mark.filterwarnings("ignore")
def test_objects_of_pytorch_lightning() -> None:
    twin = pytest.importorskip("pytorch_lightning")
    message = r"comes from pytorch_lightning.*import it from lightning.pytorch"
    with pytest.raises(ConfigError, match=message):
        fit(callbacks=[twin.callbacks.Timer()], enable_checkpointing=False)

    class TwinData(twin.LightningDataModule):  # type: ignore[name-defined,misc]
        def train_dataloader(self) -> Any:
            return ToyData().train_dataloader()

    with pytest.raises(ConfigError, match=r"lightning\.pytorch"):
        fit(data=FederatedDataModule(TwinData(), clients=2))
    with pytest.raises(ConfigError, match=message):
        twin.Trainer(callbacks=[FederatedRounds()], logger=False, enable_checkpointing=False).fit(
            _twin_module(twin)()
        )


def _twin_module(twin: Any) -> Any:
    class TwinModule(twin.LightningModule):  # type: ignore[name-defined,misc]
        def training_step(self, batch: Any, batch_idx: int) -> None:
            pass

        def train_dataloader(self) -> Any:
            return ToyData().train_dataloader()

        def configure_optimizers(self) -> Any:
            return None

    return TwinModule


def test_modules_that_cannot_be_federated() -> None:
    frozen = ToyModule().requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        fit(module=frozen)
    normed = ToyModule()
    normed.net.head = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 2))  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"net.head.0 is a BatchNorm1d"):
        fit(module=normed)


def test_freezing_needs_tensor_trains() -> None:
    module = ToyModule()
    for i in range(5):
        module.net.get_parameter(f"core_{i}").requires_grad_(i < 2)
    with pytest.raises(ConfigError, match=r"3 or more factors.*has 2"):
        fit(module=module, callbacks=[FactorFreezing()], enable_checkpointing=False)
    for i in range(2):
        module.net.get_parameter(f"core_{i}").requires_grad_(False)
    with pytest.raises(ConfigError, match="needs tensor-train factors"):
        fit(module=module, callbacks=[FactorFreezing()], enable_checkpointing=False)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (
            lambda o: {
                "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(o),
                "monitor": "val_loss",
            },
            "ReduceLROnPlateau",
        ),
        (
            lambda o: {
                "scheduler": torch.optim.lr_scheduler.StepLR(o, 1),
                "interval": "step",
                "frequency": 2,
            },
            "frequency 2",
        ),
    ],
)
def test_schedulers_that_cannot_start_afresh(scheduler: Callable[..., Any], message: str) -> None:
    def configure(params: Any) -> Any:
        optimizer = torch.optim.AdamW(params)
        return {"optimizer": optimizer, "lr_scheduler": scheduler(optimizer)}

    with pytest.raises(ConfigError, match=message):
        fit(module=ToyModule(configure))


def test_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    trainer, module, data, _ = make_run(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"cannot write to .*trainer.default_root_dir"):
        trainer.fit(module, datamodule=data)


def test_updates_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    class Poison(Callback):
        clients: tuple[int, ...] = (2,)

        def on_client_update(self, trainer, module, visit, update):  # type: ignore[no-untyped-def]
            if visit.client in self.clients:
                update.buffers["float64"][5] = float("nan")

    poison = Poison()
    trainer, module, data, record = make_run(tmp_path, poison, plus=False)
    with pytest.warns(UserWarning, match="client 2 is left out of round"):
        trainer.fit(module, datamodule=data)
    rejected = [metrics["fed/clients_rejected"] for metrics in record.rounds.values()]
    visits = [
        [visit.client for visit in trainer.callbacks[0].loop.planner.plan(round).visits]  # type: ignore[attr-defined]
        for round in range(3)
    ]
    assert rejected == [float(2 in clients) for clients in visits]
    assert all(torch.isfinite(p).all() for p in module.parameters())

    poison.clients = (0, 1, 2, 3)
    trainer, module, data, _ = make_run(tmp_path / "all", poison, plus=False)
    with pytest.raises(FederationError, match="round 1 has no usable update"):
        trainer.fit(module, datamodule=data)


def test_client_loss_that_overflows_is_left_out(tmp_path: Path) -> None:
    """The real thing: a learning rate that diverges for everybody ends the run clearly."""
    module = ToyModule(lambda p: torch.optim.SGD(p, lr=1e300)).double()
    data = FederatedDataModule(ToyData(), clients=2, partition=BySize([1, 4]))
    with pytest.raises(FederationError, match="NaN or Inf"):
        fit(module=module, data=data, precision="64-true", folder=tmp_path)
