"""A private step clips each example over all tensors, adds Gaussian noise of σ·C, and only that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, AdamW

from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import PoissonBatches, Visit
from fedtt_lightning.privacy.optimizer import PrivateOptimizer

SHAPES = [(3, 4, 2), (5,), (2, 2)]


def made(
    shapes: Sequence[tuple[int, ...]] = SHAPES, optimizer: Any = SGD, **options: Any
) -> tuple[list[Parameter], PrivateOptimizer]:
    """Return parameters of zeros and a private optimizer with lr 1 over them."""
    parameters = [Parameter(torch.zeros(shape, dtype=torch.float64)) for shape in shapes]
    return parameters, PrivateOptimizer(optimizer(parameters, lr=1.0, **options))


def give(parameters: Sequence[Parameter], examples: int, seed: int = 0) -> list[Tensor]:
    """Set what backward of a mean loss leaves, and return the examples' own gradients."""
    rng = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(examples, *p.shape, generator=rng).double() for p in parameters]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.mean(0)
        parameter.grad_sample = gradient / examples
    return gradients


def step(private: PrivateOptimizer, seed: int, examples: int = 1, empty: bool = False) -> None:
    private.arm(seed, examples, empty)
    private.step()


def noise_of(parameters: Sequence[Parameter], private: PrivateOptimizer, seed: int) -> list[Tensor]:
    """Return what a step without gradients does, which with lr 1 is minus the noise."""
    before = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.grad_sample = torch.zeros(1, *parameter.shape, dtype=torch.float64)
    step(private, seed)
    return [b - p.detach() for b, p in zip(before, parameters, strict=True)]


@pytest.mark.parametrize("clip", [0.05, 3.0, 1e6])
def test_clips_over_all_tensors_together(clip: float) -> None:
    parameters, private = made()
    private.begin_visit(parameters, 0.0, clip, expected_batch_size=4.5)
    gradients = give(parameters, examples=6)
    step(private, seed=1, examples=6)
    norms = [float(torch.cat([g[i].flatten() for g in gradients]).norm()) for i in range(6)]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        clipped = [g * min(1, clip / n) for g, n in zip(gradient, norms, strict=True)]
        expected = -torch.stack(clipped).sum(0) / 4.5
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-12)


def test_noise_is_gaussian_with_sigma_times_clip_in_every_tensor() -> None:
    """Chi-square of the sum of squares for the variance, Kolmogorov-Smirnov for the shape."""
    sizes = [(200, 60), (700,), (5, 30, 8)]
    parameters, private = made(sizes)
    private.begin_visit(parameters, 1.7, 0.3, expected_batch_size=8)
    std = 1.7 * 0.3 / 8
    steps = [noise_of(parameters, private, seed) for seed in range(12)]
    for tensor in range(len(sizes)):
        values = np.concatenate([noise[tensor].flatten().numpy() for noise in steps]) / std
        assert 0.005 < stats.chi2.cdf((values**2).sum(), len(values)) < 0.995
        assert abs(values.mean()) < 3 / len(values) ** 0.5
        assert stats.kstest(values, "norm").pvalue > 0.01
        assert abs((values**2).mean() - 1) < 4 * (2 / len(values)) ** 0.5


def test_noise_is_independent_over_steps_clients_and_tensors() -> None:
    parameters, private = made([(4000,), (4000,)])
    private.begin_visit(parameters, 1.0, 1.0, expected_batch_size=1)
    draws = []
    for round, client, number in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)]:
        visit = Visit(round, client, 0, 40, 10, 10, 0)
        draws += noise_of(parameters, private, PoissonBatches(11).noise_seed(visit, number))
    correlations = np.corrcoef(torch.stack(draws).numpy())
    others = correlations[~np.eye(len(draws), dtype=bool)]
    assert np.abs(others).max() < 4 / 4000**0.5
    again = noise_of(parameters, private, PoissonBatches(11).noise_seed(visit, number))
    torch.testing.assert_close(again, draws[-2:], rtol=0, atol=1e-12)


