"""Starting values: their statistics, the identity start, and which generator they come from."""

import math

import pytest
import torch

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.tensor_train import (
    INITS,
    TTShape,
    half_chains,
    init_adapter_,
    init_linear_,
    to_dense,
    tt_adapter,
)


def drawn(shape, rank, init, seed=0, dtype=torch.float64):
    cores = [torch.zeros(size, dtype=dtype) for size in shape.core_shapes(rank)]
    bias = torch.zeros(shape.out_features, dtype=dtype)
    init_linear_(cores, shape.split, bias, init, torch.Generator().manual_seed(seed))
    return cores, bias


def adapter(init, features=48, bottleneck=8, rank=3, seed=0):
    down, up = TTShape.choose(features, bottleneck), TTShape.choose(bottleneck, features)
    cores = [[torch.zeros(s, dtype=torch.float64) for s in t.core_shapes(rank)] for t in (down, up)]
    biases = [torch.zeros(n, dtype=torch.float64) for n in (bottleneck, features)]
    generator = torch.Generator().manual_seed(seed)
    init_adapter_(*cores, down.split, up.split, *biases, init, generator)
    return (*cores, down.split, up.split, *biases)


def test_loretta_matrix_has_the_published_variance():
    shape = TTShape.choose(768, 64)
    entries = [to_dense(drawn(shape, 5, "loretta", seed)[0], shape.split) for seed in range(40)]
    variance = torch.stack(entries).square().mean().item()
    assert variance == pytest.approx(1 / (768 + 64), rel=0.1)


def test_loretta_cores_and_bias_have_the_published_scale():
    shape = TTShape.choose(4096, 64)
    cores, bias = drawn(shape, 5, "loretta")
    t = math.sqrt(1 / (4096 + 64)) ** (1 / 6)
    assert cores[1].std().item() == pytest.approx(t / math.sqrt(5), rel=0.15)
    assert bias.abs().max() <= 1 / 8 < 1.1 * bias.abs().max()


@pytest.mark.parametrize("size", [(768, 64), (64, 768), (4096, 64), (1024, 64), (36, 10)])
def test_orthonormal_gives_outputs_of_unit_variance(size):
    shape = TTShape.choose(*size)
    cores, _ = drawn(shape, 4, "orthonormal")
    left, right = half_chains(cores, shape.split)
    assert (left @ right).square().sum().item() == pytest.approx(size[1])
    x = torch.randn(4000, size[0], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert (x @ left @ right).square().mean().item() == pytest.approx(1, rel=0.1)


def test_orthonormal_halves_are_orthonormal():
    shape = TTShape.choose(768, 64)
    left, right = half_chains(drawn(shape, 5, "orthonormal")[0], shape.split)
    torch.testing.assert_close(left.T @ left, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(right @ right.T, torch.eye(5, dtype=torch.float64) * 64 / 5)


@pytest.mark.parametrize("init", ["orthonormal", "gaussian"])
def test_identity_starts_are_the_identity_and_still_learn(init):
    down, up, *rest = adapter(init)
    x = torch.randn(5, 48, dtype=torch.float64)
    assert torch.equal(tt_adapter(x, down, up, *rest, "gelu"), x)
    # Only the zero core moves at first: all others get their gradient through it.
    for core in (*down, *up):
        core.requires_grad_()
    tt_adapter(x, down, up, *rest, "gelu").square().sum().backward()
    assert up[-1].grad.abs().max() > 0
    with torch.no_grad():
        up[-1] -= 0.1 * up[-1].grad
    tt_adapter(x, down, up, *rest, "gelu").square().sum().backward()
    assert all(core.grad.abs().max() > 0 for core in (*down, *up))


def test_the_published_start_is_not_the_identity():
    changes = []
    for seed in range(20):
        down, up, *rest = adapter("loretta", 768, 64, 5, seed)
        x = torch.randn(50, 768, dtype=torch.float64)
        changes.append((tt_adapter(x, down, up, *rest, "relu") - x).square().mean().sqrt().item())
    assert 0.05 < sum(changes) / 20 < 0.3


@pytest.mark.parametrize("init", INITS)
def test_a_seed_means_the_same_start(init):
    shape = TTShape.choose(768, 64)
    once, again = drawn(shape, 5, init, 3), drawn(shape, 5, init, 3)
    other = drawn(shape, 5, init, 4)
    assert all(torch.equal(a, b) for a, b in zip(once[0], again[0], strict=True))
    assert not torch.equal(once[0][0], other[0][0]) and torch.equal(once[1], again[1])
    torch.manual_seed(9)
    first = torch.zeros(1, 8, 5)
    init_linear_([first, torch.zeros(5, 8, 1)], 1, None, init)
    torch.manual_seed(9)
    second = torch.zeros(1, 8, 5)
    init_linear_([second, torch.zeros(5, 8, 1)], 1, None, init)
    assert torch.equal(first, second) and first.abs().max() > 0


def test_unknown_start_and_meta_device():
    with pytest.raises(ConfigError, match="orthonormal, gaussian, loretta"):
        drawn(TTShape((2,), (2,)), 1, "xavier")
    core = torch.empty(1, 4, 2, device="meta")
    init_linear_([core, torch.empty(2, 4, 1, device="meta")], 1, None, "orthonormal")
    assert core.is_meta
