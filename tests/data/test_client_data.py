from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from fedtt_lightning.data import IID, BySize, ClientDataModule, LoaderOptions
from fedtt_lightning.data.partition import Partition, Partitioner
from fedtt_lightning.errors import ConfigError


class Points(ClientDataModule):
    def __init__(self, n=103, **kwargs):
        super().__init__(**kwargs)
        self.n = n

    def setup(self, stage):
        self.train_data = TensorDataset(torch.randn(self.n, 3), torch.arange(self.n) % 2)
        self.loader = LoaderOptions(batch_size=4)


def federated(seed=1, **kwargs):
    data = Points(**kwargs)
    data.setup("fit")
    data.federate(seed)
    return data


def test_the_partition_follows_the_seed_and_a_partitioner_can_keep_its_own():
    first, same, other = federated(1), federated(1), federated(2)
    assert np.array_equal(first.clients.owners(), same.clients.owners())
    assert not np.array_equal(first.clients.owners(), other.clients.owners())
    fixed = [federated(seed, partition=IID(seed=5)).clients.owners() for seed in (1, 2)]
    assert np.array_equal(*fixed)


def test_federate_is_idempotent_and_follows_new_data():
    data = federated(1)
    clients = data.clients
    data.federate(1)
    assert data.clients is clients
    data.n = 60
    data.setup("fit")
    data.federate(1)
    assert data.clients.sizes.sum() == 60
    assert len(data.labels()) == 60


def test_the_number_of_clients_is_known_before_the_partition_if_given():
    assert Points(clients=7).num_clients == 7
    with pytest.raises(ConfigError, match=r"data\.clients is not set"):
        _ = Points(clients=None).num_clients
    assert federated(clients=None, partition=BySize(shares=[1, 2, 3])).num_clients == 3


def test_training_without_the_rounds_callback_says_what_to_add():
    with pytest.raises(ConfigError, match="FederatedRounds"):
        federated().train_dataloader()


class Fixed(Partitioner):
    def __init__(self, parts):
        self.parts = parts

    def __call__(self, examples, num_clients, rng):
        return Partition.from_indices(self.parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([[0, 1], [3]], "leaves out 2 examples"),
        ([[0, 1, 2, 3], [3, 4]], "example 3 to more than one client"),
        ([[0, 1, 2, 3, 4], []], "client 1 of 2 without examples"),
        ([[0, 1, 2, 3, 5], [4]], "names example 5, but the training data has 5"),
        ([], "no clients"),
    ],
)
def test_a_partitioner_that_makes_no_partition_is_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        federated(n=5, partition=Fixed(parts))


def test_a_partitioner_of_ones_own_is_enough():
    data = federated(n=5, partition=Fixed([[0, 4], [1, 3, 2]]))
    assert data.clients.owners().tolist() == [0, 1, 1, 1, 0]
    assert [part.tolist() for part in data.clients] == [[0, 4], [1, 3, 2]]
    with pytest.raises(IndexError):
        data.clients[2]


@pytest.mark.parametrize("clients", [0, 104])
def test_an_impossible_number_of_clients_is_refused(clients):
    with pytest.raises(ConfigError, match=rf"data\.clients is {clients}"):
        federated(clients=clients)


def test_no_training_data_is_refused():
    with pytest.raises(ConfigError, match="no examples"):
        federated(n=0)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"num_workers": -1}])
def test_loader_options_are_checked(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        LoaderOptions(**options)


def test_table_reads_no_large_dataset_for_its_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Dataset[Any]):
        reads = 0

        def __len__(self) -> int:
            return 50

        def __getitem__(self, index: int) -> tuple[int, int]:
            self.reads += 1
            return index, index % 2

    for limit, expected in ((50, 50), (49, 0)):
        monkeypatch.setattr("fedtt_lightning.data.client_data._READ_FOR_THE_TABLE", limit)
        module = ClientDataModule(clients=4)
        module.train_data = Counting()
        module.federate(0)
        table = module.partition_table()
        assert module.train_data.reads >= expected
        assert ("label 0" in table) == bool(expected)
        assert expected or module.train_data.reads == 0


def test_a_silos_own_data_are_those_of_its_client():
    data = Points(n=20, clients=1, client_holdout=0.25)
    data.silo = (2, 4)
    data.setup("fit")
    data.federate(1)
    assert data.clients.sizes.tolist() == [0, 0, 15, 0]
    assert data.held_out.sizes.tolist() == [0, 0, 5, 0]
    assert sorted([*data.clients[2], *data.held_out[2]]) == list(range(20))


def test_data_divided_among_all_silos_stay_as_they_are():
    data, whole = Points(clients=4), federated(clients=4)
    data.silo = (2, 4)
    data.setup("fit")
    data.federate(1)
    assert data.clients.digest() == whole.clients.digest()
    data = Points(clients=3)
    data.silo = (2, 4)
    data.setup("fit")
    with pytest.raises(ConfigError, match=r"data\.clients is 3.*silo\.clients=4"):
        data.federate(1)


@pytest.mark.parametrize(("classes", "heads"), [(3, 3), (1001, 0)])
def test_the_whole_table_has_labels_up_to_a_million_cells(classes: int, heads: int) -> None:
    data = federated(n=1001, clients=1001)
    data.train_data = TensorDataset(torch.zeros(1001), torch.arange(1001) % classes)
    data.federate(1)
    head, rows = data.label_counts()
    assert head == ["client", "examples", *(f"label {value}" for value in range(heads))]
    labels = data.labels()
    for client, row in enumerate(rows):
        counts = np.bincount(labels[data.clients[client]], minlength=classes)[:heads]
        assert row == [client, 1, *counts]


def test_the_whole_table_of_data_without_labels() -> None:
    data = federated(clients=2)
    data.train_data = TensorDataset(torch.zeros(5), torch.rand(5))
    data.federate(1)
    head, rows = data.label_counts()
    assert head == ["client", "examples"]
    assert [*rows] == [[client, len(data.clients[client])] for client in range(2)]
