"""Which client holds which training example, and what a partitioner is.

A partition is over *indices*: no example is read or copied, so any map-style dataset and any
number of clients work.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from fedtt_lightning.data.labels import read_column, read_labels
from fedtt_lightning.errors import ConfigError


class Partition:
    """The examples of each client: `partition[client]` is an int64 array of dataset indices.

    Two flat arrays stay small with 100,000 clients.

    Args:
        order: the examples client by client, int64, one entry an example.
        bounds: client `c` holds `order[bounds[c]:bounds[c + 1]]`; int64 (clients + 1,).
    """

    def __init__(self, order: np.ndarray, bounds: np.ndarray) -> None:
        self._order = np.ascontiguousarray(order, dtype=np.int64)
        self._bounds = np.ascontiguousarray(bounds, dtype=np.int64)

    @classmethod
    def from_owners(cls, owners: np.ndarray, num_clients: int) -> Partition:
        """Build from `owners[example] -> client`, which is disjoint and complete by its form."""
        counts = np.bincount(owners, minlength=num_clients)
        return cls(np.argsort(owners, kind="stable"), np.concatenate([[0], np.cumsum(counts)]))

    @classmethod
    def from_indices(cls, clients: Sequence[Any]) -> Partition:
        """Build from one index array a client; `check` tells whether they form a partition."""
        parts = [np.asarray(part, dtype=np.int64) for part in clients]
        order = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        return cls(order, np.cumsum([0, *(len(part) for part in parts)]))

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def __getitem__(self, client: int) -> np.ndarray:
        if not -len(self) <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        client %= len(self)
        return self._order[self._bounds[client] : self._bounds[client + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[client] for client in range(len(self)))

    @property
    def sizes(self) -> np.ndarray:
        """Number of examples of each client, int64."""
        return np.diff(self._bounds)

    def digest(self) -> str:
        """Return a hash of who holds what, in hexadecimal."""
        return blake2b(self._order.tobytes() + self._bounds.tobytes(), digest_size=8).hexdigest()

    def owners(self) -> np.ndarray:
        """Return the client of each example, int64 [num_examples]; needs a checked partition."""
        owners = np.empty(len(self._order), dtype=np.int64)
        owners[self._order] = np.repeat(np.arange(len(self)), self.sizes)
        return owners

    def split(self, share: float, rng: np.random.Generator) -> tuple[Partition, Partition]:
        """Return (rest, part): a random `share` of each client's examples taken out of its own.

        The share is rounded to whole examples, but both sides keep at least one. What a client
        loses does not depend on what other clients hold. Needs a checked partition without a
        client of a single example.
        """
        sizes, clients = self.sizes, np.repeat(np.arange(len(self)), self.sizes)
        counts = np.clip(np.floor(share * sizes + 0.5).astype(np.int64), 1, sizes - 1)
        keys = rng.random(len(self._order))[self._order]
        drawn = np.lexsort((keys, clients))
        ranks = np.arange(len(drawn)) - np.repeat(self._bounds[:-1], sizes)
        taken = np.empty(len(drawn), dtype=bool)
        taken[drawn] = ranks < np.repeat(counts, sizes)
        bounds = np.concatenate([[0], np.cumsum(counts)])
        return (
            Partition(self._order[~taken], self._bounds - bounds),
            Partition(self._order[taken], bounds),
        )

    def placed(self, client: int, clients: int) -> Partition:
        """Return a single client's examples as those of `client` of `clients`, others having none.

        Raises:
            ConfigError: they are those of several.
        """
        if len(self) != 1:
            raise ConfigError(
                f"data.clients is {len(self)}, but a silo's data are its own (set it to 1), or are "
                f"divided among all silos (set it to silo.clients={clients})"
            )
        bounds = np.zeros(clients + 1, dtype=np.int64)
        bounds[client + 1 :] = len(self._order)
        return Partition(self._order, bounds)

    def count(self, classes: np.ndarray, num_classes: int) -> np.ndarray:
        """Return how many examples of each class a client holds, int64 [clients, num_classes].

        `classes[example]` lies between 0 and `num_classes` - 1; the clients together may hold only
        some of the examples.
        """
        cells = np.repeat(np.arange(len(self)), self.sizes) * num_classes + classes[self._order]
        counts = np.bincount(cells, minlength=len(self) * num_classes)
        return counts.reshape(len(self), num_classes)

    def check(self, num_examples: int) -> None:
        """Raise ConfigError unless each example has one client and each client an example."""
        if len(self) == 0:
            raise ConfigError("data.partition made no clients; set data.clients to at least 1")
        empty = np.flatnonzero(self.sizes == 0)
        if len(empty):
            more = f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""
            raise ConfigError(
                f"data.partition leaves client {empty[0]}{more} of {len(self)} without examples; "
                "lower data.clients, use more data, or choose a more even data.partition"
            )
        outside = (self._order < 0) | (self._order >= num_examples)
        if outside.any():
            raise ConfigError(
                f"data.partition names example {self._order[outside][0]}, but the training data "
                f"has {num_examples} (0 to {num_examples - 1})"
            )
        times = np.bincount(self._order, minlength=num_examples)
        if (times > 1).any():
            raise ConfigError(
                f"data.partition gives example {np.argmax(times > 1)} to more than one client; "
                "each example must have exactly one"
            )
        if (times == 0).any():
            raise ConfigError(
                f"data.partition leaves out {int((times == 0).sum())} examples (the first is "
                f"{np.argmax(times == 0)}); each example must have exactly one client"
            )


class Examples:
    """What a partitioner may ask of the training data: its length, labels and columns.

    Labels and columns are read when first asked for, because reading them may mean going through
    the whole dataset.

    Args:
        dataset: map-style.
        labels: gives the integer label of each example; None looks for them in the dataset.
    """

    def __init__(self, dataset: Any, labels: Callable[[], np.ndarray | None] | None = None) -> None:
        self.dataset = dataset
        self._labels = labels

    def __len__(self) -> int:
        return len(self.dataset)

    def labels(self) -> np.ndarray:
        """Return the integer label of each example, or raise ConfigError if there are none."""
        labels = read_labels(self.dataset) if self._labels is None else self._labels()
        if labels is None:
            raise ConfigError(
                "data.partition splits by label, but the training data has no integer labels "
                "(looked for a column or attribute 'label', 'labels' or 'targets', and for the "
                "last item of a tuple); use IID, BySize or ByColumn"
            )
        return labels

    def column(self, name: str) -> np.ndarray:
        """Return the value of one column for each example, or raise ConfigError."""
        return read_column(self.dataset, name)


class Partitioner(ABC):
    """Divides examples among clients; subclasses are named by `class_path` in a config.

    `seed` replaces the experiment's seed for this draw, so that experiments with different seeds
    can share one division of the data. `None` follows the experiment.
    """

    seed: int | None = None

    @abstractmethod
    def __call__(
        self, examples: Examples, num_clients: int | None, rng: np.random.Generator
    ) -> Partition:
        """Return the partition; `num_clients` is None where the data are to tell the number."""


def require_clients(num_clients: int | None, examples: Examples) -> int:
    """Return the number of clients, or raise ConfigError if it is missing or does not fit."""
    if num_clients is None:
        raise ConfigError("data.clients is not set; this partition needs the number of clients")
    if num_clients < 1:
        raise ConfigError(f"data.clients is {num_clients}; set it to at least 1")
    if num_clients > len(examples):
        raise ConfigError(
            f"data.clients is {num_clients}, more than the {len(examples)} training examples; "
            f"set it to at most {len(examples)}"
        )
    return num_clients


def apportion(weights: np.ndarray, total: int) -> np.ndarray:
    """Divide `total` into integers proportional to `weights` (largest remainder, ties by order).

    Weights are non-negative with a positive sum; the int64 result sums to `total` exactly.
    """
    quotas = np.asarray(weights, dtype=np.float64)
    quotas = quotas / quotas.sum() * total
    counts = np.floor(quotas).astype(np.int64)
    order = np.argsort(counts - quotas, kind="stable")
    counts[order[: total - counts.sum()]] += 1
    return counts
