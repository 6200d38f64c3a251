"""The state machine without Lightning: averages, frozen tensors, state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import (
    AdapterState,
    FedAvg,
    FederatedLoop,
    RotatingFactor,
    RoundPlanner,
)
from fedtt_lightning.federation.aggregation import WeightedMean

SIZES = np.array([3, 5, 8])


def make_loop(**options: Any) -> tuple[FederatedLoop, dict[str, torch.Tensor]]:
    rng = torch.Generator().manual_seed(0)
    tensors = {f"core_{i}": torch.randn(4, generator=rng) for i in range(4)}
    planner = RoundPlanner(1, SIZES, lambda n: 2)
    return FederatedLoop(planner, tensors, **options), tensors


def train(loop: FederatedLoop, tensors: dict[str, torch.Tensor], names: Any = None) -> None:
    """One visit that adds (client + 1) to the named tensors."""
    visit = loop.open_visit()
    for name in names or tensors:
        tensors[name] += visit.client + 1
    loop.advance()
    assert loop.inside_visit
    loop.advance()
    loop.accept(visit, loop.close_visit())


def test_weighted_mean_of_updates() -> None:
    loop, tensors = make_loop(server=FedAvg(lr=0.5))
    old = {name: value.clone() for name, value in tensors.items()}
    loop.open_round(0)
    for _ in SIZES:
        train(loop, tensors)
        assert all(torch.equal(tensors[name], old[name]) for name in old)
    loop.close_round()
    mean = sum(size * (i + 1) for i, size in enumerate(SIZES)) / sum(SIZES)
    for name in old:
        torch.testing.assert_close(tensors[name], old[name] + 0.5 * mean)


def test_a_frozen_tensor_that_moves_is_an_error() -> None:
    loop, tensors = make_loop(schedule=RotatingFactor())
    loop.open_round(0)
    train(loop, tensors, ["core_0", "core_1", "core_3"])
    with pytest.raises(FederationError, match="core_2 is frozen in round 1 but was changed"):
        train(loop, tensors)


@given(st.integers(0, 5))
def test_state_goes_on_from_any_batch(position: int) -> None:
    whole, expected = make_loop()
    whole.open_round(0)
    for _ in SIZES:
        train(whole, expected)
    whole.close_round()

    loop, tensors = make_loop()
    loop.open_round(0)
    state = None
    for _ in SIZES:
        visit = loop.open_visit()
        for half in range(2):
            if loop.position == position:
                state = loop.state_dict()
                loop, tensors = make_loop()
                loop.load_state_dict(state)
                if half == 0:
                    loop.open_visit()
            for value in tensors.values():
                value += (visit.client + 1) / 2
            loop.advance()
        loop.accept(visit, loop.close_visit())
    loop.close_round()
    assert state is not None
    for name, value in expected.items():
        torch.testing.assert_close(tensors[name], value)


def test_park_puts_the_global_adapter_back_and_keeps_the_clients() -> None:
    loop, tensors = make_loop()
    loop.open_round(0)
    loop.open_visit()
    tensors["core_0"] += 1
    loop.advance()
    local = tensors["core_0"].clone()
    loop.park()
    loop.park()
    assert torch.equal(tensors["core_0"], loop.adapter.tensors()["core_0"])
    other, theirs = make_loop()
    other.load_state_dict(loop.state_dict())
    assert torch.equal(theirs["core_0"], local)


def test_state_of_another_model_or_experiment() -> None:
    loop, _ = make_loop()
    state = loop.state_dict()
    planner = RoundPlanner(2, SIZES, lambda n: 2)
    with pytest.raises(ConfigError, match=r"seed 1, this run has seed 2"):
        FederatedLoop(planner, loop.tensors).load_state_dict(state)
    tensors = {"core_0": torch.zeros(5)}
    with pytest.raises(ConfigError, match=r"4 trainable tensors differ, first core_0"):
        FederatedLoop(planner, tensors).load_state_dict(state)


def test_round_without_usable_update() -> None:
    loop, tensors = make_loop()
    loop.open_round(0)
    for _ in SIZES:
        visit = loop.open_visit()
        tensors["core_1"][2] = float("inf")
        loop.advance()
        loop.advance()
        assert not loop.accept(visit, loop.close_visit())
    with pytest.raises(FederationError, match="clients 0, 1, 2 hold NaN or Inf"):
        loop.close_round()


@given(st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_streaming_mean_is_the_weighted_mean(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(size=(count, 3)), rng.integers(1, 1000, count)
    mean = WeightedMean()
    for client, (value, weight) in enumerate(zip(values, weights, strict=True)):
        update = AdapterState.capture({"a": torch.tensor(value)})
        mean.add(client, update, update, float(weight))
    expected = np.average(values, axis=0, weights=weights)
    np.testing.assert_allclose(
        mean.result(update).tensors()["a"].numpy(), expected, rtol=1e-12, atol=1e-12
    )


def test_private_tensors_begin_from_the_clients_own_values() -> None:
    """Also where they are frozen, and in a loop that goes on inside the visit."""
    own = {"core_2": torch.arange(4.0)}
    loop, tensors = make_loop(schedule=RotatingFactor(), private=["core_2"])
    first = loop.adapter.clone()
    loop.open_round(0)  # core_1 is the one in the middle that trains
    visit = loop.open_visit()
    loop.begin_from(own)
    for name in ("core_0", "core_1", "core_3"):
        tensors[name] += 1
    loop.advance()
    again, others = make_loop(schedule=RotatingFactor(), private=["core_2"])
    again.load_state_dict(loop.state_dict())
    for each, live in ((loop, tensors), (again, others)):
        each.advance()
        update = each.close_visit()
        assert update.schema.names == ("core_0", "core_1", "core_3")
        assert each.accept(visit, update) and each.counted is update
        assert each.private_state is not None
        assert torch.equal(each.private_state.tensors()["core_2"], own["core_2"])
        assert all(torch.equal(live[n], value) for n, value in first.tensors().items())
