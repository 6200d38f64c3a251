"""SCAFFOLD equals a plain loop of the paper's algorithm."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from fedtt_lightning import FactorFreezing, FederatedDataModule, FederatedRounds
from fedtt_lightning.callbacks.scaffold import Scaffold
from fedtt_lightning.data import BySize
from fedtt_lightning.federation import UniformSampler
from plain_federation import PlainFederation
from plain_visits import seed_batch, windows
from quiet_trainer import quiet_trainer
from toy import ToyData, ToyModule, toy_data
from toy_run import clients_files

ROUNDS, LR = 5, 0.1


def sgd(params: Any) -> Any:
    return torch.optim.SGD(params, lr=LR)


def adamw(params: Any) -> Any:
    return torch.optim.AdamW(params, lr=0.02, weight_decay=0.1)


def frozen_by_rotation(round: int) -> set[str]:
    return {f"core_{i}" for i in (1, 2, 3) if i != 1 + round % 3}


@dataclass
class PlainScaffold(PlainFederation):
    """Algorithm 1 of arXiv 1910.06378 with a server rate of 1.

    Option II as written there, from the distance that a client went; or, for other optimizers than
    SGD, the mean of the gradients before they were corrected.
    """

    option_two: bool = True
    c: dict[str, Tensor] = field(default_factory=dict)
    own_c: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def run(self, model: nn.Module, batch_loss: Any) -> dict[str, Tensor]:
        params = {name: p for name, p in model.named_parameters() if p.requires_grad}
        zeros = {name: torch.zeros_like(p) for name, p in params.items()}
        self.c = dict(zeros)
        self.own_c = {client: dict(zeros) for client in range(len(self.clients))}
        for round in range(self.rounds):
            x = {name: p.detach().clone() for name, p in params.items()}
            cohort = self.cohort(round)
            went, changed = dict(zeros), dict(zeros)
            for client in cohort:
                with torch.no_grad():
                    for name, p in params.items():
                        p.copy_(x[name])
                old = dict(self.own_c[client])
                self.visit(model, params, round, client, batch_loss)
                for name, p in params.items():
                    went[name] = went[name] + (p.detach() - x[name]) / len(cohort)
                    difference = self.own_c[client][name] - old[name]
                    changed[name] = changed[name] + difference / len(self.clients)
            with torch.no_grad():
                for name, p in params.items():
                    p.copy_(x[name] + went[name])
                    self.c[name] = self.c[name] + changed[name]
        return {name: p.detach().clone() for name, p in params.items()}

    def visit(self, model: nn.Module, params: Any, round: int, client: int, loss: Any) -> None:
        model.train()
        x = {name: p.detach().clone() for name, p in params.items()}
        own = self.own_c[client]
        trained = [name for name in params if name not in self.frozen(round)]
        total = {name: torch.zeros_like(x[name]) for name in trained}
        optimizer, step, steps = self.configure([params[name] for name in trained]), 0, 0
        for window in windows(self, round, client):
            optimizer.zero_grad()
            for batch in window:
                seed_batch(self, round, client, step)
                (loss(model, batch) / self.accumulate).backward()
                step += 1
            for name in trained:
                total[name] += params[name].grad
                params[name].grad += self.c[name] - own[name]
            if self.clip is not None:
                torch.nn.utils.clip_grad_norm_([params[name] for name in trained], self.clip)
            optimizer.step()
            steps += 1
        for name in trained:
            if self.option_two:
                went = (x[name] - params[name].detach()) / (steps * LR)
                own[name] = own[name] - self.c[name] + went
            else:
                own[name] = total[name] / steps


CASES: dict[str, dict[str, Any]] = {
    "option II": {},
    "option II, accumulation": {"accumulate": 3, "local_epochs": 3},
    "option II, FedTT+": {"frozen": frozen_by_rotation},
    "AdamW": {"configure": adamw, "option_two": False},
    "AdamW, FedTT+, clipping": {
        "configure": adamw,
        "option_two": False,
        "frozen": frozen_by_rotation,
        "clip": 0.3,
        "accumulate": 2,
    },
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_equals_plain_pytorch(options: dict[str, Any], tmp_path: Path) -> None:
    options = {"configure": sgd, "local_epochs": 2, **options}
    torch.manual_seed(3)
    module = ToyModule(options["configure"]).double()
    torch.manual_seed(3)
    reference = ToyModule().double().net
    data = FederatedDataModule(ToyData(), clients=4, partition=BySize([1, 2, 3, 5]))
    scaffold = Scaffold()
    freezing: list[Callback] = [FactorFreezing()] if "frozen" in options else []
    others = [*freezing, scaffold] if "clip" in options else [scaffold, *freezing]
    rounds = FederatedRounds(
        UniformSampler(3), local_epochs=options["local_epochs"], weighting="equal", seed=11
    )
    trainer = quiet_trainer(
        tmp_path,
        ROUNDS,
        [rounds, *others],
        accumulate_grad_batches=options.get("accumulate", 1),
        gradient_clip_val=options.get("clip"),
    )
    trainer.fit(module, datamodule=data)

    x, y = toy_data().tensors
    clients = [data.clients[i] for i in range(4)]
    plain = PlainScaffold(
        experiment=11, clients=clients, rounds=ROUNDS, batch_size=4, clients_per_round=3, **options
    )
    expected = plain.run(
        reference, lambda net, batch: nn.functional.cross_entropy(net(x[batch]), y[batch])
    )
    c = scaffold.state_dict()["server"]
    store = clients_files(tmp_path / "scaffold")
    own = {client: store.load(client, ROUNDS) or {} for client in range(4)}
    for name, value in expected.items():
        torch.testing.assert_close(
            module.net.get_parameter(name).detach(), value, rtol=0, atol=1e-10
        )
        torch.testing.assert_close(c[f"net.{name}"], plain.c[name], rtol=0, atol=1e-10)
        mean = sum(own[client][f"net.{name}"] for client in range(4)) / 4
        torch.testing.assert_close(c[f"net.{name}"], mean, rtol=0, atol=1e-12)
        for client in range(4):
            torch.testing.assert_close(
                own[client][f"net.{name}"], plain.own_c[client][name], rtol=0, atol=1e-10
            )
    assert all(value.abs().max() > 1e-3 for value in c.values())
