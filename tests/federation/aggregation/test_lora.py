"""FlexLoRA and HetLoRA against dense definitions, on the tensors of a PEFT model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from federation.aggregation.lora_models import (
    TARGETS,
    lora_net,
    pair,
    product,
    random_state,
    trainable,
)
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    AdapterSchema,
    AdapterState,
    AggregationRule,
    FlexLoRA,
    HetLoRA,
    WeightedMean,
)

RANK = 4
RANKS, WEIGHTS = (1, 4, 2), (3.0, 1.0, 2.0)


def server() -> AdapterState:
    return AdapterState.capture(trainable(lora_net(RANK)))


def truncated(matrix: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank]


def visits(old: AdapterState) -> list[tuple[AdapterState, AdapterState, dict[str, Tensor]]]:
    made = []
    for i, rank in enumerate(RANKS):
        start, update = random_state(old, 2 * i, rank), random_state(old, 2 * i + 1, rank)
        changes = update.tensors()
        made.append((start, update, {n: v + changes[n] for n, v in start.tensors().items()}))
    return made


def aggregate(rule: AggregationRule, old: AdapterState) -> dict[str, Tensor]:
    for i, (start, update, _) in enumerate(visits(old)):
        rule.add(i, start, update, WEIGHTS[i])
        state, rule = rule.state_dict(), type(rule)(*vars_of(rule))
        rule.load_state_dict(state)
    assert rule.count == 3
    return {n: old.tensors()[n] + v for n, v in rule.result(old).tensors().items()}


def vars_of(rule: AggregationRule) -> list[bool]:
    return [rule.sparsity_weighting] if isinstance(rule, HetLoRA) else []


def plain_mean(old: AdapterState) -> dict[str, Tensor]:
    rule = WeightedMean()
    for i, (start, update, _) in enumerate(visits(old)):
        rule.add(i, start, update, WEIGHTS[i])
    return {n: old.tensors()[n] + v for n, v in rule.result(old).tensors().items()}


@pytest.mark.parametrize("rule", [FlexLoRA(), HetLoRA()], ids=["flex", "het"])
def test_what_is_no_lora_is_averaged_as_fedavg_does(rule: AggregationRule) -> None:
    old = server()
    new, mean = aggregate(rule, old), plain_mean(old)
    head = [name for name in new if "lora_" not in name]
    assert len(head) == 2 and all(torch.equal(new[name], mean[name]) for name in head)


@pytest.mark.parametrize("target", TARGETS)
def test_flexlora_is_the_svd_of_the_mean_product(target: str) -> None:
    old = server()
    new = aggregate(FlexLoRA(), old)
    mean = sum(w * product(end, target) for w, (*_, end) in zip(WEIGHTS, visits(old), strict=True))
    torch.testing.assert_close(product(new, target), truncated(mean / sum(WEIGHTS), RANK))
    a, b = pair(new, target)
    if target == "embed":
        a, b = b.T, a.T
    # A's rows are orthogonal and of their old mean length; B holds the singular values.
    before = pair(old.tensors(), target)[target == "embed"].norm()
    torch.testing.assert_close(a @ a.T, torch.eye(RANK).double() * before**2 / RANK)
    torch.testing.assert_close(b.T @ b, torch.diag((b.T @ b).diagonal()), atol=1e-9, rtol=0)


@pytest.mark.parametrize("target", TARGETS)
def test_flexlora_gives_a_small_client_the_leading_part(target: str) -> None:
    adapter = random_state(server(), 5, RANK)
    for rank in (1, 2, 4):
        small = FlexLoRA().shrink(adapter, rank).tensors()
        expected = truncated(product(adapter.tensors(), target), rank)
        torch.testing.assert_close(product(small, target), expected)
        a, b = pair(small, target)
        assert not a[rank:].any() and not b[:, rank:].any()


def test_flexlora_keeps_an_untrained_lora_trainable() -> None:
    old = server()
    still = AdapterState(old.schema, {k: torch.zeros_like(b) for k, b in old.buffers.items()})
    rule = FlexLoRA()
    rule.add(0, old, still, 1.0)
    new = {n: old.tensors()[n] + v for n, v in rule.result(old).tensors().items()}
    for state in (new, rule.shrink(old, 1).tensors()):
        for target in TARGETS:
            (a, b), before = pair(state, target), pair(old.tensors(), target)[0]
            if target == "embed":
                a, b, before = b.T, a.T, pair(old.tensors(), target)[1].T
            assert not b.any()
            torch.testing.assert_close(a[0].norm(), before.norm(dim=1).square().mean().sqrt())
            # It is a direction that A had.
            basis = torch.linalg.qr(before.T).Q
            torch.testing.assert_close(basis @ (basis.T @ a[0]), a[0])


@pytest.mark.parametrize("sparsity", [True, False])
@pytest.mark.parametrize("target", TARGETS)
def test_hetlora_is_the_mean_of_padded_factors(target: str, sparsity: bool) -> None:
    old = server()
    new = aggregate(HetLoRA(sparsity), old)
    ends = [end for *_, end in visits(old)]
    norms = [torch.linalg.norm(product(end, target)) if sparsity else 1.0 for end in ends]
    shares = torch.tensor([w * float(n) for w, n in zip(WEIGHTS, norms, strict=True)]).double()
    shares = shares / shares.sum()
    for factor in (0, 1):
        mean = sum(p * pair(end, target)[factor] for p, end in zip(shares, ends, strict=True))
        torch.testing.assert_close(pair(new, target)[factor], mean, rtol=1e-6, atol=1e-9)


def test_hetlora_cuts_and_does_not_divide_by_nothing() -> None:
    old = random_state(server(), 0, RANK)
    for name, value in HetLoRA().shrink(old, 2).tensors().items():
        expected = old.tensors()[name].clone()
        if "_A." in name:
            expected[2:] = 0
        elif "_B." in name:
            expected[:, 2:] = 0
        assert torch.equal(value, expected)
    old, rule = server(), HetLoRA()
    zeros = {k: torch.zeros_like(b) for k, b in old.buffers.items()}
    rule.add(0, old, AdapterState(old.schema, zeros), 1.0)
    assert not any(value.any() for value in rule.result(old).tensors().values())


@pytest.mark.parametrize("rule", [FlexLoRA, HetLoRA])
def test_with_one_factor_frozen(rule: type[AggregationRule]) -> None:
    """B alone travels, as under FFA-LoRA."""
    old, made = server(), rule()
    names = [name for name in old.schema.names if "_A." not in name]
    update = random_state(old, 3, RANK).select(old.schema.select(names))
    made.add(0, old, update, 2.0)
    new = dict(old.tensors())
    for name, change in made.result(old).tensors().items():
        new[name] = new[name] + change
    for target in TARGETS:
        end = {**old.tensors(), **{n: old.tensors()[n] + v for n, v in update.tensors().items()}}
        torch.testing.assert_close(product(new, target), product(end, target))


@pytest.mark.parametrize("rule", [FlexLoRA(), HetLoRA()], ids=["flex", "het"])
def test_adapters_that_do_not_fit_are_refused(rule: AggregationRule) -> None:
    schema = server().schema
    rule.check(schema, None)
    with pytest.raises(ConfigError, match="needs LoRA factors"):
        rule.check(AdapterSchema.of({"core_0": torch.zeros(1, 2, 1)}), None)
    part = schema.select([name for name in schema.names if "linear.lora_B" not in name])
    with pytest.raises(ConfigError, match=r"linear\.lora_A"):
        rule.check(part, None)
    with pytest.raises(ConfigError, match="client 1 the rank 5"):
        rule.check_ranks(schema, torch.tensor([4, 5]).numpy())
