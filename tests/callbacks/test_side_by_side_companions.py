"""What works beside clients side by side gives what it gives with one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.optim import Adagrad, AdamW
from torch.utils.data import TensorDataset

from fedtt_lightning import FederatedDataModule, FederatedRounds
from fedtt_lightning.callbacks import CentralDP, Communication, EarlySigns
from fedtt_lightning.data import BySize
from fedtt_lightning.federation import (
    CoordinateMedian,
    FedAdam,
    Int8,
    PrivateMean,
    UniformSampler,
)
from quiet_trainer import quiet_trainer
from toy import ToyData, ToyModule
from toy_run import Record

Result = tuple[ToyModule, dict[str, float]]


def fit(
    folder: Path,
    cohort_batch: Any,
    *callbacks: Callback,
    federation: dict[str, Any] | None = None,
    data: Any = None,
    configure: Any = None,
    sizes: tuple[int, ...] = (1, 2, 3, 5),
    **options: Any,
) -> Result:
    torch.manual_seed(3)
    module = ToyModule(configure)
    module = module.double()
    wrapped = FederatedDataModule(data or ToyData(), clients=4, partition=BySize(list(sizes)))
    rounds = FederatedRounds(cohort_batch=cohort_batch, seed=11, **(federation or {}))
    record = Record()
    trainer = quiet_trainer(folder, 2, [rounds, *callbacks, record], **options)
    trainer.fit(module, datamodule=wrapped)
    return module, record.rounds[1]


def check_equal(one: Result, other: Result, tolerance: float = 1e-12) -> None:
    for a, b in zip(one[0].parameters(), other[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


CASES: dict[str, dict[str, Any]] = {
    "median and FedAdam": {
        "federation": {"aggregation": CoordinateMedian(), "server": FedAdam(lr=0.01)}
    },
    "int8 with error feedback": {"federation": {"upload": Int8()}},
    "local steps": {"federation": {"local_steps": 3, "weighting": "equal"}},
    "clipped values": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "clipped one by one": {
        "configure": lambda p: Adagrad(p, lr=0.1),
        "gradient_clip_val": 0.1,
    },
    "capped rounds": {"limit_train_batches": 9},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_equals_one_after_another(options: dict[str, Any], tmp_path: Path) -> None:
    tolerance = 1e-6 if "upload" in options.get("federation", {}) else 1e-12  # rounds at random
    alone, beside = (fit(tmp_path / str(n), n, **options) for n in (1, 3))
    check_equal(alone, beside, tolerance)


def test_central_privacy(tmp_path: Path) -> None:
    def run(cohort_batch: int) -> Result:
        federation = {
            "aggregation": PrivateMean(clip=0.1),
            "weighting": "equal",
            "sampler": UniformSampler(3),
        }
        privacy = CentralDP(noise_multiplier=0.5, delta=1e-3)
        return fit(tmp_path / str(cohort_batch), cohort_batch, privacy, federation=federation)

    alone, beside = run(1), run(2)
    check_equal(alone, beside)
    assert alone[1]["dp/epsilon_max"] == beside[1]["dp/epsilon_max"]


def test_bytes_signs_and_losses(tmp_path: Path) -> None:
    """Of equal clients with whole batches also the training loss is the same."""
    options: dict[str, Any] = {"data": ToyData(examples=64), "sizes": (1, 1, 1, 1)}
    (_, alone), (_, beside) = (
        fit(tmp_path / str(n), n, Communication(), EarlySigns(), **options) for n in (1, 3)
    )
    unknown = {"fed/loss_spread", "fed/loss_worst"}
    assert alone.keys() - beside.keys() == unknown
    for name in beside:
        assert beside[name] == pytest.approx(alone[name], rel=1e-9), name


class Broken(ToyData):
    """One client has NaN in its data."""

    def setup(self, stage: str) -> None:
        super().setup(stage)
        x, y = self.train.tensors
        first = torch.arange(len(x))[:, None] == 0
        self.train = TensorDataset(x.masked_fill(first, float("nan")), y)


def test_a_client_with_nan_spoils_nobody_else(tmp_path: Path) -> None:
    alone, beside = (
        fit(tmp_path / str(n), n, data=Broken(), gradient_clip_val=0.3) for n in (1, 4)
    )
    check_equal(alone, beside)
    assert alone[1]["fed/clients_rejected"] == beside[1]["fed/clients_rejected"] == 1
    assert "fed/train_loss" not in beside[1] and "fed/train_loss" in alone[1]


def test_fast_dev_run_and_validation_in_between(tmp_path: Path) -> None:
    alone, beside = (fit(tmp_path / str(n), n) for n in (1, 4))
    assert beside[1]["val_loss"] == pytest.approx(alone[1]["val_loss"], rel=1e-9)
    trainer = Trainer(
        fast_dev_run=True,
        accelerator="cpu",
        callbacks=[FederatedRounds(cohort_batch=4)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = FederatedDataModule(ToyData(dtype=torch.float32), clients=3)
    module: nn.Module = ToyModule(lambda p: AdamW(p, lr=0.1))
    trainer.fit(module, datamodule=data)  # type: ignore[arg-type]
    assert trainer.global_step == 1
