"""The mean training loss of a round, exact across interruptions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RoundLoss:
    """Averages each visit's batch losses, then the visits weighted by their examples."""

    def __init__(self) -> None:
        self._visit: Tensor | float = 0.0
        self._batches = 0
        self._total: Tensor | float = 0.0
        self._weight = 0

    def add_batch(self, loss: Tensor) -> None:
        self._visit = self._visit + loss.detach().double()
        self._batches += 1

    def end_visit(self, weight: int) -> None:
        """Close a visit; weight 0 leaves it out."""
        if weight and self._batches:
            self._total = self._total + self._visit / self._batches * weight
            self._weight += weight
        self._visit, self._batches = 0.0, 0

    def mean(self) -> Tensor | None:
        """Return the round's mean loss, or None if no step returned a loss."""
        return torch.as_tensor(self._total / self._weight) if self._weight else None

    def state_dict(self) -> dict[str, Any]:
        return {
            "visit": float(self._visit),
            "batches": self._batches,
            "total": float(self._total),
            "weight": self._weight,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._visit, self._batches = state["visit"], state["batches"]
        self._total, self._weight = state["total"], state["weight"]
