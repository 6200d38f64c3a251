"""The mean of updates none of which may be longer than a bound."""

from __future__ import annotations

import torch

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation.mean import WeightedMean


class NormBoundedMean(WeightedMean):
    """Weighted mean of updates, each scaled down to a length of at most `bound`.

    Sun et al., arXiv 1911.07963: a false client then moves the mean by no more than its share of
    the weight times `bound`. Streaming, as the plain mean.

    Args:
        bound: largest L2 norm of an update over all tensors that travelled.
    """

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        if not 0 < self.bound < float("inf"):
            raise ConfigError(f"federation.aggregation.bound is {self.bound}, but must be > 0")

    def add(self, client: int, start: AdapterState, update: AdapterState, weight: float) -> None:
        norms = [torch.linalg.vector_norm(buffer.double()) for buffer in update.buffers.values()]
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        if norm > self.bound:
            scale = self.bound / norm
            buffers = {dtype: buffer.double() * scale for dtype, buffer in update.buffers.items()}
            update = AdapterState(update.schema, buffers)
        super().add(client, start, update, weight)
