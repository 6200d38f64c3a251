"""Plans are pure, complete and count optimizer steps as a training of one client would."""

from __future__ import annotations

from math import ceil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import FixedSampler, RoundPlanner, UniformSampler, seed_for

TEN = np.full(10, 5)
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


@given(sizes, st.integers(1, 30))
def test_cap_cuts_the_round_and_still_closes_it(sizes: list[int], cap: int) -> None:
    whole, cut = planner(sizes).plan(3), planner(sizes, max_batches=cap).plan(3)
    assert cut.num_batches == min(cap, whole.num_batches)
    assert all(visit.num_batches >= 1 for visit in cut.visits)
    assert [v.client for v in cut.visits] == [v.client for v in whole.visits][: len(cut.visits)]


@given(st.integers(1, 30), st.data())
def test_uniform_cohorts(num_clients: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, num_clients))
    sampler = UniformSampler(size)
    sampler.check(np.ones(num_clients), 3)
    cohort = sampler.cohort(5, 2, np.ones(num_clients))
    assert len(set(cohort)) == size and set(cohort) <= set(range(num_clients))
    assert cohort == sampler.cohort(5, 2, np.ones(num_clients))


def test_uniform_frequencies() -> None:
    """Each of 10 clients is in 3 of 10 cohorts on average; 4000 rounds, five sigma."""
    counts = [0] * 10
    for round in range(4000):
        for client in UniformSampler(3).cohort(1, round, TEN):
            counts[client] += 1
    sigma = (4000 * 0.3 * 0.7) ** 0.5
    assert all(abs(count - 1200) < 5 * sigma for count in counts)
    assert UniformSampler(3).cohort(1, 0, TEN) != UniformSampler(3).cohort(2, 0, TEN) or (
        UniformSampler(3).cohort(1, 1, TEN) != UniformSampler(3).cohort(2, 1, TEN)
    )


def test_checks() -> None:
    with pytest.raises(ConfigError, match="drop_last"):
        RoundPlanner(0, np.array([9, 3]), lambda n: n // 4).check()
    for clients in ([], [1, 1], [-1], [3]):
        with pytest.raises(ConfigError, match=r"federation.sampler.clients"):
            FixedSampler(clients).check(TEN[:3], None)
    FixedSampler([2, 0]).check(TEN[:3], None)
    assert FixedSampler([2, 0]).cohort(0, 0, TEN[:3]) == (2, 0)
