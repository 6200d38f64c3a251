"""Federated data: datamodules, partitions, GLUE, labelled text files and a built-in text task."""

from fedtt_lightning.data.builtin import BuiltinText
from fedtt_lightning.data.by_column import ByColumn
from fedtt_lightning.data.by_label import Dirichlet, LabelShares
from fedtt_lightning.data.client_data import ClientDataModule, LoaderOptions
from fedtt_lightning.data.flwr_partitioner import FlwrPartitioner
from fedtt_lightning.data.glue import GlueData
from fedtt_lightning.data.iid import IID, BySize
from fedtt_lightning.data.labelled_text import LabelledText
from fedtt_lightning.data.partition import Examples, Partition, Partitioner
from fedtt_lightning.data.wrapper import FederatedDataModule

__all__ = [
    "IID",
    "BuiltinText",
    "ByColumn",
    "BySize",
    "ClientDataModule",
    "Dirichlet",
    "Examples",
    "FederatedDataModule",
    "FlwrPartitioner",
    "GlueData",
    "LabelShares",
    "LabelledText",
    "LoaderOptions",
    "Partition",
    "Partitioner",
]
