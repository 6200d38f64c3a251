"""Clients that train side by side end where they do one after another, and in plain PyTorch."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adagrad, AdamW
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR

from fedtt_lightning import FactorFreezing, FederatedDataModule, FederatedRounds
from fedtt_lightning.data import BySize
from fedtt_lightning.federation import FedAvg, UniformSampler
from plain_federation import PlainFederation
from quiet_trainer import quiet_trainer
from toy import ToyData, ToyModule, toy_data


def adamw(params: Any) -> Any:
    return AdamW(params, lr=0.02, weight_decay=0.1)


def momentum_by_epoch(params: Any) -> Any:
    optimizer = SGD(params, lr=0.05, momentum=0.9, weight_decay=0.01)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": ExponentialLR(optimizer, 0.5)}}


def one_cycle(params: Any) -> Any:
    optimizer = AdamW(params, lr=0.02)
    scheduler = OneCycleLR(optimizer, max_lr=0.05, total_steps=60)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def frozen_by_rotation(round: int) -> set[str]:
    """FedTT+ for the toy's five factors: 0 and 4 train, and one of 1, 2, 3 in turn."""
    return {f"core_{i}" for i in (1, 2, 3) if i != 1 + round % 3}


CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "adagrad": {"configure": lambda params: Adagrad(params, lr=0.05)},
    "epoch scheduler and momentum": {"configure": momentum_by_epoch, "local_epochs": 3},
    "one cycle": {"configure": one_cycle, "local_epochs": 2},
    "clipping": {"clip": 0.3},
    "some clients, server lr": {"clients_per_round": 2, "server_lr": 0.7},
    "FedTT+ with all of it": {
        "frozen": frozen_by_rotation,
        "configure": one_cycle,
        "clip": 0.3,
        "local_epochs": 2,
        "clients_per_round": 3,
    },
}


def fit(folder: Path, options: dict[str, Any], dtype: torch.dtype, cohort_batch: Any) -> Any:
    torch.manual_seed(3)
    module = ToyModule(options["configure"]).to(dtype)
    reference = copy.deepcopy(module.net)
    data = FederatedDataModule(ToyData(dtype=dtype), clients=4, partition=BySize([1, 2, 3, 5]))
    rounds = FederatedRounds(
        sampler=UniformSampler(options.get("clients_per_round")),
        local_epochs=options.get("local_epochs", 1),
        server=FedAvg(options.get("server_lr", 1.0)),
        cohort_batch=cohort_batch,
        seed=11,
    )
    trainer = quiet_trainer(
        folder,
        options["rounds"],
        [rounds, *([FactorFreezing()] if "frozen" in options else [])],
        gradient_clip_val=options.get("clip"),
        precision="64-true" if dtype == torch.float64 else "32-true",
    )
    trainer.fit(module, datamodule=data)
    return trainer, module, reference, data


@pytest.mark.parametrize(
    ("dtype", "cohort_batch"), [(torch.float64, 3), (torch.float64, 8), (torch.float32, 2)]
)
@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_equals_plain_pytorch(
    options: dict[str, Any], dtype: torch.dtype, cohort_batch: int, tmp_path: Path
) -> None:
    options = {"configure": adamw, "rounds": 2, **options}
    _, module, reference, data = fit(tmp_path, options, dtype, cohort_batch)
    x, y = toy_data(dtype=dtype).tensors
    clients = [data.clients[i] for i in range(4)]
    plain = PlainFederation(experiment=11, clients=clients, batch_size=4, **options)
    expected = plain.run(
        reference,
        lambda net, batch: torch.nn.functional.cross_entropy(net(x[batch]), y[batch]),
    )
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for name, value in expected.items():
        actual = module.net.get_parameter(name).detach()
        torch.testing.assert_close(actual, value, rtol=0, atol=tolerance, msg=name)


def test_one_more_fit_and_what_is_left_behind(tmp_path: Path) -> None:
    options = {"configure": lambda p: AdamW(p, lr=0.01), "rounds": 1}
    trainer, module, _, _ = fit(tmp_path, options, torch.float64, 4)
    assert type(trainer.optimizers[0]) is AdamW
    assert all("forward" not in part.__dict__ for part in module.modules())
    assert all(p.grad is None for p in module.parameters())


def test_auto(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"configure": one_cycle, "rounds": 5}
    _, expected, _, _ = fit(tmp_path, options, torch.float64, 1)
    with caplog.at_level("INFO"):
        trainer, module, _, _ = fit(tmp_path, options, torch.float64, "auto")
    (size,) = trainer.callbacks[0].loop.planner.group_sizes
    assert f"federation.cohort_batch auto: {size} clients side by side" in caplog.text
    assert size in (1, 2, 4)
    for actual, value in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(actual, value, rtol=0, atol=1e-12)
