"""Sums of trains against sums of dense tensors, in float64."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtt_lightning.tensor_train import tt_shorten, tt_sum

modes = st.lists(st.integers(1, 4), min_size=1, max_size=5).map(tuple)


def dense(cores):
    """The tensor of a train, one einsum letter for each bond and mode."""
    bonds, sizes = "abcdefgh", "ijklmnop"
    terms = [bonds[i] + sizes[i] + bonds[i + 1] for i in range(len(cores))]
    result = f"a{sizes[: len(cores)]}{bonds[len(cores)]}"
    return torch.einsum(f"{','.join(terms)}->{result}", *cores)[0, ..., 0]


def random_train(modes, ranks, seed):
    generator = torch.Generator().manual_seed(seed)
    bonds = [1, *ranks, 1]
    return [
        torch.randn(bonds[i], k, bonds[i + 1], dtype=torch.float64, generator=generator)
        for i, k in enumerate(modes)
    ]


def draw_trains(data, modes, count):
    ranks = st.lists(st.integers(1, 4), min_size=len(modes) - 1, max_size=len(modes) - 1)
    return [
        random_train(modes, data.draw(ranks), data.draw(st.integers(0, 99))) for _ in range(count)
    ]


@settings(max_examples=50, deadline=None)
@given(modes, st.integers(1, 4), st.data())
def test_sum_is_the_weighted_sum(modes, count, data):
    trains = draw_trains(data, modes, count)
    weights = data.draw(st.lists(st.floats(-3, 3), min_size=count, max_size=count))
    total = tt_sum(trains, weights)
    expected = sum(w * dense(train) for w, train in zip(weights, trains, strict=True))
    torch.testing.assert_close(dense(total), expected, rtol=1e-12, atol=1e-12)
    for i, core in enumerate(total[1:], start=1):
        assert core.shape[0] == sum(train[i].shape[0] for train in trains)


@settings(max_examples=50, deadline=None)
@given(modes, st.integers(1, 5), st.data())
def test_shortened_bonds_carry_the_same_tensor(modes, count, data):
    total = tt_sum(draw_trains(data, modes, count), [1.0] * count)
    short = tt_shorten(total)
    torch.testing.assert_close(dense(short), dense(total), rtol=1e-12, atol=1e-12)
    for i in range(1, len(modes)):
        assert short[i - 1].shape[2] == short[i].shape[0]
        assert short[i].shape[0] <= min(math.prod(modes[:i]), math.prod(modes[i:]))


def test_weight_zero_keeps_the_directions():
    a, b = random_train((3, 4, 3), (2, 2), 0), random_train((3, 4, 3), (2, 2), 1)
    total = tt_sum([a, b], [1.0, 0.0])
    torch.testing.assert_close(dense(total), dense(a))
    torch.testing.assert_close(total[0][:, :, 2:], b[0])
    torch.testing.assert_close(total[1][2:, :, 2:], b[1])
