"""What one training run tells about ε: guesses on many canaries, each in it or not by a coin.

Steinke, Nasr and Jagielski, NeurIPS 2023, arXiv 2305.08846.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor


@dataclass(frozen=True)
class Guesses:
    """How many of `made` guesses on `canaries` fair coins are right."""

    right: int
    made: int
    canaries: int

    @property
    def accuracy(self) -> float:
        return self.right / self.made

    def p_value(self, epsilon: float, delta: float) -> float:
        """Return the largest chance of so many right guesses, or more, on an (ε, δ)-private run.

        Corollary 5.4: that of randomized response, where each guess is right with probability
        e^ε / (1 + e^ε), and for δ at most 2 · canaries · δ times the best P[missing 1 to i] / i.
        """
        chance = 1 / (1 + np.exp(-epsilon))
        missing = binom.pmf(np.arange(self.right)[::-1], self.made, chance).cumsum()
        slope = (missing / np.arange(1, self.right + 1)).max(initial=0.0)
        p = binom.sf(self.right - 1, self.made, chance) + 2 * self.canaries * delta * slope
        return float(min(p, 1.0))

    def epsilon_lower(self, delta: float, level: float = 0.05) -> float:
        """Return the largest ε that these guesses reject, at 95 % confidence; 0 if none."""
        low, high = 0.0, 50.0
        if self.p_value(low, delta) >= level:
            return 0.0
        while high - low > 1e-6:
            middle = (low + high) / 2
            if self.p_value(middle, delta) < level:
                low = middle
            else:
                high = middle
        return low


def evidence(vectors: Tensor, seen: Tensor) -> Tensor:
    """Return how often each of some known vectors seems to be in a noisy sum, float64 (vectors,).

    By least squares, which need no knowledge of the noise.

    Args:
        vectors: (vectors, length), fewer than they are long.
        seen: the sum, (length,).
    """
    return torch.linalg.lstsq(vectors.T, seen).solution


def guess(scores: Tensor, coins: np.ndarray, made: int) -> Guesses:
    """Guess that the canaries of the highest scores are in, and say nothing on the others."""
    chosen = np.argsort(-scores.numpy(), kind="stable")[:made]
    return Guesses(int(coins[chosen].sum()), made, len(coins))
