"""Cohorts have the distribution that is promised, whenever and in whatever order they are asked."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    ClientSampler,
    FixedSampler,
    PoissonSampler,
    SizeWeightedSampler,
    UniformSampler,
)

TEN = np.full(10, 5)
SIZES = np.array([1, 2, 3, 6, 20])
SAMPLERS = [
    UniformSampler(),
    UniformSampler(3),
    FixedSampler([4, 0]),
    PoissonSampler(0.4),
    SizeWeightedSampler(3),
]


def cohorts(sampler: ClientSampler, sizes: np.ndarray, rounds: int) -> list[tuple[int, ...]]:
    return [sampler.cohort(1, round, sizes) for round in range(rounds)]


def p_value(cohorts: list[tuple[int, ...]], probabilities: dict[tuple[int, ...], float]) -> float:
    """Return that of a chi-square test of whole cohorts, all of which must be possible."""
    observed = dict.fromkeys(probabilities, 0)
    for cohort in cohorts:
        observed[cohort] += 1
    expected = np.array([*probabilities.values()]) * len(cohorts)
    assert expected.min() > 5 and np.isclose(expected.sum(), len(cohorts))
    return float(stats.chisquare([*observed.values()], expected).pvalue)


@given(st.integers(1, 30), st.data())
def test_cohorts_are_different_clients(num_clients: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, num_clients))
    sizes = np.arange(1, num_clients + 1)
    for sampler in (UniformSampler(size), SizeWeightedSampler(size)):
        sampler.check(sizes, 3)
        cohort = sampler.cohort(5, 2, sizes)
        assert len(cohort) == size == sampler.smallest_cohort(sizes)
        assert size == sampler.largest_cohort(sizes)
        assert sorted(set(cohort)) == list(cohort) and set(cohort) <= set(range(num_clients))


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: type(sampler).__name__)
def test_the_same_cohort_whenever_asked(sampler: ClientSampler) -> None:
    forward = [sampler.cohort(7, round, SIZES) for round in range(20)]
    np.random.seed(0)
    backward = [sampler.cohort(7, round, SIZES) for round in reversed(range(20))]
    assert forward == backward[::-1]
    low, high = sampler.smallest_cohort(SIZES), sampler.largest_cohort(SIZES)
    assert low is not None
    assert all(low <= len(cohort) <= high for cohort in forward)
    others = [sampler.cohort(8, round, SIZES) for round in range(20)]
    if not isinstance(sampler, FixedSampler) and low < len(SIZES):
        assert others != forward and len(set(forward)) > 3
    else:
        assert others == forward and len(set(forward)) == 1


def test_uniform_frequencies() -> None:
    sets = list(combinations(range(5), 3))
    drawn = cohorts(UniformSampler(3), SIZES, 3000)
    assert p_value(drawn, dict.fromkeys(sets, 1 / len(sets))) > 1e-4


def test_poisson_frequencies() -> None:
    """Every subset has the probability of five independent coins."""
    subsets = [cohort for size in range(6) for cohort in combinations(range(5), size)]
    coins = {cohort: 0.4 ** len(cohort) * 0.6 ** (5 - len(cohort)) for cohort in subsets}
    assert p_value(cohorts(PoissonSampler(0.4), SIZES, 3000), coins) > 1e-4


@pytest.mark.parametrize("rate", [0.01, 0.95])
def test_extreme_poisson_frequencies(rate: float) -> None:
    drawn = cohorts(PoissonSampler(rate), np.ones(50), 2000)
    counts = np.bincount(np.concatenate(drawn).astype(int), minlength=50)
    sigma = (2000 * rate * (1 - rate)) ** 0.5
    assert abs(counts - 2000 * rate).max() < 5 * sigma
    assert abs(counts.sum() - 2000 * 50 * rate) < 5 * sigma * 50**0.5


def test_poisson_may_be_empty_or_everyone() -> None:
    drawn = {len(cohort) for cohort in cohorts(PoissonSampler(0.5), SIZES, 400)}
    assert drawn == set(range(6))
    assert cohorts(PoissonSampler(1.0), SIZES, 3) == [(0, 1, 2, 3, 4)] * 3
    assert PoissonSampler(1.0).smallest_cohort(SIZES) == 5
    assert PoissonSampler(0.5).smallest_cohort(SIZES) == 0


def successive(sizes: np.ndarray, draws: int) -> dict[tuple[int, ...], float]:
    """Return the probability of each cohort by going through all orders in which it is drawn."""
    result: dict[tuple[int, ...], float] = {}
    for order in permutations(range(len(sizes)), draws):
        probability, left = 1.0, float(sizes.sum())
        for client in order:
            probability *= sizes[client] / left
            left -= sizes[client]
        cohort = tuple(sorted(order))
        result[cohort] = result.get(cohort, 0.0) + probability
    return result


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_size_weighted_frequencies(draws: int) -> None:
    drawn = cohorts(SizeWeightedSampler(draws), SIZES, 6000)
    assert p_value(drawn, successive(SIZES, draws)) > 1e-4


def test_one_size_weighted_client_is_in_proportion() -> None:
    exact = successive(SIZES, 1)
    assert [exact[(client,)] for client in range(5)] == pytest.approx(SIZES / SIZES.sum())


def test_checks() -> None:
    for clients in ([], [1, 1], [-1], [3]):
        with pytest.raises(ConfigError, match=r"federation\.sampler\.clients"):
            FixedSampler(clients).check(TEN[:3], None)
    FixedSampler([2, 0]).check(TEN[:3], None)
    assert FixedSampler([2, 0]).cohort(0, 0, TEN[:3]) == (2, 0)
    for wanted in (0, 11):
        for sampler in (UniformSampler(wanted), SizeWeightedSampler(wanted)):
            with pytest.raises(ConfigError, match=r"clients_per_round is .* the 10 clients"):
                sampler.check(TEN, 1)
    for rate in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"federation\.sampler\.rate"):
            PoissonSampler(rate).check(TEN, 1)
