"""In real models every trainable tensor gets what one example's own backward pass gives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import Tensor, nn
from torch.nn import Parameter

from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.errors import FederationError
from fedtt_lightning.privacy.per_example import PerExampleGradients
from tiny_models import batch, classifier

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


def peft(family: str, config: Any) -> nn.Module:
    return get_peft_model(classifier(family), config)


def weights(family: str, trains: Callable[[str], bool]) -> nn.Module:
    model = classifier(family)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trains(name))
    return model


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(r=3, task_type=TaskType.SEQ_CLS, init_lora_weights=False, **options)


def tt(**options: Any) -> TTAdapterConfig:
    return TTAdapterConfig(rank=3, bottleneck=8, **options)


def dense() -> TTAdapterConfig:
    return TTAdapterConfig(bottleneck=8, tensorized=False)


# What makes the model, parts of names that must be among what trains, and the relative tolerance:
# RMSNorm computes in float32, whatever the model's dtype.
MODELS: dict[str, tuple[Callable[[], nn.Module], str, float]] = {
    "FedTT": (
        lambda: peft("bert", tt(activation="gelu")),
        "down_core_0 down_bias up_core_2 up_bias classifier",
        1e-9,
    ),
    "FedTT, TT classifier, LayerNorms": (
        lambda: peft("roberta", tt(tt_classifier=True, train_layernorms=True)),
        "dense.tt_adapter.default.core_0 LayerNorm down_core_0 out_proj",
        1e-9,
    ),
    "FedTT without biases": (
        lambda: peft("roberta", tt(use_bias=False)),
        "down_core_0 classifier.dense classifier.out_proj",
        1e-9,
    ),
    "FedTT, Qwen2": (lambda: peft("qwen2", tt()), "down_core_0 up_core_2 score", 1e-4),
    "dense adapters": (lambda: peft("bert", dense()), "down_weight up_bias classifier", 1e-9),
    "LoRA": (lambda: peft("bert", lora()), "lora_A lora_B classifier", 1e-9),
    "LoRA, LLaMA": (lambda: peft("llama", lora()), "lora_A lora_B score", 1e-4),
    "BitFit": (
        lambda: weights("bert", lambda name: name.endswith("bias")),
        "LayerNorm.bias query.bias classifier.bias",
        1e-9,
    ),
    "all weights but positions": (
        lambda: weights("bert", lambda name: "position" not in name),
        "word_embeddings token_type_embeddings LayerNorm.weight pooler classifier",
        1e-9,
    ),
}


def trainable(model: nn.Module) -> dict[str, Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def prepare(model: nn.Module) -> dict[str, Parameter]:
    """Train it in float64, without dropout, from where no gradient is zero by construction."""
    model.double().train()
    rng = torch.Generator().manual_seed(5)
    for parameter in trainable(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng).double()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return trainable(model)


def padded() -> dict[str, Tensor]:
    inputs = batch()
    inputs["attention_mask"][1, 5:] = 0
    return inputs


@pytest.mark.parametrize(("make", "names", "tolerance"), MODELS.values(), ids=MODELS.keys())
def test_equals_one_example_at_a_time(
    make: Callable[[], nn.Module], names: str, tolerance: float
) -> None:
    model = make()
    parameters, inputs = prepare(model), padded()
    assert all(any(part in name for name in parameters) for part in names.split())
    gradients = PerExampleGradients(model)
    model(**inputs).loss.backward()
    gradients.check(parameters, 3)
    sampled = {name: p.grad_sample for name, p in parameters.items()}
    gradients.detach()
    for i in range(3):
        model.zero_grad()
        model(**{key: value[i : i + 1] for key, value in inputs.items()}).loss.backward()
        for name, p in parameters.items():
            largest = float(p.grad.abs().max())
            assert largest > 0 or "key.bias" in name, name  # which no attention depends on
            torch.testing.assert_close(
                3 * sampled[name][i], p.grad, rtol=tolerance, atol=tolerance * max(largest, 1e-6)
            )


def footprint(model: nn.Module) -> dict[str, Any]:
    """Return all that is attached to modules and parameters, and the hooks of the modules."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        hooks = (module._forward_hooks, module._backward_hooks, module._forward_pre_hooks)
        found[name] = (set(vars(module)), type(module), [len(h) for h in hooks])
    for name, parameter in model.named_parameters():
        found[f"parameter {name}"] = set(vars(parameter))
    return found


