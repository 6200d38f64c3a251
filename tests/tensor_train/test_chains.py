"""Half-chains, dense form and TT-SVD against einsum and numpy, in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.tensor_train import (
    TTShape,
    half_chains,
    left_chain_gradients,
    right_chain_gradients,
    to_dense,
    tt_svd,
)
from fedtt_lightning.tensor_train.chains import left_chain, right_chain

modes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
shapes = st.builds(TTShape, modes, modes)


def dense_by_entries(cores):
    """Every entry of the tensor as a product of matrices, straight from the definition."""
    sizes = [core.shape[1] for core in cores]
    tensor = torch.empty(sizes, dtype=torch.float64)
    for index in torch.cartesian_prod(*[torch.arange(k) for k in sizes]).reshape(-1, len(sizes)):
        product = torch.eye(1, dtype=torch.float64)
        for core, i in zip(cores, index, strict=True):
            product = product @ core[:, i, :]
        tensor[tuple(index)] = product.item()
    return tensor


def random_cores(shape, ranks, seed):
    generator = torch.Generator().manual_seed(seed)
    bonds = [1, *ranks, 1]
    return [
        torch.randn(bonds[i], k, bonds[i + 1], dtype=torch.float64, generator=generator)
        for i, k in enumerate(shape.modes)
    ]


@settings(max_examples=60, deadline=None)
@given(shapes, st.data(), st.integers(0, 2**31))
def test_chains_multiply_to_the_tensor_for_any_ranks(shape, data, seed):
    ranks = [data.draw(st.integers(1, 4)) for _ in shape.modes[1:]]
    cores = random_cores(shape, ranks, seed)
    expected = dense_by_entries(cores).reshape(shape.in_features, shape.out_features)
    torch.testing.assert_close(to_dense(cores, shape.split), expected)
    left, right = half_chains(cores, shape.split)
    rank = ranks[shape.split - 1]
    assert left.shape == (shape.in_features, rank) and right.shape == (rank, shape.out_features)
    assert left.is_contiguous() and right.is_contiguous()
    x = torch.randn(3, shape.in_features, dtype=torch.float64)
    torch.testing.assert_close((x @ left) @ right, x @ expected)


def test_gradients_of_the_chains():
    shape = TTShape((2, 3), (3, 2))
    cores = [core.requires_grad_() for core in random_cores(shape, [2, 3, 2], 0)]
    assert torch.autograd.gradcheck(lambda *c: half_chains(c, shape.split), cores)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(0, 2**31))
def test_svd_recovers_a_train_of_its_rank(shape, rank, seed):
    rank = min(rank, shape.in_features, shape.out_features)
    matrix = to_dense(random_cores(shape, [rank] * (len(shape.modes) - 1), seed), shape.split)
    cores = tt_svd(matrix, shape, rank)
    torch.testing.assert_close(to_dense(cores, shape.split), matrix)
    assert all(core.shape[2] <= rank for core in cores)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 3), st.integers(0, 2**31))
def test_svd_error_is_bounded_by_the_unfoldings(shape, rank, seed):
    rank = min(rank, shape.in_features, shape.out_features)
    generator = torch.Generator().manual_seed(seed)
    size = (shape.in_features, shape.out_features)
    matrix = torch.randn(size, dtype=torch.float64, generator=generator)
    # No train of this rank can be nearer than the best low-rank form of any one unfolding.
    tails = []
    for i in range(1, len(shape.modes)):
        unfolding = matrix.reshape(math.prod(shape.modes[:i]), -1)
        tails.append(torch.linalg.svdvals(unfolding)[rank:].square().sum())
    error = torch.linalg.norm(matrix - to_dense(tt_svd(matrix, shape, rank), shape.split))
    assert error <= torch.sqrt(sum(tails)) + 1e-9
    assert error <= math.sqrt(len(tails)) * torch.sqrt(max(tails)) + 1e-9
    assert error >= torch.sqrt(max(tails)) - 1e-9


def test_svd_refuses_what_does_not_fit():
    with pytest.raises(ConfigError, match=r"\(4, 4\)"):
        tt_svd(torch.zeros(4, 4), TTShape((2, 2), (3,)), 1)
    with pytest.raises(ConfigError, match="largest 3"):
        tt_svd(torch.zeros(4, 3), TTShape((2, 2), (3,)), 4)


@pytest.mark.parametrize("lead", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("sizes", [[5], [2, 3], [2, 3, 4], [3, 1, 2, 4]], ids=str)
def test_gradients_of_cores_from_those_of_chains(sizes, lead):
    """As autograd has them, for every leading index by itself."""
    ranks = [1, 3, 2, 5, 4][: len(sizes)]
    torch.manual_seed(0)
    left = [
        torch.randn(r, k, s, dtype=torch.float64, requires_grad=True)
        for r, k, s in zip(ranks, sizes, [*ranks[1:], 3], strict=True)
    ]
    right = [core.detach().permute(2, 1, 0).contiguous().requires_grad_() for core in left[::-1]]
    for chain, gradients, cores in (
        (left_chain, left_chain_gradients, left),
        (right_chain, right_chain_gradients, right),
    ):
        product = chain(cores)
        grad = torch.randn(*lead, *product.shape, dtype=torch.float64)
        found = gradients([core.detach() for core in cores], grad)
        assert [tuple(f.shape) for f in found] == [(*lead, *core.shape) for core in cores]
        flat = [f.reshape(-1, *core.shape) for f, core in zip(found, cores, strict=True)]
        for i, one in enumerate(grad.reshape(-1, *product.shape)):
            expected = torch.autograd.grad(product, cores, one, retain_graph=True)
            for f, e in zip(flat, expected, strict=True):
                torch.testing.assert_close(f[i], e)
