"""Layers with the parameters of several clients equal the layers of each client alone."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from fedtt_lightning.adapters import DenseAdapter, TTLinear
from fedtt_lightning.adapters.stacked import embedding, layer_norm, linear
from fedtt_lightning.tensor_train import TTShape

CLIENTS, FEATURES = 3, 12


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def check(value, expected, inputs):
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn_like(value)
    inputs = [t for t in inputs if t is not None]
    grads = torch.autograd.grad((value * weight).sum(), inputs)
    references = torch.autograd.grad((expected * weight).sum(), inputs)
    torch.testing.assert_close(grads, references, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("leading", [(6,), (3, 5), (6, 2, 2)])
@pytest.mark.parametrize("stacked", ["both", "weight", "bias", "no bias", "shared bias"])
def test_linear(leading, stacked):
    x = draw(*leading, FEATURES)
    weight = draw(4, FEATURES) if stacked == "bias" else draw(CLIENTS, 4, FEATURES)
    bias = {"no bias": None, "shared bias": draw(4)}.get(stacked, draw(CLIENTS, 4))
    weights = weight if weight.dim() == 3 else [weight] * CLIENTS
    biases = [bias] * CLIENTS if bias is None or bias.dim() == 1 else bias
    parts = zip(x.chunk(CLIENTS), weights, biases, strict=True)
    expected = torch.cat([F.linear(part, w, b) for part, w, b in parts])
    check(linear(x, weight, bias), expected, [x, weight, bias])


def test_linear_of_all_clients_is_that_of_torch():
    x, weight, bias = draw(6, 5, FEATURES), draw(4, FEATURES), draw(4)
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    assert torch.equal(linear(x, weight, None), F.linear(x, weight))


@pytest.mark.parametrize("shape", [(FEATURES,), (5, FEATURES)])
def test_layer_norm(shape):
    x, weight, bias = draw(6, 5, FEATURES), draw(CLIENTS, *shape), draw(CLIENTS, *shape)
    parts = zip(x.chunk(CLIENTS), weight, bias, strict=True)
    expected = torch.cat([F.layer_norm(part, shape, w, b, 1e-3) for part, w, b in parts])
    check(layer_norm(x, shape, weight, bias, 1e-3), expected, [x, weight, bias])


def test_embedding():
    indices, weight = torch.randint(0, 7, (6, 5)), draw(CLIENTS, 7, 4)
    parts = zip(indices.chunk(CLIENTS), weight, strict=True)
    expected = torch.cat([F.embedding(part, w) for part, w in parts])
    check(embedding(indices, weight), expected, [weight])


@pytest.mark.parametrize(
    "module",
    [
        TTLinear(TTShape.choose(FEATURES, 8), 2),
        TTLinear(TTShape.choose(FEATURES, 8), 2, bias=False),
        DenseAdapter(FEATURES, 4, activation="gelu", scaling=0.3),
    ],
    ids=["TTLinear", "TTLinear without bias", "DenseAdapter"],
)
def test_modules_of_ours(module):
    module = module.double()
    x = draw(6, 5, FEATURES)
    stacks = {name: draw(CLIENTS, *p.shape) for name, p in module.named_parameters()}
    own = [{name: stack[c] for name, stack in stacks.items()} for c in range(CLIENTS)]
    parts = zip(x.chunk(CLIENTS), own, strict=True)
    expected = torch.cat([functional_call(module, p, (part,)) for part, p in parts])
    for name, stack in stacks.items():
        module._parameters[name] = stack
    check(module(x), expected, [x, *stacks.values()])
