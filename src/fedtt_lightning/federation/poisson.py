"""Poisson batches: each example of a client is in a batch with the same chance, by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedtt_lightning.federation.plan import Visit
from fedtt_lightning.federation.seeds import generator_for, seed_for


@dataclass(frozen=True)
class PoissonBatches:
    """Draws a visit's batches as the accounting of DP-SGD assumes (Abadi et al., arXiv 1607.00133).

    An example is in each of a visit's batches with probability `rate(visit)`, independently of all
    others, so that batches differ in size and may be empty. Drawn as a binomial number of examples
    and that many of them without replacement, which is the same distribution, and tells a batch's
    size without drawing it. A function of (key, round, client, step) alone.

    Processes that train a visit together share each batch: process `rank` of `processes` takes
    every `processes`-th of its examples, perhaps none.

    Attributes:
        key: keys the draws, and the noise; whoever knows it knows both.
    """

    key: int

    def rate(self, visit: Visit) -> float:
        """Return the probability of an example to be in a batch: one over the batches of a pass."""
        return 1 / visit.batches_per_epoch

    def expected_size(self, visit: Visit) -> float:
        """Return the mean size of a visit's batches."""
        return visit.num_examples / visit.batches_per_epoch

    def size(self, visit: Visit, step: int, rank: int = 0, processes: int = 1) -> int:
        """Return how many examples of the batch of a step a process has."""
        count = self._count(visit, self._generator(visit, step))
        return len(range(rank, count, processes))

    def draw(self, visit: Visit, step: int, rank: int = 0, processes: int = 1) -> np.ndarray:
        """Return which of the client's examples are in a process's share, int64 (size,)."""
        generator = self._generator(visit, step)
        count = self._count(visit, generator)
        return generator.choice(visit.num_examples, count, replace=False)[rank::processes]

    def noise_seed(self, visit: Visit, step: int) -> int:
        """Return the seed of a step's noise."""
        return seed_for(self.key, "noise", visit.round, visit.client, step)

    def _generator(self, visit: Visit, step: int) -> np.random.Generator:
        return generator_for(self.key, "poisson batch", visit.round, visit.client, step)

    def _count(self, visit: Visit, generator: np.random.Generator) -> int:
        return int(generator.binomial(visit.num_examples, self.rate(visit)))
