"""opacus's hooks give every trainable tensor the gradients of single examples."""

import pytest
import torch
from opacus.grad_sample import GradSampleHooks
from peft import get_peft_model

from fedtt_lightning.adapters import TTAdapter, TTAdapterConfig, TTLinear
from fedtt_lightning.tensor_train import TTShape
from tiny_models import batch, classifier


def compare(module, x):
    hooks = GradSampleHooks(module, loss_reduction="sum")
    module(x).square().sum().backward()
    parameters = dict(module.named_parameters())
    sampled = {name: p.grad_sample.clone() for name, p in parameters.items()}
    assert set(sampled) == {name for name, _ in module.named_parameters()}
    hooks.cleanup()
    for i in range(len(x)):
        module.zero_grad()
        module(x[i : i + 1]).square().sum().backward()
        for name, p in parameters.items():
            torch.testing.assert_close(sampled[name][i], p.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
@pytest.mark.parametrize("bias", [True, False])
def test_adapter(activation, bias):
    down, up = TTShape.choose(24, 8), TTShape.choose(8, 24)
    adapter = TTAdapter(
        down, up, 3, activation=activation, bias=bias, init="loretta", dtype=torch.float64
    )
    compare(adapter, torch.randn(5, 4, 24, dtype=torch.float64))


def test_tensorized_linear():
    compare(TTLinear(TTShape.choose(24, 12), 3, dtype=torch.float64), torch.randn(5, 24).double())


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_whole_model(family):
    config = TTAdapterConfig(
        rank=3,
        bottleneck=8,
        init="loretta",
        tt_classifier=family == "bert",
        train_layernorms=family == "bert",  # opacus knows LayerNorm, and RMSNorm by functorch
    )
    model = get_peft_model(classifier(family).double(), config).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    inputs = batch()
    hooks = GradSampleHooks(model, loss_reduction="mean", strict=False)
    model(**inputs).loss.backward()
    sampled = {n: p.grad_sample for n, p in model.named_parameters() if p.requires_grad}
    hooks.cleanup()
    for i in range(3):
        model.zero_grad()
        model(**{key: value[i : i + 1] for key, value in inputs.items()}).loss.backward()
        for name, p in model.named_parameters():
            if p.requires_grad:
                # LLaMA's RMSNorm computes in float32, whatever the model's dtype.
                torch.testing.assert_close(sampled[name][i], p.grad, rtol=1e-5, atol=1e-8)
