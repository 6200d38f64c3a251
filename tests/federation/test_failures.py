"""Clients fail as often as asked, at paces as promised, the same way whenever asked."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import ClientFailures


@pytest.mark.parametrize("rate", [0.0, 0.03, 0.5, 0.97])
def test_dropout_frequency(rate: float) -> None:
    """Over clients and over rounds, independently of each other; five sigma."""
    failures = ClientFailures(dropout_rate=rate)
    dropped = np.array(
        [[failures.outcome(1, r, c, 5) == "dropped" for c in range(100)] for r in range(100)]
    )
    sigma = (rate * (1 - rate)) ** 0.5
    assert abs(dropped.mean() - rate) <= 5 * sigma / 100
    for axis in (0, 1):
        assert abs(dropped.mean(axis=axis) - rate).max() <= 5 * sigma / 10
    if rate == 0.5:
        across = [np.corrcoef(dropped[i], dropped[i + 1])[0, 1] for i in range(99)]
        assert abs(np.mean(across)) < 5 / (99 * 100) ** 0.5


@pytest.mark.parametrize("slowness", [0.3, 1.5])
def test_paces_are_log_normal_with_median_1(slowness: float) -> None:
    failures = ClientFailures(slowness=slowness)
    paces = [failures.pace(1, client) for client in range(5000)]
    assert stats.kstest(paces, stats.lognorm(s=slowness).cdf).pvalue > 1e-3
    slower = np.mean(np.array(paces) > 1)
    assert abs(slower - 0.5) < 5 * 0.5 / 5000**0.5


def test_late_is_who_needs_longer_than_the_deadline() -> None:
    failures = ClientFailures(deadline=10.0, slowness=0.7)
    for client in range(300):
        for batches in (1, 8, 10, 40):
            late = batches * failures.pace(4, client) > 10.0
            for round in (0, 5):
                outcome = failures.outcome(4, round, client, batches)
                assert outcome == ("late" if late else "done")
    share = np.mean([failures.outcome(4, 0, client, 8) == "late" for client in range(3000)])
    expected = stats.lognorm(s=0.7).sf(10 / 8)
    assert abs(share - expected) < 5 * (expected * (1 - expected) / 3000) ** 0.5


def test_equal_clients_are_late_together() -> None:
    failures = ClientFailures(deadline=6, slowness=0)
    assert {failures.outcome(2, 0, client, 6) for client in range(50)} == {"done"}
    assert {failures.outcome(2, 0, client, 7) for client in range(50)} == {"late"}


def test_dropout_does_not_depend_on_the_deadline_and_comes_first() -> None:
    alone = ClientFailures(dropout_rate=0.4)
    both = ClientFailures(dropout_rate=0.4, deadline=5.0)
    seen = set()
    for round in range(20):
        for client in range(20):
            one, two = (f.outcome(3, round, client, 5) for f in (alone, both))
            assert (one == "dropped") == (two == "dropped")
            assert two == both.outcome(3, round, client, 5)
            seen.add(two)
    assert seen == {"done", "dropped", "late"}
    assert [alone.outcome(3, 0, c, 5) for c in range(50)] != [
        alone.outcome(4, 0, c, 5) for c in range(50)
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dropout_rate", 1.0),
        ("dropout_rate", -0.1),
        ("dropout_rate", math.nan),
        ("deadline", 0.0),
        ("deadline", math.nan),
        ("slowness", -1.0),
        ("slowness", math.inf),
        ("slowness", 11.0),
    ],
)
def test_checks(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"federation\.failures\.{key} is {value}"):
        ClientFailures(**{key: value}).check()


def test_extremes_are_finite() -> None:
    failures = ClientFailures(dropout_rate=0.999, deadline=1e-300, slowness=10)
    failures.check()
    assert all(0 < failures.pace(0, client) < math.inf for client in range(2000))
