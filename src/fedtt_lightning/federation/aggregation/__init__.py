"""Rules that turn the updates of a round into one."""

from fedtt_lightning.federation.aggregation.mean import WeightedMean
from fedtt_lightning.federation.aggregation.rule import AggregationRule

__all__ = ["AggregationRule", "WeightedMean"]
