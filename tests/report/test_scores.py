"""Scores as people read them."""

from __future__ import annotations

from math import inf, nan

import pytest

from fedtt_lightning.report.scores import Score, score_of


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.78], "0.7800"),
        ([2 / 3, 2 / 3], "0.6667 ± 0.0000"),
        ([1.0, 0.0, 0.5], "0.5000 ± 0.5000"),
        ([23.456], "23.46"),
        ([0.0, 0.0], "0.0000 ± 0.0000"),
        ([1.5e-5], "1.5e-05"),
        ([3e30, 1e30], "2e+30 ± 1.414e+30"),
        ([nan, 1.0], "nan ± nan"),
        ([inf], "inf"),
    ],
)
def test_words(values: list[float], words: str) -> None:
    assert score_of(values).words(len(values)) == words


def test_fewer_seeds_are_told() -> None:
    assert Score(0.5).words(3) == "0.5000 (1/3)"
    assert score_of([0.5, 0.5]).words(3) == "0.5000 ± 0.0000 (2/3)"
