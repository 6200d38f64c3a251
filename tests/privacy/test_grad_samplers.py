"""Closed-form gradients of single examples, by opacus's hooks and from the adapters themselves."""

from __future__ import annotations

import pytest
import torch
from opacus.grad_sample import GradSampleHooks
from torch import Tensor, nn

from fedtt_lightning.adapters import TTAdapter, TTLinear
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.privacy.grad_samplers import adapter_gradients, linear_gradients
from fedtt_lightning.privacy.per_example import PerExampleGradients
from fedtt_lightning.tensor_train import TTShape

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def adapter(**options: object) -> TTAdapter:
    down, up = TTShape.choose(24, 8), TTShape.choose(8, 24)
    torch.manual_seed(1)
    return TTAdapter(down, up, 3, init="loretta", dtype=torch.float64, **options)  # type: ignore[arg-type]


def linear(bias: bool = True) -> TTLinear:
    torch.manual_seed(1)
    return TTLinear(TTShape.choose(24, 12), 3, bias=bias, dtype=torch.float64)


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, 24, generator=torch.Generator().manual_seed(2)).double()


MODULES = {
    "relu": lambda: adapter(),
    "gelu": lambda: adapter(activation="gelu", scaling=0.3),
    "silu": lambda: adapter(activation="silu", bias=False),
    "tanh": lambda: adapter(activation="tanh", bias=False, scaling=-2.0),
    "linear": linear,
    "linear without bias": lambda: linear(bias=False),
}
HOOKS = {"opacus": GradSampleHooks, "in place": PerExampleGradients}


@pytest.mark.parametrize("hooks", HOOKS)
@pytest.mark.parametrize("shape", [(5,), (5, 4), (3, 2, 4)], ids=str)
@pytest.mark.parametrize("kind", MODULES)
def test_equal_a_backward_pass_for_each_example(
    kind: str, shape: tuple[int, ...], hooks: str
) -> None:
    module, x = MODULES[kind](), inputs(*shape)
    assert GradSampleHooks.GRAD_SAMPLERS[TTAdapter] is adapter_gradients
    assert GradSampleHooks.GRAD_SAMPLERS[TTLinear] is linear_gradients
    options = {"loss_reduction": "sum"} if hooks == "opacus" else {}
    attached = HOOKS[hooks](module, **options)
    module(x).square().sum().backward()
    sampled = {name: p.grad_sample for name, p in module.named_parameters()}
    getattr(attached, "cleanup" if hooks == "opacus" else "detach")()
    for i in range(len(x)):
        module.zero_grad()
        module(x[i : i + 1]).square().sum().backward()
        for name, p in module.named_parameters():
            torch.testing.assert_close(sampled[name][i], p.grad, rtol=1e-10, atol=1e-12)


def test_the_input_gets_its_gradient_and_the_parameters_get_none() -> None:
    module, x = adapter(), inputs(5, 4).requires_grad_()
    (expected,) = torch.autograd.grad(module(x).square().sum(), x)
    attached = PerExampleGradients(module)
    module(x).square().sum().backward()
    assert torch.equal(x.grad, expected)
    assert all(p.grad is None for p in module.parameters())
    attached.detach()
    module(x).square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_dropout_is_that_of_the_forward_pass() -> None:
    """The gradients of all examples add up to that of the batch under the same mask."""
    module, x = adapter(dropout=0.5), inputs(5, 4)
    torch.manual_seed(7)
    module(x).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters()}
    attached = PerExampleGradients(module)
    torch.manual_seed(7)
    module(x).square().sum().backward()
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.grad_sample.sum(0), expected[name])
    attached.detach()


def test_opacus_is_told_that_it_cannot_know_the_dropout() -> None:
    module = adapter(dropout=0.5)
    hooks = GradSampleHooks(module, loss_reduction="sum")
    with pytest.raises(ConfigError, match=r"dropout of 0\.5 in TT adapters: set .* to 0"):
        module(inputs(5, 4)).sum().backward()
    hooks.cleanup()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = adapter()

    def forward(self, x: Tensor) -> Tensor:
        return self.part(self.part(x))


def test_two_uses_in_one_pass_are_added() -> None:
    module, x = Twice(), inputs(5, 4)
    attached = PerExampleGradients(module)
    module(x).square().sum().backward()
    sampled = {name: p.grad_sample for name, p in module.named_parameters()}
    attached.detach()
    for i in range(len(x)):
        module.zero_grad()
        module(x[i : i + 1]).square().sum().backward()
        for name, p in module.named_parameters():
            torch.testing.assert_close(sampled[name][i], p.grad, rtol=1e-10, atol=1e-12)


def test_two_backward_passes_are_told_apart() -> None:
    module = adapter()
    attached = PerExampleGradients(module)
    for _ in range(2):
        module(inputs(5, 4)).sum().backward()
    assert all(isinstance(p.grad_sample, list) for p in module.parameters())
    attached.detach()


@pytest.mark.parametrize("mode", ["eval", "no_grad"])
def test_nothing_is_gathered_outside_of_training(mode: str) -> None:
    module = adapter().train(mode != "eval")
    attached = PerExampleGradients(module)
    with torch.set_grad_enabled(mode != "no_grad"):
        module(inputs(5, 4))
    assert all(p._forward_counter == 0 and p.grad_sample is None for p in module.parameters())
    attached.detach()


def test_bfloat16_autocast() -> None:
    """Gradients of a batch in half precision come in the cores' dtype and add up to their sum."""
    module = adapter().float()
    x = inputs(6, 4).float()
    with torch.autocast("cpu", torch.bfloat16):
        module(x.bfloat16()).float().square().sum().backward()
    expected = {name: p.grad.clone() for name, p in module.named_parameters()}
    attached = PerExampleGradients(module)
    with torch.autocast("cpu", torch.bfloat16):
        module(x.bfloat16()).float().square().sum().backward()
    for name, p in module.named_parameters():
        assert p.grad_sample.dtype == torch.float32
        error = (p.grad_sample.sum(0) - expected[name]).norm() / expected[name].norm()
        assert error < 0.02
    attached.detach()
