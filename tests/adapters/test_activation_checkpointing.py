"""Activations computed again in backward (gradient checkpointing) change no gradient."""

import pytest
import torch
from peft import get_peft_model
from torch.utils.checkpoint import checkpoint

from fedtt_lightning.adapters import TTAdapter, TTAdapterConfig
from fedtt_lightning.tensor_train import TTShape
from tiny_models import batch, classifier

CONFIGS = {
    "FedTT": lambda: TTAdapterConfig(rank=3, bottleneck=8, init="loretta", dropout=0.3),
    "TT classifier": lambda: TTAdapterConfig(
        rank=3, bottleneck=8, init="loretta", tt_classifier=True, train_layernorms=True
    ),
    "recomputed input": lambda: TTAdapterConfig(
        rank=3, bottleneck=8, init="loretta", dropout=0.3, recompute_input=True
    ),
    "dense": lambda: TTAdapterConfig(tensorized=False, bottleneck=8, dropout=0.3),
}


def gradients(family, method, how=None):
    """The gradients of all that trains, by name, with dropout of one seed."""
    torch.manual_seed(0)
    model = get_peft_model(classifier(family), CONFIGS[method]()).double().train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    if how is not None:
        model.base_model.model.gradient_checkpointing_enable(how)
        model.enable_input_require_grads()  # without which re-entrant backward has no graph
    torch.manual_seed(1)
    model(**batch()).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(
    ("family", "method"),
    [*(("bert", method) for method in CONFIGS), ("llama", "FedTT"), ("llama", "recomputed input")],
)
def test_of_a_backbone_with_dropout(family, method, reentrant):
    """To the last digits: what an adapter keeps in place of its input may differ."""
    expected = gradients(family, method)
    found = gradients(family, method, {"use_reentrant": reentrant})
    assert all(value.abs().max() > 0 for name, value in expected.items() if "key" not in name)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


def adapter():
    torch.manual_seed(0)
    down, up = TTShape.choose(24, 8), TTShape.choose(8, 24)
    return TTAdapter(down, up, 3, dropout=0.5, init="loretta", dtype=torch.float64)


@pytest.mark.parametrize("reentrant", [False, True])
def test_of_an_adapter_with_dropout_to_the_last_bit(reentrant):
    module, grads = adapter(), []
    for run in (module, lambda x: checkpoint(module, x, use_reentrant=reentrant)):
        torch.manual_seed(1)
        x = torch.randn(5, 4, 24, dtype=torch.float64, requires_grad=True)
        module.zero_grad()
        run(x).square().sum().backward()
        grads.append([x.grad, *(p.grad for p in module.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_of_examples_are_handed_over_once(reentrant):
    module, handed = adapter(), []
    module.per_example = lambda tensors: handed.append
    x = torch.randn(5, 4, 24, dtype=torch.float64, requires_grad=True)
    for run in (module, lambda x: checkpoint(module, x, use_reentrant=reentrant)):
        torch.manual_seed(1)
        run(x).square().sum().backward()
    plain, recomputed = handed
    assert [value.shape for value in plain] == [(5, *t.shape) for t in module.tensors]
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_second_derivative_is_refused(reentrant):
    x = torch.randn(5, 4, 24, dtype=torch.float64, requires_grad=True)
    loss = checkpoint(adapter(), x, use_reentrant=reentrant).square().sum()
    message = r"use_reentrant=False|once_differentiable"
    with pytest.raises(RuntimeError, match=message):
        torch.autograd.grad(loss, x, create_graph=True)[0].sum().backward()
