"""The fused adapter against plain autograd of the same formula, in every way torch runs it."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from fedtt_lightning.tensor_train import (
    ACTIVATIONS,
    TTShape,
    init_adapter_,
    to_dense,
    tt_adapter,
)

FUNCTIONS = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}


class Case:
    """An adapter of 24 features, bottleneck 8, rank 3, and its reference by dense matrices."""

    def __init__(self, dtype=torch.float64, bias=True, seed=0):
        down, up = TTShape.choose(24, 8), TTShape.choose(8, 24)
        self.splits = down.split, up.split
        self.down = [torch.zeros(s, dtype=dtype) for s in down.core_shapes(3)]
        self.up = [torch.zeros(s, dtype=dtype) for s in up.core_shapes(3)]
        self.biases = [torch.zeros(n, dtype=dtype) if bias else None for n in (8, 24)]
        generator = torch.Generator().manual_seed(seed)
        init_adapter_(self.down, self.up, *self.splits, *self.biases, "loretta", generator)
        for p in self.parameters:
            p.requires_grad_()

    @property
    def parameters(self):
        return [*self.down, *self.up, *(b for b in self.biases if b is not None)]

    def fused(self, x, **options):
        return tt_adapter(x, self.down, self.up, *self.splits, *self.biases, **options)

    def plain(self, x, activation="relu", scaling=1.0, mask=None):
        h = x @ to_dense(self.down, self.splits[0])
        h = FUNCTIONS[activation](h if self.biases[0] is None else h + self.biases[0])
        out = (h if mask is None else h * mask) @ to_dense(self.up, self.splits[1])
        return x + scaling * (out if self.biases[1] is None else out + self.biases[1])

    def gradients(self, function, x, **options):
        weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).to(x.dtype)
        y = function(x, **options)
        return y, torch.autograd.grad((y * weight).sum(), [x, *self.parameters])


def inputs(*shape, dtype=torch.float64):
    x = torch.randn(*shape, 24, generator=torch.Generator().manual_seed(2))
    return x.to(dtype).requires_grad_()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 1, 3)])
def test_equals_plain_autograd(activation, bias, leading):
    case, x = Case(bias=bias), inputs(*leading)
    mask = (torch.rand(*leading, 8) > 0.3).double() / 0.7
    for options in ({}, {"scaling": 0.3}, {"mask": mask, "scaling": -2.0}):
        y, grads = case.gradients(case.fused, x, activation=activation, **options)
        expected, expected_grads = case.gradients(case.plain, x, activation=activation, **options)
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        for grad, reference in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation):
    case, x = Case(), inputs(2, 2)

    def function(x, *parameters):
        down, up = parameters[: len(case.down)], parameters[len(case.down) : -2]
        return tt_adapter(x, down, up, *case.splits, *parameters[-2:], activation, 0.7)

    assert torch.autograd.gradcheck(function, [x, *case.parameters])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 3e-2), (torch.float64, 1e-12)]
)
def test_inputs_of_every_dtype_with_cores_in_float32(dtype, tolerance):
    case = Case(torch.float64 if dtype == torch.float64 else torch.float32)
    exact = Case()
    with torch.no_grad():
        for p, q in zip(exact.parameters, case.parameters, strict=True):
            p.copy_(q)
    x = inputs(4, 6, dtype=dtype)
    y, grads = case.gradients(case.fused, x, activation="gelu")
    expected, references = exact.gradients(
        exact.plain, x.detach().double().requires_grad_(), activation="gelu"
    )
    assert y.dtype == dtype and grads[0].dtype == dtype
    assert all(g.dtype == p.dtype for g, p in zip(grads[1:], case.parameters, strict=True))
    pairs = zip([y, *grads], [expected, *references], strict=True)
    for value, reference in pairs:
        error = (value.double() - reference).norm() / reference.norm()
        assert error < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    case, x = Case(torch.float32), inputs(4, 6, dtype=dtype)
    y, grads = case.gradients(case.fused, x)
    with torch.autocast("cpu", torch.bfloat16):
        same = case.fused(x)
    weight = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    again = torch.autograd.grad((same * weight).sum(), [x, *case.parameters])
    assert torch.equal(y, same) and y.dtype == same.dtype
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))


def test_gradient_checkpointing_changes_nothing():
    case, x = Case(), inputs(4, 6)
    _, grads = case.gradients(case.fused, x)
    _, again = case.gradients(lambda x: checkpoint(case.fused, x, use_reentrant=False), x)
    assert all(torch.equal(a, b) for a, b in zip(grads, again, strict=True))


def test_gradients_have_the_strides_of_their_parameters():
    case, x = Case(), inputs(4, 6)
    case.fused(x).sum().backward()
    for p in case.parameters:
        assert p.grad.stride() == p.stride() and p.grad.is_contiguous()


def test_only_what_is_asked_for_gets_a_gradient():
    case = Case()
    for p in case.parameters[1:]:
        p.requires_grad_(False)
    x = inputs(3).detach()
    case.fused(x).sum().backward()
    assert case.down[0].grad is not None and x.grad is None
    assert all(p.grad is None for p in case.parameters[1:])


def test_saves_only_x_and_what_is_as_wide_as_the_rank():
    case, x = Case(), inputs(50, 7)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        case.fused(x)
    tall = [t for t in saved if t.numel() >= 350]
    assert sorted(t.numel() for t in tall) == [350 * 3, 350 * 4, 350 * 24]


def test_a_second_derivative_is_refused():
    case, x = Case(), inputs(3)
    y = case.fused(x, activation="tanh")
    (gradient,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_per_sample_gradients_through_torch_func():
    case, x = Case(), inputs(5, 4).detach()

    def loss(parameters, sample):
        down, up = parameters[: len(case.down)], parameters[len(case.down) : -2]
        y = tt_adapter(sample[None], down, up, *case.splits, *parameters[-2:], "gelu", 0.5)
        return y.square().sum()

    detached = [p.detach() for p in case.parameters]
    batched = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(detached, x)
    for i, sample in enumerate(x):
        y = case.fused(sample, activation="gelu", scaling=0.5)
        one = torch.autograd.grad(y.square().sum(), case.parameters)
        for grads, reference in zip(batched, one, strict=True):
            torch.testing.assert_close(grads[i], reference)


def test_compiles_into_one_graph():
    case, x = Case(), inputs(3, 2)
    y, grads = case.gradients(case.fused, x, activation="gelu")
    compiled = torch.compile(case.fused, backend="aot_eager", fullgraph=True)
    same, again = case.gradients(compiled, x, activation="gelu")
    torch.testing.assert_close(same, y)
    torch.testing.assert_close(again, grads)
