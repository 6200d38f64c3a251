"""The interface of schedules, on the one that freezes nothing and on one of a user's own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import FreezingSchedule, TrainAll
from fedtt_lightning.federation.freezing import factor_groups

NAMES = ["classifier.weight", "LayerNorm.bias"]


class Only(FreezingSchedule):
    """Trains the names that end in a word."""

    def __init__(self, ending: str) -> None:
        self.ending = ending
        self._seen = 0

    def trained(self, names: Sequence[str], round: int, experiment: int = 0) -> frozenset[str]:
        return frozenset(name for name in names if name.endswith(self.ending))


def test_nothing_is_frozen() -> None:
    TrainAll().check(NAMES)
    assert TrainAll().trained(NAMES, 3) == frozenset(NAMES)


def test_a_schedule_that_freezes_everything_is_refused() -> None:
    Only("bias").check(NAMES)
    with pytest.raises(ConfigError, match="Only would freeze every trainable parameter"):
        Only("gamma").check(NAMES)


def test_repr_tells_schedules_apart_and_leaves_state_out() -> None:
    assert repr(TrainAll()) == "TrainAll()"
    assert repr(Only("x")) == "Only(ending='x')"


def test_factors_are_grouped_in_order_of_their_numbers() -> None:
    names = [f"a.down_core_{i}" for i in (10, 2, 0)] + ["core_1", "core_0", "a.down_bias", "b.core"]
    assert factor_groups(names) == {
        "a.down_": ["a.down_core_0", "a.down_core_2", "a.down_core_10"],
        "": ["core_0", "core_1"],
    }
