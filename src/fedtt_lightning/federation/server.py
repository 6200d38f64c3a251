"""How the server moves the global adapter by the aggregated update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState


class ServerOptimizer(ABC):
    """Takes a step with the pseudo-gradient, which is minus the aggregated update.

    What it remembers from round to round is in `state_dict`.
    """

    def __repr__(self) -> str:
        settings = {k: v for k, v in sorted(vars(self).items()) if not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"

    def check(self, schema: AdapterSchema) -> None:  # noqa: B027 - some have nothing to check
        """Raise ConfigError if the settings make no sense for the tensors that travel."""

    @abstractmethod
    def step(self, old: AdapterState, update: AdapterState) -> AdapterState:
        """Return the tensors of `update` after the round; both have the same names.

        Args:
            old: the global adapter before the round.
            update: the aggregated update, float64 buffers.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what is remembered, as plain numbers, lists and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027 - FedAvg has none
        """Go on from `state_dict`."""


class FedAvg(ServerOptimizer):
    """Moves the global adapter by the aggregated update (McMahan et al., arXiv 1602.05629).

    Args:
        lr: server learning rate; 1.0 replaces the adapter by the weighted mean of the clients'.
    """

    def __init__(self, lr: float = 1.0) -> None:
        self.lr = lr

    def check(self, schema: AdapterSchema) -> None:
        if not self.lr > 0:
            raise ConfigError(f"federation.server.lr is {self.lr}, but must be > 0")

    @torch.no_grad()
    def step(self, old: AdapterState, update: AdapterState) -> AdapterState:
        buffers = {
            dtype: (buffer.double() + update.buffers[dtype].to(buffer.device) * self.lr).to(
                buffer.dtype
            )
            for dtype, buffer in old.buffers.items()
        }
        return AdapterState(old.schema, buffers)
