"""Federate a LightningDataModule that was written with no thought of federation."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from fedtt_lightning.data.client_data import ClientDataModule, LoaderOptions
from fedtt_lightning.data.partition import Partitioner
from fedtt_lightning.errors import ConfigError

# Everything of the inner datamodule but its training loader and set-up. A hook that it does not
# override is Lightning's own function, which Lightning recognises as "not there" here as well.
DELEGATED = (
    "prepare_data",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
    "transfer_batch_to_device",
    "on_before_batch_transfer",
    "on_after_batch_transfer",
    "on_exception",
    "state_dict",
    "load_state_dict",
)


class FederatedDataModule(ClientDataModule):
    """Divides the training data of any LightningDataModule among clients.

    The dataset, batch size, collate function, workers and `drop_last` are those of
    `inner.train_dataloader()`; every client's examples are shuffled anew in each local epoch.
    All other loaders and hooks, and any attribute not found here, are the inner datamodule's.

    Args:
        inner: the datamodule as it is.
        clients: number of clients, None where `partition` tells.
        partition: how examples go to clients; None is IID.
        client_holdout: share of each client's examples kept for evaluation by client.

    Raises ConfigError for a datamodule of `pytorch_lightning` (its classes are not those of
    `lightning`), and in `setup` for a training loader that cannot be divided: several loaders, an
    iterable dataset, or a sampler whose draws would be lost.
    """

    def __init__(
        self,
        inner: LightningDataModule,
        clients: int | None = 10,
        partition: Partitioner | None = None,
        client_holdout: float = 0.0,
    ) -> None:
        super().__init__(clients, partition, client_holdout)
        if any(base.__module__.startswith("pytorch_lightning") for base in type(inner).__mro__):
            raise ConfigError(
                f"{type(inner).__qualname__} is a pytorch_lightning datamodule; import "
                "LightningDataModule from lightning.pytorch instead of pytorch_lightning"
            )
        if not isinstance(inner, LightningDataModule):
            raise ConfigError(
                "FederatedDataModule wraps a lightning.pytorch.LightningDataModule, not "
                f"{type(inner).__qualname__}"
            )
        self.inner = inner
        self.prepare_data_per_node = inner.prepare_data_per_node
        for name in DELEGATED:
            setattr(self, name, getattr(inner, name))
        # The rounds reload the training loader each epoch, and Lightning then asks for the
        # validation loader too: one loader a fit keeps its workers.
        self._val: Any = None
        if is_overridden("val_dataloader", inner, LightningDataModule):
            setattr(self, "val_dataloader", self._cached_val_dataloader)  # noqa: B010

    def __getattr__(self, name: str) -> Any:
        # Only reached for what is not found here, such as `trainer.datamodule.num_classes`.
        if name == "inner" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.inner, name)

    def setup(self, stage: str) -> None:
        """Set up the inner datamodule and take its training data apart."""
        self._val = None
        self.inner.trainer = self.trainer
        self.inner.setup(stage)
        if stage == "fit":
            self.train_data, self.loader = take_apart(self.inner.train_dataloader())

    def teardown(self, stage: str) -> None:
        """Tear down the inner datamodule."""
        self._val = None
        self.inner.teardown(stage)

    def _cached_val_dataloader(self) -> Any:
        if self._val is None:
            self._val = self.inner.val_dataloader()
        return self._val


def take_apart(loader: Any) -> tuple[Any, LoaderOptions]:
    """Return the dataset and the options of a DataLoader, or raise ConfigError if they would lie.

    A client's visit draws its own order, so a loader is refused when its order is more than
    shuffled or sequential.
    """
    if not isinstance(loader, DataLoader):
        raise ConfigError(
            "federated data needs train_dataloader() to return one torch DataLoader, not "
            f"{type(loader).__qualname__}"
        )
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise ConfigError(
            f"the training data is a {type(dataset).__qualname__}, which has no length or index; "
            "federated data needs a map-style dataset (with __len__ and __getitem__)"
        )
    if loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler:
        raise ConfigError(
            f"the training loader makes batches with {type(loader.batch_sampler).__qualname__}, "
            "which cannot be kept for each client; give the DataLoader a batch_size instead"
        )
    if not _only_orders(loader.sampler, len(dataset)):
        raise ConfigError(
            f"the training loader draws with {type(loader.sampler).__qualname__}, which cannot be "
            "kept for each client; use shuffle=True (weights belong into the loss)"
        )
    return dataset, LoaderOptions(
        batch_size=loader.batch_size,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        worker_init_fn=loader.worker_init_fn,
    )


def _only_orders(sampler: Sampler[Any] | Any, num_examples: int) -> bool:
    """Tell whether a sampler visits each example once; shards of one are the rounds' own work."""
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == num_examples
    return type(sampler) in (SequentialSampler, DistributedSampler)
