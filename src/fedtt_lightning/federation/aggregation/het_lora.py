"""HetLoRA: LoRA factors of different rank, padded with zeros and averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState, TensorSpec
from fedtt_lightning.federation.aggregation.flex_lora import lora_shape
from fedtt_lightning.federation.aggregation.lora_pairs import check_lora, lora_factor, lora_pairs
from fedtt_lightning.federation.aggregation.mean import WeightedMean
from fedtt_lightning.federation.aggregation.rule import AggregationRule
from fedtt_lightning.federation.ranks import check_rank_range


class HetLoRA(AggregationRule):
    """Averages A and B apart, those of smaller ranks padded with zeros (arXiv 2401.06432).

    A client of rank r starts from the first r rows of A and columns of B. In the average of a LoRA
    a client weighs ||B A||_F, of what it sends, times the weight it has anyway: its examples, or
    the same for all with `federation.weighting: equal`, which is the paper's. What the paper also
    has and is not here: clients that prune their own rank while they train. Its scaling is that of
    the server's model (lora_alpha / its r), for clients of every rank. Tensors that belong to no
    LoRA are averaged as they are.

    Args:
        sparsity_weighting: whether clients weigh the norm of their product; if not, only what they
            weigh anyway.
    """

    def __init__(self, sparsity_weighting: bool = True) -> None:
        self.sparsity_weighting = sparsity_weighting
        self.reset()

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        check_lora(schema, "HetLoRA")

    def reset(self) -> None:
        self.count = 0
        self._total: dict[str, Tensor] = {}
        self._weight: dict[str, float] = {}
        self._rest = WeightedMean()

    def add(self, client: int, start: AdapterState, update: AdapterState, weight: float) -> None:
        begin, change = start.tensors(), update.tensors()
        for names in lora_pairs(start.schema.names).values():
            a, b = (begin[name].double() + change.get(name, 0) for name in names)
            share = weight * float(_norm_of_product(a, b)) if self.sparsity_weighting else weight
            for name, factor in zip(names, (a, b), strict=True):
                if name in change:
                    self._total[name] = self._total.get(name, 0) + factor * share
                    self._weight[name] = self._weight.get(name, 0.0) + share
        rest = update.schema.select([n for n in update.schema.names if lora_factor(n) is None])
        self._rest.add(client, start, update.select(rest), weight)
        self.count += 1

    def result(self, old: AdapterState) -> AdapterState:
        tensors = old.tensors()
        changed = self._rest.result(old).tensors()
        for name, total in self._total.items():
            before = tensors[name].double()
            # All products are zero: no client has moved from PEFT's start.
            mean = total / self._weight[name] if self._weight[name] > 0 else before
            changed[name] = mean.to(before.device) - before
        return AdapterState.capture(changed, old.schema.select(changed))

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "total": dict(self._total),
            "weight": dict(self._weight),
            "rest": self._rest.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        self._total, self._weight = dict(state["total"]), dict(state["weight"])
        self._rest.load_state_dict(state["rest"])

    def check_ranks(self, schema: AdapterSchema, ranks: np.ndarray) -> None:
        rows = [spec.shape[0] for spec in schema.specs if lora_factor(spec.name) == "A"]
        check_rank_range(ranks, max(rows))

    def shrink(self, adapter: AdapterState, rank: int) -> AdapterState:
        return cut_lora(adapter, rank)

    def message_schema(self, schema: AdapterSchema, rank: int) -> AdapterSchema:
        return AdapterSchema(
            tuple(
                TensorSpec(spec.name, lora_shape(spec, rank), spec.dtype)
                if lora_factor(spec.name)
                else spec
                for spec in schema.specs
            )
        )


def cut_lora(adapter: AdapterState, rank: int) -> AdapterState:
    """Return a copy with zeros behind the first `rank` rows of A and columns of B."""
    adapter = adapter.clone()
    for name, tensor in adapter.tensors().items():
        if factor := lora_factor(name):
            (tensor if factor == "A" else tensor.transpose(0, 1))[rank:] = 0
    return adapter


def _norm_of_product(a: Tensor, b: Tensor) -> Tensor:
    """||B A||_F from the two small Gram matrices."""
    a, b = a.flatten(1), b.reshape(b.shape[0], -1)
    squared = ((b.T @ b) * (a @ a.T)).sum()
    return torch.sqrt(squared.clamp(min=0))
