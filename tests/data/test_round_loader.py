"""The batches of a round: every example once an epoch, by a keyed order, from any position."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from fedtt_lightning.data import LoaderOptions, Partition
from fedtt_lightning.data.round_loader import RoundLoader, batches_per_epoch
from fedtt_lightning.federation import PoissonBatches, RoundPlan, RoundPlanner


class Noisy(Dataset[Any]):
    """Each example with augmentation noise from every global generator."""

    def __init__(self, size: int = 50) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        return index, torch.rand(()), np.random.random()


def make(
    sizes: list[int], options: LoaderOptions, epochs: int = 1, world: int = 1
) -> tuple[Partition, RoundPlan]:
    clients = Partition(np.arange(sum(sizes)), np.cumsum([0, *sizes]))
    planner = RoundPlanner(
        3, sizes, lambda n: batches_per_epoch(n, options, world), local_epochs=epochs
    )
    return clients, planner.plan(1)


def read(loader: RoundLoader) -> list[list[torch.Tensor]]:
    return [list(batch) for batch in loader]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 3))
def test_every_example_once_an_epoch(sizes: list[int], batch: int, epochs: int) -> None:
    options = LoaderOptions(batch_size=batch)
    clients, plan = make(sizes, options, epochs)
    loader = RoundLoader(Noisy(), clients, plan, options)
    batches = read(loader)
    assert len(batches) == len(loader) == plan.num_batches
    for visit in plan.visits:
        mine = batches[visit.first_batch : visit.first_batch + visit.num_batches]
        for epoch in range(epochs):
            part = mine[epoch * visit.batches_per_epoch : (epoch + 1) * visit.batches_per_epoch]
            seen = torch.cat([batch[0] for batch in part]).tolist()
            assert sorted(seen) == clients[visit.client].tolist()


def test_orders_differ_by_epoch_and_round_and_not_by_call() -> None:
    options = LoaderOptions(batch_size=50)
    clients, plan = make([30], options, epochs=2)
    first, second = (batch[0].tolist() for batch in RoundLoader(Noisy(), clients, plan, options))
    assert first != second
    again = [b[0].tolist() for b in RoundLoader(Noisy(), clients, plan, options)]
    assert again == [first, second]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [0, 1, 4, 5, 6])
def test_goes_on_from_any_batch_with_any_workers(workers: int, start: int) -> None:
    options = LoaderOptions(batch_size=3)
    clients, plan = make([5, 9, 2], options)
    whole = read(RoundLoader(Noisy(), clients, plan, options))
    assert plan.num_batches == 6
    options = replace(options, num_workers=workers)
    rest = read(RoundLoader(Noisy(), clients, replace(plan, start=start), options))
    assert len(rest) == 6 - start
    for batch, expected in zip(rest, whole[start:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch(world: int) -> None:
    options = LoaderOptions(batch_size=4)
    clients, plan = make([9, 12, 1], options, world=world)
    shares = [
        read(RoundLoader(Noisy(), clients, plan, options, rank, world)) for rank in range(world)
    ]
    one, single = make([9, 12, 1], LoaderOptions(batch_size=4 * world))
    whole = read(RoundLoader(Noisy(), one, single, LoaderOptions(batch_size=4 * world)))
    for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
        sizes = {len(part[0]) for part in parts}
        assert len(sizes) == 1, "every process has the same number of examples"
        together = torch.cat([part[0] for part in parts]).tolist()
        assert set(together) == set(batch[0].tolist())


def test_processes_share_drawn_batches_with_stand_ins_for_nothing() -> None:
    options = LoaderOptions(batch_size=1)
    clients, plan = make([3, 7, 12], options, epochs=3, world=2)
    poisson = PoissonBatches(5)
    shares = [
        read(RoundLoader(Noisy(), clients, plan, options, rank, 2, poisson)) for rank in (0, 1)
    ]
    steps = [(visit, step) for visit in plan.visits for step in range(visit.num_batches)]
    sizes = [poisson.size(*at) for at in steps]
    assert {0, 1, 2, 3} <= {*sizes}
    for at, size, *parts in zip(steps, sizes, *shares, strict=True):
        mine = clients[at[0].client]
        found = [part[0].tolist() for part in parts]
        assert all(found[rank] == [mine[0]] for rank in range(size, 2))
        drawn = mine[poisson.draw(*at)].tolist()
        assert sorted([index for part in found[:size] for index in part]) == sorted(drawn)
