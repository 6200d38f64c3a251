"""What CentralDP plans: noise, divisor, whom the budget stops; and all that it refuses."""

from __future__ import annotations

from dataclasses import replace
from math import exp, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import create_accountant
from scipy.stats import norm

from fedtt_lightning import FederatedDataModule, FederatedRounds
from fedtt_lightning.callbacks import CentralDP, LocalDP, Scaffold
from fedtt_lightning.data import BySize
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    ClientFailures,
    FixedPointCodec,
    FixedSampler,
    NormBoundedMean,
    PoissonSampler,
    PrivateMean,
    RankList,
    RoundPlanner,
    UniformSampler,
    seed_for,
)
from fedtt_lightning.privacy.central_plan import CentralBudget, SecretSampler, plan_central
from quiet_trainer import quiet_trainer
from toy import ToyData, ToyModule

DELTA = 1e-5


def opacus_epsilon(noise: float, rate: float, steps: int, accountant: str = "rdp") -> float:
    direct = create_accountant(accountant)
    for _ in range(steps):
        direct.step(noise_multiplier=noise, sample_rate=rate)
    return float(direct.get_epsilon(DELTA))


def planner(clients: int, **options: Any) -> RoundPlanner:
    sizes = np.full(clients, 20)
    return RoundPlanner(3, sizes, batches_per_epoch=lambda size: size // 10, **options)


def test_under_poisson_sampling_every_round_costs_everybody() -> None:
    plan = plan_central(
        CentralBudget(4.0, DELTA, None, "rdp"), planner(40, sampler=PoissonSampler(0.25)), 60, 1
    )
    assert (plan.rate, plan.expected_clients, plan.retired) == (0.25, 10.0, {})
    assert 3.98 < opacus_epsilon(plan.noise, 0.25, 60) <= 4.0


def test_else_the_client_that_comes_most_spends_the_budget() -> None:
    cohorts = planner(12, sampler=UniformSampler(5))
    visits = [visit.client for round in range(30) for visit in cohorts.plan(round).visits]
    plan = plan_central(CentralBudget(4.0, DELTA, None, "rdp"), cohorts, 30, 5)
    assert (plan.rate, plan.expected_clients, plan.retired) == (1.0, 5.0, {})
    most = int(np.bincount(visits).max())
    assert most < 30
    assert 3.98 < opacus_epsilon(plan.noise, 1.0, most) <= 4.0


def test_a_budget_ends_the_run_under_poisson_sampling() -> None:
    sampled = planner(6, sampler=PoissonSampler(0.5))
    plan = plan_central(CentralBudget(5.0, DELTA, 1.5, "rdp"), sampled, 100, 1)
    (last,) = {*plan.retired.values()}
    assert plan.noise == 1.5 and plan.retired.keys() == {*range(6)}
    assert opacus_epsilon(1.5, 0.5, last) <= 5.0 < opacus_epsilon(1.5, 0.5, last + 1)


@settings(deadline=None, max_examples=30)
@given(
    cohort=st.integers(1, 6),
    noise=st.floats(2.0, 6.0),
    min_clients=st.integers(1, 3),
    dropout=st.sampled_from([None, 0.3]),
)
def test_a_budget_ends_each_clients_part(
    cohort: int, noise: float, min_clients: int, dropout: float | None
) -> None:
    """Nobody trains once more than can be paid for, and nobody stops before."""
    failures = None if dropout is None else ClientFailures(dropout_rate=dropout)
    cohorts = planner(
        6,
        sampler=UniformSampler(cohort),
        min_clients=min(cohort, min_clients),
        failures=failures,
    )
    plan = plan_central(CentralBudget(4.0, DELTA, noise, "rdp"), cohorts, 25, cohort)
    limited = replace(cohorts, retired=plan.retired)
    counts = np.zeros(6, dtype=int)
    for round in range(25):
        visits = limited.plan(round).visits
        counts[[visit.client for visit in visits]] += 1
        assert not visits or len(visits) >= plan.fewest_clients
    for client in range(6):
        assert opacus_epsilon(noise, 1.0, max(counts[client], 1)) <= 4.0
        if client in plan.retired:
            assert opacus_epsilon(noise, 1.0, counts[client] + 1) > 4.0


def test_a_hundred_thousand_clients() -> None:
    cohorts = planner(100_000, sampler=UniformSampler(100))
    plan = plan_central(CentralBudget(2.0, 1e-6, None, "rdp"), cohorts, 50, 100)
    assert plan.expected_clients == 100 and plan.noise > 1


def test_nothing_is_calibrated_without_a_limit_of_rounds() -> None:
    for sampler in (UniformSampler(4), PoissonSampler(0.5)):
        cohorts = planner(9, sampler=sampler)
        plan = plan_central(CentralBudget(None, DELTA, 1.1, "rdp"), cohorts, None, 4)
        assert (plan.noise, plan.fewest_clients, plan.retired) == (1.1, 4, {})


def test_refuses_a_noise_that_affords_no_round() -> None:
    budget = CentralBudget(0.5, DELTA, 1.0, "rdp")
    with pytest.raises(ConfigError, match=r"noise_multiplier 1\.0 spends more than epsilon 0\.5"):
        plan_central(budget, planner(4), 10, 4)


def test_a_secret_draws_the_cohorts_too() -> None:
    sizes = np.full(50, 3)
    plain, secret = PoissonSampler(0.5), SecretSampler(PoissonSampler(0.5), seed_for(1, "x"))
    for round in range(5):
        assert secret.cohort(3, round, sizes) == secret.cohort(4, round, sizes)
        assert secret.cohort(3, round, sizes) != plain.cohort(3, round, sizes)
    assert secret.smallest_cohort(sizes) == 0 and secret.largest_cohort(sizes) == 50
    assert secret.candidates(sizes) == range(50)
    with pytest.raises(ConfigError, match=r"sampler.rate is 0"):
        SecretSampler(PoissonSampler(0.0), 1).check(sizes, None)


POISSON = {"sampler": PoissonSampler(0.5)}
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "neither": ({"noise_multiplier": None}, {}, {}, "neither epsilon nor noise_multiplier"),
    "epsilon": ({"epsilon": 0.0}, {}, {}, r"epsilon is 0\.0, but must be a number > 0"),
    "noise": ({"noise_multiplier": -1.0}, {}, {}, r"noise_multiplier is -1\.0"),
    "no noise, but a budget": (
        {"noise_multiplier": 0.0, "epsilon": 3.0},
        {},
        {},
        "noise_multiplier 0 protects nothing",
    ),
    "delta": ({"delta": 1.0}, {}, {}, r"delta is 1\.0, but must lie between 0 and 1"),
    "delta for so few": ({"delta": 0.25}, {}, {}, r"delta is 0\.25, but must be below 1/4"),
    "accountant": ({"accountant": "ma"}, {}, {}, "must be rdp, prv or gdp"),
    "a target without limit": (
        {"epsilon": 3.0, "noise_multiplier": None},
        {},
        {"rounds": -1},
        r"max_epochs is not limited, .*set it to the number of rounds",
    ),
    "a target that no noise reaches": (
        {"epsilon": 1e-9, "noise_multiplier": None},
        {},
        {},
        "is reached by no noise",
    ),
    "cut rounds": ({}, {}, {"limit_train_batches": 9}, "limit_train_batches is 9"),
    "another rule": (
        {},
        {"aggregation": NormBoundedMean(1.0)},
        {},
        r"aggregation is NormBoundedMean, .*set it to fedtt_lightning\.federation\.PrivateMean",
    ),
    "weights": ({}, {"weighting": "examples"}, {}, "weighting is examples.*set it to equal"),
    "ranks": ({}, {"ranks": RankList([1, 1, 2, 3])}, {}, "ranks gives clients .* remove it"),
    "skipped rounds": ({}, {**POISSON, "min_clients": 2}, {}, "min_clients is 2: .*set it to 1"),
    "failing rounds": (
        {},
        {**POISSON, "below_min_clients": "fail"},
        {},
        "below_min_clients is fail, .*set it to skip",
    ),
    "a codec and empty rounds": (
        {},
        {**POISSON, "aggregation": PrivateMean(codec=FixedPointCodec())},
        {},
        r"nobody adds any: set federation\.sampler to .*UniformSampler",
    ),
    "bits that cost too much": (
        {},
        {"aggregation": PrivateMean(quantile=0.5)},
        {},
        r"bit_noise is 0\.2 .*set it above 0\.5",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case: str, tmp_path: Path) -> None:
    dp, federation, options, message = REFUSED[case]
    rule = {"aggregation": PrivateMean(), "weighting": "equal", "seed": 1}
    callbacks = [
        FederatedRounds(**{**rule, **federation}),
        CentralDP(**{"noise_multiplier": 1.0, **dp}),
    ]
    trainer = quiet_trainer(tmp_path, options.pop("rounds", 2), callbacks, **options)
    data = FederatedDataModule(ToyData(), clients=4, partition=BySize([1, 2, 3, 5]))
    with pytest.raises(ConfigError, match=message):
        trainer.fit(ToyModule().double(), datamodule=data)


def test_refuses_local_budgets_that_tell_of_hidden_cohorts(tmp_path: Path) -> None:
    """A client's local noise, and when it stops, would follow how often it is drawn."""
    data = FederatedDataModule(ToyData(), clients=4)
    for sampler, message in ((PoissonSampler(0.5), "LocalDP's epsilon makes"), (None, "")):
        rounds = FederatedRounds(sampler, aggregation=PrivateMean(), weighting="equal")
        callbacks = [rounds, LocalDP(epsilon=30.0), CentralDP(noise_multiplier=1.0)]
        trainer, module = quiet_trainer(tmp_path, 1, callbacks), ToyModule().double()
        module.net.dropout.p = 0.0
        if message:
            with pytest.raises(ConfigError, match=message):
                trainer.fit(module, datamodule=data)
        else:
            trainer.fit(module, datamodule=data)


def test_refuses_control_variates(tmp_path: Path) -> None:
    rounds = FederatedRounds(aggregation=PrivateMean(), weighting="equal")
    callbacks = [rounds, CentralDP(noise_multiplier=1.0), Scaffold()]
    data = FederatedDataModule(ToyData(), clients=4)
    with pytest.raises(ConfigError, match=r"Scaffold .*control variates without noise: remove it"):
        quiet_trainer(tmp_path, 2, callbacks).fit(ToyModule().double(), datamodule=data)


def test_refuses_its_rule_alone(tmp_path: Path) -> None:
    rounds = FederatedRounds(aggregation=PrivateMean(), weighting="equal")
    data = FederatedDataModule(ToyData(), clients=4)
    with pytest.raises(ConfigError, match="PrivateMean works with the callback CentralDP only"):
        quiet_trainer(tmp_path, 2, [rounds]).fit(ToyModule().double(), datamodule=data)


@pytest.mark.parametrize(("accountant", "slack"), [("rdp", 0.35), ("prv", 0.03), ("gdp", 2.0)])
def test_known_cohorts_pay_no_less_than_the_exact_price(accountant: Any, slack: float) -> None:
    """Of composed Gaussian mechanisms in closed form (Dong et al., arXiv 1905.02383)."""
    cohorts = planner(5, sampler=FixedSampler([1, 3]))
    plan = plan_central(CentralBudget(3.0, DELTA, None, accountant), cohorts, 10, 2)
    assert plan.expected_clients == 2
    mu = sqrt(10) / plan.noise
    tail = [norm.cdf(mu / 2 - e / mu) - exp(e) * norm.cdf(-mu / 2 - e / mu) for e in (3, 3 - slack)]
    assert tail[0] <= DELTA < tail[1]
