"""Rounds, visits, aggregation and freezing, without any Lightning."""

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState, TensorSpec
from fedtt_lightning.federation.aggregation import (
    AggregationRule,
    FlexLoRA,
    HetLoRA,
    TTRounding,
    WeightedMean,
)
from fedtt_lightning.federation.failures import ClientFailures
from fedtt_lightning.federation.freezing import FreezingSchedule, RotatingFactor, TrainAll
from fedtt_lightning.federation.loop import FederatedLoop, Weighting
from fedtt_lightning.federation.plan import RoundPlan, RoundPlanner, Visit
from fedtt_lightning.federation.ranks import ClientRanks, RankColumn, RankList, RankShares
from fedtt_lightning.federation.sampling import ClientSampler, FixedSampler, UniformSampler
from fedtt_lightning.federation.seeds import generator_for, seed_all, seed_for
from fedtt_lightning.federation.server import FedAvg, ServerOptimizer

__all__ = [
    "AdapterSchema",
    "AdapterState",
    "AggregationRule",
    "ClientFailures",
    "ClientRanks",
    "ClientSampler",
    "FedAvg",
    "FederatedLoop",
    "FixedSampler",
    "FlexLoRA",
    "FreezingSchedule",
    "HetLoRA",
    "RankColumn",
    "RankList",
    "RankShares",
    "RotatingFactor",
    "RoundPlan",
    "RoundPlanner",
    "ServerOptimizer",
    "TTRounding",
    "TensorSpec",
    "TrainAll",
    "UniformSampler",
    "Visit",
    "WeightedMean",
    "Weighting",
    "generator_for",
    "seed_all",
    "seed_for",
]
