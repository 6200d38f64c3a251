"""Training in zero-padded tensors is training a model of the small rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from federation.aggregation.lora_models import lora_net, random_state, trainable
from fedtt_lightning.adapters.modules import TTAdapter, TTLinear
from fedtt_lightning.federation import (
    AdapterSchema,
    AdapterState,
    AggregationRule,
    FlexLoRA,
    HetLoRA,
    TTRounding,
)
from fedtt_lightning.tensor_train import TTShape

BIG = 5


def tt_net(rank: int) -> nn.Module:
    torch.manual_seed(1)
    down, up = TTShape((4, 3, 2), (2, 4)), TTShape((4, 2), (2, 3, 4))
    adapter = TTAdapter(down, up, rank, dtype=torch.float64)
    return nn.Sequential(adapter, TTLinear(TTShape((4, 6), (5,)), min(rank, 5)).double())


def tt_inputs() -> Tensor:
    return torch.randn(16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def tokens() -> Tensor:
    return torch.randint(0, 11, (16, 8), generator=torch.Generator().manual_seed(0))


def cut(state: AdapterState, schema: AdapterSchema) -> dict[str, Tensor]:
    """What travels: of each tensor the entries that the message has room for."""
    shapes = {spec.name: spec.shape for spec in schema.specs}
    assert list(shapes) == list(state.schema.names)
    return {
        name: value[tuple(slice(size) for size in shapes[name])]
        for name, value in state.tensors().items()
    }


def train(net: nn.Module, inputs: Tensor) -> None:
    """AdamW with weight decay, clipping and momentum: nothing of it may touch the padding."""
    labels = torch.arange(16) % 3
    optimizer = torch.optim.AdamW(trainable(net).values(), lr=0.03, weight_decay=0.2)
    for _ in range(6):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net.train()(inputs), labels).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()


CASES: list[Any] = [
    pytest.param(TTRounding(), tt_net, tt_inputs, id="TTRounding"),
    pytest.param(FlexLoRA(), lora_net, tokens, id="FlexLoRA"),
    pytest.param(HetLoRA(), lora_net, tokens, id="HetLoRA"),
]


@pytest.mark.parametrize(("rule", "build", "inputs"), CASES)
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("trained", [False, True])
def test_padded_equals_small(
    rule: AggregationRule,
    build: Callable[[int], nn.Module],
    inputs: Callable[[], Tensor],
    rank: int,
    trained: bool,
) -> None:
    big, small = build(BIG), build(rank)
    adapter = AdapterState.capture(trainable(big))
    if trained:  # else the adapter is the identity, as at the start of a run
        adapter = random_state(adapter, 4, BIG)
    start = rule.shrink(adapter, rank)
    message = rule.message_schema(start.schema, rank)
    assert message == AdapterSchema.of(trainable(small))
    start.copy_into(trainable(big))
    AdapterState.capture(cut(start, message)).copy_into(trainable(small))
    x = inputs()
    torch.testing.assert_close(big(x), small(x))

    train(big, x)
    train(small, x)
    end = AdapterState.capture(trainable(big))
    for name, value in cut(end, message).items():
        torch.testing.assert_close(value, trainable(small)[name].detach(), rtol=1e-7, atol=1e-10)
        padded = end.tensors()[name].clone()
        padded[tuple(slice(size) for size in value.shape)] = 0
        assert not padded.any(), f"the padding of {name} has moved"
        outside = trainable(big)[name].grad.clone()
        outside[tuple(slice(size) for size in value.shape)] = 0
        assert not outside.any(), f"the padding of {name} has a gradient"
    sent, came = cut(end, message), cut(start, message)
    assert not any(torch.equal(value, came[name]) for name, value in sent.items())


@pytest.mark.parametrize(("rule", "build", "inputs"), CASES)
def test_the_servers_own_rank_changes_nothing(
    rule: AggregationRule, build: Callable[[int], nn.Module], inputs: Any
) -> None:
    adapter = random_state(AdapterState.capture(trainable(build(BIG))), 4, BIG)
    assert rule.message_schema(adapter.schema, BIG) == adapter.schema
    same = rule.shrink(adapter, BIG).tensors()
    assert all(torch.equal(same[name], value) for name, value in adapter.tensors().items())
