"""Poisson batches have the distribution that the accounting of DP-SGD assumes, and keep it."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedtt_lightning.federation import PoissonBatches, Visit

DRAWS = 4000


def visit(examples: int, batches: int, round: int = 0, client: int = 0, epochs: int = 1) -> Visit:
    return Visit(round, client, 7, examples, batches, epochs * batches, 0)


def included(poisson: PoissonBatches, visit: Visit, draws: int = DRAWS) -> np.ndarray:
    """Return which examples are in the batch of which step, bool (draws, examples)."""
    found = np.zeros((draws, visit.num_examples), dtype=bool)
    for step in range(draws):
        found[step, poisson.draw(visit, step)] = True
    return found


@pytest.mark.parametrize(("examples", "batches"), [(10, 5), (3, 2), (7, 40)])
def test_each_example_is_in_with_the_rate_by_itself(examples: int, batches: int) -> None:
    rate = 1 / batches
    found = included(PoissonBatches(3), visit(examples, batches))
    # Each example by itself, tested together.
    expected = np.array([rate, 1 - rate]) * DRAWS
    for column in found.T:
        chi2 = stats.chisquare([column.sum(), DRAWS - column.sum()], expected)
        assert chi2.pvalue > 0.001
    counts = ((found.sum(0) - expected[0]) ** 2 / (expected[0] * (1 - rate))).sum()
    assert 0.005 < stats.chi2.cdf(counts, examples) < 0.995
    # Pairs of examples, and of steps that follow each other.
    pairs = [(found[:, i], found[:, j]) for i, j in combinations(range(examples), 2)]
    pairs += [(column[:-1], column[1:]) for column in found.T]
    p_values = [
        stats.chi2_contingency(np.histogram2d(a, b, bins=2)[0], correction=False).pvalue
        for a, b in pairs
    ]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_every_subset_has_its_probability() -> None:
    """Chi-square of whole batches: there is nothing more to a distribution."""
    rate, examples = 1 / 3, 4
    found = included(PoissonBatches(5), visit(examples, 3))
    observed = np.bincount(found @ (2 ** np.arange(examples)), minlength=2**examples)
    sizes = np.array([bin(subset).count("1") for subset in range(2**examples)])
    expected = DRAWS * rate**sizes * (1 - rate) ** (examples - sizes)
    assert stats.chisquare(observed, expected).pvalue > 0.01


def test_sizes_are_binomial_and_their_mean_is_the_expected_size() -> None:
    client = visit(50, 8)
    poisson = PoissonBatches(1)
    assert poisson.rate(client) == 1 / 8 and poisson.expected_size(client) == 50 / 8
    sizes = np.array([poisson.size(client, step) for step in range(DRAWS)])
    edges = np.arange(2, 12)
    observed = np.histogram(sizes, [-1, *edges, 99])[0]
    cumulative = np.array([0, *stats.binom.cdf(edges - 1, 50, 1 / 8), 1])
    assert stats.chisquare(observed, DRAWS * np.diff(cumulative)).pvalue > 0.01


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 10_000), st.integers(0, 2**127 - 1))
def test_size_agrees_with_the_draw(examples: int, batches: int, step: int, key: int) -> None:
    client = visit(examples, batches)
    drawn = PoissonBatches(key).draw(client, step)
    assert len(drawn) == len(set(drawn.tolist())) == PoissonBatches(key).size(client, step)
    assert drawn.dtype == np.int64 and all(0 <= index < examples for index in drawn)
    if batches == 1:
        assert sorted(drawn) == list(range(examples))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 10_000), st.integers(1, 5))
def test_processes_share_a_draw(examples: int, batches: int, step: int, processes: int) -> None:
    client, poisson = visit(examples, batches), PoissonBatches(9)
    shares = [poisson.draw(client, step, rank, processes) for rank in range(processes)]
    sizes = [poisson.size(client, step, rank, processes) for rank in range(processes)]
    assert [len(share) for share in shares] == sizes and max(sizes) - min(sizes) <= 1
    assert sorted(np.concatenate(shares)) == sorted(poisson.draw(client, step))


def test_a_draw_is_keyed_by_key_round_client_and_step_alone() -> None:
    usual = [PoissonBatches(9).draw(visit(40, 4), step).tolist() for step in range(8)]
    backwards = [PoissonBatches(9).draw(visit(40, 4), step).tolist() for step in range(7, -1, -1)]
    assert usual == backwards[::-1]
    longer = Visit(0, 0, 99, 40, 4, 40, 17)  # other seed, steps and place in the round
    assert usual == [PoissonBatches(9).draw(longer, step).tolist() for step in range(8)]
    others = [
        (PoissonBatches(10), visit(40, 4)),
        (PoissonBatches(9), visit(40, 4, round=1)),
        (PoissonBatches(9), visit(40, 4, client=1)),
    ]
    for poisson, client in others:
        assert usual != [poisson.draw(client, step).tolist() for step in range(8)]


def test_noise_seeds_differ_in_each_key() -> None:
    seeds = {
        PoissonBatches(key).noise_seed(visit(40, 4, round, client), step)
        for key in (0, 1, 2**100)
        for round in range(3)
        for client in range(3)
        for step in range(3)
    }
    assert len(seeds) == 81
