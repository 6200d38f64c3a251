"""Rounding against dense tensors and the singular values of their unfoldings, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtt_lightning.tensor_train import (
    TTShape,
    init_adapter_,
    pad_cores,
    scale_like,
    to_dense,
    tt_round,
    tt_sum,
    tt_svd,
)

modes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)
shapes = st.builds(TTShape, modes, modes)
seeds = st.integers(0, 2**31)


def random_train(shape, rank, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    bonds = [1, *[rank] * (len(shape.modes) - 1), 1]
    return [
        torch.randn(bonds[i], k, bonds[i + 1], dtype=dtype, generator=generator)
        for i, k in enumerate(shape.modes)
    ]


def to_rank(cores, rank):
    return tt_round(cores, [rank] * (len(cores) - 1))


def unfoldings(matrix, shape):
    return [matrix.reshape(math.prod(shape.modes[:i]), -1) for i in range(1, len(shape.modes))]


@settings(max_examples=60, deadline=None)
@given(shapes, st.lists(st.integers(1, 3), min_size=1, max_size=4), seeds)
def test_a_mean_is_kept_if_the_rank_allows(shape, ranks, seed):
    trains = [random_train(shape, rank, seed + i) for i, rank in enumerate(ranks)]
    weights = [1 / (i + 2) for i in range(len(ranks))]
    mean = sum(w * to_dense(t, shape.split) for w, t in zip(weights, trains, strict=True))
    rounded = to_rank(tt_sum(trains, weights), sum(ranks))
    error = torch.linalg.norm(to_dense(rounded, shape.split) - mean)
    assert error <= 1e-10 * max(1.0, torch.linalg.norm(mean))


@settings(max_examples=80, deadline=None)
@given(shapes, st.integers(1, 6), st.integers(1, 4), seeds)
def test_error_against_the_best_of_each_unfolding(shape, rank, target, seed):
    cores = random_train(shape, rank, seed)
    matrix = to_dense(cores, shape.split)
    rounded = to_rank(cores, target)
    error = torch.linalg.norm(matrix - to_dense(rounded, shape.split))
    # No train of these ranks is nearer than the best low-rank form of any one unfolding.
    tails = [
        torch.linalg.svdvals(unfolding)[target:].square().sum()
        for unfolding in unfoldings(matrix, shape)
    ]
    slack = 1e-9 * max(1.0, torch.linalg.norm(matrix))
    assert error <= torch.sqrt(sum(tails)) + slack
    assert error <= math.sqrt(len(tails)) * torch.sqrt(max(tails)) + slack
    assert error >= torch.sqrt(max(tails)) - slack
    assert (
        error
        <= torch.linalg.norm(
            matrix
            - to_dense(
                tt_svd(matrix, shape, min(target, shape.in_features, shape.out_features)),
                shape.split,
            )
        )
        + slack
    )


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 4), st.integers(1, 6), st.booleans(), seeds)
def test_left_cores_are_orthonormal_and_the_last_holds_the_size(shape, rank, target, zero, seed):
    cores = random_train(shape, rank, seed)
    if zero:
        cores[-1].zero_()
    rounded = to_rank(cores, target)
    left = 1
    for core, mode in zip(rounded[:-1], shape.modes, strict=False):
        columns = core.reshape(-1, core.shape[2])
        torch.testing.assert_close(columns.T @ columns, torch.eye(columns.shape[1]).double())
        assert core.shape == (left, mode, min(target, left * mode))
        left = core.shape[2]
    size = torch.linalg.norm(to_dense(rounded, shape.split))
    torch.testing.assert_close(torch.linalg.norm(rounded[-1]), size)


def test_directions_of_a_zero_tensor_are_those_it_had():
    shape = TTShape((4, 4), (4, 4))
    cores = random_train(shape, 3, 0)
    left = torch.linalg.qr(to_dense([*cores[:2], torch.eye(3).double()[:, :, None]], 2)).Q
    cores[-1].zero_()
    rounded = to_rank(cores, 3)
    assert not rounded[-1].any()
    kept = to_dense([*rounded[:2], torch.eye(3).double()[:, :, None]], 2)
    torch.testing.assert_close(left @ (left.T @ kept), kept)


def test_a_rank_beyond_the_tensor_can_be_trained_into():
    """A rank-1 train in rank-4 cores reaches a rank-4 matrix: no direction has gradient zero."""
    shape = TTShape((4, 4), (4, 4))
    target = to_dense(random_train(shape, 4, 1), shape.split)
    target = target / torch.linalg.norm(target)
    cores = [c.requires_grad_() for c in to_rank(random_train(shape, 1, 0), 4)]
    optimizer = torch.optim.LBFGS(cores, max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = (to_dense(cores, shape.split) - target).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0.1
    assert torch.linalg.svdvals(to_dense(cores, shape.split).detach())[3] > 0.01
    assert closure() < 1e-3


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(0, 3), seeds)
def test_padding_has_zero_gradient(shape, rank, more, seed):
    small = to_rank(random_train(shape, rank, seed), rank)
    bonds = [1, *[rank + more] * (len(shape.modes) - 1), 1]
    sizes = [(bonds[i], k, bonds[i + 1]) for i, k in enumerate(shape.modes)]
    padded = [core.requires_grad_() for core in pad_cores(small, sizes)]
    assert [tuple(core.shape) for core in padded] == sizes
    dense = to_dense(padded, shape.split)
    torch.testing.assert_close(dense, to_dense(small, shape.split))
    dense.square().sum().add(dense.sum()).backward()
    for core, own in zip(padded, small, strict=True):
        outside = core.grad.clone()
        outside[tuple(slice(size) for size in own.shape)] = 0
        assert not outside.any()


@pytest.mark.parametrize("init", ["orthonormal", "gaussian", "loretta"])
def test_a_start_keeps_its_scales(init):
    """Rounding an untrained adapter to its own rank leaves each core's size as it was."""
    shape = TTShape.choose(64, 768)
    down = random_train(TTShape.choose(768, 64), 5, 0)
    up = random_train(shape, 5, 1)
    init_adapter_(down, up, 3, shape.split, None, None, init, torch.Generator().manual_seed(0))
    for cores in (down, up):
        before = to_dense(cores, shape.split)
        scaled = scale_like(to_rank(cores, 5), cores)
        torch.testing.assert_close(to_dense(scaled, shape.split), before, rtol=1e-10, atol=1e-12)
        for new, old in zip(scaled[:-1], cores, strict=False):
            assert abs(new.norm() / old.norm() - 1) < 1e-6
        ratio = scaled[-1].norm() / cores[-1].norm() if cores[-1].any() else torch.ones(())
        assert 0.3 < ratio < 3
