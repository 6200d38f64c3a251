"""Central privacy by its definition: what one client can change, the noise, and the divisor."""

from __future__ import annotations

import io
from math import exp, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from federation.aggregation.test_robust import OLD, SCHEMA, WIDTH, flat, matrices, update
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import AdapterState, PrivateMean, WeightedMean


def private(
    noise: float = 0.0, expected: float = 4.0, key: int = 7, **options: float
) -> PrivateMean:
    rule = PrivateMean(**options)  # type: ignore[arg-type]
    rule.check(SCHEMA, None)
    rule.calibrate(noise, expected, key)
    return rule


def round_of(rule: PrivateMean, rows: np.ndarray, round: int = 0, first: int = 0) -> np.ndarray:
    rule.open(round)
    for client, row in enumerate(rows):
        rule.add(first + client, OLD, update(row), 1.0)
    assert rule.count == len(rows)
    return flat(rule.result(OLD))


@settings(deadline=None)
@given(rows=matrices(1))
def test_without_noise_and_with_a_wide_clip_it_is_the_mean(rows: np.ndarray) -> None:
    plain = WeightedMean()
    for row in rows:
        plain.add(0, OLD, update(row), 1.0)
    actual = round_of(private(expected=len(rows), clip=1e9), rows)
    np.testing.assert_allclose(actual, flat(plain.result(OLD)), rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(rows=matrices(2), clip=st.floats(1e-3, 1e3), other=matrices(1, 1))
def test_a_client_changes_the_sum_by_no_more_than_the_clip(
    rows: np.ndarray, clip: float, other: np.ndarray
) -> None:
    """Away, or another: the rest of the sum stays, and so does the divisor."""
    rule = private(noise=0.3, expected=4, clip=clip)
    whole, without = round_of(rule, rows), round_of(rule, rows[:-1])
    assert 4 * np.linalg.norm(whole - without) <= clip * (1 + 1e-9)
    changed = round_of(rule, np.vstack([rows[:-1], other]))
    assert 4 * np.linalg.norm(whole - changed) <= 2 * clip * (1 + 1e-9)


@settings(deadline=None)
@given(rows=matrices(1), clip=st.floats(1e-3, 1e3), answered=st.integers(1, 12))
def test_short_updates_stay_and_the_divisor_is_fixed(
    rows: np.ndarray, clip: float, answered: int
) -> None:
    rows = rows[:answered]
    scaled = [row * min(1.0, clip / max(np.linalg.norm(row), 1e-300)) for row in rows]
    actual = round_of(private(expected=12.5, clip=clip), rows)
    np.testing.assert_allclose(actual, np.sum(scaled, axis=0) / 12.5, rtol=1e-10, atol=1e-10)


def test_the_noise_has_the_variance_it_should() -> None:
    """Chi-square over 400 rounds of 8 values, of which a part is of another dtype."""
    rule = private(noise=1.3, expected=5, clip=0.7)
    draws = np.array([round_of(rule, np.zeros((3, WIDTH)), round) for round in range(400)])
    squares = ((draws * 5 / (1.3 * 0.7)) ** 2).sum()
    low, high = chi2.ppf([1e-4, 1 - 1e-4], draws.size)
    assert low < squares < high
    correlation = np.corrcoef(draws.T) - np.eye(WIDTH)
    assert np.abs(correlation).max() < 0.25


def test_the_noise_belongs_to_key_and_round() -> None:
    zeros = np.zeros((1, WIDTH))
    one = round_of(private(noise=1.0), zeros, 3)
    np.testing.assert_array_equal(one, round_of(private(noise=1.0), zeros, 3))
    assert not np.isin(round_of(private(noise=1.0), zeros, 4), one).any()
    assert not np.isin(round_of(private(noise=1.0, key=8), zeros, 3), one).any()
    assert not np.isin(round_of(private(noise=1.0, key=7 + 2**32), zeros, 3), one).any()


def test_a_round_of_nobody_looks_like_one_of_zeros() -> None:
    rule, twin = private(noise=1.0), private(noise=1.0)
    rule.open(2)
    released = rule.empty(SCHEMA)
    assert released is not None
    np.testing.assert_array_equal(flat(released), round_of(twin, np.zeros((1, WIDTH)), 2))
    rule.calibrate(1.0, 4.0, 7, hidden_cohort=False)
    assert rule.empty(SCHEMA) is None


def test_the_clip_moves_in_a_round_of_nobody() -> None:
    rule = private(noise=1.0, quantile=0.5, bit_noise=2.0)
    rule.open(2)
    released = rule.empty(SCHEMA)
    assert released is not None and released.schema == SCHEMA
    assert 0 <= rule.metrics()["dp/clipped_share"] <= 1
    rule.open(3)
    assert rule.metrics()["dp/clip"] != 1.0


def test_only_what_travelled_gets_noise() -> None:
    schema = SCHEMA.select(["a", "b"])
    rule = private(noise=1.0)
    rule.open(0)
    rule.add(0, OLD, AdapterState.capture(update(np.zeros(WIDTH)).tensors(), schema), 1.0)
    assert rule.result(OLD).schema == schema


def norms_of(rng: np.random.Generator, clients: int) -> np.ndarray:
    """Updates whose norms are log-normal with median 3."""
    directions = rng.normal(size=(clients, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return directions * np.exp(rng.normal(np.log(3), 0.5, (clients, 1)))


@pytest.mark.parametrize(("quantile", "factor"), [(0.5, 0.0), (0.8, 0.8416)])
def test_the_clip_finds_its_quantile(quantile: float, factor: float) -> None:
    rng = np.random.default_rng(0)
    rule = private(0.5, expected=60, clip=0.1, quantile=quantile, bit_noise=3.0)
    clips = []
    for round in range(120):
        round_of(rule, norms_of(rng, 60), round)
        clips.append(rule.metrics()["dp/clip"])
    assert clips[0] == 0.1
    assert np.mean(clips[60:]) == pytest.approx(3 * exp(0.5 * factor), rel=0.1)


def test_the_clip_moves_by_its_formula() -> None:
    rows = np.zeros((5, WIDTH))
    rows[:2, 0] = 9.0  # 2 of 5 are clipped; 8 were expected
    rule = private(expected=8, clip=2.0, quantile=0.5, clip_lr=0.3)
    round_of(rule, rows)
    inside = 0.5 + (3 - 2) / 2 / 8
    assert rule.metrics() == {"dp/clip": 2.0, "dp/clipped_share": 1 - inside}
    rule.open(1)
    assert rule.metrics() == {"dp/clip": 2.0 * exp(-0.3 * (inside - 0.5))}


def test_bits_and_updates_together_cost_what_the_multiplier_does() -> None:
    """Noise per sensitivity, as precision: that of the updates and that of bits of ±1/2."""
    rule = private(noise=1.2, clip=1.0, quantile=0.5, bit_noise=0.9, clip_lr=1e-9)
    draws = np.array([round_of(rule, np.zeros((1, WIDTH)), round) for round in range(2000)])
    updates = draws.std() * 4
    assert updates == pytest.approx((1.2**-2 - 1.8**-2) ** -0.5, rel=0.03)
    assert 1 / sqrt(updates**-2 + (2 * 0.9) ** -2) == pytest.approx(1.2, rel=0.03)


def test_a_fixed_clip_tells_no_share() -> None:
    rule = private(noise=1.0)
    round_of(rule, np.ones((3, WIDTH)))
    assert rule.metrics() == {"dp/clip": 1.0}


@pytest.mark.parametrize("options", [{}, {"quantile": 0.5, "bit_noise": 2.0}])
def test_goes_on_inside_and_between_rounds(options: dict[str, float]) -> None:
    rng = np.random.default_rng(3)
    rounds = [norms_of(rng, 4) for _ in range(3)]
    whole = private(noise=1.0, **options)
    expected = [round_of(whole, rows, round) for round, rows in enumerate(rounds)]
    metrics = whole.metrics()
    for stop in range(5):  # after so many updates of round 1
        rule = private(noise=1.0, **options)
        round_of(rule, rounds[0], 0)
        rule.open(1)
        for client in range(stop):
            rule.add(client, OLD, update(rounds[1][client]), 1.0)
        file = io.BytesIO()
        torch.save(rule.state_dict(), file)
        file.seek(0)
        rule = private(noise=1.0, **options)
        rule.load_state_dict(torch.load(file, weights_only=True))
        for client in range(stop, 4):
            rule.add(client, OLD, update(rounds[1][client]), 1.0)
        np.testing.assert_array_equal(flat(rule.result(OLD)), expected[1])
        np.testing.assert_array_equal(round_of(rule, rounds[2], 2), expected[2])
        assert rule.metrics() == metrics


def test_its_name_holds_settings_only() -> None:
    rule = PrivateMean(quantile=0.5)
    rule.calibrate(0.1, 4.0, 7)
    round_of(rule, np.ones((3, WIDTH)))
    assert repr(rule) == (
        "PrivateMean(bit_noise=None, clip=1.0, clip_lr=0.2, codec=None, quantile=0.5, "
        "transport=None)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, r"clip is 0\.0, but must be > 0"),
        ({"clip": float("inf")}, "clip is inf"),
        ({"quantile": 1.0}, r"quantile is 1\.0, but must lie between 0 and 1"),
        ({"clip_lr": 0.0}, r"clip_lr is 0\.0"),
        ({"quantile": 0.5, "bit_noise": -1.0}, r"bit_noise is -1\.0"),
    ],
)
def test_refuses_settings_that_make_no_sense(options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrivateMean(**options).check(SCHEMA, None)  # type: ignore[arg-type]


def test_refuses_bits_that_cost_more_than_the_round_may() -> None:
    with pytest.raises(ConfigError, match=r"bit_noise is 0\.2 .* set it above 0\.5"):
        PrivateMean(quantile=0.5).calibrate(1.0, 4.0, 7)


def test_no_result_without_calibration() -> None:
    with pytest.raises(FederationError, match="CentralDP has to set it"):
        round_of(PrivateMean(), np.ones((3, WIDTH)))
