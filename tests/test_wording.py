"""Mean and spread of scores, of which some may be NaN, infinite or huge."""

from __future__ import annotations

import statistics
from math import inf, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.wording import spread


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_spread_is_that_of_the_sample(values: list[float]) -> None:
    mean, sd = spread(values)
    assert mean == pytest.approx(statistics.fmean(values), abs=1e-6)
    assert sd == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-6)


def test_one_value_has_no_spread() -> None:
    assert spread([0.5]) == (0.5, None)


@pytest.mark.parametrize("values", [[nan, 1.0], [inf, -inf, 1.0]])
def test_what_is_no_number_shows(values: list[float]) -> None:
    mean, sd = spread(values)
    assert isnan(mean) and sd is not None and isnan(sd)


def test_huge_values_overflow_to_infinity() -> None:
    assert spread([1e308, -1e308]) == (0.0, inf)
    assert spread([inf, 1.0])[0] == inf
