"""Federated data: datamodules, partitions, GLUE, SuperGLUE and other prompts, text files."""

from fedtt_lightning.data.builtin import BuiltinText
from fedtt_lightning.data.by_column import ByColumn
from fedtt_lightning.data.by_label import Dirichlet, LabelShares
from fedtt_lightning.data.client_data import ClientDataModule, LoaderOptions
from fedtt_lightning.data.flwr_partitioner import FlwrPartitioner
from fedtt_lightning.data.glue import GlueData
from fedtt_lightning.data.iid import IID, BySize
from fedtt_lightning.data.instructions import InstructionData
from fedtt_lightning.data.labelled_text import LabelledText
from fedtt_lightning.data.partition import Examples, Partition, Partitioner
from fedtt_lightning.data.prompt_data import PromptData
from fedtt_lightning.data.prompts import Prompt
from fedtt_lightning.data.stories import StoryData
from fedtt_lightning.data.superglue import SuperGlueData
from fedtt_lightning.data.text_corpus import TextCorpus
from fedtt_lightning.data.text_data import TextData
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
    "InstructionData",
    "LabelShares",
    "LabelledText",
    "LoaderOptions",
    "Partition",
    "Partitioner",
    "Prompt",
    "PromptData",
    "StoryData",
    "SuperGlueData",
    "TextCorpus",
    "TextData",
]
