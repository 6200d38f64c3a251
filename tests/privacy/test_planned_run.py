"""What is planned before a run is what opacus says of it, and what its callbacks come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opacus.accountants import create_accountant

from fedtt_lightning import FederatedDataModule, FederatedRounds
from fedtt_lightning.callbacks import CentralDP, LocalDP
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import PoissonSampler, PrivateMean, UniformSampler
from fedtt_lightning.privacy.planned_run import PlannedRun, plan_privacy
from quiet_trainer import quiet_trainer
from toy import ToyData, ToyModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:GDP accounting"),
    pytest.mark.filterwarnings("ignore:.*divide by zero"),
]
RUN: dict[str, Any] = {
    "clients": 5,
    "rounds": 6,
    "cohort": 2,
    "sampling": "poisson",
    "examples": 12,
    "batch_size": 5,
    "local_epochs": 2,
    "local_steps": None,
    "seed": 7,
    "delta": 1e-4,
    "accountant": "rdp",
}


def opacus_epsilon(noise: float, rate: float, steps: int, accountant: str = "rdp") -> float:
    direct = create_accountant(accountant)
    for _ in range(steps):
        direct.step(noise_multiplier=noise, sample_rate=rate)
    return float(direct.get_epsilon(RUN["delta"]))


def visits(sampling: str) -> np.ndarray:
    """Count the rounds of each client that has any, as the samplers draw them."""
    sampler = PoissonSampler(2 / 5) if sampling == "poisson" else UniformSampler(2)
    drawn = [client for round in range(6) for client in sampler.cohort(7, round, np.full(5, 12))]
    counts = np.bincount(drawn, minlength=5)
    return counts[counts > 0]


@pytest.mark.parametrize(
    ("sampling", "accountant"), [("poisson", "rdp"), ("uniform", "prv"), ("uniform", "gdp")]
)
def test_the_epsilon_of_a_noise_is_that_of_opacus(sampling: str, accountant: str) -> None:
    run = PlannedRun(**{**RUN, "sampling": sampling, "accountant": accountant})
    plan = plan_privacy(run, "noise", [2.5])
    (row,) = plan["plans"]
    counts = visits(sampling)
    batches = 3  # of 12 examples in batches of 5
    assert plan["local"]["visits"] == {"least": counts.min(), "most": counts.max()}
    for end, count in (("least", counts.min()), ("most", counts.max())):
        expected = opacus_epsilon(2.5, 1 / batches, 2 * batches * count, accountant)
        assert row["local"]["epsilon"][end] == pytest.approx(expected, rel=1e-9)
    assert row["local"]["std"]["most"] == 2.5 / (12 / batches)
    rate, paid = (2 / 5, 6) if sampling == "poisson" else (1.0, counts.max())
    assert (plan["central"]["rate"], plan["central"]["rounds_paid"]) == (rate, paid)
    expected = opacus_epsilon(2.5, rate, paid, accountant)
    assert row["central"]["epsilon"] == pytest.approx(expected, rel=1e-9)
    assert row["central"]["std"] == 2.5 / 2


@pytest.mark.parametrize("sampling", ["poisson", "uniform"])
def test_the_noise_of_an_epsilon_spends_it(sampling: str) -> None:
    run = PlannedRun(**{**RUN, "sampling": sampling, "local_steps": 4, "accountant": "gdp"})
    one, four = plan_privacy(run, "epsilon", [1.0, 4.0])["plans"]
    counts = visits(sampling)
    for target, row in ((1.0, one), (4.0, four)):
        for end, count in (("least", counts.min()), ("most", counts.max())):
            spent = opacus_epsilon(row["local"]["noise"][end], 1 / 3, 4 * count, "gdp")
            assert target - 0.01 <= spent <= target
        rate, paid = (2 / 5, 6) if sampling == "poisson" else (1.0, counts.max())
        spent = opacus_epsilon(row["central"]["noise"], rate, paid, "gdp")
        assert target - 0.01 <= spent <= target
    assert one["central"]["noise"] > four["central"]["noise"]


def fit(folder: Path, run: PlannedRun, private: LocalDP | CentralDP) -> None:
    poisson = run.sampling == "poisson"
    sampler = PoissonSampler(run.cohort / run.clients) if poisson else UniformSampler(run.cohort)
    rounds = FederatedRounds(
        sampler=sampler,
        local_epochs=run.local_epochs,
        local_steps=run.local_steps,
        aggregation=PrivateMean() if isinstance(private, CentralDP) else None,
        weighting="equal",
        seed=run.seed,
    )
    data = FederatedDataModule(ToyData(60, batch_size=run.batch_size), clients=run.clients)
    trainer = quiet_trainer(folder, run.rounds, [rounds, private])
    module = ToyModule().double()
    module.net.dropout.p = 0.0
    trainer.fit(module, datamodule=data)
    assert set(data.clients.sizes) == {run.examples}


@pytest.mark.parametrize(
    ("asked", "value", "sampling", "local_steps"),
    [
        ("epsilon", 3.0, "poisson", None),
        ("epsilon", 3.0, "uniform", 4),
        ("noise", 1.3, "poisson", 4),
        ("noise", 1.3, "uniform", None),
    ],
)
def test_runs_come_to_the_same_numbers(
    asked: Any, value: float, sampling: str, local_steps: int | None, tmp_path: Path
) -> None:
    changed = {"sampling": sampling, "local_steps": local_steps, "accountant": "gdp"}  # the fastest
    run = PlannedRun(**{**RUN, **changed})
    plan = plan_privacy(run, asked, [value])
    (row,) = plan["plans"]
    options: Any = {"delta": run.delta, "accountant": run.accountant}
    options["noise_multiplier" if asked == "noise" else asked] = value

    local = LocalDP(**options)
    fit(tmp_path, run, local)
    spent = {c: local.ledger.history(c) for c in range(5) if local.ledger.history(c)}
    assert plan["local"]["clients"] == len(spent)
    noises, rates, steps = zip(*(history for (history,) in spent.values()), strict=True)
    assert row["local"]["noise"] == {"least": min(noises), "most": max(noises)}
    assert plan["local"]["steps"] == {"least": min(steps), "most": max(steps)}
    assert {plan["local"]["rate"]} == {*rates}
    assert row["local"]["epsilon"]["most"] == local.ledger.largest()
    assert row["local"]["epsilon"]["least"] == min(map(local.ledger.epsilon, spent))

    central = CentralDP(**options)
    fit(tmp_path, run, central)
    assert row["central"]["noise"] == central.noise
    assert row["central"]["epsilon"] == central.ledger.largest()


def test_central_privacy_asks_for_no_examples() -> None:
    unknown = plan_privacy(PlannedRun(**{**RUN, "examples": None}), "noise", [2.0])
    known = plan_privacy(PlannedRun(**RUN), "noise", [2.0])
    assert unknown["local"] is None and unknown["plans"][0]["local"] is None
    assert unknown["central"] == known["central"]
    assert unknown["plans"][0]["central"] == known["plans"][0]["central"]


def test_an_epsilon_that_cannot_be_told_is_none() -> None:
    run = PlannedRun(**{**RUN, "accountant": "gdp"})
    (row,) = plan_privacy(run, "noise", [0.05])["plans"]
    assert row["central"]["epsilon"] is None
    assert row["local"]["epsilon"] == {"least": None, "most": None}


@pytest.mark.parametrize(("examples", "model"), [(12, "local"), (None, "central")])
def test_refuses_a_target_that_no_noise_reaches(examples: int | None, model: str) -> None:
    run = PlannedRun(**{**RUN, "examples": examples})
    with pytest.raises(ConfigError, match=rf"--epsilon for {model} DP: .* by no noise .*: raise"):
        plan_privacy(run, "epsilon", [0.01])


def test_refuses_a_run_without_anybody() -> None:
    run = PlannedRun(**{**RUN, "clients": 1000, "cohort": 1, "rounds": 1, "seed": 2})
    assert PoissonSampler(1 / 1000).cohort(2, 0, np.full(1000, 12)) == ()
    with pytest.raises(ConfigError, match=r"nobody takes part .* raise --rounds or --cohort"):
        plan_privacy(run, "epsilon", [3.0])