@pytest.mark.parametrize("interrupted", ["never", "after forward", "after backward"])
@pytest.mark.parametrize("name", ["FedTT, TT classifier, LayerNorms", "dense adapters", "LoRA"])
def test_detach_leaves_nothing_behind(name: str, interrupted: str) -> None:
    model = MODELS[name][0]()
    parameters = prepare(model)
    before = footprint(model)
    gradients = PerExampleGradients(model)
    assert footprint(model) != before
    loss = model(**padded()).loss
    if interrupted != "after forward":
        loss.backward()
    if interrupted == "never":
        gradients.check(parameters, 3)
        for parameter in parameters.values():
            parameter.grad_sample = None
    gradients.detach()
    gradients.detach()
    assert footprint(model) == before
    PerExampleGradients(model).detach()  # and it can be attached again
    model(**padded()).loss.backward()
    assert all(p.grad is not None and "grad_sample" not in vars(p) for p in parameters.values())


def test_prompts_that_a_batch_shares_are_a_hard_error() -> None:
    model = peft("bert", PromptTuningConfig(TaskType.SEQ_CLS, num_virtual_tokens=4))
    parameters = prepare(model)
    gradients = PerExampleGradients(model)
    model(**padded()).loss.backward()
    with pytest.raises(FederationError, match=r"embedding.weight has gradients of 1\. Freeze them"):
        gradients.check(parameters, 3)


def test_trained_positions_are_a_hard_error() -> None:
    model = weights("gpt2", lambda name: "wpe" in name or "score" in name)
    parameters = prepare(model)
    gradients = PerExampleGradients(model)
    model(**padded()).loss.backward()
    with pytest.raises(FederationError, match=r"wpe.weight has gradients of 1\. Freeze"):
        gradients.check(parameters, 3)


class Tied(nn.Module):
    """Two layers that share a weight, one of which is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.first(torch.tanh(self.first(x))))
        return self.second(hidden).square().mean((-1, -2)).mean()


def test_a_tensor_that_is_used_several_times_has_the_sum() -> None:
    torch.manual_seed(0)
    model, x = Tied().double(), torch.randn(4, 3, 6).double()
    parameters = trainable(model)
    assert len(parameters) == 3
    gradients = PerExampleGradients(model)
    model(x).backward()
    gradients.check(parameters, 4)
    sampled = {name: p.grad_sample for name, p in parameters.items()}
    gradients.detach()
    for i in range(4):
        model.zero_grad()
        model(x[i : i + 1]).backward()
        for name, p in parameters.items():
            torch.testing.assert_close(4 * sampled[name][i], p.grad, rtol=1e-10, atol=1e-14)


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.scales = nn.ParameterList([torch.ones(6), torch.ones(6)])

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.scales[0] + self.scales[1]).square().mean()


def test_tensors_without_gradients_of_examples_are_a_hard_error() -> None:
    model = Listed()
    parameters = trainable(model)
    gradients = PerExampleGradients(model)
    model(torch.randn(4, 6)).backward()
    message = r"2 trainable tensors lack.*'s 4 examples.*scales.0 has none; scales.1 has none\."
    with pytest.raises(FederationError, match=message):
        gradients.check(parameters, 4)
    del parameters["scales.0"], parameters["scales.1"]
    gradients.check(parameters, 4)
    with pytest.raises(FederationError, match=r"linear.weight has gradients of 4; linear.bias"):
        gradients.check(parameters, 5)
    model(torch.randn(4, 6)).backward()
    with pytest.raises(FederationError, match="those of several backward passes"):
        gradients.check(parameters, 4)
    many = {f"t{i}": Parameter(torch.ones(1)) for i in range(9)}
    with pytest.raises(FederationError, match=r"9 trainable.*t0.*t2 has none and 6 more tensors"):
        gradients.check(many, 4)
