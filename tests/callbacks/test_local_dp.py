"""Training under LocalDP equals DP-SGD in plain PyTorch, and its ε a direct call of opacus."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus.accountants import create_accountant
from torch.optim import SGD, AdamW

from fedtt_lightning import (
    FactorFreezing,
    FederatedCheckpoint,
    FederatedDataModule,
    FederatedRounds,
)
from fedtt_lightning.callbacks import FedProx, LocalDP
from fedtt_lightning.data import BySize
from fedtt_lightning.federation import ClientFailures, UniformSampler
from plain_private import PlainPoissonFederation, PlainPrivateFederation
from quiet_trainer import quiet_trainer
from toy import ToyData, ToyModule, toy_data

ROUNDS = 3


def adamw(params: Any) -> Any:
    return AdamW(params, lr=0.02, weight_decay=0.1)


def momentum(params: Any) -> Any:
    return SGD(params, lr=0.05, momentum=0.9)


def frozen_by_rotation(round: int) -> set[str]:
    return {f"core_{i}" for i in (1, 2, 3) if i != 1 + round % 3}


def fit(
    tmp_path: Path, *extra: Any, configure: Any = adamw, batch_size: int = 4, **dp: Any
) -> tuple[ToyModule, ToyModule, FederatedDataModule, LocalDP, Any]:
    """Train the toy privately; return it, as it was before, its data, LocalDP and the trainer."""
    torch.manual_seed(3)
    module = ToyModule(configure).double()
    module.net.dropout.p = 0.0
    before = copy.deepcopy(module)
    data = FederatedDataModule(
        ToyData(batch_size=batch_size), clients=4, partition=BySize([1, 2, 3, 5])
    )
    private = LocalDP(**{"noise_multiplier": 0.7, "clip": 0.5, **dp})
    rounds = FederatedRounds(sampler=UniformSampler(3), local_epochs=2, seed=11)
    trainer = quiet_trainer(tmp_path, ROUNDS, [rounds, private, *extra])
    trainer.fit(module, datamodule=data)
    return module, before, data, private, trainer


def reference(
    data: FederatedDataModule, before: ToyModule, configure: Any = adamw, **options: Any
) -> dict[str, torch.Tensor]:
    x, y = toy_data().tensors
    plain = PlainPrivateFederation(
        experiment=11,
        clients=[data.clients[i] for i in range(4)],
        rounds=ROUNDS,
        batch_size=options.pop("batch_size", 4),
        configure=configure,
        local_epochs=2,
        clients_per_round=3,
        **{"noise": 0.7, "bound": 0.5, **options},
    )
    return plain.run(before.net, lambda net, i: torch.nn.functional.cross_entropy(net(x[i]), y[i]))


def agrees(module: ToyModule, expected: dict[str, torch.Tensor], tolerance: float = 1e-9) -> None:
    for name, value in expected.items():
        actual = dict(module.net.named_parameters())[name]
        torch.testing.assert_close(actual, value, rtol=tolerance, atol=tolerance)


CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "momentum": {"configure": momentum},
    "no noise, clipped": {"noise": 0.0},
    "no noise, huge clip": {"noise": 0.0, "bound": 1e6},
    "batches that are often empty": {"batch_size": 1},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_equals_plain_dp_sgd(tmp_path: Path, options: dict[str, Any]) -> None:
    options = dict(options)
    noise, clip = options.get("noise", 0.7), options.get("bound", 0.5)
    shared = {key: options[key] for key in ("configure", "batch_size") if key in options}
    module, before, data, _, _ = fit(tmp_path, noise_multiplier=noise, clip=clip, **shared)
    agrees(module, reference(data, before, **options))


def test_equals_plain_dp_sgd_with_frozen_factors(tmp_path: Path) -> None:
    """Only what trains is clipped together and gets noise."""
    module, before, data, _, _ = fit(tmp_path, FactorFreezing())
    agrees(module, reference(data, before, frozen=frozen_by_rotation))


def test_without_noise_and_bound_it_is_plain_training(tmp_path: Path) -> None:
    """The gradient is that of the batch's summed loss over the expected batch size."""
    module, before, data, _, _ = fit(tmp_path, noise_multiplier=0.0, clip=1e6)
    x, y = toy_data().tensors
    plain = PlainPoissonFederation(11, [data.clients[i] for i in range(4)], ROUNDS, 4, adamw, 2, 3)
    expected = plain.run(
        before.net, lambda net, i: torch.nn.functional.cross_entropy(net(x[i]), y[i])
    )
    agrees(module, expected, 1e-6)


