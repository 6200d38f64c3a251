"""The fused adapter with the cores of several clients: each client's rows go through its own."""

import pytest
import torch

from fedtt_lightning.tensor_train import (
    ACTIVATIONS,
    TTShape,
    half_chains,
    init_adapter_,
    tt_adapter,
)

CLIENTS = 3
DOWN, UP = TTShape.choose(24, 8), TTShape.choose(8, 24)


def make(dtype=torch.float64, bias=True):
    """Cores and biases of each client, [*down, down_bias, *up, up_bias], leaves."""
    clients = []
    for seed in range(CLIENTS):
        down = [torch.zeros(s, dtype=dtype) for s in DOWN.core_shapes(3)]
        up = [torch.zeros(s, dtype=dtype) for s in UP.core_shapes(3)]
        biases = [torch.zeros(n, dtype=dtype) if bias else None for n in (8, 24)]
        generator = torch.Generator().manual_seed(seed)
        init_adapter_(down, up, DOWN.split, UP.split, *biases, "loretta", generator)
        clients.append([*down, biases[0], *up, biases[1]])
    return clients


def apply(x, tensors, **options):
    n = len(DOWN.modes)
    down, down_bias, up, up_bias = tensors[:n], tensors[n], tensors[n + 1 : -1], tensors[-1]
    return tt_adapter(x, down, up, DOWN.split, UP.split, down_bias, up_bias, **options)


def leaves(tensors):
    return [t if t is None else t.clone().requires_grad_() for t in tensors]


def stack(clients):
    return leaves(
        [None if parts[0] is None else torch.stack(parts) for parts in zip(*clients, strict=True)]
    )


def backward(y, x, tensors):
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(5)).to(y.dtype)
    return torch.autograd.grad((y * weight).sum(), [x, *(t for t in tensors if t is not None)])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", [(6,), (3, 5), (6, 2, 2)])
def test_equals_client_by_client(activation, bias, leading):
    clients, stacked = make(bias=bias), stack(make(bias=bias))
    x = torch.randn(*leading, 24, dtype=torch.float64, requires_grad=True)
    mask = (torch.rand(*leading, 8) > 0.3).double() / 0.7
    options = {"activation": activation, "scaling": -0.7}
    y = apply(x, stacked, mask=mask, **options)
    grad_x, *grads = backward(y, x, stacked)

    own = [leaves(tensors) for tensors in clients]
    parts = zip(x.chunk(CLIENTS), mask.chunk(CLIENTS), own, strict=True)
    expected = torch.cat([apply(part, t, mask=m, **options) for part, m, t in parts])
    torch.testing.assert_close(y, expected, rtol=1e-13, atol=1e-13)
    flat = [t for tensors in own for t in tensors]
    expected_x, *expected_grads = backward(expected, x, flat)
    torch.testing.assert_close(grad_x, expected_x, rtol=1e-12, atol=1e-12)
    size = len(expected_grads) // CLIENTS
    for i, grad in enumerate(grads):
        references = torch.stack(expected_grads[i::size])
        torch.testing.assert_close(grad, references, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_of_lower_precision(dtype):
    clients = make(torch.float32)
    stacked = stack(clients)
    x = torch.randn(6, 5, 24).to(dtype).requires_grad_()
    y = apply(x, stacked)
    assert y.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    parts = zip(x.chunk(CLIENTS), clients, strict=True)
    expected = torch.cat([apply(part, tensors) for part, tensors in parts])
    torch.testing.assert_close(y, expected, rtol=tolerance, atol=tolerance)
    for grad, tensor in zip(backward(y, x, stacked)[1:], stacked, strict=True):
        assert grad.dtype == torch.float32 and grad.shape == tensor.shape
        assert grad.is_contiguous()


def test_saves_only_x_and_what_is_as_wide_as_the_rank():
    stacked, saved = stack(make()), []
    x = torch.randn(60, 7, 24, dtype=torch.float64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        apply(x, stacked)
    tall = [t for t in saved if t.numel() >= 420 * 3]
    assert sorted(t.numel() for t in tall) == [420 * 3, 420 * 4, 420 * 24]


def test_compiles_into_one_graph():
    stacked = stack(make())
    x = torch.randn(6, 2, 24, dtype=torch.float64, requires_grad=True)
    y = apply(x, stacked)
    same = torch.compile(apply, backend="aot_eager", fullgraph=True)(x, stacked)
    torch.testing.assert_close(same, y)
    torch.testing.assert_close(backward(same, x, stacked), backward(y, x, stacked))


@pytest.mark.parametrize("shape", [DOWN, UP])
def test_chains_of_several_clients(shape):
    cores = [torch.randn(2, CLIENTS, *size) for size in shape.core_shapes(3)]
    left, right = half_chains(cores, shape.split)
    for i in range(2):
        for c in range(CLIENTS):
            own = half_chains([core[i, c] for core in cores], shape.split)
            torch.testing.assert_close((left[i, c], right[i, c]), own)