def test_seeds_that_agree_in_32_bits_give_other_noise() -> None:
    parameters, private = made()
    private.begin_visit(parameters, 1.0, 1.0, expected_batch_size=1)
    one, other = (noise_of(parameters, private, seed) for seed in (5, 5 + 2**32))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "configure", [(SGD, {"momentum": 0.9, "weight_decay": 0.1}), (AdamW, {"weight_decay": 0.1})]
)
def test_what_does_not_train_has_no_noise_no_gradient_and_no_step(configure: Any) -> None:
    optimizer, options = configure
    parameters, private = made(optimizer=optimizer, **options)
    for parameter in parameters:
        parameter.data.fill_(0.5)
    trained, frozen = [parameters[0], parameters[2]], parameters[1]
    private.begin_visit(trained, 1.0, 0.5, expected_batch_size=1)
    for seed in range(3):
        gradients = give(parameters, examples=2, seed=seed)
        step(private, seed, examples=2)
        assert torch.equal(frozen, torch.full_like(frozen, 0.5))
        assert frozen.grad is None and frozen.grad_sample is None
        assert frozen not in private.state
        assert all((p != 0.5).all() for p in trained)
    # Nor does it count for the norm.
    parameters, private = made()
    private.begin_visit([parameters[0]], 0.0, 0.5, expected_batch_size=1)
    gradients = give(parameters, examples=1)
    step(private, 1)
    expected = -0.5 * gradients[0][0] / gradients[0][0].norm()
    torch.testing.assert_close(parameters[0].detach(), expected, rtol=1e-5, atol=0)


def test_padding_of_a_smaller_rank_stays_as_it_is() -> None:
    parameters, private = made()
    kept = {parameters[0]: (3, 2, 1), parameters[1]: (5,)}
    private.begin_visit(parameters, 1.0, 1.0, expected_batch_size=1, kept=kept)
    give(parameters, examples=4)
    step(private, 3, examples=4)
    inside = torch.zeros(3, 4, 2, dtype=torch.bool)
    inside[:3, :2, :1] = True
    assert torch.equal(parameters[0] != 0, inside)
    assert (parameters[1] != 0).all() and (parameters[2] != 0).all()


def test_an_empty_batch_steps_with_noise_only() -> None:
    (parameters, private), (others, plain) = made(), made()
    private.begin_visit(parameters, 1.0, 1.0, expected_batch_size=3)
    plain.begin_visit(others, 1.0, 1.0, expected_batch_size=3)
    give(parameters, examples=1)
    parameters[0].grad_sample *= torch.inf
    step(private, 9, empty=True)
    noise_of(others, plain, 9)
    assert all(torch.equal(a, b) for a, b in zip(parameters, others, strict=True))
    assert private.steps == 1


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e200])
def test_an_example_whose_gradient_is_not_finite_counts_as_zero(bad: float) -> None:
    parameters, private = made()
    private.begin_visit(parameters, 0.0, 1e6, expected_batch_size=2)
    gradients = give(parameters, examples=3)
    parameters[2].grad_sample[1, 0, 0] = bad  # the square of 1e200 is no number
    step(private, 1, examples=3)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        expected = -(gradient[0] + gradient[2]) / 2
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-12)


def test_a_step_that_was_not_announced_is_refused() -> None:
    parameters, private = made()
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(FederationError, match="was not announced"):
        private.step()  # before any visit: opacus would take plain gradients here
    private.begin_visit(parameters, 1.0, 1.0, expected_batch_size=1)
    give(parameters, examples=1)
    with pytest.raises(FederationError, match="was not announced"):
        private.step()
    step(private, 1)
    give(parameters, examples=1)
    with pytest.raises(FederationError, match="was not announced"):
        private.step()  # what `arm` allows is one step
    private.arm(2, 1, False)
    private.begin_visit(parameters, 1.0, 1.0, expected_batch_size=1)
    with pytest.raises(FederationError, match="was not announced"):
        private.step()  # nor does it reach into the next visit


@pytest.mark.parametrize("way", ["in place", "through data", "by another optimizer"])
def test_tensors_that_something_else_writes_to_are_refused(way: str) -> None:
    parameters, private = made()
    private.begin_visit(parameters, 1.0, 1.0, expected_batch_size=1)
    private.expect([p.detach().clone() for p in parameters])
    give(parameters, examples=1)
    step(private, 1)
    give(parameters, examples=1)
    step(private, 2)
    if way == "in place":
        with torch.no_grad():
            parameters[1].add_(1e-9)
    elif way == "through data":
        parameters[1].data -= 1e-9
    else:
        give(parameters, examples=1)
        SGD(parameters, lr=0.1).step()
    with pytest.raises(FederationError, match="other than a private step"):
        private.arm(3, 1, False)
    with pytest.raises(FederationError, match="other than a private step"):
        private.check_untouched()


def test_nan_in_a_tensor_is_no_change_of_it() -> None:
    parameters, private = made()
    parameters[0].data[0, 0, 0] = torch.nan
    private.begin_visit(parameters, 1.0, 1.0, expected_batch_size=1)
    for seed in range(2):
        give(parameters, examples=1)
        step(private, seed)
    private.check_untouched()
