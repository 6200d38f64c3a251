"""Median, trimmed mean, Krum, Multi-Krum and bounded norms against their definitions."""

from __future__ import annotations

import io
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import AdapterSchema, AdapterState, AggregationRule, WeightedMean
from fedtt_lightning.federation.aggregation.krum import Krum, MultiKrum
from fedtt_lightning.federation.aggregation.norm_bound import NormBoundedMean
from fedtt_lightning.federation.aggregation.robust import CoordinateMedian, TrimmedMean

GLOBAL = {  # two dtypes, mixed, so that buffers are not in the order of the tensors
    "a": torch.zeros(2, 2, dtype=torch.float64),
    "b": torch.zeros(3, dtype=torch.float32),
    "c": torch.zeros(1, dtype=torch.float64),
}
SCHEMA = AdapterSchema.of(GLOBAL)
OLD = AdapterState.capture(GLOBAL)
WIDTH = 8


def update(row: np.ndarray) -> AdapterState:
    """An update whose tensors, one after another by name, hold the row's values."""
    values = torch.tensor(row, dtype=torch.float64)
    parts = zip(GLOBAL, values.split([4, 3, 1]), strict=True)
    return AdapterState.capture({n: p.view(GLOBAL[n].shape) for n, p in parts}, SCHEMA)


def flat(state: AdapterState) -> np.ndarray:
    return torch.cat([tensor.reshape(-1) for tensor in state.tensors().values()]).numpy()


def aggregate(
    rule: AggregationRule, rows: np.ndarray, order: Any = None, weights: Any = None
) -> np.ndarray:
    """Rows are the updates of clients 0, 1, …, which arrive in `order`."""
    rule.reset()
    for client in range(len(rows)) if order is None else order:
        weight = 1.0 if weights is None else float(weights[client])
        rule.add(int(client), OLD, update(rows[client]), weight)
    assert rule.count == len(rows)
    result = rule.result(OLD)
    assert all(buffer.dtype == torch.float64 for buffer in result.buffers.values())
    assert result.schema == SCHEMA
    return flat(result)


def matrices(fewest: int, most: int = 12) -> st.SearchStrategy[np.ndarray]:
    """Few different values, so that many are equal; or very different ones."""
    numbers = st.sampled_from([-2.0, 0.0, 0.5, 1.0, 1e3]) | st.floats(-1e3, 1e3, width=32)
    return st.integers(fewest, most).flatmap(
        lambda n: st.lists(
            st.lists(numbers, min_size=WIDTH, max_size=WIDTH), min_size=n, max_size=n
        ).map(np.array)
    )


def krum_order(rows: np.ndarray, byzantine: int) -> list[int]:
    """Clients from the lowest score, straight from the paper."""
    scores = []
    for i, one in enumerate(rows):
        others = sorted(float(((one - o) ** 2).sum()) for j, o in enumerate(rows) if j != i)
        scores.append(sum(others[: len(rows) - byzantine - 2]))
    return sorted(range(len(rows)), key=lambda i: scores[i])


@settings(deadline=None)
@given(rows=matrices(3))
def test_median(rows: np.ndarray) -> None:
    expected = [statistics.median(column) for column in rows.T]
    np.testing.assert_allclose(aggregate(CoordinateMedian(), rows), expected, rtol=1e-15)


@settings(deadline=None)
@given(rows=matrices(5), trim=st.sampled_from([1, 2, 0.2, 0.3, 0.49]))
def test_trimmed_mean(rows: np.ndarray, trim: float) -> None:
    cut = trim if isinstance(trim, int) else int(trim * len(rows))
    expected = [statistics.fmean(sorted(column)[cut : len(rows) - cut]) for column in rows.T]
    np.testing.assert_allclose(aggregate(TrimmedMean(trim), rows), expected, rtol=1e-12, atol=1e-10)


def test_a_fraction_is_rounded_as_it_is_written() -> None:
    assert [TrimmedMean(0.29).cut(n) for n in (100, 99, 3)] == [29, 28, 0]
    assert [TrimmedMean(0.1).cut(n) for n in (9, 10, 30)] == [0, 1, 3]


@settings(deadline=None)
@given(data=st.data(), byzantine=st.integers(0, 2))
def test_krum(data: st.DataObject, byzantine: int) -> None:
    """Whole numbers, whose distances are exact, so that both sides see the same ties."""
    n = data.draw(st.integers(2 * byzantine + 3, 10))
    numbers = st.lists(st.integers(-9, 9), min_size=WIDTH, max_size=WIDTH)
    rows = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)), dtype=np.float64)
    keep = data.draw(st.integers(1, n - byzantine))
    order = krum_order(rows, byzantine)
    np.testing.assert_array_equal(aggregate(Krum(byzantine), rows), rows[order[0]])
    np.testing.assert_allclose(
        aggregate(MultiKrum(byzantine, keep), rows), rows[order[:keep]].mean(axis=0), atol=1e-12
    )


