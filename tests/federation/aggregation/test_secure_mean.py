"""The mean in fixed point: that of WeightedMean up to its rounding, whatever protocol adds it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.aggregation.test_robust import OLD, SCHEMA, WIDTH, aggregate, flat, update
from federation.pairwise_masks import PairwiseMaskedSum
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import FixedPointCodec, SecureMean, WeightedMean


@settings(deadline=None)
@given(
    bits=st.integers(20, 62),
    clients=st.integers(1, 9),
    limit=st.floats(1e-3, 1e3),
    seed=st.integers(0, 999),
)
def test_equals_the_weighted_mean_up_to_rounding(
    bits: int, clients: int, limit: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-limit, limit, (clients, WIDTH))
    weights = rng.integers(10, 100, clients)
    rule = SecureMean(range=limit, clients=9, max_weight=100.0, codec=FixedPointCodec(bits))
    rule.check(SCHEMA, clients)
    actual = aggregate(rule, rows, weights=weights)
    expected = aggregate(WeightedMean(), rows, weights=weights)
    # The rounding of up to 9 values and of as many weights, in units of the mean.
    step = 100 / weights.sum() * limit / ((2 ** (bits - 1) - 1) // 9)
    assert np.abs(actual - expected).max() <= 9 * step * 1.01 + 1e-12 * limit


@pytest.mark.parametrize("answered", [[0, 1, 2, 3], [3, 1]])
def test_a_masking_protocol_gives_the_same_bits(answered: list[int]) -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (4, WIDTH))
    plain, masked = SecureMean(), SecureMean(transport=PairwiseMaskedSum(range(4)))
    results = []
    for rule in (plain, masked):
        rule.open(5)
        for client in answered:
            rule.add(client, OLD, update(rows[client]), 20.0)
        results.append(flat(rule.result(OLD)))
    np.testing.assert_array_equal(*results)
    assert plain.metrics() == masked.metrics()


def test_logs_what_rounding_changed() -> None:
    """Relative to the sum's length; a grid of half the bits errs by half as many digits."""
    rows = np.random.default_rng(1).uniform(-1, 1, (6, WIDTH))
    weighted = (rows * 30).sum(axis=0)
    errors = []
    for bits in (16, 32):
        rule = SecureMean(clients=6, max_weight=30.0, codec=FixedPointCodec(bits))
        assert rule.metrics() == {}
        actual = aggregate(rule, rows, weights=[30.0] * 6) * 180
        error = np.linalg.norm(actual - weighted) / np.linalg.norm(weighted)
        assert rule.metrics() == {"secure/quantization_error": pytest.approx(error, rel=1e-6)}
        errors.append(error)
    assert 1e4 < errors[0] / errors[1] < 1e6
    rule.open(1)
    assert rule.metrics() == {}


def test_goes_on_inside_a_round() -> None:
    rows = np.random.default_rng(2).uniform(-1, 1, (5, WIDTH))
    rule = SecureMean()
    whole = aggregate(rule, rows, [2, 0, 1, 4, 3])
    metrics = rule.metrics()
    rule.open(3)
    for client in (2, 0):
        rule.add(client, OLD, update(rows[client]), 1.0)
    file = io.BytesIO()
    torch.save(rule.state_dict(), file)
    file.seek(0)
    other = SecureMean()
    other.load_state_dict(torch.load(file, weights_only=True))
    for client in (1, 4, 3):
        other.add(client, OLD, update(rows[client]), 1.0)
    np.testing.assert_array_equal(flat(other.result(OLD)), whole)
    assert other.metrics() == metrics


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (SecureMean(range=0.0), r"range is 0\.0, but must be > 0"),
        (SecureMean(max_weight=float("nan")), "max_weight is nan"),
        (SecureMean(clients=4), "clients is 4, but a round has 5 clients or more"),
        (SecureMean(codec=FixedPointCodec(8), clients=300), "no room for a sum over 300 clients"),
    ],
)
def test_refuses_settings_that_cannot_work(rule: SecureMean, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rule.check(SCHEMA, 5)


@pytest.mark.parametrize(
    ("rule", "weight", "message"),
    [
        (SecureMean(range=0.5, max_weight=10), 10.0, r"a value of 1 exceeds .*raise .*\.range"),
        (SecureMean(max_weight=10), 11.0, "client 0 weighs 11, more than .*max_weight=10: raise"),
        (SecureMean(clients=1), 1.0, "more than federation.aggregation.clients=1 clients have"),
        (
            SecureMean(codec=FixedPointCodec(8), max_weight=1e6),
            1.0,
            "weights are lost in rounding: lower federation.aggregation.max_weight",
        ),
    ],
)
def test_a_round_that_does_not_fit_fails(rule: SecureMean, weight: float, message: str) -> None:
    with pytest.raises(FederationError, match=message):
        aggregate(rule, np.ones((2, WIDTH)), weights=[weight] * 2)
