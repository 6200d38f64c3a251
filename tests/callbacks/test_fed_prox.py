"""FedProx equals training with the proximal term in the loss, and is nothing at mu = 0."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from fedtt_lightning import FactorFreezing, FederatedDataModule, FederatedRounds
from fedtt_lightning.callbacks import Personalization
from fedtt_lightning.callbacks.fed_prox import FedProx
from fedtt_lightning.data import BySize
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import UniformSampler
from plain_federation import PlainFederation
from plain_visits import seed_batch, windows
from quiet_trainer import quiet_trainer
from toy import ToyData, ToyModule, toy_data
from toy_run import At, make_run, outcome

ROUNDS = 3


def sgd(params: Any) -> Any:
    return torch.optim.SGD(params, lr=0.1, momentum=0.5)


def adamw(params: Any) -> Any:
    return torch.optim.AdamW(params, lr=0.02, weight_decay=0.1)


def frozen_by_rotation(round: int) -> set[str]:
    return {f"core_{i}" for i in (1, 2, 3) if i != 1 + round % 3}


@dataclass
class PlainProx(PlainFederation):
    mu: float = 0.0

    def visit(self, model: nn.Module, params: Any, round: int, client: int, loss: Any) -> None:
        model.train()
        start = {name: p.detach().clone() for name, p in params.items()}
        optimizer, step = self.configure([*params.values()]), 0
        for window in windows(self, round, client):
            optimizer.zero_grad()
            terms = [((p - start[name]) ** 2).sum() for name, p in params.items()]
            (self.mu / 2 * sum(terms)).backward()  # type: ignore[union-attr]
            for batch in window:
                seed_batch(self, round, client, step)
                (loss(model, batch) / self.accumulate).backward()
                step += 1
            for name in self.frozen(round):
                params[name].grad = None
            if self.clip is not None:
                torch.nn.utils.clip_grad_norm_(params.values(), self.clip)
            optimizer.step()


def federated(folder: Path, options: dict[str, Any], *extra: Callback) -> dict[str, Tensor]:
    torch.manual_seed(3)
    module = ToyModule(options["configure"]).double()
    data = FederatedDataModule(ToyData(), clients=4, partition=BySize([1, 2, 3, 5]))
    rounds = FederatedRounds(UniformSampler(3), local_epochs=options["local_epochs"], seed=11)
    trainer = quiet_trainer(
        folder,
        ROUNDS,
        [rounds, *extra],
        accumulate_grad_batches=options.get("accumulate", 1),
        gradient_clip_val=options.get("clip"),
    )
    trainer.fit(module, datamodule=data)
    return {n: p.detach().clone() for n, p in module.net.named_parameters() if p.requires_grad}


CASES: dict[str, dict[str, Any]] = {
    "sgd": {"configure": sgd},
    "adamw": {"configure": adamw},
    "clipping": {"configure": sgd, "clip": 0.3},
    "accumulation with short windows": {"configure": sgd, "accumulate": 3},
    "FedTT+, clipping and accumulation": {
        "configure": adamw,
        "accumulate": 2,
        "clip": 0.3,
        "frozen": frozen_by_rotation,
    },
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_equals_the_term_in_the_loss(options: dict[str, Any], tmp_path: Path) -> None:
    options = {"local_epochs": 2, **options}
    extra: list[Callback] = [FactorFreezing()] if "frozen" in options else []
    actual = federated(tmp_path, options, FedProx(0.7), *extra)

    torch.manual_seed(3)
    reference = copy.deepcopy(ToyModule().double().net)
    data = FederatedDataModule(ToyData(), clients=4, partition=BySize([1, 2, 3, 5]))
    data.setup("fit")
    data.federate(11)
    x, y = toy_data().tensors
    plain = PlainProx(
        experiment=11,
        clients=[data.clients[i] for i in range(4)],
        rounds=ROUNDS,
        batch_size=4,
        clients_per_round=3,
        mu=0.7,
        **options,
    )
    expected = plain.run(
        reference, lambda net, batch: nn.functional.cross_entropy(net(x[batch]), y[batch])
    )
    plain_average = federated(tmp_path, options, *extra)
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-12)
    assert any((actual[name] - plain_average[name]).abs().max() > 1e-3 for name in actual)


def test_mu_zero_changes_no_bit(tmp_path: Path) -> None:
    options = {"configure": adamw, "local_epochs": 2}
    without, with_zero = federated(tmp_path, options), federated(tmp_path, options, FedProx(0.0))
    assert all(torch.equal(without[name], with_zero[name]) for name in without)


def test_a_large_mu_keeps_clients_close(tmp_path: Path) -> None:
    torch.manual_seed(3)
    start = dict(ToyModule().double().net.named_parameters())
    options = {"configure": lambda p: torch.optim.SGD(p, lr=0.02), "local_epochs": 4}

    def distance(*extra: Callback) -> float:
        end = federated(tmp_path, options, *extra)
        return float(sum(((end[name] - start[name].detach()) ** 2).sum() for name in end))

    assert distance(FedProx(20.0)) < 0.5 * distance(FedProx(1.0)) < 0.5 * distance()


def test_private_tensors_are_left_alone(tmp_path: Path) -> None:
    """With a term that nothing shared survives, a private head still trains as without it."""

    class Watch(Callback):
        def __init__(self) -> None:
            self.gradients: list[Tensor] = []

        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            self.gradients.append(module.net.head.weight.grad.clone())

    before, after = Watch(), Watch()
    trainer, module, data, _ = make_run(
        tmp_path, Personalization(["head"]), before, FedProx(5.0), after
    )
    trainer.fit(module, datamodule=data)
    assert before.gradients
    assert all(map(torch.equal, before.gradients, after.gradients))


@pytest.mark.parametrize("batch", [2, 10])
def test_resumes_inside_a_visit(tmp_path: Path, batch: int) -> None:
    def save(trainer: Trainer) -> None:
        trainer.save_checkpoint(tmp_path / "inside.ckpt")

    trainer, module, data, record = make_run(
        tmp_path / "a", FedProx(0.7), At(batch, save, end=True)
    )
    trainer.fit(module, datamodule=data)
    whole = outcome(module, record)
    trainer, module, data, record = make_run(tmp_path / "b", FedProx(0.7))
    trainer.fit(module, datamodule=data, ckpt_path=tmp_path / "inside.ckpt")
    assert outcome(module, record) == whole


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_bad_mu(tmp_path: Path, mu: float) -> None:
    trainer, module, data, _ = make_run(tmp_path, FedProx(mu))
    with pytest.raises(ConfigError, match=f"FedProx's mu is {mu}"):
        trainer.fit(module, datamodule=data)


def test_needs_a_federation(tmp_path: Path) -> None:
    trainer = Trainer(callbacks=[FedProx()], logger=False, default_root_dir=tmp_path)
    with pytest.raises(ConfigError, match="no FederatedRounds"):
        trainer.fit(ToyModule(), datamodule=ToyData())
