"""FedTT+ trains the first, the last and some middle factors; which, is said here once more."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    AdapterState,
    AdaptiveFactor,
    FactorSchedule,
    FixedFactor,
    RandomFactor,
    RotatingFactor,
)

OTHERS = ["classifier.weight", "LayerNorm.bias"]
LENGTHS = st.lists(st.integers(3, 12), min_size=1, max_size=4)


def train(i: int) -> str:
    return f"layer.{i}.tt_adapter.default.down_"


def names(*lengths: int) -> list[str]:
    """Tensor trains as an adapter names them, one `down` of each length, with their biases."""
    result = []
    for i, length in enumerate(lengths):
        result += [f"{train(i)}core_{j}" for j in range(length)] + [f"{train(i)}bias"]
    return result + OTHERS


def numbers(trained: frozenset[str], i: int = 0) -> set[int]:
    """The factors of train `i` that train, counted from 1; its bias must train as well."""
    own = {name.removeprefix(train(i)) for name in trained if name.startswith(train(i))}
    assert "bias" in own and trained >= set(OTHERS)
    return {int(name.removeprefix("core_")) + 1 for name in own - {"bias"}}


@given(LENGTHS, st.integers(0, 50))
def test_rotation(lengths: list[int], round: int) -> None:
    trained = RotatingFactor().trained(names(*lengths), round)
    for i, length in enumerate(lengths):
        assert numbers(trained, i) == {1, 2 + round % (length - 2), length}


@given(st.integers(4, 12), st.data())
def test_rotation_of_several_at_a_time_is_fair(length: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, length - 2))
    schedule = RotatingFactor(count=count)
    turns = [numbers(schedule.trained(names(length), t)) for t in range(length - 2)]
    assert all(len(turn) == 2 + count for turn in turns)
    counted = Counter(number for turn in turns for number in turn - {1, length})
    assert counted == dict.fromkeys(range(2, length), count)


@given(LENGTHS, st.integers(0, 50), st.integers(0, 5))
def test_random_factors_depend_on_experiment_and_round_alone(
    lengths: list[int], round: int, experiment: int
) -> None:
    schedule, every = RandomFactor(), names(*lengths)
    trained = schedule.trained(every, round, experiment)
    for i, length in enumerate(lengths):
        assert len(numbers(trained, i)) == 3 and numbers(trained, i) >= {1, length}
    schedule.trained(every, round + 1, experiment)
    assert schedule.trained(every, round, experiment) == trained
    assert RandomFactor().trained(every[::-1], round, experiment) == trained


def test_random_factors_are_uniform_and_trains_independent() -> None:
    schedule = RandomFactor(count=2)
    rounds = 3000
    pairs: Counter[tuple[frozenset[int], frozenset[int]]] = Counter()
    for round in range(rounds):
        trained = schedule.trained(names(5, 5), round, experiment=7)
        pairs[tuple(frozenset(numbers(trained, i) - {1, 5}) for i in (0, 1))] += 1  # type: ignore[index]
    expected = rounds / 9  # 3 pairs of middle factors in each of two trains
    assert len(pairs) == 9
    chi_square = sum((n - expected) ** 2 / expected for n in pairs.values())
    assert chi_square < 26.1  # 0.1 % of 8 degrees of freedom
    others = schedule.trained(names(5, 5), 0, experiment=8)
    assert any(schedule.trained(names(5, 5), 0, e) != others for e in range(8))


@given(st.integers(5, 12), st.integers(0, 9))
def test_fixed_factors_are_counted_from_1(length: int, round: int) -> None:
    trained = FixedFactor([2, length - 1, 2]).trained(names(length), round)
    assert numbers(trained) == {1, 2, length - 1, length}


def mean_update(trained: frozenset[str], norm_of: dict[str, float]) -> AdapterState:
    """An update whose tensors have the given norms, of a random direction."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name in sorted(trained):
        value = torch.randn(2, 3, 2, dtype=torch.float64, generator=generator)
        tensors[name] = value / value.norm() * norm_of.get(name, 100.0)
    return AdapterState.capture(tensors)


