"""The weighted mean of updates, summed as they arrive."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation.rule import AggregationRule


class WeightedMean(AggregationRule):
    """Weighted mean of updates in float64; memory of one update, whatever the cohort."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.count = 0
        self._schema: AdapterSchema | None = None
        self._total: dict[str, Tensor] = {}
        self._weight = 0.0

    def add(self, client: int, start: AdapterState, update: AdapterState, weight: float) -> None:
        self._schema = update.schema
        for dtype, buffer in update.buffers.items():
            # Multiplied first: `add_(alpha=)` may round once where this rounds twice, by machine.
            weighted = buffer.double() * weight
            if dtype in self._total:
                self._total[dtype].add_(weighted)
            else:
                self._total[dtype] = weighted
        self._weight += weight
        self.count += 1

    def result(self, old: AdapterState) -> AdapterState:
        assert self._schema is not None
        mean = {dtype: total / self._weight for dtype, total in self._total.items()}
        return AdapterState(self._schema, mean)

    def state_dict(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "schema": None if self._schema is None else self._schema.rows(),
            "total": dict(self._total),
            "weight": self._weight,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count, self._weight = state["count"], state["weight"]
        self._total = dict(state["total"])
        rows = state["schema"]
        self._schema = None if rows is None else AdapterSchema.from_rows(rows)
