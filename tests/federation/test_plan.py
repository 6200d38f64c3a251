"""Plans are pure, complete and count optimizer steps as a training of one client would."""

from __future__ import annotations

import cProfile
import pstats
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    ClientFailures,
    ClientSampler,
    FederatedLoop,
    FixedSampler,
    PoissonSampler,
    RoundPlanner,
    SizeWeightedSampler,
    TraceSampler,
    UniformSampler,
    seed_for,
)

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def planner(sizes: list[int], batch: int = 4, **options: object) -> RoundPlanner:
    return RoundPlanner(7, np.array(sizes), lambda n: ceil(n / batch), **options)  # type: ignore[arg-type]


@given(sizes, st.integers(1, 3), st.integers(0, 5))
def test_visits_follow_one_another(sizes: list[int], epochs: int, round: int) -> None:
    plan = planner(sizes, local_epochs=epochs).plan(round)
    assert [visit.client for visit in plan.visits] == list(range(len(sizes)))
    batch = 0
    for index, visit in enumerate(plan.visits):
        assert visit.num_batches == epochs * ceil(sizes[index] / 4)
        assert visit.seed == seed_for(7, "visit", round, visit.client)
        for step in range(visit.num_batches):
            assert plan.locate(batch) == (index, visit, step)
            batch += 1
    assert batch == plan.num_batches


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 4))
def test_local_steps_are_optimizer_steps(size: int, steps: int, accumulate: int) -> None:
    (visit,) = planner([size], local_steps=steps, accumulate=accumulate).plan(0).visits
    taken = [visit.steps_optimizer(step, accumulate) for step in range(visit.num_batches)]
    assert sum(taken) == steps
    assert taken[-1]


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 5))
def test_windows_end_with_the_local_epoch(size: int, epochs: int, accumulate: int) -> None:
    (visit,) = planner([size], local_epochs=epochs, accumulate=accumulate).plan(0).visits
    one = [(i + 1) % accumulate == 0 or i + 1 == ceil(size / 4) for i in range(ceil(size / 4))]
    steps = range(visit.num_batches)
    assert [visit.steps_optimizer(step, accumulate) for step in steps] == one * epochs
    assert sum(visit.ends_epoch(step) for step in steps) == epochs


@given(sizes, st.integers(1, 3), st.integers(1, 5), st.integers(1, 60))
def test_a_round_s_optimizer_steps(sizes: list[int], epochs: int, every: int, cap: int) -> None:
    plan = planner(sizes, local_epochs=epochs, max_batches=cap).plan(0)
    steps = [v.steps_optimizer(i, every) for v in plan.visits for i in range(v.num_batches)]
    assert plan.optimizer_steps(every) == sum(steps)


@given(sizes, st.integers(1, 30))
def test_cap_cuts_the_round_and_still_closes_it(sizes: list[int], cap: int) -> None:
    whole, cut = planner(sizes).plan(3), planner(sizes, max_batches=cap).plan(3)
    assert cut.num_batches == min(cap, whole.num_batches)
    assert all(visit.num_batches >= 1 for visit in cut.visits)
    assert [v.client for v in cut.visits] == [v.client for v in whole.visits][: len(cut.visits)]


