"""The mean of the clients' operators: what rounding of tensor trains and FlexLoRA share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState, TensorSpec
from fedtt_lightning.federation.aggregation.mean import WeightedMean
from fedtt_lightning.federation.aggregation.rule import AggregationRule
from fedtt_lightning.federation.ranks import check_rank_range
from fedtt_lightning.tensor_train import pad_cores, scale_like, tt_round, tt_shorten, tt_sum


class OperatorMean(AggregationRule):
    """Averages products of factors, not the factors, and factors the mean anew.

    An operator is a tensor train whose cores are, each transposed at will, tensors of the adapter.
    Clients' trains are added up exactly (`tt_sum`) as they arrive; memory is that of the dense
    operators at most, whatever the cohort. The mean is rounded to the adapter's ranks (`tt_round`),
    where the scale of every factor but the last stays what it was (`scale_like`). Of an operator
    all factors count that travelled in the round, and all factors change, also those that did not
    travel; one without any that travelled is left alone. Every other tensor is averaged as it is.

    The sums are made on the CPU in float64: the matrices are small.
    """

    replaces_factors = True

    def __init__(self) -> None:
        self.reset()

    @abstractmethod
    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return the names of each operator's factors in the order of its cores, by a key."""

    @abstractmethod
    def to_cores(self, factors: Mapping[str, Tensor]) -> list[Tensor]:
        """View an operator's factors, by name, as cores (r_i, k_i, r_{i+1})."""

    @abstractmethod
    def to_factors(
        self, cores: Sequence[Tensor], like: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        """View cores as factors of the names and shapes of `like`."""

    @abstractmethod
    def shape_at(self, spec: TensorSpec, rank: int) -> tuple[int, ...]:
        """Return the shape of a factor at a rank, none of its ranks above what it has."""

    def reset(self) -> None:
        self.count = 0
        self._total: dict[str, list[Tensor]] = {}
        self._weight = 0.0
        self._rest = WeightedMean()

    def add(self, client: int, start: AdapterState, update: AdapterState, weight: float) -> None:
        begin, change = start.tensors(), update.tensors()
        for key, names in self.groups(start.schema.names).items():
            if not any(name in change for name in names):
                continue
            cores = self._cores(
                {name: begin[name].double() + change.get(name, 0) for name in names}
            )
            if key in self._total:
                self._total[key] = tt_shorten(tt_sum([self._total[key], cores], [1.0, weight]))
            else:
                self._total[key] = tt_sum([cores], [weight])
        self._rest.add(client, start, update.select(self._without_factors(update.schema)), weight)
        self._weight += weight
        self.count += 1

    def result(self, old: AdapterState) -> AdapterState:
        tensors = old.tensors()
        changed = self._rest.result(old).tensors()
        for key, names in self.groups(old.schema.names).items():
            if key not in self._total:
                continue
            before = self._cores(factors := {name: tensors[name].double() for name in names})
            # The old train, at weight 0, lends its directions where the mean has too few.
            mean = tt_sum([self._total[key], before], [1.0 / self._weight, 0.0])
            rounded = scale_like(tt_round(mean, _ranks(before)), before)
            padded = pad_cores(rounded, [core.shape for core in before])
            for name, factor in self.to_factors(padded, factors).items():
                changed[name] = factor.to(factors[name].device) - factors[name]
        return AdapterState.capture(changed, old.schema.select(changed))

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "total": {key: list(cores) for key, cores in self._total.items()},
            "weight": self._weight,
            "rest": self._rest.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self._weight = state["count"], state["weight"]
        self._total = {key: [c.cpu() for c in cores] for key, cores in state["total"].items()}
        self._rest.load_state_dict(state["rest"])

    def check_ranks(self, schema: AdapterSchema, ranks: np.ndarray) -> None:
        largest = {key: max(_ranks(self._empty(schema, n))) for key, n in self._named(schema)}
        check_rank_range(ranks, max(largest.values()))

    def shrink(self, adapter: AdapterState, rank: int) -> AdapterState:
        """Round every operator whose rank is higher; the padding then has zero gradients."""
        tensors = adapter.tensors()
        for _, names in self._named(adapter.schema):
            cores = self._cores(factors := {name: tensors[name].double() for name in names})
            ranks = _ranks(cores)
            if rank >= max(ranks):
                continue
            smaller = scale_like(tt_round(cores, [min(rank, r) for r in ranks]), cores)
            padded = pad_cores(smaller, [core.shape for core in cores])
            for name, factor in self.to_factors(padded, factors).items():
                tensors[name] = factor.to(tensors[name])
        return AdapterState.capture(tensors, adapter.schema)

    def message_schema(self, schema: AdapterSchema, rank: int) -> AdapterSchema:
        factors = {name for _, names in self._named(schema) for name in names}
        return AdapterSchema(
            tuple(
                TensorSpec(spec.name, self.shape_at(spec, rank), spec.dtype)
                if spec.name in factors
                else spec
                for spec in schema.specs
            )
        )

    def _named(self, schema: AdapterSchema) -> list[tuple[str, list[str]]]:
        return list(self.groups(schema.names).items())

    def _cores(self, factors: Mapping[str, Tensor]) -> list[Tensor]:
        return self.to_cores({name: factor.detach().cpu() for name, factor in factors.items()})

    def _empty(self, schema: AdapterSchema, names: Sequence[str]) -> list[Tensor]:
        shapes = {spec.name: spec.shape for spec in schema.specs}
        return self.to_cores({n: torch.empty(shapes[n], device="meta") for n in names})

    def _without_factors(self, schema: AdapterSchema) -> AdapterSchema:
        factors = {name for _, names in self._named(schema) for name in names}
        return schema.select([name for name in schema.names if name not in factors])


def _ranks(cores: Sequence[Tensor]) -> list[int]:
    return [core.shape[2] for core in cores[:-1]]
