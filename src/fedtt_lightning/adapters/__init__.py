"""Tensor-train adapters as a PEFT method, and where they go in each model family.

Importing this package registers the method: do so before `PeftModel.from_pretrained` reads a saved
TT adapter.
"""

from . import peft_method
from .config import TTAdapterConfig
from .dense import DenseAdapter
from .modules import TTAdapter, TTLinear
from .placement import FAMILIES, Family
from .tuner import TTAdapterModel

peft_method.register(TTAdapterConfig, TTAdapterModel)

__all__ = [
    "FAMILIES",
    "DenseAdapter",
    "Family",
    "TTAdapter",
    "TTAdapterConfig",
    "TTAdapterModel",
    "TTLinear",
]
