"""The training losses of a round's clients, exact across interruptions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RoundLoss:
    """Averages each visit's batch losses, then the visits weighted by their examples.

    Of visits side by side only a batch's loss over all of them is known: those are averaged over
    examples, and stand for the visits together.
    """

    def __init__(self) -> None:
        self._visit: Tensor | float = 0.0
        self._batches = 0
        self._open = 1  # visits whose batches these are
        self._weight = 0
        self._losses: list[Tensor | float] = []
        self._weights: list[int] = []
        self._together = False

    def add_batch(self, loss: Tensor, weight: int = 1, visits: int = 1) -> None:
        """Add a batch of one visit, or of `visits` side by side, in which it has `weight`."""
        self._visit = self._visit + loss.detach().double() * weight
        self._batches += weight
        self._open = visits
        self._together |= visits > 1

    def end_visit(self, weight: int) -> None:
        """Close a visit; weight 0 leaves it out, with those beside it, whose loss is its too."""
        self._weight = self._weight + weight if weight and self._weight >= 0 else -1
        self._open -= 1
        if self._open > 0:
            return
        if self._weight > 0 and self._batches:
            self._losses.append(self._visit / self._batches)
            self._weights.append(self._weight)
        self._visit, self._batches, self._open, self._weight = 0.0, 0, 1, 0

    def take_visit(self) -> float | None:
        """Return the open visit's mean loss and forget it; None if no step gave one."""
        mean = float(self._visit / self._batches) if self._batches else None
        self._visit, self._batches = 0.0, 0
        return mean

    def clients(self) -> Tensor | None:
        """Return each counted visit's mean loss (visits,), float64.

        None if no step gave a loss, or only that of visits together.
        """
        if not self._losses or self._together:
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
            "together": self._together,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._visit, self._batches = state["visit"], state["batches"]
        self._losses, self._weights = list(state["losses"]), list(state["weights"])
        self._together = state["together"]