@pytest.mark.parametrize("accountant", ["rdp", "prv", "gdp"])
@pytest.mark.filterwarnings("ignore:GDP accounting")
def test_epsilon_is_that_of_opacus(tmp_path: Path, accountant: Any) -> None:
    _, _, data, private, trainer = fit(tmp_path, accountant=accountant, noise_multiplier=1.5)
    spent = []
    planner = trainer.callbacks[0].loop.planner
    for client in range(4):
        direct = create_accountant(accountant)
        batches = -(-len(data.clients[client]) // 4)
        for round in range(ROUNDS):
            if client in [visit.client for visit in planner.plan(round).visits]:
                for _ in range(2 * batches):
                    direct.step(noise_multiplier=1.5, sample_rate=1 / batches)
        if len(direct):
            spent.append(direct.get_epsilon(1e-5))
            assert private.ledger.epsilon(client) == pytest.approx(spent[-1], rel=1e-12)
    assert trainer.callback_metrics["dp/epsilon_max"] == pytest.approx(max(spent))
    assert trainer.callback_metrics["dp/epsilon_mean"] == pytest.approx(sum(spent) / len(spent))


def test_calibrated_noise_spends_the_budget_and_no_more(tmp_path: Path) -> None:
    *_, private, _ = fit(tmp_path, epsilon=3.0, noise_multiplier=None, accountant="gdp")
    for client in range(4):
        assert 2.9 < private.ledger.epsilon(client) <= 3.0


def test_a_client_without_budget_is_left_out(tmp_path: Path) -> None:
    *_, trainer = fit(tmp_path, epsilon=9.0, noise_multiplier=0.8)
    private, loop = trainer.callbacks[1], trainer.callbacks[0].loop
    plans = [loop.planner.plan(round) for round in range(ROUNDS)]
    left_out = {client for plan in plans for client in plan.exhausted}
    assert left_out and left_out < {0, 1, 2, 3}
    for client in range(4):
        assert private.ledger.epsilon(client) <= 9.0
    for plan in plans:
        assert not set(plan.exhausted) & {visit.client for visit in plan.visits}
    expected = len(plans[-1].exhausted)
    assert trainer.callback_metrics["dp/clients_exhausted"] == expected


def test_fed_prox_pulls_after_the_noise(tmp_path: Path) -> None:
    plain, *_ = fit(tmp_path / "a")
    pulled, *_ = fit(tmp_path / "b", FedProx(mu=0.5))
    still, *_ = fit(tmp_path / "c", FedProx(mu=0.0))
    same = [torch.equal(a, b) for a, b in zip(plain.parameters(), still.parameters(), strict=True)]
    assert all(same)
    assert not torch.equal(plain.net.head.weight, pulled.net.head.weight)


def test_uploads_that_nobody_uses_are_paid_for(tmp_path: Path) -> None:
    """Those of stragglers, and of clients in rounds that too few of the others reach."""

    def run(rounds: int, **dp: Any) -> tuple[Any, LocalDP]:
        failures = ClientFailures(dropout_rate=0.4, deadline=9, slowness=0.5)
        visits = FederatedRounds(local_epochs=2, failures=failures, min_clients=2, seed=11)
        private = LocalDP(**{"noise_multiplier": 0.7, **dp})
        data = FederatedDataModule(ToyData(), clients=4, partition=BySize([1, 2, 3, 5]))
        module = ToyModule(adamw).double()
        module.net.dropout.p = 0.0
        keep = FederatedCheckpoint()
        trainer = quiet_trainer(
            tmp_path, rounds, [visits, private, keep], enable_checkpointing=True
        )
        trainer.fit(module, datamodule=data, ckpt_path="last")
        return visits.loop.planner, private

    run(3)
    planner, private = run(6)
    plans = [planner.plan(round) for round in range(6)]
    assert any(plan.late for plan in plans) and any(plan.unused for plan in plans)
    for client in range(4):
        sent = [
            client in (*plan.late, *plan.unused, *(visit.client for visit in plan.visits))
            for plan in plans
        ]
        batches = -(-int(planner.sizes[client]) // 4)
        expected = ((0.7, 1 / batches, 2 * batches * sum(sent)),) if any(sent) else ()
        assert private.ledger.history(client) == expected
