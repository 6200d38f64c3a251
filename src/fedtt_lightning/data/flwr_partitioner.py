"""Any partitioner of the `flwr-datasets` package, in place of one of ours."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from fedtt_lightning.data.partition import Examples, Partition, Partitioner
from fedtt_lightning.errors import ConfigError

INDEX = "fedtt_example_index"


class FlwrPartitioner(Partitioner):
    """Divides the data as a partitioner of `flwr_datasets.partitioner` does.

    In a config, name it by `class_path` (such as `flwr_datasets.partitioner.ShardPartitioner`) with
    its `init_args` under `partitioner`. It gets the columns of a `datasets.Dataset`; for any other
    data, one column `label`. It keeps its own seed. `data.clients` must be null or the number of
    its partitions.

    Args:
        partitioner: one of flwr-datasets.

    Raises ConfigError without the package (`pip install flwr-datasets`, which needs `datasets<5`)
    and for what its partitioner refuses.
    """

    def __init__(self, partitioner: object) -> None:
        try:
            from flwr_datasets.partitioner import Partitioner as FlwrBase
        except ImportError as error:
            raise ConfigError(
                "data.partition: FlwrPartitioner needs the package flwr-datasets, which needs "
                "datasets<5: pip install flwr-datasets 'datasets<5'"
            ) from error
        if not isinstance(partitioner, FlwrBase):
            raise ConfigError(
                "data.partition.partitioner must be a flwr_datasets.partitioner.Partitioner, not "
                f"{type(partitioner).__module__}.{type(partitioner).__qualname__}"
            )
        self.partitioner: Any = partitioner

    def __call__(
        self, examples: Examples, num_clients: int | None, rng: np.random.Generator
    ) -> Partition:
        # A partitioner takes data only once and goes on with its random generator: a copy each
        # time gives the same partition each time.
        partitioner = deepcopy(self.partitioner)
        partitioner.dataset = _with_index(examples)
        try:
            count = int(partitioner.num_partitions)
            parts = [partitioner.load_partition(client)[INDEX] for client in range(count)]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"data.partition: {type(self.partitioner).__name__} refuses the data: {reason}"
            ) from error
        if num_clients not in (None, count):
            raise ConfigError(
                f"data.clients is {num_clients}, but {type(self.partitioner).__name__} makes "
                f"{count} partitions; set data.clients to {count} or null"
            )
        return Partition.from_indices(parts)


def _with_index(examples: Examples) -> Any:
    """Return a `datasets.Dataset` whose rows know their place, since partitions come as rows."""
    from datasets import Dataset

    data = examples.dataset
    if not isinstance(data, Dataset):
        data = Dataset.from_dict({"label": examples.labels()})
    return data.add_column(INDEX, np.arange(len(examples)))
