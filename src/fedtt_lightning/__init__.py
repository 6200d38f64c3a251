"""Federated fine-tuning with tensor-train adapters (FedTT, FedTT+) in PyTorch Lightning.

Names are imported when they are first used, so that `import fedtt_lightning` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fedtt_lightning.adapters import TTAdapterConfig
    from fedtt_lightning.callbacks import FactorFreezing, FederatedCheckpoint, FederatedRounds
    from fedtt_lightning.data import (
        BuiltinText,
        ClientDataModule,
        FederatedDataModule,
        GlueData,
        InstructionData,
        LabelledText,
        StoryData,
        SuperGlueData,
        TextCorpus,
    )
    from fedtt_lightning.modules import CausalLM, SequenceClassifier

_HOMES = {
    "TTAdapterConfig": "adapters",
    "FactorFreezing": "callbacks",
    "FederatedCheckpoint": "callbacks",
    "FederatedRounds": "callbacks",
    "BuiltinText": "data",
    "CausalLM": "modules",
    "ClientDataModule": "data",
    "FederatedDataModule": "data",
    "GlueData": "data",
    "InstructionData": "data",
    "LabelledText": "data",
    "SequenceClassifier": "modules",
    "StoryData": "data",
    "SuperGlueData": "data",
    "TextCorpus": "data",
}

__all__ = [
    "BuiltinText",
    "CausalLM",
    "ClientDataModule",
    "FactorFreezing",
    "FederatedCheckpoint",
    "FederatedDataModule",
    "FederatedRounds",
    "GlueData",
    "InstructionData",
    "LabelledText",
    "SequenceClassifier",
    "StoryData",
    "SuperGlueData",
    "TTAdapterConfig",
    "TextCorpus",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fedtt_lightning' has no attribute {name!r}")
    return getattr(import_module(f"fedtt_lightning.{_HOMES[name]}"), name)
