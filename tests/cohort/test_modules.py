"""A model that serves several clients equals functional calls with each one's parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.func import functional_call
from transformers import BertConfig, BertForSequenceClassification

from fedtt_lightning import TTAdapterConfig
from fedtt_lightning.cohort.modules import ClientModules, Clients
from fedtt_lightning.cohort.random import ClientRandom
from fedtt_lightning.errors import FederationError


def bert(peft: Any = None, trained: Callable[[str], bool] = lambda name: True) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "vocab_size": 40, "num_hidden_layers": 2}
    model: Any = BertForSequenceClassification(BertConfig(num_attention_heads=2, **sizes))
    model = model if peft is None else get_peft_model(model, peft)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and trained(name))
    return model.double()


class Odd(nn.Module):
    """Parameters of its own, attention that reads a layer inside without calling it, a list."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16))
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.list = nn.ParameterList([torch.zeros(16)])
        self.head = nn.Linear(16, 2)
        self.double()

    def forward(self, input_ids: Tensor, **_: Any) -> Tensor:
        x = torch.sin(input_ids.double().unsqueeze(-1) * self.scale) + self.list[0]
        return self.head(self.attention(x, x, x)[0][:, 0])


def serving(model: nn.Module, tensors: Any, stacks: dict[str, Tensor], sizes: list[int]) -> Any:
    random = ClientRandom(torch.device("cpu"))
    random.begin(range(len(sizes)), sizes)
    return ClientModules(model, tensors).attached(Clients(stacks, sizes, random))


MODES = {"down_modes": [4, 4, 2, 4], "up_modes": [2, 4, 4, 4]}
MODELS: dict[str, Callable[[], nn.Module]] = {
    "FedTT": lambda: bert(
        TTAdapterConfig(rank=2, bottleneck=8, train_layernorms=True, task_type="SEQ_CLS", **MODES)  # type: ignore[arg-type]
    ),
    "dense adapters": lambda: bert(
        TTAdapterConfig(tensorized=False, bottleneck=8, task_type="SEQ_CLS")
    ),
    "LoRA": lambda: bert(LoraConfig(r=2, task_type="SEQ_CLS")),
    "(IA)3": lambda: bert(IA3Config(task_type="SEQ_CLS")),
    "biases": lambda: bert(trained=lambda name: name.endswith("bias")),
    "everything": bert,
    "odd": Odd,
}
SIZES = {"even": [2, 2, 2], "ragged": [3, 1, 2], "one": [4]}


def batch(examples: int) -> dict[str, Tensor]:
    ids = torch.randint(1, 40, (examples, 7), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def logits(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_equals_functional_calls(make: Callable[[], nn.Module], sizes: list[int]) -> None:
    model = make().eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    forwards = {name: dict(part.__dict__) for name, part in model.named_modules()}
    torch.manual_seed(4)
    stacks = {
        name: (p.detach() + 0.3 * torch.randn(len(sizes), *p.shape).to(p)).requires_grad_()
        for name, p in trained.items()
    }
    inputs = batch(sum(sizes))
    with serving(model, trained, stacks, sizes):
        together = logits(model(**inputs))
    weight = torch.randn(together.shape).to(together)
    grads = torch.autograd.grad((together * weight).sum(), [*stacks.values()], allow_unused=True)

    rows, alone = torch.arange(sum(sizes)).split(sizes), []
    for client, mine in enumerate(rows):
        own = {name: stack[client] for name, stack in stacks.items()}
        alone.append(
            logits(functional_call(model, own, (), {k: v[mine] for k, v in inputs.items()}))
        )
    expected = torch.cat(alone)
    torch.testing.assert_close(together, expected, rtol=1e-12, atol=1e-12)
    references = torch.autograd.grad(
        (expected * weight).sum(), [*stacks.values()], allow_unused=True
    )
    for name, grad, reference in zip(stacks, grads, references, strict=True):
        if grad is not None or reference is not None:
            torch.testing.assert_close(grad, reference, rtol=1e-10, atol=1e-12, msg=name)
    assert all(p.grad is None for p in model.parameters())
    for name, part in model.named_modules():
        assert part.__dict__.keys() == forwards[name].keys() and "forward" not in part.__dict__
    assert {n: p for n, p in model.named_parameters() if p.requires_grad} == trained


def test_what_does_not_train_is_everybodys() -> None:
    """As under FedTT+: a tensor without a stack is used as it is, and gets no gradient."""
    model = bert(LoraConfig(r=2, task_type="SEQ_CLS"))
    tensors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    stacks = {n: p.detach().repeat(2, 1, 1) for n, p in tensors.items() if "lora_B" in n}
    leaves = [stack.requires_grad_() for stack in stacks.values()]
    model.eval()
    alone = logits(model(**batch(4)))
    with serving(model, tensors, stacks, [2, 2]):
        together = logits(model(**batch(4)))
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    together.sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)
    assert all(p.grad is None for p in model.parameters())


def test_a_forward_that_was_replaced_before_is_kept_and_used() -> None:
    model = nn.GroupNorm(1, 3)
    own = model.forward = lambda x: 2 * nn.GroupNorm.forward(model, x)  # type: ignore[method-assign]
    tensors = dict(model.named_parameters())
    stacks = {name: p.detach().repeat(2, 1) for name, p in tensors.items()}
    x = torch.randn(4, 3)
    expected = model(x)
    with serving(model, tensors, stacks, [2, 2]):
        torch.testing.assert_close(model(x), expected)
    assert model.forward is own


class Table(nn.Module):
    """Embeds all positions and not examples, as relative position embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(torch.arange(5)).sum(0)


def test_refuses_what_is_not_computed_for_each_example() -> None:
    model = Table()
    tensors = dict(model.named_parameters())
    stacks = {name: p.detach().repeat(2, 1, 1) for name, p in tensors.items()}
    with (
        pytest.raises(FederationError, match=r"table .Embedding. is not computed for each example"),
        serving(model, tensors, stacks, [2, 2]),
    ):
        model(torch.zeros(4, 4))
    assert "forward" not in model.table.__dict__
