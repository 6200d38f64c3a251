"""Natural partitions: a column of the data says who an example belongs to."""

from __future__ import annotations

import numpy as np

from fedtt_lightning.data.partition import Examples, Partition, Partitioner, require_clients
from fedtt_lightning.errors import ConfigError


class ByColumn(Partitioner):
    """One client for each distinct value of a column (a user, a hospital, a genre).

    With `data.clients` lower than the number of values, values are grouped: from the most frequent
    to the rarest, each goes to the client with the fewest examples so far. `data.clients: null`
    takes one client a value, in ascending order of the values. Nothing is drawn at random.

    Args:
        column: its name.

    Raises ConfigError if there is no such column or fewer values than clients.
    """

    def __init__(self, column: str) -> None:
        self.column = column

    def __call__(
        self, examples: Examples, num_clients: int | None, rng: np.random.Generator
    ) -> Partition:
        values, codes, frequencies = np.unique(
            examples.column(self.column), return_inverse=True, return_counts=True
        )
        if num_clients is None or num_clients == len(values):
            return Partition.from_owners(codes, len(values))
        num_clients = require_clients(num_clients, examples)
        if num_clients > len(values):
            raise ConfigError(
                f"data.clients is {num_clients}, but column {self.column!r} has "
                f"{len(values)} distinct values; set it to {len(values)} or less, or to null"
            )
        client_of = np.empty(len(values), dtype=np.int64)
        sizes = np.zeros(num_clients, dtype=np.int64)
        for value in np.argsort(-frequencies, kind="stable"):
            client_of[value] = np.argmin(sizes)
            sizes[client_of[value]] += frequencies[value]
        return Partition.from_owners(client_of[codes], num_clients)
