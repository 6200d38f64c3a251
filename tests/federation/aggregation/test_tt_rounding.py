"""TTRounding against dense matrices, with the states of a real adapter."""

from __future__ import annotations

import io
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedtt_lightning.adapters.modules import TTAdapter, TTLinear
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    AdapterSchema,
    AdapterState,
    RotatingFactor,
    TTRounding,
    WeightedMean,
)
from fedtt_lightning.tensor_train import TTShape, to_dense, tt_svd

DOWN, UP = TTShape((4, 3, 2), (2, 4)), TTShape((4, 2), (2, 3, 4))
TRAINS = {"a.down_": DOWN, "a.up_": UP, "classifier.": TTShape((4, 6), (6, 2))}
RANK = 4


def model(rank: int = RANK) -> nn.ModuleDict:
    adapter = TTAdapter(DOWN, UP, rank, activation="tanh", dtype=torch.float64)
    classifier = TTLinear(TRAINS["classifier."], rank, dtype=torch.float64)
    head = nn.Linear(12, 2, dtype=torch.float64)
    return nn.ModuleDict({"a": adapter, "classifier": classifier, "head": head})


def dense(tensors: dict[str, Tensor], prefix: str) -> Tensor:
    shape = TRAINS[prefix]
    cores = [tensors[f"{prefix}core_{i}"].double() for i in range(len(shape.modes))]
    return to_dense(cores, shape.split)


