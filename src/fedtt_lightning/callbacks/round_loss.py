"""The training losses of a round's clients, exact across interruptions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RoundLoss:
    """Averages each visit's batch losses, then the visits weighted by their examples."""

    def __init__(self) -> None:
        self._visit: Tensor | float = 0.0
        self._batches = 0
        self._losses: list[Tensor | float] = []
        self._weights: list[int] = []

    def add_batch(self, loss: Tensor) -> None:
        self._visit = self._visit + loss.detach().double()
        self._batches += 1

    def end_visit(self, weight: int) -> None:
        """Close a visit; weight 0 leaves it out."""
        if weight and self._batches:
            self._losses.append(self._visit / self._batches)
            self._weights.append(weight)
        self._visit, self._batches = 0.0, 0

    def clients(self) -> Tensor | None:
        """Return each counted visit's mean loss (visits,), float64, None if no step gave a loss."""
        if not self._losses:
            return None
        return torch.tensor([float(loss) for loss in self._losses], dtype=torch.float64)

    def mean(self) -> Tensor | None:
        """Return the round's mean loss, or None if no step returned a loss."""
        if not self._losses:
            return None
        total: Tensor | float = 0.0
        for loss, weight in zip(self._losses, self._weights, strict=True):
            total = total + loss * weight
        return torch.as_tensor(total / sum(self._weights))

    def state_dict(self) -> dict[str, Any]:
        return {
            "visit": float(self._visit),
            "batches": self._batches,
            "losses": [float(loss) for loss in self._losses],
            "weights": list(self._weights),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._visit, self._batches = state["visit"], state["batches"]
        self._losses, self._weights = list(state["losses"]), list(state["weights"])
