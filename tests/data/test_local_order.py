"""Batches of texts of like length: of the same examples, padded less, the short one last."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback

from fedtt_lightning import FederatedRounds
from fedtt_lightning.callbacks import LocalDP
from fedtt_lightning.data import ClientDataModule, LoaderOptions, Partition
from fedtt_lightning.data.local_order import group_by_length
from fedtt_lightning.data.round_loader import RoundLoader, batch_examples, batches_per_epoch
from fedtt_lightning.data.token_rows import TokenRows
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import RoundPlanner
from quiet_trainer import quiet_trainer
from toy import ToyModule

POOL = 32
many_lengths = st.lists(st.integers(0, 9), min_size=1, max_size=400)


def padded(lengths: np.ndarray, order: np.ndarray, size: int) -> int:
    """The tokens of all batches, each padded to its longest text."""
    starts = range(0, len(order), size)
    return sum(len(part) * max(lengths[part]) for part in (order[s : s + size] for s in starts))


@settings(max_examples=100, deadline=None)
@given(many_lengths, st.integers(1, 5), st.integers(0, 2**32))
def test_whole_batches_of_like_length_by_pools(drawn: list[int], size: int, seed: int) -> None:
    lengths = np.array(drawn)
    order = np.random.default_rng(seed).permutation(len(lengths))
    grouped = group_by_length(order, lengths, size, np.random.default_rng(seed))
    assert np.array_equal(
        grouped, group_by_length(order, lengths, size, np.random.default_rng(seed))
    )
    full = len(order) // size * size
    assert np.array_equal(grouped[full:], order[full:]), "the short batch is drawn as before"
    batches = {tuple(batch) for batch in grouped[:full].reshape(-1, size).tolist()}
    for start in range(0, full, POOL * size):
        pool = order[start : min(start + POOL * size, full)].tolist()
        pool.sort(key=lambda index: lengths[index])  # Python's sort is stable
        parts = {tuple(pool[i : i + size]) for i in range(0, len(pool), size)}
        assert parts <= batches
        batches -= parts
    assert not batches
    assert padded(lengths, grouped, size) <= padded(lengths, order, size)


def test_long_batches_come_anywhere() -> None:
    lengths = np.arange(400)
    order = np.random.default_rng(0).permutation(400)
    grouped = group_by_length(order, lengths, 4, np.random.default_rng(1)).reshape(-1, 4)
    longest = {
        int(group_by_length(order, lengths, 4, np.random.default_rng(s)).argmax()) // 4
        for s in range(40)
    }
    assert len(longest) > 20
    assert np.ptp(grouped, axis=1).mean() < np.ptp(order.reshape(-1, 4), axis=1).mean() / 10


def texts(sizes: list[int]) -> TokenRows:
    lengths = np.random.default_rng(1).integers(1, 30, sum(sizes))
    ids = [[index] * length for index, length in enumerate(lengths)]
    return TokenRows(Dataset.from_dict({"input_ids": ids, "label": [0] * len(ids)}))


def numbers(batch: list[dict[str, Any]]) -> list[int]:
    return [int(example["input_ids"][0]) for example in batch]


def make(sizes: list[int], options: LoaderOptions, rank: int = 0, world: int = 1) -> RoundLoader:
    clients = Partition(np.arange(sum(sizes)), np.cumsum([0, *sizes]))
    planner = RoundPlanner(
        3, np.array(sizes), lambda n: batches_per_epoch(n, options, world), local_epochs=2
    )
    return RoundLoader(texts(sizes), clients, planner.plan(1), options, rank, world)  # type: ignore[arg-type]


@pytest.mark.parametrize("drop_last", [False, True])
def test_every_example_once_an_epoch_and_the_short_batch_last(drop_last: bool) -> None:
    options = LoaderOptions(4, numbers, drop_last=drop_last, group_by_length=True)
    loader = make([150, 7, 4, 29], options)
    batches = list(loader)
    plain = list(make([150, 7, 4, 29], replace(options, group_by_length=False)))
    assert batches != plain
    for visit in loader.plan.visits:
        assert [len(batches[visit.first_batch + s]) for s in range(visit.num_batches)] == [
            batch_examples(visit, step, options) for step in range(visit.num_batches)
        ]
        for epoch in range(2):
            start = visit.first_batch + epoch * visit.batches_per_epoch
            of_epoch = slice(start, start + visit.batches_per_epoch)
            seen, shuffled = (chain.from_iterable(b[of_epoch]) for b in (batches, plain))
            assert sorted(seen) == sorted(shuffled), "the examples that a shuffle gives"
    for start in (1, 38, 39, 76, 77, len(batches) - 1):
        loader.plan = replace(loader.plan, start=start)
        assert list(loader) == batches[start:]


def test_processes_share_each_batch() -> None:
    options = LoaderOptions(3, numbers, group_by_length=True)
    shares = [list(make([30, 13], options, rank, 2)) for rank in range(2)]
    whole = list(make([30, 13], replace(options, batch_size=6)))
    for parts, batch in zip(zip(*shares, strict=True), whole, strict=True):
        assert set(parts[0] + parts[1]) == set(batch)


class Texts(ClientDataModule):
    def __init__(self, data: Any) -> None:
        super().__init__(2)
        self.data = data

    def setup(self, stage: str) -> None:
        self.train_data, self.loader = self.data, LoaderOptions(group_by_length=True)


@pytest.mark.parametrize(
    ("data", "extra", "message"),
    [
        (texts([9]), [LocalDP(noise_multiplier=1.0)], r"data\.group_by_length is on.*turn it off"),
        ([1, 2, 3], [], r"data\.group_by_length needs the length.*is a list without.*turn it off"),
    ],
)
def test_refused_with_random_batches_and_without_lengths(
    tmp_path: Path, data: Any, extra: list[Callback], message: str
) -> None:
    trainer = quiet_trainer(tmp_path, 1, [FederatedRounds(), *extra])
    with pytest.raises(ConfigError, match=message):
        trainer.fit(ToyModule().double(), datamodule=Texts(data))
