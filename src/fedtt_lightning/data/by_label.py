"""Partitions with label skew: given shares of each class, and Dirichlet draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedtt_lightning.data.partition import (
    Examples,
    Partition,
    Partitioner,
    apportion,
    require_clients,
)
from fedtt_lightning.errors import ConfigError

Level = Literal["mild", "severe"]

# The share of a client's main class, for two classes and for more. The published three-client
# splits are [.1, .9] [.9, .1] [.5, .5] and [.9, .05, .05] rotated; the exact ratios of "mild" and
# "severe" are not published, so these are defaults, not a reproduction.
MAIN_SHARE: dict[Level, tuple[float, float]] = {"mild": (0.85, 0.7), "severe": (0.95, 0.9)}


def level_shares(level: Level, num_classes: int) -> np.ndarray:
    """Return the rows [rows, num_classes] that a level of heterogeneity repeats over clients.

    Two classes: a client of mainly class 1, one of mainly class 0, and an even one. More classes:
    one row a class, of which it holds the main share and the other classes equal rests.
    """
    two, more = MAIN_SHARE[level]
    if num_classes == 2:
        return np.array([[1 - two, two], [two, 1 - two], [0.5, 0.5]])
    rest = (1 - more) / max(num_classes - 1, 1)
    return np.full((num_classes, num_classes), rest) + np.eye(num_classes) * (more - rest)


class LabelShares(Partitioner):
    """Each client holds the classes in given shares.

    Classes are the distinct labels in ascending order. With fewer rows than clients the rows
    repeat in turn: client k has row k mod len(shares).

    Every example is used and has one client, so the table of counts has fixed column sums (the
    examples of each class), and clients are to be of equal size, which fixes the row sums too. The
    counts are the table with those sums that is closest to the shares: rows and columns are
    rescaled in turn until both fit (iterative proportional fitting, Deming and Stephan 1940), which
    keeps the odds ratios between clients, and then each class is divided into whole examples by
    largest remainder. Where the classes are equally frequent and the rows average out, the
    shares come out as given; where they are not, they tilt with the frequencies. Where equal sizes
    are impossible (shares of 0), the classes are still used up and the sizes differ.

    Args:
        shares: `shares[client][class]`, rows summing to 1.
        level: `mild` or `severe`, in place of `shares`. Of two classes one client has .85 (severe:
            .95) of the second, the next as much of the first, the next half of each, and so on. Of
            more classes each client in turn has .7 (.9) of one and equal rests of the others.
        seed: of this division, in place of the experiment's.

    Examples:
        >>> labels = np.array([0, 1] * 150)
        >>> examples = Examples(range(300), lambda: labels)
        >>> partition = LabelShares(level="severe")(examples, 3, np.random.default_rng(0))
        >>> [np.bincount(labels[rows]).tolist() for rows in partition]
        [[5, 95], [95, 5], [50, 50]]
    """

    def __init__(
        self,
        shares: Sequence[Sequence[float]] | None = None,
        level: Level | None = None,
        seed: int | None = None,
    ) -> None:
        if (shares is None) == (level is None):
            raise ConfigError("data.partition: LabelShares takes either shares or level")
        if level is not None and level not in MAIN_SHARE:
            raise ConfigError(f"data.partition.level is {level!r}; choose mild or severe")
        for client, row in enumerate(shares or ()):
            if not all(0 <= share <= 1 for share in row) or abs(sum(row) - 1) > 1e-6:
                raise ConfigError(
                    f"data.partition.shares[{client}] is {list(row)}, which sums to "
                    f"{sum(row):g}; give shares from 0 to 1 that sum to 1"
                )
        if shares is not None and len(shares) == 0:
            raise ConfigError("data.partition.shares has no rows; give one a client")
        self.shares = shares
        self.level = level
        self.seed = seed

    def __call__(
        self, examples: Examples, num_clients: int | None, rng: np.random.Generator
    ) -> Partition:
        if num_clients is None and self.shares is not None:
            num_clients = len(self.shares)
        num_clients = require_clients(num_clients, examples)
        values, classes, frequencies = np.unique(
            examples.labels(), return_inverse=True, return_counts=True
        )
        rows = self._rows(values, num_clients)
        counts = np.empty((num_clients, len(values)), dtype=np.int64)
        fitted = _fit_margins(rows[np.arange(num_clients) % len(rows)], frequencies)
        for column, frequency in enumerate(frequencies):
            counts[:, column] = apportion(fitted[:, column], frequency)
        return _deal_classes(classes, counts, rng)

    def _rows(self, values: np.ndarray, num_clients: int) -> np.ndarray:
        if self.level is not None:
            return level_shares(self.level, len(values))[:num_clients]
        rows = [list(row) for row in self.shares or ()]
        for client, row in enumerate(rows):
            if len(row) != len(values):
                raise ConfigError(
                    f"data.partition.shares[{client}] has {len(row)} entries, but the training "
                    f"data has {len(values)} classes ({', '.join(map(str, values[:12]))})"
                )
        if len(rows) > num_clients:
            raise ConfigError(
                f"data.partition.shares has {len(rows)} rows for data.clients={num_clients}; "
                f"set data.clients to at least {len(rows)} or give fewer rows"
            )
        unused = np.flatnonzero(np.sum(rows, axis=0) == 0)
        if len(unused):
            raise ConfigError(
                f"data.partition.shares gives class {values[unused[0]]} to no client; every "
                "example needs a client, so give some row a share of it"
            )
        return np.asarray(rows, dtype=np.float64)


class Dirichlet(Partitioner):
    """Each class is divided by a draw from Dirichlet(alpha): small alpha, few clients a class.

    The split of Hsu et al. (arXiv 1909.06335) as used by Li et al. (arXiv 2102.02079), with one
    difference: instead of drawing again until each client has `min_examples` (which many clients
    and a small alpha make hopeless), a client that is short is given random examples of the clients
    that have most. Raises ConfigError if the data do not suffice for `min_examples` a client.

    Args:
        alpha: above 0; from 0.1 (most of a class at few clients) to 100 (nearly even).
        min_examples: that each client has at least.
        seed: of this division, in place of the experiment's.
    """

    def __init__(self, alpha: float, min_examples: int = 1, seed: int | None = None) -> None:
        if not 0 < alpha < np.inf:
            raise ConfigError(f"data.partition.alpha is {alpha}; set it to more than 0")
        if min_examples < 1:
            raise ConfigError(
                f"data.partition.min_examples is {min_examples}; set it to at least 1"
            )
        self.alpha = alpha
        self.min_examples = min_examples
        self.seed = seed

    def __call__(
        self, examples: Examples, num_clients: int | None, rng: np.random.Generator
    ) -> Partition:
        num_clients = require_clients(num_clients, examples)
        if num_clients * self.min_examples > len(examples):
            raise ConfigError(
                f"data.partition.min_examples is {self.min_examples}, but {num_clients} clients "
                f"share {len(examples)} examples; set it to at most {len(examples) // num_clients}"
            )
        _, classes, frequencies = np.unique(
            examples.labels(), return_inverse=True, return_counts=True
        )
        counts = np.stack(
            [apportion(self._draw(num_clients, rng), frequency) for frequency in frequencies],
            axis=1,
        )
        owners = _deal_classes(classes, counts, rng).owners()
        return Partition.from_owners(
            _lift_short_clients(owners, num_clients, self.min_examples, rng), num_clients
        )

    def _draw(self, num_clients: int, rng: np.random.Generator) -> np.ndarray:
        # A very small alpha can underflow to all zeros, whose limit is one client taking all.
        draw = rng.dirichlet(np.full(num_clients, self.alpha))
        return draw if draw.sum() > 0 else np.eye(num_clients)[rng.integers(num_clients)]


def _fit_margins(shares: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Rescale rows to equal sums and columns to `frequencies` in turn; columns fit exactly."""
    table = np.asarray(shares, dtype=np.float64)
    size = frequencies.sum() / len(table)
    for _ in range(1000):
        table = table * (size / table.sum(axis=1, keepdims=True))
        factors = frequencies / table.sum(axis=0)
        table = table * factors
        if np.abs(factors - 1).max() < 1e-9:
            break
    return table


def _deal_classes(classes: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> Partition:
    """Give `counts[client, class]` random examples of each class to each client."""
    num_clients = len(counts)
    owners = np.empty(len(classes), dtype=np.int64)
    for column in range(counts.shape[1]):
        dealt = np.repeat(np.arange(num_clients), counts[:, column])
        owners[classes == column] = rng.permutation(dealt)
    return Partition.from_owners(owners, num_clients)


def _lift_short_clients(
    owners: np.ndarray, num_clients: int, least: int, rng: np.random.Generator
) -> np.ndarray:
    """Move random examples from the largest clients until each client has `least`."""
    sizes = np.bincount(owners, minlength=num_clients)
    missing = np.maximum(least - sizes, 0)
    if missing.any():
        shuffled = rng.permutation(len(owners))
        by_owner = shuffled[np.argsort(owners[shuffled], kind="stable")]
        # The rank of an example within its client: only those beyond `least` can be spared, and
        # the highest ranks belong to the largest clients.
        ranks = np.arange(len(owners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        spare = by_owner[np.argsort(-ranks, kind="stable")[: missing.sum()]]
        owners = owners.copy()
        owners[spare] = np.repeat(np.arange(num_clients), missing)
    return owners
