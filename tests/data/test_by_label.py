import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from fedtt_lightning.data.by_label import Dirichlet, LabelShares, level_shares
from fedtt_lightning.data.partition import Examples
from fedtt_lightning.data.table import count_labels
from fedtt_lightning.errors import ConfigError


def counts_of(partitioner, labels, num_clients, seed=0):
    labels = np.asarray(labels)
    data = TensorDataset(torch.zeros(len(labels), 1), torch.as_tensor(labels))
    clients = partitioner(Examples(data), num_clients, np.random.default_rng(seed))
    return count_labels(clients, labels)[0]


def test_the_published_three_client_splits_come_out_exactly():
    binary = LabelShares(shares=[[0.1, 0.9], [0.9, 0.1], [0.5, 0.5]])
    assert counts_of(binary, [0, 1] * 300, 3).tolist() == [[20, 180], [180, 20], [100, 100]]
    rotated = LabelShares(shares=[[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.05, 0.05, 0.9]])
    expected = (np.full((3, 3), 10) + np.eye(3, dtype=int) * 170).tolist()
    assert counts_of(rotated, [0, 1, 2] * 200, 3).tolist() == expected
    assert counts_of(LabelShares(level="severe"), [0, 1, 2] * 200, 3).tolist() == expected


@pytest.mark.parametrize(
    ("level", "main"),
    [("mild", 0.85), ("severe", 0.95)],
)
def test_levels_of_two_classes(level, main):
    counts = counts_of(LabelShares(level=level), [0, 1] * 300, 3)
    rows = np.array([[1 - main, main], [main, 1 - main], [0.5, 0.5]])
    assert counts.tolist() == np.rint(rows * 200).tolist()


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
@pytest.mark.parametrize("level", ["mild", "severe"])
def test_levels_sum_to_one_and_favour_each_class_equally(level, classes):
    rows = level_shares(level, classes)
    assert np.allclose(rows.sum(axis=1), 1) or classes == 1
    assert np.allclose(rows.sum(axis=0), rows.sum(axis=0)[0])


def test_rows_repeat_over_more_clients():
    counts = counts_of(LabelShares(shares=[[0.2, 0.8], [0.8, 0.2]]), [0, 1] * 200, 4)
    assert counts.tolist() == [[20, 80], [80, 20], [20, 80], [80, 20]]


@settings(deadline=None, max_examples=60)
@given(
    positives=st.integers(100, 900),
    num_clients=st.integers(2, 9),
    seed=st.integers(0, 99),
)
def test_unequal_classes_keep_equal_sizes_and_the_odds_ratios(positives, num_clients, seed):
    labels = [0] * (1000 - positives) + [1] * positives
    counts = counts_of(LabelShares(level="mild"), labels, num_clients, seed)
    # Each class is rounded to whole examples on its own, so two classes are off by two at most.
    assert np.abs(counts.sum(axis=1) - 1000 / num_clients).max() <= 2
    assert counts.sum(axis=0).tolist() == [1000 - positives, positives]


def test_odds_ratios_between_clients_are_those_of_the_shares():
    counts = counts_of(LabelShares(level="mild"), [0] * 20_000 + [1] * 80_000, 3)
    odds = counts[:, 1] / counts[:, 0]
    assert np.allclose(odds / odds[2], [0.85 / 0.15, 0.15 / 0.85, 1], rtol=0.01)


def test_impossible_equal_sizes_still_use_every_example():
    counts = counts_of(LabelShares(shares=[[1, 0], [0, 1]]), [0] * 30 + [1] * 70, 2)
    assert counts.tolist() == [[30, 0], [0, 70]]


def test_dirichlet_goes_from_one_client_a_class_to_even():
    labels = np.arange(20_000) % 10
    even = counts_of(Dirichlet(alpha=1e6), labels, 10)
    assert np.abs(even - 200).max() <= 3
    skewed = counts_of(Dirichlet(alpha=0.01), labels, 10)
    assert (skewed.max(axis=0) > 0.9 * 2000).sum() >= 6


def test_dirichlet_shares_have_the_moments_of_the_distribution():
    # A coordinate of Dirichlet(alpha * 1_n) is Beta(alpha, (n - 1) alpha).
    labels = np.arange(400_000) % 400
    shares = counts_of(Dirichlet(alpha=0.5), labels, 4) / 1000
    mean, variance = 1 / 4, (1 / 4) * (3 / 4) / (4 * 0.5 + 1)
    assert shares.mean() == pytest.approx(mean)
    assert shares.var() == pytest.approx(variance, rel=0.1)


def test_dirichlet_gives_short_clients_their_least_from_the_largest():
    counts = counts_of(Dirichlet(alpha=0.001, min_examples=7), [0] * 500 + [1] * 500, 50)
    sizes = np.sort(counts.sum(axis=1))
    assert sizes[0] == 7
    assert sizes[-1] > 300


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either shares or level"),
        ({"level": "heavy"}, "choose mild or severe"),
        ({"shares": []}, "no rows"),
        ({"shares": [[0.5, 0.5], [0.5, 0.6]]}, r"shares\[1\] is \[0.5, 0.6\], which sums to 1.1"),
        ({"shares": [[1.5, -0.5]]}, r"shares\[0\]"),
        ({"shares": [[0.5, 0.3, 0.2]]}, "has 3 entries, but the training data has 2 classes"),
        ({"shares": [[1, 0], [1, 0]]}, "class 1 to no client"),
        ({"shares": [[0.5, 0.5]] * 4}, "4 rows for data.clients=3"),
    ],
)
def test_bad_shares_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        counts_of(LabelShares(**options), [0, 1] * 10, 3)
