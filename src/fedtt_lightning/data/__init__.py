"""Federated data: datamodules, partitions, GLUE and a built-in text task."""

from fedtt_lightning.data.client_data import ClientDataModule, LoaderOptions
from fedtt_lightning.data.iid import IID, BySize
from fedtt_lightning.data.partition import Examples, Partition, Partitioner

__all__ = [
    "IID",
    "BySize",
    "ClientDataModule",
    "Examples",
    "LoaderOptions",
    "Partition",
    "Partitioner",
]
