"""With the real flwr-datasets where it is installed; else only what is said without it."""

import importlib.util

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from fedtt_lightning.data.flwr_partitioner import FlwrPartitioner
from fedtt_lightning.data.partition import Examples
from fedtt_lightning.errors import ConfigError

INSTALLED = importlib.util.find_spec("flwr_datasets") is not None
needs_flwr = pytest.mark.skipif(
    not INSTALLED, reason="flwr-datasets is not installed (extra `flwr`; it needs datasets<5)"
)
LABELS = np.arange(300) % 3


def examples(kind):
    if kind == "tensors":
        return Examples(TensorDataset(torch.zeros(300, 2), torch.as_tensor(LABELS)))
    from datasets import Dataset

    return Examples(Dataset.from_dict({"label": LABELS, "site": LABELS % 2}))


@pytest.mark.skipif(INSTALLED, reason="flwr-datasets is installed")
def test_without_the_package_it_says_what_to_install():
    with pytest.raises(ConfigError, match=r"pip install flwr-datasets 'datasets<5'"):
        FlwrPartitioner(object())


@needs_flwr
@pytest.mark.parametrize("kind", ["tensors", "datasets"])
def test_partitions_are_those_of_flower(kind):
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner, ShardPartitioner

    for flower in (
        IidPartitioner(4),
        DirichletPartitioner(num_partitions=4, partition_by="label", alpha=0.5),
        ShardPartitioner(
            num_partitions=5, partition_by="label", num_shards_per_partition=2, shard_size=None
        ),
    ):
        partition = FlwrPartitioner(flower)(examples(kind), None, np.random.default_rng(0))
        partition.check(300)
        flower.dataset = examples("datasets").dataset
        for client, part in enumerate(partition):
            assert flower.load_partition(client)["label"][:] == LABELS[part].tolist()


@needs_flwr
def test_columns_of_a_dataset_can_be_named():
    from flwr_datasets.partitioner import NaturalIdPartitioner

    partitioner = FlwrPartitioner(NaturalIdPartitioner(partition_by="site"))
    partition = partitioner(examples("datasets"), None, np.random.default_rng(0))
    assert sorted(partition.sizes) == [100, 200]


@needs_flwr
def test_its_refusals_and_a_wrong_number_of_clients_are_config_errors():
    from flwr_datasets.partitioner import IidPartitioner, NaturalIdPartitioner

    with pytest.raises(ConfigError, match=r"makes 4 partitions; set data\.clients to 4 or null"):
        FlwrPartitioner(IidPartitioner(4))(examples("datasets"), 10, np.random.default_rng(0))
    with pytest.raises(ConfigError, match="NaturalIdPartitioner refuses the data"):
        FlwrPartitioner(NaturalIdPartitioner(partition_by="user"))(
            examples("datasets"), None, np.random.default_rng(0)
        )
    with pytest.raises(ConfigError, match=r"must be a flwr_datasets\.partitioner\.Partitioner"):
        FlwrPartitioner(object())