def test_adaptive_tries_each_then_takes_the_largest_of_its_last_time() -> None:
    schedule, every = AdaptiveFactor(), names(5, 4)
    norms = [{2: 0.3, 3: 0.9, 4: 0.5}, {2: 0.2, 3: 0.1}]

    def play(round: int) -> list[int]:
        trained = schedule.trained(every, round)
        middles = [numbers(trained, i) - {1, length} for i, length in enumerate((5, 4))]
        keyed = {f"{train(i)}core_{j - 1}": x for i in (0, 1) for j, x in norms[i].items()}
        schedule.observe(round, mean_update(trained, keyed))
        return [middle for (middle,) in middles]

    assert [play(t) for t in range(4)] == [[2, 2], [3, 3], [4, 2], [3, 2]]
    norms[0][3] = 0.4  # below what factor 4 had when it trained last
    norms[1][2] = 0.05
    assert [play(t) for t in range(4, 7)] == [[3, 2], [4, 3], [4, 3]]


def test_adaptive_takes_several() -> None:
    schedule, every = AdaptiveFactor(count=2), names(6)
    keyed = {f"{train(0)}core_{j}": x for j, x in {1: 0.3, 2: 0.2, 3: 0.1, 4: 0.4}.items()}
    seen = []
    for round in range(3):
        trained = schedule.trained(every, round)
        seen.append(numbers(trained) - {1, 6})
        schedule.observe(round, mean_update(trained, keyed))
    assert seen == [{2, 3}, {4, 5}, {2, 5}]


@given(st.lists(st.floats(0, 10), min_size=12, max_size=12), st.integers(1, 11))
def test_adaptive_goes_on_from_its_state(values: list[float], stop: int) -> None:
    def run(schedule: AdaptiveFactor, first: int, last: int) -> list[frozenset[str]]:
        result = []
        for round in range(first, last):
            trained = schedule.trained(names(6), round)
            middle = {f"{train(0)}core_{j}": values[(round * j) % 12] for j in range(1, 5)}
            schedule.observe(round, mean_update(trained, middle))
            result.append(trained)
        return result

    whole = run(AdaptiveFactor(), 0, 12)
    stopped = AdaptiveFactor()
    before = run(stopped, 0, stop)
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed = AdaptiveFactor()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert before + run(resumed, stop, 12) == whole
    assert repr(resumed) == repr(AdaptiveFactor()), "state is no setting"


SCHEDULES: dict[str, Any] = {
    "rotating": lambda **biases: RotatingFactor(**biases),
    "random": lambda **biases: RandomFactor(**biases),
    "fixed": lambda **biases: FixedFactor([2], **biases),
    "adaptive": lambda **biases: AdaptiveFactor(**biases),
}


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)
def test_every_schedule(make: Any) -> None:
    make().check(names(3, 7))
    trained = make(biases=False).trained(names(5), 0)
    assert f"{train(0)}bias" not in trained and trained >= set(OTHERS)
    with pytest.raises(ConfigError, match=r"3 or more factors.*layer.0.*core_\* has 2"):
        make().check(names(2))
    with pytest.raises(ConfigError, match="no trainable parameter is one"):
        make().check(OTHERS)


@pytest.mark.parametrize("kind", [RotatingFactor, RandomFactor, AdaptiveFactor])
def test_counts_that_do_not_fit(kind: type[FactorSchedule]) -> None:
    kind(count=2).check(names(4, 6))
    with pytest.raises(ConfigError, match=r"count is 3.*layer.1.*core_\* has 2.*2 or less"):
        kind(count=3).check(names(6, 4))
    with pytest.raises(ConfigError, match="count is 0"):
        kind(count=0)


@pytest.mark.parametrize(
    ("factors", "named"), [([1], "has 1"), ([5], "has 5"), ([3, 7], "has 7"), ([], "is empty")]
)
def test_fixed_factors_out_of_range(factors: list[int], named: str) -> None:
    FixedFactor([2, 3, 4]).check(names(5))
    with pytest.raises(ConfigError, match=rf"{named}.*layer.0.*are 2 to 4 \(of 1 to 5\)"):
        FixedFactor(factors).check(names(5))


def test_repr_names_the_settings() -> None:
    assert repr(RotatingFactor(biases=False)) == "RotatingFactor(biases=False, count=1)"
    assert repr(FixedFactor([3, 2])) == "FixedFactor(biases=True, count=2, factors=[2, 3])"