def random_like(tensors: dict[str, Tensor], seed: int, rank: int = RANK) -> dict[str, Tensor]:
    """Random values, of the cores only those of a train of `rank`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, tensor in tensors.items():
        drawn[name] = torch.randn(tensor.shape, dtype=torch.float64, generator=generator)
        if "core_" in name:
            drawn[name][rank:] = 0
            drawn[name][:, :, rank:] = 0
    return drawn


def server(seed: int = 0) -> AdapterState:
    torch.manual_seed(seed)
    return AdapterState.capture(dict(model().named_parameters()))


def client(old: AdapterState, seed: int, rank: int = RANK) -> tuple[AdapterState, AdapterState]:
    start = AdapterState.capture(random_like(old.tensors(), seed, rank), old.schema)
    update = AdapterState.capture(random_like(old.tensors(), seed + 1, rank), old.schema)
    return start, update


def applied(old: AdapterState, update: AdapterState) -> dict[str, Tensor]:
    return {name: old.tensors()[name] + change for name, change in update.tensors().items()}


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 2), st.floats(0.5, 50)), min_size=1, max_size=2),
    st.integers(0, 999),
)
def test_mean_of_operators_is_exact_if_the_rank_allows(
    clients: list[tuple[int, float]], seed: int
) -> None:
    old, rule = server(), TTRounding()
    visits = [client(old, seed + 10 * i, rank) for i, (rank, _) in enumerate(clients)]
    for i, (start, update) in enumerate(visits):
        rule.add(i, start, update, clients[i][1])
    new = applied(old, rule.result(old))
    assert list(new) == list(old.schema.names)
    weights = [weight / sum(w for _, w in clients) for _, weight in clients]
    for prefix in TRAINS:
        ends = [dense(applied(start, update), prefix) for start, update in visits]
        mean = sum(w * end for w, end in zip(weights, ends, strict=True))
        assert torch.linalg.norm(dense(new, prefix) - mean) <= 1e-10 * torch.linalg.norm(mean)


def test_rounds_to_the_servers_rank_as_a_dense_svd_does() -> None:
    old, rule, plain = server(), TTRounding(), WeightedMean()
    visits = [client(old, 7 * i) for i in range(5)]
    for i, (start, update) in enumerate(visits):
        rule.add(i, start, update, i + 1.0)
        ends = AdapterState.capture(applied(start, update), old.schema).minus(old)
        plain.add(i, start, ends, i + 1.0)
    new = applied(old, rule.result(old))
    for prefix, shape in TRAINS.items():
        mean = sum((i + 1) / 15 * dense(applied(*v), prefix) for i, v in enumerate(visits))
        expected = tt_svd(mean, shape, RANK)
        torch.testing.assert_close(dense(new, prefix), to_dense(expected, shape.split))
        factors = dense(applied(old, plain.result(old)), prefix)
        assert torch.linalg.norm(factors - mean) > torch.linalg.norm(dense(new, prefix) - mean)


def test_what_is_no_core_is_averaged_as_fedavg_does() -> None:
    old, rule, plain = server(), TTRounding(), WeightedMean()
    for i in range(3):
        start, update = old, client(old, i)[1]
        rule.add(i, start, update, i + 1.0)
        plain.add(i, start, update, i + 1.0)
    ours, theirs = rule.result(old).tensors(), plain.result(old).tensors()
    others = [name for name in ours if "core_" not in name]
    assert len(others) == 5
    assert all(torch.equal(ours[name], theirs[name]) for name in others)


@pytest.mark.parametrize("round", range(3))
def test_fedtt_plus_moves_all_cores_though_few_travel(round: int) -> None:
    old, rule = server(), TTRounding()
    trained = RotatingFactor(biases=False).trained(old.schema.names, round)
    assert 0 < len(trained) < len(old.schema.names)
    ends = []
    for i in range(3):
        update = client(old, i)[1].select(old.schema.select(trained))
        rule.add(i, old, update, 1.0)
        ends.append({**old.tensors(), **applied(old, update)})
    result = rule.result(old)
    assert {n for n in old.schema.names if "core_" in n} <= set(result.schema.names)
    assert "a.down_bias" not in result.schema.names
    for prefix, shape in TRAINS.items():
        mean = sum(dense(end, prefix) for end in ends) / 3
        expected = to_dense(tt_svd(mean, shape, RANK), shape.split)
        torch.testing.assert_close(dense(applied(old, result), prefix), expected)


def test_a_train_of_which_nothing_travels_stays() -> None:
    old, rule = server(), TTRounding()
    names = [name for name in old.schema.names if not name.startswith("a.down_")]
    rule.add(0, old, client(old, 1)[1].select(old.schema.select(names)), 2.0)
    assert list(rule.result(old).schema.names) == names


def test_memory_does_not_grow_with_the_cohort_and_a_stop_changes_nothing() -> None:
    old, rule, whole = server(), TTRounding(), TTRounding()
    largest = []
    for i in range(40):
        start, update = client(old, i)
        whole.add(i, start, update, i + 1.0)
        rule.add(i, start, update, i + 1.0)
        file = io.BytesIO()
        torch.save(rule.state_dict(), file)
        file.seek(0)
        rule = TTRounding()
        rule.load_state_dict(torch.load(file, weights_only=True))
        largest.append(sum(c.numel() for cores in rule._total.values() for c in cores))
    assert len(set(largest[20:])) == 1 and rule.count == 40
    assert largest[-1] <= 2.5 * sum(s.in_features * s.out_features for s in TRAINS.values())
    ours, theirs = rule.result(old).tensors(), whole.result(old).tensors()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    whole.reset()
    assert whole.state_dict() == TTRounding().state_dict()


def test_an_identity_start_stays_trainable() -> None:
    """Clients that have not moved leave the operator zero, with one zero core, others as long."""
    old, rule = server(), TTRounding()
    still = AdapterState(old.schema, {k: torch.zeros_like(b) for k, b in old.buffers.items()})
    rule.add(0, old, still, 1.0)
    new = applied(old, rule.result(old))
    zero = [name for name, value in new.items() if "up_core" in name and not value.any()]
    assert zero == ["a.up_core_4"]
    for name, value in old.tensors().items():
        assert math.isclose(value.norm(), new[name].norm(), rel_tol=0.4), name
    smaller = rule.shrink(old, 2).tensors()
    assert [n for n, v in smaller.items() if "up_core" in n and not v.any()] == ["a.up_core_4"]


def test_states_on_which_it_cannot_work_are_refused() -> None:
    head = AdapterSchema.of({"head.weight": torch.zeros(2, 2)})
    with pytest.raises(ConfigError, match="needs tensor-train cores"):
        TTRounding().check(head, None)
    schema = server().schema
    TTRounding().check(schema, None)
    for missing in ("a.down_core_0", "a.down_core_1", "a.up_core_4"):
        part = schema.select([name for name in schema.names if name != missing])
        with pytest.raises(ConfigError, match=missing[:-1]):
            TTRounding().check(part, None)
