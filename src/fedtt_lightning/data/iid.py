"""Partitions that look at sizes only: equal shares, given shares, or a power law."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedtt_lightning.data.partition import (
    Examples,
    Partition,
    Partitioner,
    apportion,
    require_clients,
)
from fedtt_lightning.errors import ConfigError


class IID(Partitioner):
    """Shuffled and cut into equal parts; sizes differ by at most one.

    Args:
        seed: of this division, in place of the experiment's.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = seed

    def __call__(
        self, examples: Examples, num_clients: int | None, rng: np.random.Generator
    ) -> Partition:
        num_clients = require_clients(num_clients, examples)
        return _deal(apportion(np.ones(num_clients), len(examples)), rng)


class BySize(Partitioner):
    """Shuffled and cut into parts of given relative sizes: quantity skew, no label skew.

    Args:
        shares: one positive number a client; their sum does not matter.
        exponent: s >= 0 of Zipf's law, in place of `shares`: client k holds a share proportional
            to (k + 1)^-s.
        seed: of this division, in place of the experiment's.

    Examples:
        >>> divide = BySize(shares=[3, 2, 1])
        >>> divide(Examples(range(60)), 3, np.random.default_rng(0)).sizes.tolist()
        [30, 20, 10]
    """

    def __init__(
        self,
        shares: Sequence[float] | None = None,
        exponent: float | None = None,
        seed: int | None = None,
    ) -> None:
        if (shares is None) == (exponent is None):
            raise ConfigError("data.partition: BySize takes either shares or exponent")
        if shares is not None and not all(np.isfinite(share) and share > 0 for share in shares):
            raise ConfigError(
                f"data.partition.shares must be positive numbers, but is {list(shares)}"
            )
        if exponent is not None and not 0 <= exponent < np.inf:
            raise ConfigError(f"data.partition.exponent is {exponent}; set it to 0 or more")
        self.shares = shares
        self.exponent = exponent
        self.seed = seed

    def __call__(
        self, examples: Examples, num_clients: int | None, rng: np.random.Generator
    ) -> Partition:
        if num_clients is None and self.shares is not None:
            num_clients = len(self.shares)
        num_clients = require_clients(num_clients, examples)
        if self.shares is None:
            weights = np.arange(1, num_clients + 1, dtype=np.float64) ** -float(self.exponent or 0)
        elif len(self.shares) != num_clients:
            raise ConfigError(
                f"data.partition.shares has {len(self.shares)} entries for data.clients="
                f"{num_clients}; give one a client, or set data.clients to {len(self.shares)}"
            )
        else:
            weights = np.asarray(self.shares, dtype=np.float64)
        return _deal(apportion(weights, len(examples)), rng)


def _deal(sizes: np.ndarray, rng: np.random.Generator) -> Partition:
    owners = np.repeat(np.arange(len(sizes)), sizes)
    return Partition.from_owners(rng.permutation(owners), len(sizes))
