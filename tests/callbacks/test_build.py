"""What does not fit is found before training; what fails later costs a round, not the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fedtt_lightning.callbacks import Personalization
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import (
    AdapterState,
    AdaptiveFactor,
    CoordinateMedian,
    FedAvgM,
    FFALoRA,
    FixedSampler,
    FLoRA,
    FreezingSchedule,
    RoLoRA,
    TTRounding,
    UniformSampler,
    Visit,
)
from toy_run import make_run


class Sends(Callback):
    """A client whose updates are NaN."""

    def __init__(self, client: int) -> None:
        self.client = client

    def on_client_update(
        self, trainer: Trainer, module: LightningModule, visit: Visit, update: AdapterState
    ) -> AdapterState:
        bad = {k: torch.full_like(v, torch.nan) for k, v in update.buffers.items()}
        return AdapterState(update.schema, bad) if visit.client == self.client else update


class BiasLater(FreezingSchedule):
    """Trains everything in the first round and the bias alone in all others."""

    def trained(self, names: Sequence[str], round: int, experiment: int = 0) -> frozenset[str]:
        return frozenset(n for n in names if round == 0 or n == "net.bias")


def median(**federation: Any) -> dict[str, Any]:
    return {"federation": {"aggregation": CoordinateMedian(), **federation}}


def fit(folder: Path, *callbacks: Callback, **options: Any) -> Any:
    trainer, module, data, record = make_run(folder, *callbacks, **options)
    trainer.fit(module, datamodule=data)
    return record.rounds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (median(sampler=FixedSampler([0, 1])), "median of 2 updates"),
        ({**median(), "limit_train_batches": 8}, r"limit_train_batches=8 leaves 2 clients"),
        (
            {"schedule": AdaptiveFactor(), "federation": {"aggregation": TTRounding()}},
            "from which AdaptiveFactor learns nothing",
        ),
        (
            {"federation": {"aggregation": TTRounding(), "server": FedAvgM()}},
            "use FedAvg with lr 1",
        ),
    ],
)
def test_refused_before_training(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        fit(tmp_path, **options)


def test_nothing_left_to_travel_in_a_later_round(tmp_path: Path) -> None:
    private = Personalization(["net.bias"])
    with pytest.raises(ConfigError, match=r"nothing would travel in round 2: .*BiasLater"):
        fit(tmp_path, private, schedule=BiasLater())


def test_one_client_with_nan_costs_the_median_a_round(tmp_path: Path) -> None:
    """Three clients a round, of which the median needs all: rounds with the bad one are skipped."""
    rounds = fit(tmp_path / "skip", Sends(3), **median(sampler=FixedSampler([0, 1, 3])))
    assert [metrics["fed/clients"] for metrics in rounds.values()] == [0, 0, 0]
    failing = median(sampler=UniformSampler(3), below_min_clients="fail")
    with pytest.raises(FederationError, match=r"1 with NaN or Inf\), too few for federation.agg"):
        fit(tmp_path / "fail", Sends(3), **failing)


def test_a_fast_run_of_one_batch_is_no_reason_to_refuse(tmp_path: Path) -> None:
    trainer, module, data, _ = make_run(tmp_path, **median(), fast_dev_run=True)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step == 1


def test_resumes_with_the_same_division_of_the_data_only(tmp_path: Path) -> None:
    """Also between rounds, where no visit could be compared."""
    path = tmp_path / "end.ckpt"
    trainer, module, data, _ = make_run(tmp_path, max_epochs=1)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(path)
    trainer, module, data, _ = make_run(tmp_path / "other")
    data.client_holdout = 0.3
    with pytest.raises(ConfigError, match=r"use the same data\.clients, data\.partition"):
        trainer.fit(module, datamodule=data, ckpt_path=path)


def test_flora_refuses_rounds_that_train_a_alone() -> None:
    """Each round begins at B = 0, where A has no gradient."""
    names = [f"q.lora_{factor}.default.weight" for factor in "AB"]
    for round in range(2):
        FLoRA().check_trained(FFALoRA().trained(names, round), round)
    FLoRA().check_trained(RoLoRA().trained(names, 0), 0)
    with pytest.raises(ConfigError, match="A alone, which trains in round 2, learns nothing"):
        FLoRA().check_trained(RoLoRA().trained(names, 1), 1)
