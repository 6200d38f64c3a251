"""Adapters in bfloat16 and float16 models, under autocast and in Lightning's rounds."""

import copy

import pytest
import torch
import torch.nn.functional as F
from peft import get_peft_model

from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.tensor_train import to_dense
from private_text import PrivateText
from tiny_models import batch, classifier

# Largest relative error of an output or a gradient: some four units of the last place.
ERROR = {torch.bfloat16: 2e-2, torch.float16: 2.5e-3}


def config(**options):
    return TTAdapterConfig(rank=3, bottleneck=8, activation="gelu", init="loretta", **options)


def moved(model):
    rng = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng).to(parameter.dtype)
    return model


def layer(dtype):
    """The last linear of a block of that dtype, with its adapter."""
    model = moved(get_peft_model(classifier("bert").to(dtype), config()))
    return model.base_model.model.bert.encoder.layer[0].output.dense


def gradients(function, x, parameters):
    weight = torch.randn(3, 7, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y = function(x)
    return y, *torch.autograd.grad((y * weight).sum(), [x, *parameters])


def exact(layer, x):
    """The same layer by dense matrices in float64: its output and gradients."""
    layer = copy.deepcopy(layer).double()
    a = layer.tt_adapter.default

    def function(x):
        down = to_dense(a._cores("down_core", a.down), a.down.split)
        up = to_dense(a._cores("up_core", a.up), a.up.split)
        x = F.linear(x, layer.base_layer.weight, layer.base_layer.bias)
        return x + F.gelu(x @ down + a.down_bias) @ up + a.up_bias

    return gradients(function, x.detach().double().requires_grad_(), a.parameters())


def inputs(dtype):
    x = torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(2))
    return x.to(dtype).requires_grad_()


def check_errors(found, expected, bound):
    for value, reference in zip(found, expected, strict=True):
        error = (value.double() - reference).norm() / reference.norm()
        assert 0 < error < bound


@pytest.mark.parametrize("dtype", ERROR)
def test_a_linear_of_half_precision_with_cores_in_float32(dtype):
    module, x = layer(dtype), inputs(dtype)
    found = gradients(module, x, module.tt_adapter.parameters())
    assert module.base_layer.weight.dtype == dtype
    assert [t.dtype for t in found] == [dtype, dtype] + [torch.float32] * (len(found) - 2)
    check_errors(found, exact(module, x), ERROR[dtype])


@pytest.mark.parametrize("dtype", ERROR)
def test_autocast_of_a_layer(dtype):
    module, x = layer(torch.float32), inputs(torch.float32)

    def autocast(x):
        with torch.autocast("cpu", dtype):
            return module(x)

    found = gradients(autocast, x, module.tt_adapter.parameters())
    assert [t.dtype for t in found] == [dtype] + [torch.float32] * (len(found) - 1)
    check_errors(found, exact(module, x), ERROR[dtype])


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("mixed", [True, False], ids=["autocast", "half weights"])
def test_a_whole_model(dtype, mixed):
    """With a TT classifier and LayerNorms, which an adapter must not round."""
    options = {"tt_classifier": True, "train_layernorms": True}
    base = classifier("bert") if mixed else classifier("bert").to(dtype)
    model = moved(get_peft_model(base, config(**options)))
    reference = copy.deepcopy(model).double()
    reference(**batch()).loss.backward()
    with torch.autocast("cpu", dtype, enabled=mixed):
        model(**batch()).loss.backward()
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    cores = [p for n, p in trained if "tt_adapter" in n]
    assert len(cores) > 20 and all(p.dtype == p.grad.dtype == torch.float32 for p in cores)
    found = torch.cat([p.grad.double().flatten() for _, p in trained])
    expected = torch.cat([reference.get_parameter(n).grad.flatten() for n, _ in trained])
    check_errors([found], [expected], 2 * ERROR[dtype])


@pytest.mark.parametrize(
    ("precision", "bound"), [("bf16-mixed", 0.01), ("16-true", 0.02), ("bf16-true", 0.1)]
)
def test_federated_rounds(precision, bound, tmp_path):
    """Lightning's `true` precisions round the cores too, from step to step."""

    def update(precision):
        torch.manual_seed(3)
        run = PrivateText(
            tmp_path,
            config(),
            configure=lambda p: torch.optim.SGD(p, lr=0.2),
            dtype=torch.float64 if precision == "64-true" else torch.float32,
            rounds=2,
            precision=precision,
        ).fit()
        trained = [(n, p) for n, p in run.module.net.named_parameters() if p.requires_grad]
        moves = [(p.double() - run.before.get_parameter(n).double()).flatten() for n, p in trained]
        return {p.dtype for _, p in trained}, torch.cat(moves)

    dtypes, found = update(precision)
    half = {"bf16-true": torch.bfloat16, "16-true": torch.float16}
    assert dtypes == {half.get(precision, torch.float32)}
    _, expected = update("64-true")
    assert expected.norm() > 0.01
    assert (found - expected).norm() < bound * expected.norm()
