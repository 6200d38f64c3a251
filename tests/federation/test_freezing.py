"""FedTT+ trains the first, the last and one middle factor, each middle one in its turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import RotatingFactor, TrainAll

OTHERS = ["classifier.weight", "LayerNorm.bias"]


def names(*lengths: int) -> list[str]:
    """Tensor trains as an adapter names them, one `down` of each length, with their biases."""
    result = []
    for i, length in enumerate(lengths):
        prefix = f"layer.{i}.tt_adapter.default.down_"
        result += [f"{prefix}core_{j}" for j in range(length)] + [f"{prefix}bias"]
    return result + OTHERS


@given(st.lists(st.integers(3, 12), min_size=1, max_size=4), st.integers(0, 50))
def test_rotation(lengths: list[int], round: int) -> None:
    trained = RotatingFactor().trained(names(*lengths), round)
    for i, length in enumerate(lengths):
        prefix = f"layer.{i}.tt_adapter.default.down_"
        middle = 2 + round % (length - 2)  # counted from 1
        expected = {f"{prefix}core_{j - 1}" for j in (1, middle, length)} | {f"{prefix}bias"}
        assert {name for name in trained if name.startswith(prefix)} == expected
    assert trained >= set(OTHERS)


@given(st.integers(3, 12))
def test_every_middle_factor_has_its_turn(length: int) -> None:
    rounds = range(length - 2)
    turns = [RotatingFactor().trained(names(length), round) for round in rounds]
    assert frozenset().union(*turns) == frozenset(names(length))
    assert len(set(turns)) == length - 2


def test_biases_can_stay() -> None:
    trained = RotatingFactor(biases=False).trained(names(5), 0)
    assert "layer.0.tt_adapter.default.down_bias" not in trained
    assert "LayerNorm.bias" in trained


def test_checks() -> None:
    RotatingFactor().check(names(3))
    with pytest.raises(ConfigError, match=r"3 or more factors.*layer.0.*core_\* has 2"):
        RotatingFactor().check(names(2))
    with pytest.raises(ConfigError, match="no trainable parameter is one"):
        RotatingFactor().check(OTHERS)
    TrainAll().check(OTHERS)
    assert TrainAll().trained(OTHERS, 3) == frozenset(OTHERS)


def test_repr_tells_schedules_apart() -> None:
    assert repr(RotatingFactor(biases=False)) == "RotatingFactor(biases=False)"
    assert repr(TrainAll()) == "TrainAll()"
