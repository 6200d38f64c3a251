"""Every family of the table, on a real model: two adapters a block, and gradients that arrive."""

import pytest
import torch
from peft import get_peft_model

from fedtt_lightning.adapters import FAMILIES, TTAdapter, TTAdapterConfig, TTLinear
from tiny_models import CONFIGS, DECODERS, batch, classifier

NO_DENSE = {*DECODERS}
BLOCKS = dict.fromkeys(CONFIGS, 2) | {"t5": 4}


def test_every_family_of_the_table_is_tested():
    assert set(CONFIGS) == set(FAMILIES)


@pytest.mark.parametrize("task_type", [None, "SEQ_CLS"])
@pytest.mark.parametrize("family", CONFIGS)
def test_two_adapters_a_block_learn(family, task_type):
    model = get_peft_model(
        classifier(family),
        TTAdapterConfig(rank=3, bottleneck=8, init="loretta", task_type=task_type),
    ).eval()
    adapters = [m for m in model.modules() if isinstance(m, TTAdapter)]
    assert len(adapters) == 2 * BLOCKS[family]
    model(**batch()).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    for adapter in adapters:
        assert all(p.grad.abs().max() > 0 for n, p in adapter.named_parameters() if "core" in n)
    heads = [n for n, p in model.named_parameters() if p.requires_grad and "tt_adapter" not in n]
    assert heads and all(".modules_to_save.default." in name for name in heads)
    dense = FAMILIES[family].dense
    expected = {FAMILIES[family].output} | ({dense} if dense else set())
    assert {n.split(".modules_to_save")[0].removeprefix("base_model.model.") for n in heads} == (
        expected
    )


@pytest.mark.parametrize("family", CONFIGS)
def test_the_adapter_follows_the_linear(family):
    torch.manual_seed(1)
    model = get_peft_model(
        classifier(family), TTAdapterConfig(rank=2, bottleneck=8, init="loretta")
    )
    name, layer = next(
        (n, m) for n, m in model.named_modules() if hasattr(m, "tt_adapter") and "0" in n
    )
    x = torch.randn(2, 5, 32 if name.endswith(FAMILIES[family].linears[0]) else 48)
    expected = layer.tt_adapter["default"](layer.base_layer(x))
    assert torch.equal(layer(x), expected) and not torch.equal(expected, layer.base_layer(x))


@pytest.mark.parametrize("task_type", [None, "SEQ_CLS"])
@pytest.mark.parametrize("family", sorted(set(CONFIGS) - NO_DENSE))
def test_tensorized_classifier_replaces_the_dense_layer(family, task_type):
    config = TTAdapterConfig(
        rank=3, bottleneck=8, tt_classifier=True, classifier_rank=2, task_type=task_type
    )
    model = get_peft_model(classifier(family), config).eval()
    (tensorized,) = (m for m in model.modules() if isinstance(m, TTLinear))
    assert tensorized.rank == 2
    model(**batch()).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    heads = {n for n, p in model.named_parameters() if p.requires_grad and "adapter" not in n}
    output = f"base_model.model.{FAMILIES[family].output}.modules_to_save.default"
    assert heads == {
        n for n in (f"{output}.weight", f"{output}.bias") if n in dict(model.named_parameters())
    }
    # The frozen dense layer plays no part: its values do not matter.
    before = model(**batch()).logits
    with torch.no_grad():
        model.base_model.model.get_submodule(FAMILIES[family].dense).base_layer.weight.zero_()
    assert torch.equal(before, model(**batch()).logits)


@pytest.mark.parametrize("family", CONFIGS)
def test_layernorms_train_when_asked(family):
    config = TTAdapterConfig(rank=2, bottleneck=8, train_layernorms=True)
    base = classifier(family)
    norms = {n for n, m in base.named_modules() if "Norm" in type(m).__name__}
    model = get_peft_model(base, config)
    trained = {
        n.split(".modules_to_save")[0].removeprefix("base_model.model.")
        for n, p in model.named_parameters()
        if p.requires_grad and "modules_to_save" in n
    }
    assert norms and norms <= trained
    model(**batch()).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("init", ["orthonormal", "gaussian"])
def test_identity_start_keeps_the_model(family, init):
    base = classifier(family)
    before = base(**batch()).logits
    model = get_peft_model(base, TTAdapterConfig(rank=3, bottleneck=8, init=init)).eval()
    assert torch.equal(model(**batch()).logits, before)


def test_t5_takes_cross_attention_by_target_modules():
    config = TTAdapterConfig(rank=2, bottleneck=8, target_modules=["o", "wo"])
    model = get_peft_model(classifier("t5"), config)
    assert sum(isinstance(m, TTAdapter) for m in model.modules()) == 2 * 4 + 2