@settings(deadline=None)
@given(
    rows=matrices(1), bound=st.floats(1e-3, 1e3), weights=st.lists(st.floats(0.1, 9), min_size=12)
)
def test_norm_bound(rows: np.ndarray, bound: float, weights: list[float]) -> None:
    w = np.array(weights[: len(rows)])
    scaled = [row * min(1.0, bound / max(np.sqrt((row**2).sum()), 1e-300)) for row in rows]
    expected = (np.array(scaled) * w[:, None]).sum(axis=0) / w.sum()
    actual = aggregate(NormBoundedMean(bound), rows, weights=w)
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-10)
    assert np.linalg.norm(actual) <= bound * (1 + 1e-12)


def test_a_wide_bound_changes_no_bit() -> None:
    rows = np.random.default_rng(0).normal(size=(5, WIDTH))
    np.testing.assert_array_equal(
        aggregate(NormBoundedMean(1e3), rows), aggregate(WeightedMean(), rows)
    )


ROBUST = [CoordinateMedian(), TrimmedMean(2), TrimmedMean(0.25), Krum(2), MultiKrum(2, 5)]


@pytest.mark.parametrize("rule", ROBUST, ids=repr)
@settings(deadline=None, max_examples=30)
@given(rows=matrices(8), seed=st.integers(0, 99))
def test_does_not_depend_on_the_order_of_arrival(
    rule: AggregationRule, rows: np.ndarray, seed: int
) -> None:
    order = np.random.default_rng(seed).permutation(len(rows))
    np.testing.assert_array_equal(aggregate(rule, rows), aggregate(rule, rows, order))


@pytest.mark.parametrize("rule", [*ROBUST, NormBoundedMean(3.0)], ids=repr)
def test_bears_an_attack(rule: AggregationRule) -> None:
    rng = np.random.default_rng(1)
    honest = 0.5 + 0.1 * rng.normal(size=(8, WIDTH))
    rows = np.vstack([honest[:3], np.full((1, WIDTH), 1e6), honest[3:]])
    rule.check(SCHEMA, len(rows))
    mean = honest.mean(axis=0)
    far = 0.35 if isinstance(rule, NormBoundedMean | Krum) else 0.15
    assert np.abs(aggregate(rule, rows) - mean).max() < far
    assert np.abs(aggregate(WeightedMean(), rows) - mean).min() > 1e5


@pytest.mark.parametrize("rule", [*ROBUST, NormBoundedMean(3.0)], ids=repr)
def test_goes_on_inside_a_round(rule: AggregationRule) -> None:
    rows = np.random.default_rng(2).normal(size=(9, WIDTH)) * 3
    whole = aggregate(rule, rows)
    rule.reset()
    for client in (7, 2, 4):
        rule.add(client, OLD, update(rows[client]), 1.0)
    file = io.BytesIO()
    torch.save(rule.state_dict(), file)
    file.seek(0)
    rule.reset()
    assert rule.count == 0
    rule.load_state_dict(torch.load(file, weights_only=True))
    assert rule.count == 3
    for client in (0, 8, 1, 3, 5, 6):
        rule.add(client, OLD, update(rows[client]), 1.0)
    resumed = flat(rule.result(OLD))
    if isinstance(rule, NormBoundedMean):  # a sum in another order
        np.testing.assert_allclose(resumed, whole, rtol=1e-12)
    else:
        np.testing.assert_array_equal(resumed, whole)


@pytest.mark.parametrize(
    ("rule", "cohort", "message"),
    [
        (CoordinateMedian(), 2, "median of 2 updates bears no false one, 3 are needed"),
        (TrimmedMean(0.1), 9, r"trim=0\.1 cuts none of 9 updates"),
        (TrimmedMean(2), 4, "trim=2 cuts 2 on each side and leaves nothing of 4"),
        (TrimmedMean(0.5), None, r"trim is 0\.5, but must be a number of clients"),
        (TrimmedMean(0), None, "trim is 0, but"),
        (Krum(2), 6, r"Krum with byzantine=2 needs 2·2 \+ 3 = 7 updates, not 6"),
        (MultiKrum(5, 2), 10, "byzantine=5 needs"),
        (Krum(-1), None, "byzantine is -1, but must be >= 0"),
        (MultiKrum(1, 0), 9, "keep is 0, but must be >= 1"),
        (MultiKrum(1, 9), 9, "keep=9 would average false ones of 9 updates"),
        (NormBoundedMean(0.0), None, r"bound is 0\.0, but must be > 0"),
        (NormBoundedMean(float("nan")), None, "bound is nan"),
    ],
)
def test_refuses_what_its_assumptions_forbid(
    rule: AggregationRule, cohort: int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        rule.check(SCHEMA, cohort)


@pytest.mark.parametrize("rule", ROBUST, ids=repr)
def test_a_round_in_which_too_few_answer_fails(rule: AggregationRule) -> None:
    rule.check(SCHEMA, None)
    with pytest.raises(FederationError, match="too few usable updates"):
        aggregate(rule, np.zeros((2, WIDTH)))