def test_refuses_clients_without_a_batch() -> None:
    with pytest.raises(ConfigError, match="drop_last"):
        RoundPlanner(0, np.array([9, 3]), lambda n: n // 4).check()


@given(st.integers(0, 30), st.integers(1, 6), st.sampled_from([None, 3.0, 8.0]))
def test_everyone_of_the_cohort_is_somewhere(
    round: int, min_clients: int, deadline: float | None
) -> None:
    sizes = [7, 1, 30, 12, 9, 5, 16, 22]
    failures = ClientFailures(dropout_rate=0.3, deadline=deadline, slowness=1.0)
    plan = planner(
        sizes, sampler=PoissonSampler(0.6), failures=failures, min_clients=min_clients
    ).plan(round)
    trained = tuple(visit.client for visit in plan.visits)
    together = sorted(trained + plan.dropped + plan.late + plan.unused)
    assert tuple(together) == PoissonSampler(0.6).cohort(7, round, np.array(sizes))
    assert not (plan.visits and plan.unused)
    on_time = len(trained) + len(plan.unused)
    assert plan.skipped == (on_time < min_clients)
    assert plan.needed == min_clients
    batches = {client: ceil(sizes[client] / 4) for client in together}
    for client in together:
        outcome = failures.outcome(7, round, client, batches[client])
        where = {"dropped": plan.dropped, "late": plan.late, "done": trained + plan.unused}
        assert client in where[outcome]


def test_a_cap_on_batches_lowers_what_a_round_needs() -> None:
    plan = planner([8, 8, 8], min_clients=3, max_batches=3).plan(0)
    assert len(plan.visits) == plan.needed == 2


def test_min_clients_must_be_possible() -> None:
    with pytest.raises(ConfigError, match=r"federation\.min_clients is 3, .* at most 2"):
        planner([5] * 9, sampler=FixedSampler([1, 2]), min_clients=3).check()
    with pytest.raises(ConfigError, match=r"federation\.min_clients is 0"):
        planner([5] * 9, min_clients=0).check()
    planner([5] * 9, sampler=PoissonSampler(0.1), min_clients=9).check()


@pytest.mark.parametrize("slowness", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("min_clients", [1, 3])
def test_a_deadline_must_be_possible(slowness: float, min_clients: int) -> None:
    """With the smallest deadline of the message all is well, a little below it rounds are lost."""

    def with_deadline(deadline: float) -> RoundPlanner:
        failures = ClientFailures(deadline=deadline, slowness=slowness)
        sampler = FixedSampler([1, 3, 4, 6])
        sizes = [1, 30, 2, 12, 9, 3, 50]
        return planner(sizes, sampler=sampler, failures=failures, min_clients=min_clients)

    with pytest.raises(ConfigError, match=r"federation\.failures\.deadline is 1e-09, but") as error:
        with_deadline(1e-9).check()
    assert "only 0 of 4 clients can ever finish" in str(error.value)
    fits = float(str(error.value).split("set it to ")[1].split()[0])
    with_deadline(fits).check()
    assert not with_deadline(fits).plan(0).skipped
    assert with_deadline(fits / 1.2).plan(0).skipped


def test_a_hopeless_deadline_is_found_among_many_clients(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("client,round\n7,1\n99999,1\n")
    failures = ClientFailures(deadline=3, slowness=0)
    sizes = np.full(100_000, 16)
    with pytest.raises(ConfigError, match=r"only 0 of 100000 clients .* set it to 4 or more"):
        planner(sizes, failures=failures).check()  # type: ignore[arg-type]
    sizes[:5] = 12
    planner(sizes, failures=failures, min_clients=5).check()  # type: ignore[arg-type]
    trace = TraceSampler(str(tmp_path / "trace.csv"))
    with pytest.raises(ConfigError, match=r"only 0 of 2 clients .* set it to 4 or more"):
        planner(sizes, failures=failures, sampler=trace).check(1)  # type: ignore[arg-type]


def test_a_round_costs_its_cohort_and_not_the_population(tmp_path: Path) -> None:
    """Checks and plans of 100,000 clients do what a cohort of a hundred needs, counted in calls."""
    sizes = np.random.default_rng(0).integers(1, 100, 100_000)
    trace = tmp_path / "trace.csv"
    rows = [f"{client},{1 + client % 100}" for client in range(100_000)]
    trace.write_text("\n".join(["client,round", *rows]))
    samplers: list[ClientSampler] = [
        UniformSampler(100),
        PoissonSampler(0.001),
        SizeWeightedSampler(100),
        TraceSampler(str(trace), 100),
    ]
    for sampler in samplers:
        big = planner(sizes, 32, sampler=sampler, failures=ClientFailures(0.1, 8))  # type: ignore[arg-type]
        for work in (
            lambda p=big: p.check(100),
            lambda p=big: p.plan(3),
            lambda p=big: FederatedLoop(p, {"weight": torch.zeros(3)}).open_round(5),
        ):
            profile = cProfile.Profile()
            profile.runcall(work)
            assert pstats.Stats(profile).total_calls < 20_000, type(sampler).__name__  # type: ignore[attr-defined]
        plan = big.plan(3)
        assert 50 < len(plan.visits) + len(plan.dropped) + len(plan.late) < 150
