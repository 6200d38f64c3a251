"""Noise added by the clients in shares: the sum over those who answer has all of it or more."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from federation.aggregation.test_private_mean import norms_of
from federation.aggregation.test_robust import OLD, SCHEMA, WIDTH, flat, update
from federation.pairwise_masks import PairwiseMaskedSum
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import FixedPointCodec, PrivateMean


def shared(noise: float, fewest: int = 3, most: int = 6, **options: Any) -> PrivateMean:
    rule = PrivateMean(**{"clip": 0.7, "codec": FixedPointCodec(), **options})
    rule.check(SCHEMA, None)
    rule.calibrate(noise, 5.0, 7, fewest_clients=fewest, most_clients=most, hidden_cohort=False)
    return rule


def round_of(rule: PrivateMean, rows: np.ndarray, round: int = 0) -> np.ndarray:
    rule.open(round)
    for client, row in enumerate(rows):
        rule.add(client, OLD, update(row), 1.0)
    return flat(rule.result(OLD))


@pytest.mark.parametrize("options", [{}, {"quantile": 0.5, "bit_noise": 2.0}])
def test_without_noise_it_is_the_central_mean(options: dict[str, Any]) -> None:
    rows = norms_of(np.random.default_rng(0), 6)
    central = PrivateMean(clip=0.7, **options)
    central.calibrate(0.0, 5.0, 7)
    rule = shared(0.0, **options)
    for round in range(3):
        actual, expected = round_of(rule, rows, round), round_of(central, rows, round)
        np.testing.assert_allclose(actual, expected, atol=1e-8)
        metrics = rule.metrics()
        assert 0 < metrics.pop("secure/quantization_error") < 1e-7
        assert metrics == pytest.approx(central.metrics(), rel=1e-6)


@pytest.mark.parametrize("answered", [3, 6])
def test_the_sum_has_the_central_noise_where_fewest_answer(answered: int) -> None:
    rule = shared(1.3)
    draws = np.array([round_of(rule, np.zeros((answered, WIDTH)), round) for round in range(400)])
    squares = ((draws * 5 / (1.3 * 0.7)) ** 2).sum() / (answered / 3)
    low, high = chi2.ppf([1e-4, 1 - 1e-4], draws.size)
    assert low < squares < high


def test_logs_what_rounding_changed() -> None:
    """Against a codec so fine that nothing is rounded, with the same noise."""
    rows = norms_of(np.random.default_rng(3), 5)
    exact = round_of(shared(1.0, codec=FixedPointCodec(62)), rows)
    for bits in (12, 20):
        rule = shared(1.0, codec=FixedPointCodec(bits))
        error = np.linalg.norm(round_of(rule, rows) - exact) / np.linalg.norm(exact)
        assert rule.metrics()["secure/quantization_error"] == pytest.approx(error, rel=1e-5)


def test_the_bits_have_shares_of_their_noise_too() -> None:
    rule = shared(1.3, quantile=0.5, bit_noise=2.0, clip_lr=1e-9)
    shares = []
    for round in range(1500):
        round_of(rule, np.zeros((3, WIDTH)), round)
        shares.append(rule.metrics()["dp/clipped_share"])
    # 3 of 5 answer and none is clipped: 0.5 − 1.5/5, cut at 0, where a part of the draws lies.
    draws = np.random.default_rng(0).normal(0.2, 2.0 / 5, 10**6).clip(0, 1)
    assert np.mean(shares) == pytest.approx(draws.mean(), abs=0.03)
    assert np.std(shares) == pytest.approx(draws.std(), rel=0.06)


def test_no_message_is_without_noise() -> None:
    """What a client hands over differs from its update by a share, in every value."""
    sent = PairwiseMaskedSum([0])  # a single client has nobody to share masks with
    rule = shared(1.0, fewest=1, transport=sent)
    rule.open(4)
    rule.add(0, OLD, update(np.zeros(WIDTH)), 1.0)
    assert bool((sent.messages[0] != 0).all())


def test_a_masking_protocol_gives_the_same_bits() -> None:
    rows = norms_of(np.random.default_rng(1), 4)
    options = {"quantile": 0.5, "bit_noise": 2.0}
    plain = shared(1.0, **options)
    masked = shared(1.0, transport=PairwiseMaskedSum(range(6)), **options)
    for round in range(2):  # of 6 clients, 2 drop out
        np.testing.assert_array_equal(round_of(plain, rows, round), round_of(masked, rows, round))


def test_goes_on_inside_a_round() -> None:
    rows = norms_of(np.random.default_rng(2), 4)
    expected = round_of(shared(1.0), rows, 5)
    rule = shared(1.0)
    rule.open(5)
    for client in (0, 1):
        rule.add(client, OLD, update(rows[client]), 1.0)
    file = io.BytesIO()
    torch.save(rule.state_dict(), file)
    file.seek(0)
    rule = shared(1.0)
    rule.load_state_dict(torch.load(file, weights_only=True))
    for client in (2, 3):
        rule.add(client, OLD, update(rows[client]), 1.0)
    np.testing.assert_array_equal(flat(rule.result(OLD)), expected)


def test_too_few_shares_give_no_result() -> None:
    rule = shared(1.0)
    assert rule.problem(3) is None
    assert rule.problem(2) == "noise is shared out on 3 clients, and 2 answered"
    with pytest.raises(FederationError, match="round 1 is not private: noise is shared out"):
        round_of(rule, np.zeros((2, WIDTH)))


def test_a_round_of_nobody_changes_nothing() -> None:
    assert shared(1.0).empty(SCHEMA) is None


def test_refuses_what_cannot_be_added() -> None:
    with pytest.raises(ConfigError, match="no room for a sum over 200 clients"):
        shared(1.0, most=200, codec=FixedPointCodec(8))
    with pytest.raises(ConfigError, match=r"transport adds integers: set .*codec"):
        PrivateMean(transport=PairwiseMaskedSum(range(3))).check(SCHEMA, None)
