"""The weighted mean of updates, summed as they arrive."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation.rule import AggregationRule

_PIECE = 2**17  # values: 1 MiB


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
            if dtype not in self._total:
                self._total[dtype] = torch.zeros_like(buffer, dtype=torch.float64)
            # Multiplied first: `add_(alpha=)` may round once where this rounds twice, by machine.
            # Piece by piece, so that products stay in the cache and take little memory.
            for total, piece in zip(
                self._total[dtype].split(_PIECE), buffer.split(_PIECE), strict=True
            ):
                total.add_(piece.double() * weight)
        self._weight += weight
        self.count += 1

    def result(self, old: AdapterState) -> AdapterState:
        assert self._schema is not None
        for total in self._total.values():
            total.div_(self._weight)
        self._weight = 1.0  # so that it can be asked again
        return AdapterState(self._schema, dict(self._total))

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
