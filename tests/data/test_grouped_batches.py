"""Batches of clients side by side: those that each would have alone, one after another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from fedtt_lightning.data import LoaderOptions, Partition
from fedtt_lightning.data.round_loader import (
    RoundLoader,
    batch_examples,
    batches_per_epoch,
    in_step,
)
from fedtt_lightning.federation import RoundPlanner

SIZES = [5, 12, 2, 9, 4]


class Noisy(Dataset[Any]):
    """Each example with augmentation noise from the global generators."""

    lengths = np.arange(sum(SIZES)) * 7 % 10

    def __len__(self) -> int:
        return sum(SIZES)

    def __getitem__(self, index: int) -> Any:
        return index, torch.rand(()), np.random.random()


def make(options: LoaderOptions, groups: tuple[int, ...]) -> RoundLoader:
    clients = Partition(np.arange(sum(SIZES)), np.cumsum([0, *SIZES]))
    planner = RoundPlanner(
        3, SIZES, lambda n: batches_per_epoch(n, options), local_epochs=2, group_sizes=groups
    )
    return RoundLoader(Noisy(), clients, planner.plan(1), options)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("by_length", [False, True])
def test_batches_are_those_of_each_alone(drop_last: bool, workers: int, by_length: bool) -> None:
    options = LoaderOptions(
        batch_size=2, drop_last=drop_last, num_workers=workers, group_by_length=by_length
    )
    loader, alone = make(options, (3,)), make(replace(options, num_workers=0), (1,))
    single = {
        (visit.client, step): batch
        for visit in alone.plan.visits
        for step, batch in enumerate(
            list(alone)[visit.first_batch : visit.first_batch + visit.num_batches]
        )
    }
    batches = list(loader)
    assert len(batches) == len(loader) < len(alone)
    for index, batch in enumerate(batches):
        step = loader.plan.locate(index)[2]
        active = in_step(loader.plan.group(index), step)
        assert [v.num_batches for v in active] == sorted(
            (v.num_batches for v in active), reverse=True
        )
        parts = [single.pop((visit.client, step)) for visit in active]
        sizes = [batch_examples(visit, step, options) for visit in active]
        assert sizes == [len(part[0]) for part in parts]
        for column, columns in zip(batch, zip(*parts, strict=True), strict=True):
            assert torch.equal(column, torch.cat(columns))
        again = loader.alone(active[-1], step)
        assert all(torch.equal(a, b) for a, b in zip(again, parts[-1], strict=True))
    assert not single, "every batch of every client came"


@pytest.mark.parametrize("start", [0, 3, 8, 12, 13])
def test_goes_on_from_any_batch(start: int) -> None:
    options = LoaderOptions(batch_size=2)
    loader = make(options, (3, 1))
    whole = list(loader)
    loader.plan = replace(loader.plan, start=start)
    for batch, expected in zip(loader, whole[start:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))
