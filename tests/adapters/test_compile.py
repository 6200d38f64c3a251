"""torch.compile makes one graph of a whole model with adapters, and changes no gradient."""

import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from fedtt_lightning.adapters import TTAdapterConfig
from tiny_models import batch, classifier

METHODS = {
    "FedTT": lambda: TTAdapterConfig(rank=3, bottleneck=8, activation="gelu", dropout=0.2),
    "TT classifier": lambda: TTAdapterConfig(
        rank=3, bottleneck=8, tt_classifier=True, train_layernorms=True, recompute_input=True
    ),
    "dense": lambda: TTAdapterConfig(tensorized=False, bottleneck=8, dropout=0.2),
    "LoRA": lambda: LoraConfig(r=3, task_type="SEQ_CLS", init_lora_weights=False),
}


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch.compiler.reset()


def build(family, method):
    """A model in train mode, moved from where its start lets gradients vanish."""
    base = classifier(family, num_hidden_layers=1)
    model = get_peft_model(base, METHODS[method]()).double().train()
    rng = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng).double()
    return model


def gradients(model, function):
    """The loss and the gradients of all that trains, by name, with dropout of one seed."""
    model.zero_grad()
    torch.manual_seed(1)
    loss = function(**batch()).loss
    loss.backward()
    named = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {"loss": loss.detach(), **named}


@pytest.mark.parametrize(
    ("family", "method"), [*(("bert", method) for method in METHODS), ("llama", "FedTT")]
)
def test_a_whole_model_is_one_graph(family, method):
    model = build(family, method)
    expected = gradients(model, model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(gradients(model, compiled), expected, rtol=1e-10, atol=1e-10)
    assert all(value.abs().max() > 0 for name, value in expected.items() if "key.bias" not in name)


def test_gradients_of_embeddings_through_frozen_cores():
    model = build("bert", "FedTT")
    frozen = [p for name, p in model.named_parameters() if name.endswith(("core_1", "_bias"))]
    for parameter in frozen:
        parameter.requires_grad_(False)
    inputs = batch()
    shape = (*inputs.pop("input_ids").shape, 32)
    embeds = torch.randn(shape, generator=torch.Generator().manual_seed(2)).double()

    def run(function):
        x = embeds.clone().requires_grad_()
        torch.manual_seed(1)
        tensors = [x, *(p for p in model.parameters() if p.requires_grad)]
        return torch.autograd.grad(function(inputs_embeds=x, **inputs).loss, tensors)

    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(run(compiled), run(model), rtol=1e-10, atol=1e-10)
    assert frozen


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor compiles C++ for the CPU")
def test_generated_code_of_a_layer():
    layer = build("bert", "FedTT").base_model.model.bert.encoder.layer[0].output.dense
    layer.tt_adapter.default.dropout = 0.0  # generated code draws other masks
    x = torch.randn(3, 7, 48, generator=torch.Generator().manual_seed(2)).double()

    def run(function):
        inputs = x.clone().requires_grad_()
        y = function(inputs)
        tensors = [inputs, *(p for p in layer.parameters() if p.requires_grad)]
        return y, *torch.autograd.grad(y.square().sum(), tensors)

    found = run(torch.compile(layer, fullgraph=True))
    torch.testing.assert_close(found, run(layer), rtol=1e-11, atol=1e-11)


def test_a_second_derivative_is_refused():
    model = build("bert", "FedTT")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    core = model.base_model.model.bert.encoder.layer[0].output.dense.tt_adapter.default.up_core_0
    (gradient,) = torch.autograd.grad(compiled(**batch()).loss, core, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not currently support double backward"):
        gradient.sum().backward()
