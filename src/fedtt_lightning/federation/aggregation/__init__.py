"""Rules that turn the updates of a round into one."""

from fedtt_lightning.federation.aggregation.flex_lora import FlexLoRA
from fedtt_lightning.federation.aggregation.het_lora import HetLoRA
from fedtt_lightning.federation.aggregation.mean import WeightedMean
from fedtt_lightning.federation.aggregation.rule import AggregationRule
from fedtt_lightning.federation.aggregation.tt_rounding import TTRounding

__all__ = ["AggregationRule", "FlexLoRA", "HetLoRA", "TTRounding", "WeightedMean"]
