"""The adapter after R rounds in Lightning equals that of a plain PyTorch loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adagrad, AdamW
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR, StepLR

from fedtt_lightning import FactorFreezing, FederatedDataModule, FederatedRounds
from fedtt_lightning.data import BySize
from fedtt_lightning.federation import FedAvg, UniformSampler
from plain_federation import PlainFederation
from quiet_trainer import quiet_trainer
from toy import ToyData, ToyModule, toy_data


def adamw(params: Any) -> Any:
    return AdamW(params, lr=0.02, weight_decay=0.1)


def step_lr(params: Any) -> Any:
    optimizer = AdamW(params, lr=0.02, weight_decay=0.1)
    scheduler = StepLR(optimizer, step_size=2, gamma=0.5)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def epoch_lr(params: Any) -> Any:
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
    "step scheduler": {"configure": step_lr},
    "epoch scheduler and momentum": {"configure": epoch_lr, "local_epochs": 3},
    "one cycle": {"configure": one_cycle, "local_epochs": 2},
    "clipping": {"clip": 0.3},
    "accumulation": {"accumulate": 3, "local_epochs": 2},
    "accumulation with a step scheduler": {"accumulate": 2, "configure": step_lr},
    "some clients, server lr": {"clients_per_round": 2, "server_lr": 0.7},
    "FedTT+": {"frozen": frozen_by_rotation},
    "FedTT+ with all of it": {
        "frozen": frozen_by_rotation,
        "configure": step_lr,
        "clip": 0.3,
        "accumulate": 2,
        "local_epochs": 2,
        "clients_per_round": 3,
    },
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_equals_plain_pytorch(options: dict[str, Any], dtype: torch.dtype, tmp_path: Any) -> None:
    options = {"configure": adamw, "rounds": 4, **options}
    torch.manual_seed(3)
    module = ToyModule(options["configure"]).to(dtype)
    reference = copy.deepcopy(module.net)

    data = FederatedDataModule(ToyData(dtype=dtype), clients=4, partition=BySize([1, 2, 3, 5]))
    callbacks: list[Any] = [
        FederatedRounds(
            sampler=UniformSampler(options.get("clients_per_round")),
            local_epochs=options.get("local_epochs", 1),
            server=FedAvg(options.get("server_lr", 1.0)),
            seed=11,
        )
    ]
    if "frozen" in options:
        callbacks.append(FactorFreezing())
    trainer = quiet_trainer(
        tmp_path,
        options["rounds"],
        callbacks,
        accumulate_grad_batches=options.get("accumulate", 1),
        gradient_clip_val=options.get("clip"),
        precision="64-true" if dtype == torch.float64 else "32-true",
    )
    trainer.fit(module, datamodule=data)

    x, y = toy_data(dtype=dtype).tensors
    clients = [data.clients[i] for i in range(4)]
    assert len({len(client) for client in clients}) == 4
    plain = PlainFederation(experiment=11, clients=clients, batch_size=4, **options)
    expected = plain.run(
        reference,
        lambda net, batch: torch.nn.functional.cross_entropy(net(x[batch]), y[batch]),
    )
    assert {n for n, p in module.net.named_parameters() if p.requires_grad} == set(expected)
    for name, value in expected.items():
        actual = module.net.get_parameter(name)
        if dtype == torch.float64:
            assert torch.equal(actual, value), name
        else:
            torch.testing.assert_close(actual.detach(), value, rtol=0, atol=1e-6)
