"""How the server turns the clients' updates into the next global adapter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.adapter_state import AdapterState


class StreamingMean:
    """Weighted mean of updates, summed in float64 as they arrive; memory of one update."""

    def __init__(self) -> None:
        self.total: dict[str, Tensor] = {}
        self.weight = 0.0
        self.count = 0

    def add(self, update: AdapterState, weight: float) -> None:
        """Count an update of float64 buffers with a weight."""
        for dtype, buffer in update.buffers.items():
            # Multiplied first: `add_(alpha=)` may round once where this rounds twice, by machine.
            weighted = buffer.double() * weight
            if dtype in self.total:
                self.total[dtype].add_(weighted)
            else:
                self.total[dtype] = weighted
        self.weight += weight
        self.count += 1

    def mean(self) -> dict[str, Tensor]:
        """Return the mean for each buffer, in float64."""
        return {dtype: total / self.weight for dtype, total in self.total.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"total": dict(self.total), "weight": self.weight, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = dict(state["total"])
        self.weight = state["weight"]
        self.count = state["count"]


class FedAvg:
    """Moves the global adapter by the mean update (McMahan et al., arXiv 1602.05629).

    Args:
        lr: server learning rate; 1.0 replaces the adapter by the weighted mean of the clients'.
    """

    def __init__(self, lr: float = 1.0) -> None:
        self.lr = lr

    def check(self) -> None:
        """Raise ConfigError if the settings make no sense."""
        if not self.lr > 0:
            raise ConfigError(f"federation.server.lr is {self.lr}, but must be > 0")

    @torch.no_grad()
    def step(self, old: AdapterState, mean: dict[str, Tensor]) -> AdapterState:
        """Return the adapter after the round; `old` and `mean` have the round's trained names."""
        buffers = {
            dtype: (buffer.double() + mean[dtype].to(buffer.device) * self.lr).to(buffer.dtype)
            for dtype, buffer in old.buffers.items()
        }
        return AdapterState(old.schema, buffers)
