"""Rules that turn the updates of a round into one."""

from fedtt_lightning.federation.aggregation.flex_lora import FlexLoRA
from fedtt_lightning.federation.aggregation.flora import FLoRA
from fedtt_lightning.federation.aggregation.het_lora import HetLoRA
from fedtt_lightning.federation.aggregation.krum import Krum, MultiKrum
from fedtt_lightning.federation.aggregation.mean import WeightedMean
from fedtt_lightning.federation.aggregation.norm_bound import NormBoundedMean
from fedtt_lightning.federation.aggregation.private_mean import PrivateMean
from fedtt_lightning.federation.aggregation.robust import (
    AllUpdates,
    CoordinateMedian,
    TrimmedMean,
)
from fedtt_lightning.federation.aggregation.rule import AggregationRule
from fedtt_lightning.federation.aggregation.secure_mean import SecureMean
from fedtt_lightning.federation.aggregation.secure_rule import SecureRule
from fedtt_lightning.federation.aggregation.tt_rounding import TTRounding

__all__ = [
    "AggregationRule",
    "AllUpdates",
    "CoordinateMedian",
    "FLoRA",
    "FlexLoRA",
    "HetLoRA",
    "Krum",
    "MultiKrum",
    "NormBoundedMean",
    "PrivateMean",
    "SecureMean",
    "SecureRule",
    "TTRounding",
    "TrimmedMean",
    "WeightedMean",
]
