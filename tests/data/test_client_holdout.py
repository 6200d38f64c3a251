"""A share of each client's own examples, set aside for its evaluation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from fedtt_lightning.data import (
    IID,
    BySize,
    ClientDataModule,
    FederatedDataModule,
    LabelShares,
    LoaderOptions,
)
from fedtt_lightning.data.partition import Partition
from fedtt_lightning.data.table import count_labels
from fedtt_lightning.errors import ConfigError
from toy import ToyData


class Points(ClientDataModule):
    def __init__(self, n=103, **kwargs):
        super().__init__(**kwargs)
        self.train_data = TensorDataset(torch.zeros(n, 1), torch.arange(n) % 3)
        self.loader = LoaderOptions(batch_size=4)


def federated(seed=1, **kwargs):
    data = Points(**kwargs)
    data.federate(seed)
    return data


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(2, 40), min_size=1, max_size=12),
    share=st.floats(0.001, 0.999),
    seed=st.integers(0, 2**32 - 1),
)
def test_each_client_is_divided_by_the_share_and_nothing_is_lost(sizes, share, seed):
    rng = np.random.default_rng(seed)
    owners = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    whole = Partition.from_owners(owners, len(sizes))
    rest, part = whole.split(share, np.random.default_rng(seed))
    assert len(rest) == len(part) == len(whole)
    for client, size in enumerate(sizes):
        assert sorted([*rest[client], *part[client]]) == sorted(whole[client])
        assert len(rest[client]) >= 1 and len(part[client]) >= 1
        if len(rest[client]) > 1 and len(part[client]) > 1:
            assert abs(len(part[client]) - share * size) <= 0.5 + 1e-9


def test_every_example_is_as_likely_to_be_set_aside():
    whole = Partition.from_owners(np.arange(40) % 2, 2)
    times = np.zeros(40)
    for seed in range(1000):
        _, part = whole.split(0.25, np.random.default_rng(seed))
        times[np.concatenate(list(part))] += 1
    # Binomial(1000, 1/4): four standard deviations are 55.
    assert np.abs(times - 250).max() < 60


def test_the_draw_follows_the_seed_unless_the_partitioner_has_its_own():
    draws = [federated(seed, client_holdout=0.2).held_out for seed in (1, 1, 2)]
    assert [part.tolist() for part in draws[0]] == [part.tolist() for part in draws[1]]
    assert [part.tolist() for part in draws[0]] != [part.tolist() for part in draws[2]]
    fixed = [federated(s, client_holdout=0.2, partition=IID(seed=5)).held_out for s in (1, 2)]
    assert [part.tolist() for part in fixed[0]] == [part.tolist() for part in fixed[1]]


def test_a_client_keeps_its_draw_whatever_the_others_hold():
    few = Partition.from_indices([[0, 1, 2, 3], [4, 5, 6, 7]])
    other = Partition.from_indices([[0, 1, 2, 3], [7, 6], [5, 4]])
    first, second = (p.split(0.5, np.random.default_rng(3))[1][0].tolist() for p in (few, other))
    assert sorted(first) == sorted(second)


def test_without_a_share_nothing_changes():
    data = federated()
    assert data.held_out is None
    assert data.clients.sizes.sum() == 103


def test_the_table_counts_what_trains():
    data = federated(client_holdout=0.3, clients=4, partition=LabelShares(level="mild"))
    labels = np.arange(103) % 3
    expected = [np.bincount(labels[part], minlength=3).tolist() for part in data.clients]
    assert count_labels(data.clients, labels)[0].tolist() == expected
    assert data.partition_table().splitlines()[-1].split()[:3] == [
        "all", "4", str(data.clients.sizes.sum()),
    ]  # fmt: skip


def test_a_wrapped_datamodule_has_it_too():
    data = FederatedDataModule(ToyData(60), clients=3, client_holdout=0.25)
    data.setup("fit")
    data.federate(0)
    assert data.held_out.sizes.tolist() == [5, 5, 5]
    assert data.clients.sizes.tolist() == [15, 15, 15]
    assert isinstance(data.inner.train_dataloader(), DataLoader)


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ConfigError, match=r"data\.client_holdout is"):
        Points(client_holdout=share)


def test_a_client_of_one_example_is_refused():
    with pytest.raises(ConfigError, match=r"client 1 \(and 1 more\) of 3 has one: lower data\."):
        federated(n=7, clients=None, client_holdout=0.2, partition=BySize(shares=[5, 1, 1]))


def test_a_hundred_thousand_clients_take_moments():
    data = federated(n=300_000, clients=100_000, client_holdout=0.2)
    assert data.held_out.sizes.tolist() == [1] * 100_000
    assert data.clients.sizes.tolist() == [2] * 100_000
