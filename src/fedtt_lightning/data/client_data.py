"""The protocol between federated data and the callback that runs the rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import is_
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch import LightningDataModule

from fedtt_lightning.data.iid import IID
from fedtt_lightning.data.labels import read_labels
from fedtt_lightning.data.partition import Examples, Partition, Partitioner
from fedtt_lightning.data.table import count_labels, label_head, partition_table
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.seeds import generator_for

if TYPE_CHECKING:
    from fedtt_lightning.data.round_loader import RoundLoader
    from fedtt_lightning.federation import PoissonBatches, RoundPlan

_READ_FOR_THE_TABLE = 10_000
_MOST_CELLS = 1_000_000


@dataclass(frozen=True)
class LoaderOptions:
    """How training batches are made; the names mean what they mean in `torch.utils.data`.

    Order and sampling are not options: every visit shuffles its client's examples with a seed of
    its own.

    Attributes:
        batch_size: examples in a batch.
        collate_fn: makes a batch of examples; None is torch's `default_collate`.
        num_workers: processes that read batches; 0 reads in the main one.
        pin_memory: put batches into memory from which a GPU copies faster.
        drop_last: leave out the last batch of a pass if it is smaller.
        worker_init_fn: called in each worker when it starts.
        group_by_length: put texts of like length into the same batches, see `local_order`; the
            dataset must tell the length of each example as an array `lengths`. Batches are then no
            uniform draws: those of long texts come together, which is why it is off unless asked
            for.
    """

    batch_size: int = 32
    collate_fn: Callable[[list[Any]], Any] | None = None
    num_workers: int = 0
    pin_memory: bool = False
    drop_last: bool = False
    worker_init_fn: Callable[[int], None] | None = None
    group_by_length: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"data.batch_size is {self.batch_size}; set it to at least 1")
        if self.num_workers < 0:
            raise ConfigError(f"data.num_workers is {self.num_workers}; set it to at least 0")


class ClientDataModule(LightningDataModule):
    """A datamodule whose training data belong to clients.

    A subclass sets `train_data` (map-style: `len`, `[i]`) and `loader` in `setup("fit")`; the
    FederatedRounds callback then calls `federate` and sets `plan` and `processes` (rank and number
    of those that share each batch), and Lightning gets a `RoundLoader` over the round's visits;
    with local differential privacy `poisson` is set too, and draws them. Loaders for validation,
    test and predict are ordinary and global.

    After `federate`, `clients` holds what trains and `held_out` the rest, by the same client
    numbers (None without a `client_holdout`).

    With `silo` (k, n), of a federation whose n clients are in different places, data of one client
    become those of client k; data divided among n clients stay as they are, of which k trains.

    Args:
        clients: number of clients; None lets the partition tell (ByColumn, FlwrPartitioner).
        partition: how examples go to clients; None is IID.
        client_holdout: share of each client's own examples that it does not train on, from 0 to
            below 1.
    """

    train_data: Any
    loader: LoaderOptions
    clients: Partition
    held_out: Partition | None = None
    silo: tuple[int, int] | None = None
    label_names: list[str] | None = None
    processes: tuple[int, int] = (0, 1)

    def __init__(
        self,
        clients: int | None = 10,
        partition: Partitioner | None = None,
        client_holdout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= client_holdout < 1:
            raise ConfigError(
                f"data.client_holdout is {client_holdout}; set it to 0 or to a share below 1"
            )
        self.client_holdout = client_holdout
        self.requested_clients = clients
        self.partition = IID() if partition is None else partition
        self.plan: Callable[[], RoundPlan] | None = None
        self.poisson: PoissonBatches | None = None
        self._federated_with: tuple[Any, int] | None = None
        self._round_loader: tuple[RoundLoader, tuple[Any, ...], tuple[int, int]] | None = None
        self._labels: tuple[Any, np.ndarray | None] | None = None

    @property
    def num_clients(self) -> int:
        """Number of clients; known before `federate` only if it was given."""
        if "clients" in self.__dict__:
            return len(self.clients)
        if self.requested_clients is None:
            raise ConfigError("data.clients is not set and the data are not partitioned yet")
        return self.requested_clients

    def labels(self) -> np.ndarray | None:
        """Return the integer label of each training example, or None if there are none.

        Reading them may mean going through the whole dataset, which is done once.
        """
        if self._labels is None or self._labels[0] is not self.train_data:
            self._labels = (self.train_data, read_labels(self.train_data))
        return self._labels[1]

    def federate(self, seed: int) -> None:
        """Divide `train_data` among the clients and check that it is a partition.

        `seed` is the experiment's; a partitioner's own seed goes before it. Calling it again with
        the same data and seed changes nothing. Raises ConfigError if the division is impossible,
        not disjoint, not complete, or leaves a client without examples (of each kind, if
        `client_holdout` is set).
        """
        if self.partition.seed is not None:
            seed = self.partition.seed
        done = self._federated_with
        if done is not None and done[0] is self.train_data and done[1] == seed:
            return
        examples = Examples(self.train_data, self.labels)
        if len(examples) == 0:
            raise ConfigError("the training data has no examples")
        clients = self.partition(examples, self.requested_clients, generator_for(seed, "partition"))
        clients.check(len(examples))
        self.held_out = None
        if self.client_holdout:
            check_divisible(clients)
            clients, self.held_out = clients.split(
                self.client_holdout, generator_for(seed, "client holdout")
            )
        if self.silo is not None and len(clients) != self.silo[1]:
            clients = clients.placed(*self.silo)
            self.held_out = self.held_out and self.held_out.placed(*self.silo)
        self.clients = clients
        self._federated_with = (self.train_data, seed)

    def evaluation_examples(self) -> tuple[Any, LoaderOptions]:
        """Return the examples of `held_out`, by their numbers in `train_data`, to be evaluated on.

        Those that clients train on, in the same batches, unless a subclass evaluates otherwise.
        """
        return self.train_data, self.loader

    def partition_table(self) -> str:
        """Return the table clients x labels as text, after `federate`.

        Without labels where finding them would mean reading more than 10,000 examples one by one
        that no partitioner has asked for.
        """
        return partition_table(self.clients, self._cheap_labels(), self.label_names)

    def label_counts(self) -> tuple[list[str], Iterator[list[int]]]:
        """Return head and rows of the table clients x labels, whole, after `federate`.

        Columns are client, examples and each label, without labels where `partition_table` has none
        or the table would have more than a million cells.
        """
        counts, values = count_labels(self.clients, self._cheap_labels())
        if values is None or counts.size > _MOST_CELLS:
            counts, values = counts[:, :0], np.empty(0)
        heads = [label_head(int(value), self.label_names) for value in values]
        columns = [np.arange(len(counts))[:, None], self.clients.sizes[:, None], counts]
        rows = (np.concatenate(row).tolist() for row in zip(*columns, strict=True))
        return ["client", "examples", *heads], rows

    def _cheap_labels(self) -> np.ndarray | None:
        if self._labels is None and len(self.train_data) > _READ_FOR_THE_TABLE:
            return read_labels(self.train_data, from_examples=False)
        return self.labels()

    def train_dataloader(self) -> RoundLoader:
        """Return the batches of the coming round, visit by visit.

        One loader serves all rounds, unless what it reads from changes, so workers start once.
        """
        if self.plan is None:
            raise ConfigError(
                "federated data needs the callback that runs the rounds: add "
                "fedtt_lightning.FederatedRounds() to trainer.callbacks"
            )
        from fedtt_lightning.data.round_loader import RoundLoader

        source = (self.train_data, self.clients, self.loader, self.poisson)
        if self._round_loader is not None:
            loader, made_from, made_for = self._round_loader
            if all(map(is_, source, made_from)) and made_for == self.processes:
                loader.plan = self.plan()
                return loader
            loader.close()
        loader = RoundLoader(
            self.train_data,
            self.clients,
            self.plan(),
            self.loader,
            *self.processes,
            self.poisson,
        )
        self._round_loader = (loader, source, self.processes)
        return loader

    def close_loader(self) -> None:
        """Stop the workers that read the rounds' batches."""
        if self._round_loader is not None:
            self._round_loader[0].close()
            self._round_loader = None


def check_divisible(clients: Partition) -> None:
    """Raise ConfigError if a client has too few examples to train and to be evaluated on."""
    short = np.flatnonzero(clients.sizes < 2)
    if len(short):
        more = f" (and {len(short) - 1} more)" if len(short) > 1 else ""
        raise ConfigError(
            f"data.client_holdout needs 2 examples of each client, but client {short[0]}{more} of "
            f"{len(clients)} has one: lower data.clients, use more data, choose a more even "
            "data.partition (Dirichlet has min_examples), or set data.client_holdout to 0"
        )
