"""Every partitioner, on any data: disjoint, complete, seeded, no client empty."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from fedtt_lightning.data import IID, ByColumn, BySize, Dirichlet, LabelShares
from fedtt_lightning.data.partition import Examples, Partition, apportion
from fedtt_lightning.errors import ConfigError

PARTITIONERS = st.sampled_from(
    [
        IID(),
        BySize(exponent=0.7),
        LabelShares(level="mild"),
        LabelShares(level="severe"),
        Dirichlet(alpha=0.05),
        Dirichlet(alpha=1.0, min_examples=2),
        Dirichlet(alpha=1e-4),
    ]
)


def examples_with(labels):
    labels = torch.as_tensor(labels)
    return Examples(TensorDataset(torch.zeros(len(labels), 1), labels))


@settings(deadline=None, max_examples=150)
@given(
    partitioner=PARTITIONERS,
    labels=st.lists(st.integers(-1, 4), min_size=60, max_size=200),
    num_clients=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_partitions_are_disjoint_complete_and_seeded(partitioner, labels, num_clients, seed):
    examples = examples_with(labels)
    clients = partitioner(examples, num_clients, np.random.default_rng(seed))
    assert len(clients) == num_clients
    assert sorted(np.concatenate(list(clients))) == list(range(len(labels)))
    assert (clients.sizes == [len(part) for part in clients]).all()
    assert clients.sizes.min() > 0
    clients.check(len(labels))
    again = partitioner(examples, num_clients, np.random.default_rng(seed))
    assert np.array_equal(again.owners(), clients.owners())


@given(
    weights=st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda w: sum(w) > 1e-3),
    total=st.integers(0, 10_000),
)
def test_apportion_stays_within_one_of_the_quota_and_loses_nothing(weights, total):
    counts = apportion(np.array(weights), total)
    quotas = np.array(weights) / np.sum(weights) * total
    assert counts.sum() == total
    assert (np.abs(counts - quotas) < 1 + 1e-6).all()


@given(owners=st.lists(st.integers(0, 6), max_size=50))
def test_owners_and_index_lists_are_the_same_partition(owners):
    owners = np.array(owners, dtype=np.int64)
    by_owner = Partition.from_owners(owners, 7)
    by_index = Partition.from_indices([np.flatnonzero(owners == client) for client in range(7)])
    assert np.array_equal(by_owner.owners(), owners)
    assert np.array_equal(by_index.owners(), owners)
    assert np.array_equal(by_owner.sizes, np.bincount(owners, minlength=7))


def test_iid_sizes_differ_by_at_most_one_and_the_order_is_shuffled():
    clients = IID()(examples_with([0] * 103), 10, np.random.default_rng(0))
    assert sorted(clients.sizes) == [10] * 7 + [11] * 3
    assert not np.array_equal(clients.owners(), np.sort(clients.owners()))


def test_sizes_follow_the_shares_and_zipfs_law():
    examples = examples_with([0] * 600)
    rng = np.random.default_rng(0)
    assert BySize(shares=[3, 2, 1])(examples, 3, rng).sizes.tolist() == [300, 200, 100]
    zipf = BySize(exponent=1.0)(examples, 3, rng).sizes
    assert np.abs(zipf - 600 * np.array([6, 3, 2]) / 11).max() < 1


def test_a_hundred_thousand_clients_take_moments():
    examples = examples_with(np.arange(200_000) % 2)
    for partitioner in (IID(), Dirichlet(alpha=0.1), LabelShares(level="severe")):
        clients = partitioner(examples, 100_000, np.random.default_rng(0))
        clients.check(200_000)
        assert len(clients[99_999]) >= 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BySize(), "either shares or exponent"),
        (lambda: BySize(shares=[1, 0]), "shares must be positive"),
        (lambda: BySize(exponent=-1), "exponent is -1"),
        (lambda: BySize(shares=[1, 2])(examples_with([0] * 9), 3, None), "2 entries for data.cl"),
        (lambda: IID()(examples_with([0] * 9), None, None), r"data\.clients is not set"),
        (lambda: Dirichlet(alpha=0), "alpha is 0"),
        (lambda: Dirichlet(alpha=1, min_examples=0), "min_examples is 0"),
        (
            lambda: Dirichlet(alpha=1, min_examples=4)(examples_with([0] * 9), 3, None),
            "set it to at most 3",
        ),
        (lambda: LabelShares(level="severe")(Examples([1.5, 2.5]), 2, None), "no integer labels"),
        (lambda: ByColumn("user")(examples_with([0, 1]), 2, None), "no column 'user'"),
    ],
)
def test_bad_options_name_the_key(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
